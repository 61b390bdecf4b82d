//! The parts of the network as the forward pass calls them, whoever computes
//! them: `ops` on the CPU, or `tensors` on another device.
//!
//! Between layers values are f32 and rows lie one after another; a projection of
//! several parts gives all of the first one's output, then all of the second's.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::ops::head::Target;
use crate::pack::Tree;
use crate::parameters::ParameterView;

/// A norm's place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Norm {
    /// Before a layer's attention.
    Attention(usize),
    /// Before a layer's feed-forward block.
    FeedForward(usize),
    /// Behind the last layer.
    Output,
}

/// Differentiable operations over frozen weights, which get no gradient.
pub(crate) trait Operations: Send + Sync {
    /// The embeddings of tokens, `[tokens, hidden]`.
    fn embed(&self, tokens: &[u32]) -> Result<Tensor>;

    /// A norm of `[rows, hidden]`.
    fn norm(&self, norm: Norm, x: &Tensor) -> Result<Tensor>;

    /// The projections of group number `kind` of a layer, with their low-rank
    /// terms: `[rows, in]` to a flat result.
    fn linear(&self, layer: usize, kind: usize, x: &Tensor, view: &ParameterView)
    -> Result<Tensor>;

    /// Causal attention from the flat queries, keys and values of a tree's rows
    /// to `[rows, heads · dim]`, rotary embedding included.
    fn attention(&self, qkv: &Tensor, tree: &Arc<Tree>) -> Result<Tensor>;

    /// The gated activation: the flat gate and up to `[rows, width]`.
    fn gated(&self, gate_up: &Tensor) -> Result<Tensor>;

    /// `log p(token | row)` of each target, `[targets]`. `with_gradient` says
    /// whether a backward pass follows.
    fn target_log_probs(
        &self,
        hidden: &Tensor,
        targets: &Arc<[Target]>,
        with_gradient: bool,
    ) -> Result<Tensor>;

    /// The same without a graph, and of each target whether it is its row's
    /// likeliest token, the one that greedy decoding takes.
    fn scored(&self, hidden: &Tensor, targets: &Arc<[Target]>) -> Result<(Vec<f32>, Vec<bool>)>;
}
