//! The network's parts by this folder's operations, on the CPU.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use model::quant::QuantMatrix;
use model::{ModelConfig, Weights};

use super::attention::{Heads, TreeAttention};
use super::head::{Target, TargetLogProbs};
use super::linear::{GroupLinear, Part};
use super::norm::RmsNorm;
use super::rope::RopeTable;
use super::swiglu::SwiGlu;
use super::tensor;
use crate::operations::{Norm, Operations};
use crate::pack::Tree;
use crate::parameters::{GROUPS, ParameterView};

/// The frozen weights, shared with whoever serves them.
pub(crate) struct FusedOperations {
    config: ModelConfig,
    token_embedding: QuantMatrix,
    head: QuantMatrix,
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

impl FusedOperations {
    /// Takes the weights by reference counts; nothing is copied but the norms.
    pub(crate) fn new(weights: &Weights, config: &ModelConfig, positions_max: usize) -> Self {
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
        Self {
            config: config.clone(),
            token_embedding: weights.token_embedding.clone(),
            head: weights.head().clone(),
            output_norm: weights.output_norm.as_slice().into(),
            layers: layers.collect(),
            rope: Arc::new(RopeTable::of(config, positions_max)),
        }
    }
}

impl Operations for FusedOperations {
    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let width = self.config.hidden_size;
        let mut rows = vec![0.0; tokens.len() * width];
        for (&token, row) in tokens.iter().zip(rows.chunks_exact_mut(width)) {
            self.token_embedding
                .dequantize_rows(token as usize..token as usize + 1, row);
        }
        tensor(rows, (tokens.len(), width))
    }

    fn norm(&self, norm: Norm, x: &Tensor) -> Result<Tensor> {
        let weight = match norm {
            Norm::Attention(layer) => &self.layers[layer].attn_norm,
            Norm::FeedForward(layer) => &self.layers[layer].ffn_norm,
            Norm::Output => &self.output_norm,
        };
        x.apply_op1(RmsNorm {
            weight: Arc::clone(weight),
            eps: self.config.rms_eps,
        })
    }

    fn linear(
        &self,
        layer: usize,
        kind: usize,
        x: &Tensor,
        view: &ParameterView,
    ) -> Result<Tensor> {
        let adapted = view.group(layer, kind);
        let parts = self.layers[layer].groups[kind]
            .iter()
            .enumerate()
            .map(|(i, weight)| Part {
                weight: weight.clone(),
                low_rank: adapted.and_then(|(_, layout)| layout[i].clone()),
                mask: view.dropout.map(|dropout| dropout.mask(layer, kind, i)),
            });
        let group = GroupLinear {
            parts: parts.collect(),
        };
        group.apply(x, adapted.map(|(parameters, _)| parameters))
    }

    fn attention(&self, qkv: &Tensor, tree: &Arc<Tree>) -> Result<Tensor> {
        qkv.apply_op1(TreeAttention {
            heads: Heads::of(&self.config),
            rope: Arc::clone(&self.rope),
            tree: Arc::clone(tree),
        })
    }

    fn gated(&self, gate_up: &Tensor) -> Result<Tensor> {
        gate_up.apply_op1(SwiGlu {
            width: self.config.ffn_size,
        })
    }

    fn target_log_probs(
        &self,
        hidden: &Tensor,
        targets: &Arc<[Target]>,
        with_gradient: bool,
    ) -> Result<Tensor> {
        let targets = Arc::clone(targets);
        hidden.apply_op1(TargetLogProbs::new(
            self.head.clone(),
            targets,
            with_gradient,
        ))
    }

    fn scored(&self, hidden: &Tensor, targets: &Arc<[Target]>) -> Result<(Vec<f32>, Vec<bool>)> {
        let hidden = hidden.flatten_all()?.to_vec1::<f32>()?;
        let head = TargetLogProbs::new(self.head.clone(), Arc::clone(targets), false);
        Ok(head.scored(&hidden))
    }
}
