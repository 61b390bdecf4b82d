//! A frozen quantized projection, or several of the same input, each with a
//! low-rank term: `y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ`.
//!
//! Nothing dequantized is kept, and the frozen weight gets no gradient.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use model::quant::{Precision, QuantMatrix};

use super::dropout::Mask;
use super::gemm::{Extent, Threads, multiply, plain, transposed};
use super::{add_into, output, tensor, values, with_values};

/// Where a projection's low-rank factors lie in its group's parameter vector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LowRank {
    /// `A`, `[rank, in]`.
    pub(crate) a: Range<usize>,
    /// `B`, `[out, rank]`.
    pub(crate) b: Range<usize>,
    pub(crate) rank: usize,
    pub(crate) scale: f32,
}

/// One projection of a group.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) weight: QuantMatrix,
    pub(crate) low_rank: Option<LowRank>,
    /// Drops inputs of the low-rank term, never of the frozen weight.
    pub(crate) mask: Option<Mask>,
}

/// The projections of one input. The result holds all of the first one's
/// output, `[rows, out]`, then all of the second one's, and so on.
#[derive(Clone)]
pub(crate) struct GroupLinear {
    pub(crate) parts: Arc<[Part]>,
}

impl GroupLinear {
    fn in_width(&self) -> usize {
        self.parts.first().map_or(0, |part| part.weight.cols())
    }

    /// Applies the group: `x` is `[rows, in]`, the result flat.
    pub(crate) fn apply(&self, x: &Tensor, parameters: Option<&Tensor>) -> Result<Tensor> {
        match parameters {
            Some(parameters) => x.apply_op2(parameters, self.clone()),
            None => x.apply_op1(self.clone()),
        }
    }

    fn forward(&self, x: &[f32], parameters: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.in_width();
        let out_width: usize = self.parts.iter().map(|part| part.weight.rows()).sum();
        let mut y = vec![0.0; rows * out_width];
        let mut rest = y.as_mut_slice();
        for part in self.parts.iter() {
            let (y, tail) = rest.split_at_mut(rows * part.weight.rows());
            rest = tail;
            part.weight.matmul(x, rows, y, Precision::F32);
            if let Some(low_rank) = &part.low_rank {
                let dropped = part.mask.map(|mask| mask.applied(x));
                low_rank.add_forward(dropped.as_deref().unwrap_or(x), rows, parameters, y);
            }
        }
        y
    }

    /// The gradient of the input, and that of the parameters where there are any.
    fn backward(&self, x: &[f32], parameters: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let rows = x.len() / self.in_width();
        let mut d_parameters = vec![0.0; parameters.len()];
        let mut dx = vec![0.0; x.len()];
        let mut scratch = Vec::new();
        let mut rest = dy;
        for (index, part) in self.parts.iter().enumerate() {
            let (dy, tail) = rest.split_at(rows * part.weight.rows());
            rest = tail;
            if index == 0 {
                part.weight.matmul_transposed_f32(dy, rows, &mut dx);
            } else {
                scratch.resize(x.len(), 0.0);
                part.weight.matmul_transposed_f32(dy, rows, &mut scratch);
                add_into(&mut dx, &scratch);
            }
            if let Some(low_rank) = &part.low_rank {
                let from = (rows, parameters, dy);
                match part.mask {
                    None => low_rank.add_backward(x, from, &mut dx, &mut d_parameters),
                    Some(mask) => {
                        scratch.clear();
                        scratch.resize(x.len(), 0.0);
                        let dropped = mask.applied(x);
                        low_rank.add_backward(&dropped, from, &mut scratch, &mut d_parameters);
                        mask.apply(&mut scratch);
                        add_into(&mut dx, &scratch);
                    }
                }
            }
        }
        (dx, d_parameters)
    }
}

impl LowRank {
    /// `x·Aᵀ`, `[rows, rank]`.
    fn inner(&self, x: &[f32], rows: usize, parameters: &[f32]) -> Vec<f32> {
        let a = &parameters[self.a.clone()];
        let mut inner = vec![0.0; rows * self.rank];
        let extent = Extent {
            m: rows,
            n: self.rank,
            k: a.len() / self.rank,
        };
        multiply(
            extent,
            plain(x),
            transposed(a),
            (0.0, 1.0),
            &mut inner,
            Threads::Pool,
        );
        inner
    }

    fn add_forward(&self, x: &[f32], rows: usize, parameters: &[f32], y: &mut [f32]) {
        let inner = self.inner(x, rows, parameters);
        let b = &parameters[self.b.clone()];
        let extent = Extent {
            m: rows,
            n: b.len() / self.rank,
            k: self.rank,
        };
        multiply(
            extent,
            plain(&inner),
            transposed(b),
            (1.0, self.scale),
            y,
            Threads::Pool,
        );
    }

