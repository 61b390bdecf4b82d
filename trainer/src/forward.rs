//! The differentiable forward pass over the served quantized weights.
//!
//! One pass over a packed prefix tree, from tokens to the log-probabilities
//! of its targets. Reads top to bottom as the model is computed. Knows no loss
//! and no optimizer.

use std::sync::Arc;

use candle_core::Tensor;
use model::quant::QuantMatrix;
use model::{ModelConfig, Projection, Weights};

use crate::TrainerError;
use crate::ops::attention::{Heads, TreeAttention};
use crate::ops::head::{Target, TargetLogProbs};
use crate::ops::linear::{GroupLinear, Part};
use crate::ops::norm::RmsNorm;
use crate::ops::rope::RopeTable;
use crate::ops::swiglu::SwiGlu;
use crate::ops::tensor;
use crate::pack::{Pack, Tree};
use crate::parameters::{GROUPS, ParameterView};

/// Index of each group in [`GROUPS`].
const QKV: usize = 0;
const OUT: usize = 1;
const GATE_UP: usize = 2;
const DOWN: usize = 3;

/// The frozen weights, shared with whoever serves them.
pub struct FrozenModel {
    config: ModelConfig,
    token_embedding: QuantMatrix,
    head: QuantMatrix,
    head_is_embedding: bool,
    output_norm: Arc<[f32]>,
    layers: Vec<FrozenLayer>,
    rope: Arc<RopeTable>,
}

struct FrozenLayer {
    attn_norm: Arc<[f32]>,
    ffn_norm: Arc<[f32]>,
    /// The matrices of each of [`GROUPS`].
    groups: [Vec<QuantMatrix>; 4],
}

impl FrozenModel {
    /// Takes the weights by reference counts; nothing is copied but the norms.
    /// Sequences may have up to `positions_max` tokens.
    ///
    /// # Errors
    /// [`TrainerError::Config`] for a model with parts that have no backward here.
    pub fn new(
        weights: &Weights,
        config: &ModelConfig,
        positions_max: usize,
    ) -> Result<Self, TrainerError> {
        check_trainable(weights, config)?;
        let layers = weights.layers.iter().map(|layer| FrozenLayer {
            attn_norm: layer.attn_norm.as_slice().into(),
            ffn_norm: layer.ffn_norm.as_slice().into(),
            groups: GROUPS.map(|group| {
                group
                    .iter()
                    .map(|&projection| layer.projection(projection).clone())
                    .collect()
            }),
        });
        let order = config.architecture.rope_order;
        let rope = RopeTable::new(order, config.head_dim, config.rope.theta, positions_max);
        Ok(Self {
            config: config.clone(),
            token_embedding: weights.token_embedding.clone(),
            head: weights.head().clone(),
            head_is_embedding: weights.output.is_none(),
            output_norm: weights.output_norm.as_slice().into(),
            layers: layers.collect(),
            rope: Arc::new(rope),
        })
    }

    /// The model's sizes.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Numbers in the base: matrices, norms, and the embedding once if tied.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        let c = &self.config;
        let layer: usize = Projection::ALL
            .iter()
            .map(|&p| c.projection_shape(p))
            .map(|(out, input)| out * input)
            .sum();
        let tables = c.vocab_size * c.hidden_size * if self.head_is_embedding { 1 } else { 2 };
        tables + c.hidden_size + c.layer_count * (layer + 2 * c.hidden_size)
    }

    /// The log-probability of every target of the pack, `[targets]`.
    pub(crate) fn log_probs(
        &self,
        pack: &Pack,
        parameters: &ParameterView,
        with_gradient: bool,
    ) -> Result<Tensor, TrainerError> {
        let hidden = self.hidden(&pack.tree, parameters)?;
        let targets: Arc<[Target]> = Arc::clone(&pack.targets);
        let head = TargetLogProbs::new(self.head.clone(), targets, with_gradient);
        Ok(hidden.apply_op1(head)?)
    }

    /// The normed hidden states of every row, `[rows, hidden]`.
    fn hidden(&self, tree: &Arc<Tree>, view: &ParameterView) -> Result<Tensor, TrainerError> {
        let mut x = self.embed(&tree.tokens)?; // [rows, hidden]
        for (index, layer) in self.layers.iter().enumerate() {
            let apply = |kind, x: &Tensor| layer.apply(index, kind, x, view);
            let rows = tree.tokens.len();
            let width = self.config.hidden_size;
            let normed = x.apply_op1(self.norm(&layer.attn_norm))?;
            let qkv = apply(QKV, &normed)?; // q, k, v one after another
            let attended = qkv.apply_op1(self.attention(tree))?; // [rows, heads·dim]
            x = (x + apply(OUT, &attended)?.reshape((rows, width))?)?;
            let normed = x.apply_op1(self.norm(&layer.ffn_norm))?;
            let gate_up = apply(GATE_UP, &normed)?; // gate, then up
            let gated = gate_up.apply_op1(SwiGlu {
                width: self.config.ffn_size,
            })?;
            x = (x + apply(DOWN, &gated)?.reshape((rows, width))?)?;
        }
        Ok(x.apply_op1(self.norm(&self.output_norm))?)
    }

    fn embed(&self, tokens: &[u32]) -> Result<Tensor, TrainerError> {
        let width = self.config.hidden_size;
        let mut rows = vec![0.0; tokens.len() * width];
        for (&token, row) in tokens.iter().zip(rows.chunks_exact_mut(width)) {
            self.token_embedding
                .dequantize_rows(token as usize..token as usize + 1, row);
        }
        Ok(tensor(rows, (tokens.len(), width))?)
    }

    fn norm(&self, weight: &Arc<[f32]>) -> RmsNorm {
        RmsNorm {
            weight: Arc::clone(weight),
            eps: self.config.rms_eps,
        }
    }

    fn attention(&self, tree: &Arc<Tree>) -> TreeAttention {
        let heads = Heads {
            query: self.config.head_count,
            key_value: self.config.kv_head_count,
            dim: self.config.head_dim,
        };
        TreeAttention {
            heads,
            rope: Arc::clone(&self.rope),
            tree: Arc::clone(tree),
        }
    }
}

/// Refuses what the forward pass below leaves out: it is LLaMA's.
fn check_trainable(weights: &Weights, config: &ModelConfig) -> Result<(), TrainerError> {
    let name = config.architecture.gguf_name;
    let problem = if name != "llama" {
        format!("models of the architecture {name} cannot be trained yet, only served")
    } else if weights.rope_factors.is_some() || config.rope.linear_factor != 1.0 {
        "models with scaled RoPE cannot be trained yet, only served".to_owned()
    } else if config.window.is_some() || config.rope.dims != config.head_dim {
        "models with a sliding window or partial RoPE cannot be trained yet, only served".to_owned()
    } else {
        return Ok(());
    };
    Err(TrainerError::Config {
        key: "model",
        problem,
    })
}

impl FrozenLayer {
    fn apply(
        &self,
        index: usize,
        kind: usize,
        x: &Tensor,
        view: &ParameterView,
    ) -> Result<Tensor, TrainerError> {
        let adapted = view.group(index, kind);
        let parts = self.groups[kind]
            .iter()
            .enumerate()
            .map(|(i, weight)| Part {
                weight: weight.clone(),
                low_rank: adapted.and_then(|(_, layout)| layout[i].clone()),
            });
        let group = GroupLinear {
            parts: parts.collect(),
        };
        Ok(group.apply(x, adapted.map(|(parameters, _)| parameters))?)
    }
}
