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

/// The targets of each distinct row, in the order of first appearance.
pub(crate) fn by_row(targets: &[Target]) -> Vec<(usize, Vec<usize>)> {
    let mut place: HashMap<usize, usize> = HashMap::new();
    let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let at = *place.entry(target.row).or_insert_with(|| {
            rows.push((target.row, Vec::new()));
            rows.len() - 1
        });
        rows[at].1.push(index);
    }
    rows
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

    /// Log-probabilities of the hidden states, and of each target whether it is
    /// its row's likeliest token, the one that greedy decoding takes.
    pub(crate) fn scored(&self, hidden: &[f32]) -> (Vec<f32>, Vec<bool>) {
        let is_likeliest = vec![false; self.targets.len()];
        let found = self.computed(hidden, is_likeliest);
        (found.log_probs, found.is_likeliest)
    }

    fn computed(&self, hidden: &[f32], is_likeliest: Vec<bool>) -> Computed {
        let kept = match self.keep_directions {
            true => self.targets.len() * self.head.cols(),
            false => 0,
        };
        let mut into = Computed {
            log_probs: vec![0.0; self.targets.len()],
            directions: vec![0.0; kept],
            is_likeliest,
        };
        for chunk in by_row(&self.targets).chunks(CHUNK_ROWS) {
            self.chunk(hidden, chunk, &mut into);
        }
        into
    }

    fn chunk(&self, hidden: &[f32], chunk: &[(usize, Vec<usize>)], into: &mut Computed) {
        let Computed {
            log_probs,
            directions,
            is_likeliest,
        } = into;
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
        if !is_likeliest.is_empty() {
            for ((_, indices), row) in chunk.iter().zip(logits.chunks_exact(vocab)) {
                let first = likeliest(row);
                for &index in indices {
                    is_likeliest[index] = self.targets[index].token as usize == first;
                }
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

/// What is computed of each target.
struct Computed {
    log_probs: Vec<f32>,
    /// For a backward pass; else empty.
    directions: Vec<f32>,
    /// Where it is asked for; else empty.
    is_likeliest: Vec<bool>,
}

/// The first place of the greatest logit.
fn likeliest(row: &[f32]) -> usize {
    let greater = |best: (usize, f32), (index, &logit): (usize, &f32)| match logit > best.1 {
        true => (index, logit),
        false => best,
    };
    row.iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), greater)
        .0
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
        let computed = self.computed(values(storage, layout)?, Vec::new());
        *self
            .directions
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = computed.directions;
        output(computed.log_probs, self.targets.len())
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
    fn one_token_of_a_row_is_the_likeliest() {
        let head =
            QuantMatrix::quantize_from_f32(Format::F32, 50, 32, &random(1, 50 * 32)).unwrap();
        // every token of two rows
        let all = (0..2).flat_map(|row| (0..50).map(move |token| Target { row, token }));
        let targets: Vec<Target> = all.collect();
        let hidden = random(2, 2 * 32);
        let op = TargetLogProbs::new(head, targets.into(), false);
        let (log_probs, is_likeliest) = op.scored(&hidden);
        for row in [0..50, 50..100] {
            let best = row
                .clone()
                .max_by(|&a, &b| log_probs[a].total_cmp(&log_probs[b]));
            let found: Vec<usize> = row.filter(|&index| is_likeliest[index]).collect();
            assert_eq!(found, [best.unwrap()]);
        }
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
