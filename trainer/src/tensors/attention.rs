//! Causal grouped-query attention over a packed prefix tree, as
//! `ops::attention` has it: by segments, whose keys are a few ranges of rows.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor};
use model::ModelConfig;

use super::Tensors;
use super::rope::{Rotation, Turn};
use crate::pack::{Segment, Tree};

/// What of a tree is the same for every layer.
pub(super) struct TreePlan {
    tree: Arc<Tree>,
    turn: Turn,
    /// For each segment `[its rows, its path]`: zero or minus infinity.
    masks: Vec<Tensor>,
}

impl TreePlan {
    pub(super) fn new(on: &Tensors, rotation: &Rotation, tree: &Arc<Tree>) -> Result<Self> {
        let positions: Vec<u32> = tree
            .positions
            .iter()
            .map(|&position| u32::try_from(position).map_err(candle_core::Error::wrap))
            .collect::<Result<_>>()?;
        let rows = positions.len();
        let positions = Tensor::from_vec(positions, rows, &on.device)?;
        let masks = tree.segments.iter().map(|segment| mask(on, segment));
        Ok(Self {
            turn: rotation.at(&positions)?,
            masks: masks.collect::<Result<_>>()?,
            tree: Arc::clone(tree),
        })
    }

    pub(super) fn is_of(&self, tree: &Arc<Tree>) -> bool {
        Arc::ptr_eq(&self.tree, tree)
    }
}

/// A row sees its segment's ancestors, the rows before it and itself.
fn mask(on: &Tensors, segment: &Segment) -> Result<Tensor> {
    let (rows, path) = (segment.rows.len(), segment.path_len());
    let mut mask = vec![0.0f32; rows * path];
    for (row, mask) in mask.chunks_exact_mut(path.max(1)).enumerate() {
        let seen = path - rows + row + 1;
        mask[seen..].fill(f32::NEG_INFINITY);
    }
    Tensor::from_vec(mask, (rows, path), &on.device)
}

/// From the flat queries, keys and values to `[rows, heads · dim]`.
pub(super) fn attend(
    on: &Tensors,
    config: &ModelConfig,
    plan: &TreePlan,
    qkv: &Tensor,
) -> Result<Tensor> {
    let rows = plan.tree.positions.len();
    let (heads, kv_heads, dim) = (config.head_count, config.kv_head_count, config.head_dim);
    let mut start = 0;
    let mut next = |heads: usize| {
        let len = rows * heads * dim;
        let part = qkv.narrow(0, start, len)?.reshape((rows, heads, dim));
        start += len;
        part
    };
    let (q, k, v) = (next(heads)?, next(kv_heads)?, next(kv_heads)?);
    let by_head = |x: Tensor| x.to_dtype(on.dtype)?.transpose(0, 1)?.contiguous();
    let q = (plan.turn.apply(&q)? * (1.0 / (dim as f64).sqrt()))?;
    let (q, k, v) = (by_head(q)?, by_head(plan.turn.apply(&k)?)?, by_head(v)?);
    let mut found = Vec::with_capacity(plan.masks.len());
    // segments lie in the order of their rows
    for (segment, mask) in plan.tree.segments.iter().zip(&plan.masks) {
        found.push(find(&q, [&k, &v], segment, mask)?);
    }
    let found = Tensor::cat(&found, 1)?; // [heads, rows, dim]
    let found = found.transpose(0, 1)?.contiguous()?;
    found.reshape((rows, heads * dim))?.to_dtype(DType::F32)
}

/// What a segment's queries find, `[heads, its rows, dim]`.
fn find(q: &Tensor, kv: [&Tensor; 2], segment: &Segment, mask: &Tensor) -> Result<Tensor> {
    let (heads, _, dim) = q.dims3()?;
    let (len, path) = mask.dims2()?;
    let [keys, values] = kv.map(|x| {
        let ranges = segment
            .path()
            .map(|range| x.narrow(1, range.start, range.len()));
        Tensor::cat(&ranges.collect::<Result<Vec<_>>>()?, 1)?.contiguous()
    });
    let (keys, values) = (keys?, values?); // [kv_heads, path, dim]
    let kv_heads = keys.dim(0)?;
    let repeat = heads / kv_heads;
    let q = q.narrow(1, segment.rows.start, len)?;
    let q = q.contiguous()?.reshape((kv_heads, repeat * len, dim))?;
    let scores = q.matmul(&keys.transpose(1, 2)?.contiguous()?)?;
    let scores = scores.to_dtype(DType::F32)?;
    let scores = scores.reshape((heads, len, path))?.broadcast_add(mask)?;
    let weights = softmax(&scores)?.to_dtype(values.dtype())?;
    let weights = weights.reshape((kv_heads, repeat * len, path))?;
    weights.matmul(&values)?.reshape((heads, len, dim))
}

/// Over the last dimension. candle's own for this gives no gradient.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let largest = scores.max_keepdim(D::Minus1)?.detach();
    let powers = scores.broadcast_sub(&largest)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}
