//! Log-probabilities of chosen tokens, without keeping any `[rows, vocab]`, as
//! `ops::head` has them: the direction in which each moves with its hidden state
//! is computed with it, chunk by chunk.

use candle_core::{D, DType, Error, Result, Tensor};

use super::Tensors;
use super::matrix::Matrix;
use crate::ops::head::{CHUNK_ROWS, Target, by_row};

/// Some targets: each one's row in a chunk, its token, and its place in the
/// chunk's logits.
#[derive(Default)]
struct Pairs {
    rows: Vec<u32>,
    tokens: Vec<u32>,
    places: Vec<u32>,
}

impl Pairs {
    fn push(&mut self, row: usize, token: u32, vocab: usize) -> Result<()> {
        self.rows.push(index(row)?);
        self.tokens.push(token);
        self.places.push(index(row * vocab + token as usize)?);
        Ok(())
    }
}

/// What is computed of some targets.
struct Chunk {
    /// `[targets]`
    log_probs: Tensor,
    /// `[targets, hidden]`, if a backward pass follows.
    directions: Option<Tensor>,
}

/// `log p(token | row)` of each target, `[targets]`.
pub(super) fn target_log_probs(
    on: &Tensors,
    head: &Matrix,
    hidden: &Tensor,
    targets: &[Target],
    with_gradient: bool,
) -> Result<Tensor> {
    if targets.is_empty() {
        return Tensor::zeros(0, DType::F32, &on.device);
    }
    let numbers = |numbers: Vec<u32>| {
        let len = numbers.len();
        Tensor::from_vec(numbers, len, &on.device)
    };
    let weights = head.values(on.dtype)?; // [vocab, hidden]
    let vocab = weights.dim(0)?;
    let still = hidden.detach();
    let (mut log_probs, mut directions) = (Vec::new(), Vec::new());
    let (mut rows, mut restore) = (Vec::new(), vec![0; targets.len()]);
    for chunk in by_row(targets).chunks(CHUNK_ROWS) {
        let mut of = Pairs::default();
        for (place, (_, indices)) in chunk.iter().enumerate() {
            for &at in indices {
                restore[at] = index(rows.len())?;
                rows.push(index(targets[at].row)?);
                of.push(place, targets[at].token, vocab)?;
            }
        }
        let distinct = chunk.iter().map(|(row, _)| index(*row));
        let x = still.index_select(&numbers(distinct.collect::<Result<_>>()?)?, 0)?;
        let [rows, tokens, places] = [of.rows, of.tokens, of.places].map(numbers);
        let of = [&rows?, &tokens?, &places?];
        let computed = compute(on, &weights, &x, of, with_gradient)?;
        log_probs.push(computed.log_probs);
        directions.extend(computed.directions);
    }
    let mut log_probs = Tensor::cat(&log_probs, 0)?;
    if with_gradient {
        // adds nothing, and moves with the hidden states as it should
        let rows = numbers(rows)?;
        let moved = (hidden.index_select(&rows, 0)? - still.index_select(&rows, 0)?)?;
        let along = (moved * Tensor::cat(&directions, 0)?)?.sum(D::Minus1)?;
        log_probs = (log_probs + along)?;
    }
    log_probs.index_select(&numbers(restore)?, 0)
}

/// Of each target whether it is its row's likeliest token.
pub(super) fn are_likeliest(
    on: &Tensors,
    head: &Matrix,
    hidden: &Tensor,
    targets: &[Target],
) -> Result<Vec<bool>> {
    let weights = head.values(on.dtype)?; // [vocab, hidden]
    let mut are_likeliest = vec![false; targets.len()];
    for chunk in by_row(targets).chunks(CHUNK_ROWS) {
        let rows: Vec<u32> = chunk
            .iter()
            .map(|(row, _)| index(*row))
            .collect::<Result<_>>()?;
        let len = rows.len();
        let x = hidden.index_select(&Tensor::from_vec(rows, len, &on.device)?, 0)?;
        let logits = x.to_dtype(on.dtype)?.matmul(&weights.t()?)?;
        let first = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        for ((_, indices), first) in chunk.iter().zip(first) {
            for &at in indices {
                are_likeliest[at] = targets[at].token == first;
            }
        }
    }
    Ok(are_likeliest)
}

/// Of the rows `x`, `[rows, hidden]`, for pairs as [`Pairs`] has them.
fn compute(
    on: &Tensors,
    weights: &Tensor,
    x: &Tensor,
    [rows, tokens, places]: [&Tensor; 3],
    with_directions: bool,
) -> Result<Chunk> {
    let logits = x.to_dtype(on.dtype)?.matmul(&weights.t()?)?;
    let logits = logits.to_dtype(DType::F32)?; // [rows, vocab]
    let largest = logits.max_keepdim(D::Minus1)?;
    let powers = logits.broadcast_sub(&largest)?.exp()?;
    let sums = powers.sum_keepdim(D::Minus1)?;
    let normalizers = (largest + sums.log()?)?.squeeze(1)?;
    let chosen = logits.flatten_all()?.index_select(places, 0)?;
    let log_probs = (chosen - normalizers.index_select(rows, 0)?)?;
    let directions = if with_directions {
        let probabilities = powers.broadcast_div(&sums)?.to_dtype(on.dtype)?;
        let expected = probabilities.matmul(weights)?.to_dtype(DType::F32)?;
        let own = weights.index_select(tokens, 0)?.to_dtype(DType::F32)?;
        Some((own - expected.index_select(rows, 0)?)?)
    } else {
        None
    };
    Ok(Chunk {
        log_probs,
        directions,
    })
}

/// A number as the devices index with.
fn index(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(Error::wrap)
}