    /// `from` is the number of rows, the parameters and the output's gradient.
    fn add_backward(
        &self,
        x: &[f32],
        (rows, parameters, dy): (usize, &[f32], &[f32]),
        dx: &mut [f32],
        d_parameters: &mut [f32],
    ) {
        let (rank, pool) = (self.rank, Threads::Pool);
        let (a, b) = (&parameters[self.a.clone()], &parameters[self.b.clone()]);
        let (in_width, out_width) = (a.len() / rank, b.len() / rank);
        // dB[out, rank] = s·dyᵀ·(x·Aᵀ)
        let inner = self.inner(x, rows, parameters);
        let d_b = &mut d_parameters[self.b.clone()];
        let extent = Extent {
            m: out_width,
            n: rank,
            k: rows,
        };
        multiply(
            extent,
            transposed(dy),
            plain(&inner),
            (0.0, self.scale),
            d_b,
            pool,
        );
        // d(x·Aᵀ)[rows, rank] = s·dy·B
        let mut d_inner = vec![0.0; rows * rank];
        let extent = Extent {
            m: rows,
            n: rank,
            k: out_width,
        };
        multiply(
            extent,
            plain(dy),
            plain(b),
            (0.0, self.scale),
            &mut d_inner,
            pool,
        );
        // dA[rank, in] = d(x·Aᵀ)ᵀ·x
        let d_a = &mut d_parameters[self.a.clone()];
        let extent = Extent {
            m: rank,
            n: in_width,
            k: rows,
        };
        multiply(
            extent,
            transposed(&d_inner),
            plain(x),
            (0.0, 1.0),
            d_a,
            pool,
        );
        // dx[rows, in] += d(x·Aᵀ)·A
        let extent = Extent {
            m: rows,
            n: in_width,
            k: rank,
        };
        multiply(extent, plain(&d_inner), plain(a), (1.0, 1.0), dx, pool);
    }
}

impl CustomOp1 for GroupLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(values(storage, layout)?, &[]);
        let len = y.len();
        output(y, len)
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (dx, _) = with_values(x, |x| with_values(&dy, |dy| Ok(self.backward(x, &[], dy))))?;
        tensor(dx, x.shape().clone()).map(Some)
    }
}

impl CustomOp2 for GroupLinear {
    fn name(&self) -> &'static str {
        "adapted-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(values(x, x_layout)?, values(parameters, parameters_layout)?);
        let len = y.len();
        output(y, len)
    }

    fn bwd(
        &self,
        x: &Tensor,
        parameters: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (dx, d_parameters) = with_values(x, |x| {
            with_values(parameters, |parameters| {
                with_values(&dy, |dy| Ok(self.backward(x, parameters, dy)))
            })
        })?;
        let d_parameters = tensor(d_parameters, parameters.shape().clone())?;
        Ok((Some(tensor(dx, x.shape().clone())?), Some(d_parameters)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use model::quant::Format;

    use super::*;
    use crate::ops::check::{finite_differences, random};
    use crate::ops::dropout::Dropout;

    fn group(low_rank: bool, mask: Option<Mask>) -> GroupLinear {
        let weight = |seed, rows| {
            QuantMatrix::quantize_from_f32(Format::F32, rows, 32, &random(seed, rows * 32)).unwrap()
        };
        let pair = |at: usize, out: usize, rank: usize, scale| {
            let middle = at + rank * 32;
            low_rank.then_some(LowRank {
                a: at..middle,
                b: middle..middle + out * rank,
                rank,
                scale,
            })
        };
        let parts = [
            Part {
                weight: weight(1, 8),
                low_rank: pair(0, 8, 2, 2.0),
                mask,
            },
            Part {
                weight: weight(2, 4),
                low_rank: None,
                mask,
            },
            Part {
                weight: weight(3, 4),
                low_rank: pair(80, 4, 3, 0.5),
                mask,
            },
        ];
        GroupLinear {
            parts: parts.into(),
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let x = tensor(random(4, 3 * 32), (3, 32)).unwrap();
        finite_differences(std::slice::from_ref(&x), |x| {
            group(false, None).apply(&x[0], None)
        });
        let parameters = tensor(random(5, 80 + 3 * 36), 80 + 3 * 36).unwrap();
        let mask = Dropout::new(0.4, [1, 2, 3, 4]).map(|dropout| dropout.mask(0, 0, 0));
        for mask in [None, mask] {
            finite_differences(&[x.clone(), parameters.clone()], |x| {
                group(true, mask).apply(&x[0], Some(&x[1]))
            });
        }
    }
}
