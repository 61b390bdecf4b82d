//! Frozen projections of one input, each with a low-rank term, as `ops::linear`
//! has them.

use candle_core::{DType, Result, Tensor};

use super::Tensors;
use super::matrix::Matrix;
use crate::ops::dropout::Mask;
use crate::ops::linear::LowRank;
use crate::parameters::GroupLayout;

/// `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ` of each matrix; `x` is `[rows, in]`, the result flat.
pub(super) fn apply(
    on: &Tensors,
    matrices: &[Matrix],
    x: &Tensor,
    adapted: Option<&(Tensor, GroupLayout)>,
    mask: impl Fn(usize) -> Option<Mask>,
) -> Result<Tensor> {
    let x = x.to_dtype(on.dtype)?.contiguous()?;
    let parameters = adapted
        .map(|(vector, _)| vector.to_device(&on.device)?.to_dtype(on.dtype))
        .transpose()?;
    let mut results = Vec::with_capacity(matrices.len());
    for (part, matrix) in matrices.iter().enumerate() {
        let y = matrix.multiply(&x)?.to_dtype(DType::F32)?;
        let low_rank = adapted.and_then(|(_, layout)| layout[part].as_ref());
        let y = match (low_rank, &parameters) {
            (Some(low_rank), Some(parameters)) => {
                let x = match mask(part) {
                    Some(mask) => dropped(on, &x, mask)?,
                    None => x.clone(),
                };
                (y + delta(low_rank, &x, parameters)?)?
            }
            _ => y,
        };
        results.push(y.flatten_all()?);
    }
    match &results[..] {
        [only] => Ok(only.clone()),
        results => Tensor::cat(results, 0),
    }
}

fn dropped(on: &Tensors, x: &Tensor, mask: Mask) -> Result<Tensor> {
    let factors = mask.applied(&vec![1.0; x.elem_count()]);
    let factors = Tensor::from_vec(factors, x.dims(), &on.device)?;
    x * factors.to_dtype(on.dtype)?
}

/// The low-rank term, `[rows, out]`.
fn delta(low_rank: &LowRank, x: &Tensor, parameters: &Tensor) -> Result<Tensor> {
    let rank = low_rank.rank;
    let factor = |range: &std::ops::Range<usize>| parameters.narrow(0, range.start, range.len());
    let a = factor(&low_rank.a)?.reshape((rank, low_rank.a.len() / rank))?;
    let b = factor(&low_rank.b)?.reshape((low_rank.b.len() / rank, rank))?;
    let y = x.matmul(&a.t()?)?.matmul(&b.t()?)?;
    y.to_dtype(DType::F32)? * f64::from(low_rank.scale)
}
