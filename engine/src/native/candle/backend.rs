//! The decoder's forward pass over a batch, as `native::forward` has it.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use candle_nn::ops::{rms_norm, silu};
use candle_nn::rotary_emb::{rope, rope_i};
use model::{Activation, BaseModel, Projection, RopeOrder};

use super::attention::attend;
use super::cache::Cache;
use super::plan::Plan;
use super::weights::{Layer, Weights};
use super::{Place, Result, failed};
use crate::api::EngineError;
use crate::native::backend::Backend;
use crate::native::forward::Chunk;
use crate::native::rope::{RopeTable, RopeTables};

/// A model on a device, with its cache.
pub(in crate::native) struct CandleBackend {
    model: Arc<BaseModel>,
    place: Place,
    weights: Weights,
    global: Angles,
    /// Of the layers with a sliding window, where they are others.
    local: Option<Angles>,
    cache: Cache,
}

/// How far RoPE turns at each position, `[positions, dims / 2]` each.
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

/// The same for the rows of a batch, `[n, 1, dims / 2]` each.
struct Turn {
    cos: Tensor,
    sin: Tensor,
}

impl CandleBackend {
    /// Copies a model to a device, and takes the memory of its cache.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if there is too little.
    pub(in crate::native) fn new(
        place: &Place,
        model: &Arc<BaseModel>,
        context_length: usize,
        pages: usize,
    ) -> std::result::Result<Self, EngineError> {
        let tables = RopeTables::new(model, context_length);
        let load = || {
            let local = tables.local.as_ref();
            Ok(Self {
                model: Arc::clone(model),
                place: place.clone(),
                weights: Weights::load(place, model)?,
                global: Angles::load(place, &tables.global)?,
                local: local.map(|local| Angles::load(place, local)).transpose()?,
                cache: Cache::new(place, &model.config, pages)?,
            })
        };
        load().map_err(|error| failed(&error))
    }

    fn compute(&self, chunks: &[Chunk<'_>]) -> Result<Vec<f32>> {
        let plan = Plan::new(&self.place, &self.model.config, &self.cache, chunks)?;
        let global = self.global.at(&plan.positions)?;
        let local = self.local.as_ref();
        let local = local.map(|local| local.at(&plan.positions)).transpose()?;
        let mut state = self.weights.embedding.rows(&plan.tokens)?; // [n, hidden]
        if self.model.config.embedding_scale != 1.0 {
            state = state.affine(f64::from(self.model.config.embedding_scale), 0.0)?;
        }
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            let turn = match &local {
                Some(local) if self.model.config.window_of(layer).is_some() => local,
                _ => &global,
            };
            state = self.attention(layer, weights, &plan, turn, &state)?;
            state = self.feed_forward(layer, weights, &plan, &state)?;
        }
        self.logits(&plan, &state)
    }

    fn attention(
        &self,
        layer: usize,
        weights: &Layer,
        plan: &Plan<'_>,
        turn: &Turn,
        state: &Tensor,
    ) -> Result<Tensor> {
        let config = &self.model.config;
        let normed = self.norm(state, &weights.attn_norm)?;
        let normed = normed.to_dtype(self.place.dtype)?;
        let heads = |projection, heads: usize, bias: Option<&Tensor>| {
            let rows = self.project(layer, weights, projection, plan, &normed)?;
            let rows = add_to_rows(rows.to_dtype(DType::F32)?, bias)?;
            rows.reshape((rows.dim(0)?, heads, config.head_dim))
        };
        let kv_heads = config.kv_head_count;
        let q = heads(Projection::Q, config.head_count, weights.q_bias.as_ref())?;
        let k = heads(Projection::K, kv_heads, weights.k_bias.as_ref())?;
        let v = heads(Projection::V, kv_heads, weights.v_bias.as_ref())?;
        let q = self.turn(&self.norm_if(q, weights.q_norm.as_ref())?, turn)?;
        let k = self.turn(&self.norm_if(k, weights.k_norm.as_ref())?, turn)?;
        let q = q.affine(f64::from(config.attention_scale), 0.0)?;
        let dtype = self.place.dtype;
        let (k, v) = (k.to_dtype(dtype)?, v.to_dtype(dtype)?);
        self.cache.write(layer, &plan.slots, &k, &v)?;
        let is_windowed = config.window_of(layer).is_some();
        let mixed = attend(&self.cache, layer, plan, is_windowed, &q.to_dtype(dtype)?)?;
        let out = self.project(layer, weights, Projection::O, plan, &mixed)?;
        let out = self.norm_if(out.to_dtype(DType::F32)?, weights.attn_post_norm.as_ref())?;
        state + out
    }

