//! Causal attention with grouped queries over the cache's pages.

use candle_core::{DType, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::Result;
use super::cache::Cache;
use super::plan::{Plan, Seen, Sequences};

/// What a batch's queries of one layer, `[n, heads, head_dim]` and scaled, find
/// in the cache: `[n, heads · head_dim]`.
pub(super) fn attend(
    cache: &Cache,
    layer: usize,
    plan: &Plan<'_>,
    is_windowed: bool,
    queries: &Tensor,
) -> Result<Tensor> {
    let queries = match &plan.order {
        Some(order) => &queries.index_select(&order.take, 0)?,
        None => queries,
    };
    let (mut found, mut first_row) = (Vec::with_capacity(plan.attention.len()), 0);
    for sequences in &plan.attention {
        let rows = sequences.sequences * sequences.queries;
        let seen = match &sequences.windowed {
            Some(windowed) if is_windowed => windowed,
            _ => &sequences.global,
        };
        let queries = queries.narrow(0, first_row, rows)?;
        found.push(find(cache, layer, sequences, seen, &queries)?);
        first_row += rows;
    }
    let found = match &found[..] {
        [found] => found.clone(),
        found => Tensor::cat(found, 0)?,
    };
    match &plan.order {
        Some(order) => found.index_select(&order.restore, 0),
        None => Ok(found),
    }
}

fn find(
    cache: &Cache,
    layer: usize,
    sequences: &Sequences,
    seen: &Seen,
    queries: &Tensor,
) -> Result<Tensor> {
    let (keys, values) = cache.read(layer, &seen.pages, sequences.sequences)?;
    let (rows, heads, dim) = queries.dims3()?;
    let kv_heads = keys.dim(0)? / sequences.sequences;
    let (count, each, group) = (sequences.sequences, sequences.queries, heads / kv_heads);
    let positions = keys.dim(1)?;
    let queries = queries
        .reshape((count, each, kv_heads, group, dim))?
        .permute((2, 0, 1, 3, 4))?
        .contiguous()?
        .reshape((kv_heads * count, each * group, dim))?;
    let scores = queries.matmul(&keys.t()?)?.to_dtype(DType::F32)?;
    let scores = scores
        .reshape((kv_heads, count, each, group, positions))?
        .broadcast_add(&seen.mask)?;
    let weights = softmax_last_dim(&scores)?
        .to_dtype(values.dtype())?
        .reshape((kv_heads * count, each * group, positions))?;
    weights
        .matmul(&values)?
        .reshape((kv_heads, count, each, group, dim))?
        .permute((1, 2, 0, 3, 4))?
        .contiguous()?
        .reshape((rows, heads * dim))
}
