//! The network's parts in candle's own tensors: on an NVIDIA GPU, and on
//! candle's CPU device, where the same code is held against `ops`.
//!
//! The blocks of the served file stay as they are and are dequantized for each
//! product, in f32 or in bf16; sums, norms, rotations and the weights of
//! attention are f32. Knows no loss and no optimizer. Only operations that candle
//! differentiates are used (its fused ones give no gradient, silently), and a
//! product with a frozen matrix is one of ours, since candle's would compute the
//! matrix's gradient too.

mod attention;
mod head;
mod linear;
mod matrix;
mod place;
mod rope;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, Result, Tensor};
use model::quant::QuantMatrix;
use model::{ModelConfig, Weights};

use self::attention::TreePlan;
use self::matrix::Matrix;
use self::rope::Rotation;
use crate::operations::{Norm, Operations};
use crate::ops::head::Target;
use crate::ops::tensor;
use crate::pack::Tree;
use crate::parameters::{GROUPS, ParameterView};

pub(crate) use place::Tensors;
pub use place::{Compute, Place};

/// The frozen weights on a device.
pub(crate) struct TensorOperations {
    config: ModelConfig,
    on: Tensors,
    /// Only some rows are ever needed, so that it stays where it is.
    token_embedding: QuantMatrix,
    head: Matrix,
    output_norm: Tensor,
    layers: Vec<FrozenLayer>,
    rotation: Rotation,
    /// Of the tree that was computed last: all layers use the same.
    plan: Mutex<Option<Arc<TreePlan>>>,
}

struct FrozenLayer {
    attn_norm: Tensor,
    ffn_norm: Tensor,
    /// The matrices of each of [`GROUPS`].
    groups: [Vec<Matrix>; 4],
}

impl TensorOperations {
    /// Copies the weights to a device.
    ///
    /// # Errors
    /// The device's, which may have no room.
    pub(crate) fn new(
        on: Tensors,
        weights: &Weights,
        config: &ModelConfig,
        positions_max: usize,
    ) -> Result<Self> {
        let vector = |values: &[f32]| Tensor::from_slice(values, values.len(), &on.device);
        let mut layers = Vec::with_capacity(weights.layers.len());
        for layer in &weights.layers {
            let mut groups = [const { Vec::new() }; 4];
            for (matrices, projections) in groups.iter_mut().zip(GROUPS) {
                for &projection in projections {
                    matrices.push(Matrix::load(&on, layer.projection(projection))?);
                }
            }
            layers.push(FrozenLayer {
                attn_norm: vector(&layer.attn_norm)?,
                ffn_norm: vector(&layer.ffn_norm)?,
                groups,
            });
        }
        Ok(Self {
            config: config.clone(),
            token_embedding: weights.token_embedding.clone(),
            head: Matrix::load(&on, weights.head())?,
            output_norm: vector(&weights.output_norm)?,
            layers,
            rotation: Rotation::new(&on, config, positions_max)?,
            plan: Mutex::default(),
            on,
        })
    }

    fn plan(&self, tree: &Arc<Tree>) -> Result<Arc<TreePlan>> {
        let mut last = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(plan) if plan.is_of(tree) => Ok(Arc::clone(plan)),
            _ => {
                let plan = Arc::new(TreePlan::new(&self.on, &self.rotation, tree)?);
                *last = Some(Arc::clone(&plan));
                Ok(plan)
            }
        }
    }
}

impl Operations for TensorOperations {
    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let width = self.config.hidden_size;
        let mut rows = vec![0.0; tokens.len() * width];
        for (&token, row) in tokens.iter().zip(rows.chunks_exact_mut(width)) {
            self.token_embedding
                .dequantize_rows(token as usize..token as usize + 1, row);
        }
        tensor(rows, (tokens.len(), width))?.to_device(&self.on.device)
    }

    fn norm(&self, norm: Norm, x: &Tensor) -> Result<Tensor> {
        let weight = match norm {
            Norm::Attention(layer) => &self.layers[layer].attn_norm,
            Norm::FeedForward(layer) => &self.layers[layer].ffn_norm,
            Norm::Output => &self.output_norm,
        };
        let squares = x.sqr()?.mean_keepdim(D::Minus1)?;
        let rms = (squares + f64::from(self.config.rms_eps))?.sqrt()?;
        x.broadcast_div(&rms)?.broadcast_mul(weight)
    }

    fn linear(
        &self,
        layer: usize,
        kind: usize,
        x: &Tensor,
        view: &ParameterView,
    ) -> Result<Tensor> {
        let mask = |part| view.dropout.map(|dropout| dropout.mask(layer, kind, part));
        let matrices = &self.layers[layer].groups[kind];
        linear::apply(&self.on, matrices, x, view.group(layer, kind), mask)
    }

    fn attention(&self, qkv: &Tensor, tree: &Arc<Tree>) -> Result<Tensor> {
        let plan = self.plan(tree)?;
        attention::attend(&self.on, &self.config, &plan, qkv)
    }

    fn gated(&self, gate_up: &Tensor) -> Result<Tensor> {
        let half = gate_up.elem_count() / 2;
        let shape = (half / self.config.ffn_size, self.config.ffn_size);
        let gate = gate_up.narrow(0, 0, half)?.reshape(shape)?;
        let up = gate_up.narrow(0, half, half)?.reshape(shape)?;
        gate.silu()? * up
    }

    fn target_log_probs(
        &self,
        hidden: &Tensor,
        targets: &Arc<[Target]>,
        with_gradient: bool,
    ) -> Result<Tensor> {
        head::target_log_probs(&self.on, &self.head, hidden, targets, with_gradient)
    }

    fn scored(&self, hidden: &Tensor, targets: &Arc<[Target]>) -> Result<(Vec<f32>, Vec<bool>)> {
        let log_probs = self.target_log_probs(hidden, targets, false)?;
        let are_likeliest = head::are_likeliest(&self.on, &self.head, hidden, targets)?;
        Ok((log_probs.to_vec1()?, are_likeliest))
    }
}
