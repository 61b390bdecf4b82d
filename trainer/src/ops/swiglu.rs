//! The gated activation of the feed-forward block.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{PARALLEL_ELEMENTS_MIN, output, tensor, values, with_values};

/// `silu(gate) ∘ up`, where the input holds all of `gate` and then all of `up`.
pub(crate) struct SwiGlu {
    /// Columns of the result.
    pub(crate) width: usize,
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let both = values(storage, layout)?;
        let (gate, up) = both.split_at(both.len() / 2);
        let mut y = vec![0.0; gate.len()];
        y.par_chunks_mut(PARALLEL_ELEMENTS_MIN)
            .zip(gate.par_chunks(PARALLEL_ELEMENTS_MIN))
            .zip(up.par_chunks(PARALLEL_ELEMENTS_MIN))
            .for_each(|((y, gate), up)| {
                for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                    *y = g * sigmoid(g) * u;
                }
            });
        let rows = y.len() / self.width;
        output(y, (rows, self.width))
    }

    fn bwd(&self, both: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let d_both = with_values(both, |both| with_values(&dy, |dy| Ok(backward(both, dy))))?;
        tensor(d_both, both.shape().clone()).map(Some)
    }
}

fn backward(both: &[f32], dy: &[f32]) -> Vec<f32> {
    let half = both.len() / 2;
    let (gate, up) = both.split_at(half);
    let mut d_both = vec![0.0; both.len()];
    let (d_gate, d_up) = d_both.split_at_mut(half);
    d_gate
        .par_chunks_mut(PARALLEL_ELEMENTS_MIN)
        .zip(d_up.par_chunks_mut(PARALLEL_ELEMENTS_MIN))
        .zip(gate.par_chunks(PARALLEL_ELEMENTS_MIN))
        .zip(up.par_chunks(PARALLEL_ELEMENTS_MIN))
        .zip(dy.par_chunks(PARALLEL_ELEMENTS_MIN))
        .for_each(|((((d_gate, d_up), gate), up), dy)| {
            for i in 0..dy.len() {
                let s = sigmoid(gate[i]);
                d_up[i] = dy[i] * gate[i] * s;
                d_gate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
            }
        });
    d_both
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ops::check::{finite_differences, random};

    #[test]
    fn gradient_agrees_with_finite_differences() {
        finite_differences(&[tensor(random(3, 2 * 4 * 6), 48).unwrap()], |x| {
            x[0].apply_op1(SwiGlu { width: 6 })
        });
    }
}
