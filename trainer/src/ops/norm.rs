//! RMS normalization with a frozen weight.
//!
//! Trained models carry some tokens in one channel that is a thousand times the
//! others. There the two terms of the gradient all but cancel, so it is computed in
//! f64 and rounded once.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{output, tensor, values, with_values};

/// Rows that one rayon task handles at least.
const ROWS_MIN: usize = 16;

/// `y = x / rms(x) ∘ w`, row by row.
pub(crate) struct RmsNorm {
    pub(crate) weight: Arc<[f32]>,
    pub(crate) eps: f32,
}

impl RmsNorm {
    /// `1 / rms(row)`, summed in f64 so that the order of summation is no issue.
    fn inverse_rms(&self, row: &[f32]) -> f64 {
        let squares: f64 = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        1.0 / (squares / row.len() as f64 + f64::from(self.eps)).sqrt()
    }

    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let width = self.weight.len();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .with_min_len(ROWS_MIN)
            .for_each(|(y, x)| {
                let inverse = self.inverse_rms(x) as f32;
                for ((y, &x), &w) in y.iter_mut().zip(x).zip(self.weight.iter()) {
                    *y = x * inverse * w;
                }
            });
        y
    }

    /// dx = i·(w∘dy) − x·i³/n·Σ(w∘dy∘x), where i is the inverse rms.
    fn backward(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let width = self.weight.len();
        let mut dx = vec![0.0; x.len()];
        dx.par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .zip(dy.par_chunks(width))
            .with_min_len(ROWS_MIN)
            .for_each(|((dx, x), dy)| {
                let inverse = self.inverse_rms(x);
                let mut dot = 0.0f64;
                for ((&x, &dy), &w) in x.iter().zip(dy).zip(self.weight.iter()) {
                    dot += f64::from(x) * f64::from(dy) * f64::from(w);
                }
                let along = inverse.powi(3) * dot / width as f64;
                let rows = dx.iter_mut().zip(x).zip(dy).zip(self.weight.iter());
                for (((dx, &x), &dy), &w) in rows {
                    let across = inverse * f64::from(w) * f64::from(dy);
                    *dx = (across - along * f64::from(x)) as f32;
                }
            });
        dx
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        output(
            self.forward(values(storage, layout)?),
            layout.shape().clone(),
        )
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let dx = with_values(x, |x| with_values(&dy, |dy| Ok(self.backward(x, dy))))?;
        tensor(dx, x.shape().clone()).map(Some)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ops::check::{finite_differences, random};

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let weight: Arc<[f32]> = random(1, 24).into();
        finite_differences(&[tensor(random(2, 5 * 24), (5, 24)).unwrap()], |x| {
            x[0].apply_op1(RmsNorm {
                weight: weight.clone(),
                eps: 1e-5,
            })
        });
    }
}