    fn feed_forward(
        &self,
        layer: usize,
        weights: &Layer,
        plan: &Plan<'_>,
        state: &Tensor,
    ) -> Result<Tensor> {
        let normed = self.norm(state, &weights.ffn_norm)?;
        let normed = normed.to_dtype(self.place.dtype)?;
        let gate = self.project(layer, weights, Projection::Gate, plan, &normed)?;
        let up = self.project(layer, weights, Projection::Up, plan, &normed)?;
        let gate = match self.model.config.architecture.activation {
            Activation::Silu => silu(&gate)?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let down = self.project(layer, weights, Projection::Down, plan, &(gate * up)?)?;
        let down = self.norm_if(down.to_dtype(DType::F32)?, weights.ffn_post_norm.as_ref())?;
        state + down
    }

    /// A projection with the adapters of its rows: one pair of products for each
    /// version in the batch.
    fn project(
        &self,
        layer: usize,
        weights: &Layer,
        projection: Projection,
        plan: &Plan<'_>,
        x: &Tensor,
    ) -> Result<Tensor> {
        let y = weights.matrix(projection).multiply(x)?;
        for group in &plan.adapters {
            let Some(adapter) = group.adapter.tensors() else {
                continue;
            };
            let (first, count) = (group.rows.start, group.rows.len());
            let x = x.narrow(0, first, count)?;
            if let Some(delta) = adapter.delta(layer, projection, &x)? {
                let rows = (y.narrow(0, first, count)? + delta)?;
                y.slice_set(&rows, 0, first)?;
            }
        }
        Ok(y)
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        rms_norm(x, weight, self.model.config.rms_eps)
    }

    fn norm_if(&self, x: Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        match weight {
            Some(weight) => self.norm(&x, weight),
            None => Ok(x),
        }
    }

    /// Turns the heads of all rows, `[n, heads, head_dim]`.
    fn turn(&self, x: &Tensor, turn: &Turn) -> Result<Tensor> {
        let (dims, head_dim) = (2 * turn.cos.dim(2)?, self.model.config.head_dim);
        let rotate = match self.model.config.architecture.rope_order {
            RopeOrder::Interleaved => rope_i,
            RopeOrder::Halves => rope,
        };
        let x = x.unsqueeze(2)?; // as if each row were a batch of one position
        if dims == head_dim {
            return rotate(&x, &turn.cos, &turn.sin)?.squeeze(2);
        }
        let turned = rotate(&x.narrow(3, 0, dims)?.contiguous()?, &turn.cos, &turn.sin)?;
        let still = x.narrow(3, dims, head_dim - dims)?;
        Tensor::cat(&[turned, still], 3)?.squeeze(2)
    }

    fn logits(&self, plan: &Plan<'_>, state: &Tensor) -> Result<Vec<f32>> {
        let Some(wanted) = &plan.wanted else {
            return Ok(Vec::new());
        };
        let state = state.index_select(wanted, 0)?;
        let normed = self.norm(&state, &self.weights.output_norm)?;
        let logits = self
            .weights
            .head
            .multiply(&normed.to_dtype(self.place.dtype)?)?;
        logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
    }
}

impl Backend for CandleBackend {
    fn run(&mut self, chunks: &[Chunk<'_>]) -> std::result::Result<Vec<f32>, EngineError> {
        self.compute(chunks).map_err(|error| failed(&error))
    }

    fn kv_byte_len(&self) -> u64 {
        self.cache.byte_len()
    }
}

impl Angles {
    fn load(place: &Place, table: &RopeTable) -> Result<Self> {
        let half = table.dims() / 2;
        let (cos, sin): (Vec<f32>, Vec<f32>) = table.angles().iter().copied().unzip();
        let tensor = |values: Vec<f32>| {
            let shape = (values.len() / half, half);
            Tensor::from_vec(values, shape, &place.device)
        };
        Ok(Self {
            cos: tensor(cos)?,
            sin: tensor(sin)?,
        })
    }

    fn at(&self, positions: &Tensor) -> Result<Turn> {
        let rows = |table: &Tensor| table.index_select(positions, 0)?.unsqueeze(1);
        Ok(Turn {
            cos: rows(&self.cos)?,
            sin: rows(&self.sin)?,
        })
    }
}

/// Adds a bias, if there is one, to each row.
fn add_to_rows(x: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => x.broadcast_add(bias),
        None => Ok(x),
    }
}
