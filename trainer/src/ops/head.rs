//! Log-probabilities of chosen tokens, without keeping any `[rows, vocab]`.
//!
//! The gradient of one log-probability in its hidden state is
//! `W[token] − Σ p(v)·W[v]` times one scalar. That direction is computed with
//! the forward pass, chunk by chunk, while the probabilities are at hand; the
//! backward pass only scales it. So logits are computed once and live for one
//! chunk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use model::quant::{Precision, QuantMatrix};
use rayon::prelude::*;

use super::{output, tensor, values};

/// Rows whose logits are alive at a time.
pub(crate) const CHUNK_ROWS: usize = 128;

/// A token to score: the row of the hidden states that predicts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// Row of the packed hidden states.
    pub row: usize,
    /// The token that should follow.
    pub token: u32,
}

/// `log p(token | row)` for each target.
pub(crate) struct TargetLogProbs {
    pub(crate) head: QuantMatrix,
    pub(crate) targets: std::sync::Arc<[Target]>,
    /// Whether a backward pass follows.
    pub(crate) keep_directions: bool,
    directions: Mutex<Vec<f32>>,
}

impl TargetLogProbs {
    pub(crate) fn new(
        head: QuantMatrix,
        targets: std::sync::Arc<[Target]>,
        keep_directions: bool,
    ) -> Self {
        Self {
            head,
            targets,
            keep_directions,
            directions: Mutex::default(),
        }
    }

    /// The targets of each distinct row, in the order of first appearance.
    fn by_row(&self) -> Vec<(usize, Vec<usize>)> {
        let mut place: HashMap<usize, usize> = HashMap::new();
        let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
        for (index, target) in self.targets.iter().enumerate() {
            let at = *place.entry(target.row).or_insert_with(|| {
                rows.push((target.row, Vec::new()));
                rows.len() - 1
            });
            rows[at].1.push(index);
        }
        rows
    }

    fn forward(&self, hidden: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let width = self.head.cols();
        let mut log_probs = vec![0.0; self.targets.len()];
        let kept = if self.keep_directions {
            self.targets.len() * width
        } else {
            0
        };
        let mut directions = vec![0.0; kept];
        for chunk in self.by_row().chunks(CHUNK_ROWS) {
            self.chunk(hidden, chunk, &mut log_probs, &mut directions);
        }
        (log_probs, directions)
    }

    fn chunk(
        &self,
        hidden: &[f32],
        chunk: &[(usize, Vec<usize>)],
        log_probs: &mut [f32],
        directions: &mut [f32],
    ) {
        let (width, vocab) = (self.head.cols(), self.head.rows());
        let mut x = Vec::with_capacity(chunk.len() * width);
        for (row, _) in chunk {
            x.extend_from_slice(&hidden[row * width..(row + 1) * width]);
        }
        let mut logits = vec![0.0; chunk.len() * vocab]; // [chunk, vocab]
        self.head
            .matmul(&x, chunk.len(), &mut logits, Precision::F32);
        for ((_, indices), row) in chunk.iter().zip(logits.chunks_exact(vocab)) {
            for &index in indices {
                log_probs[index] = row[self.targets[index].token as usize];
            }
        }
        let normalizers: Vec<f32> = logits
            .par_chunks_mut(vocab)
            .map(exponentiate_and_normalize)
            .collect();
        for ((_, indices), normalizer) in chunk.iter().zip(normalizers) {
            indices
                .iter()
                .for_each(|&index| log_probs[index] -= normalizer);
        }
        if !self.keep_directions {
            return;
        }
        let mut expected = vec![0.0; chunk.len() * width]; // Σ p(v)·W[v]
        self.head
            .matmul_transposed_f32(&logits, chunk.len(), &mut expected);
        for ((_, indices), expected) in chunk.iter().zip(expected.chunks_exact(width)) {
            for &index in indices {
                let token = self.targets[index].token as usize;
                let direction = &mut directions[index * width..(index + 1) * width];
                self.head.dequantize_rows(token..token + 1, direction);
                direction
                    .iter_mut()
                    .zip(expected)
                    .for_each(|(d, e)| *d -= e);
            }
        }
    }
}

/// Logits to probabilities in place; gives the logarithm of the normalizer.
fn exponentiate_and_normalize(row: &mut [f32]) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for part in row.chunks_mut(1024) {
        let mut partial = 0.0f32;
        for value in part {
            *value = (*value - max).exp();
            partial += *value;
        }
        sum += f64::from(partial);
    }
    let inverse = (1.0 / sum) as f32;
    row.iter_mut().for_each(|value| *value *= inverse);
    (f64::from(max) + sum.ln()) as f32
}

impl CustomOp1 for TargetLogProbs {
    fn name(&self) -> &'static str {
        "target-log-probs"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (log_probs, directions) = self.forward(values(storage, layout)?);
        *self
            .directions
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = directions;
        output(log_probs, self.targets.len())
    }

    fn bwd(&self, hidden: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let width = self.head.cols();
        let dy = dy.contiguous()?.to_vec1::<f32>()?;
        let directions = self
            .directions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if directions.len() != self.targets.len() * width {
            return Err(candle_core::Error::BackwardNotSupported {
                op: "target-log-probs",
            }
            .bt());
        }
        let mut d_hidden = vec![0.0; hidden.elem_count()];
        for ((target, dy), direction) in self
            .targets
            .iter()
            .zip(dy)
            .zip(directions.chunks_exact(width))
        {
            let into = &mut d_hidden[target.row * width..(target.row + 1) * width];
            into.iter_mut()
                .zip(direction)
                .for_each(|(into, d)| *into += dy * d);
        }
        tensor(d_hidden, hidden.shape().clone()).map(Some)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use model::quant::Format;

    use super::*;
    use crate::ops::check::{finite_differences, random};

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let head =
            QuantMatrix::quantize_from_f32(Format::F32, 50, 32, &random(1, 50 * 32)).unwrap();
        let target = |row, token| Target { row, token };
        // Row 1 predicts two tokens, as where chosen and rejected part; row 3 none.
        let targets = [target(1, 3), target(0, 49), target(1, 7), target(2, 0)];
        let hidden = tensor(random(2, 4 * 32), (4, 32)).unwrap();
        finite_differences(&[hidden], |x| {
            x[0].apply_op1(TargetLogProbs::new(head.clone(), targets.into(), true))
        });
    }

    #[test]
    fn probabilities_sum_to_one() {
        let head =
            QuantMatrix::quantize_from_f32(Format::F32, 50, 32, &random(1, 50 * 32)).unwrap();
        let targets: Vec<Target> = (0..50).map(|token| Target { row: 0, token }).collect();
        let hidden = tensor(random(2, 32), (1, 32)).unwrap();
        let op = TargetLogProbs::new(head, targets.into(), false);
        let log_probs = hidden.apply_op1(op).unwrap().to_vec1::<f32>().unwrap();
        let total: f64 = log_probs.iter().map(|&p| f64::from(p).exp()).sum();
        assert!((total - 1.0).abs() < 1e-6, "{total}");
    }
}
