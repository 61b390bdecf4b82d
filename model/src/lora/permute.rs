//! The order of the rows of q and k.
//!
//! Published weights and PEFT files have the two halves of a head one after the
//! other; GGUF files of some architectures have them interleaved, so that RoPE
//! turns neighbours. For an adapter this concerns the rows of B alone.

use crate::architecture::RopeOrder;
use crate::config::ModelConfig;
use crate::projection::Projection;

/// Whether the rows of a projection lie in another order in the GGUF file.
pub(super) fn is_permuted(config: &ModelConfig, projection: Projection) -> bool {
    matches!(projection, Projection::Q | Projection::K)
        && config.architecture.rope_order == RopeOrder::Interleaved
}

/// Where the row `row` of a PEFT file lies in the GGUF file.
fn gguf_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * pair + half
}

/// `b` `[out, rank]` with the rows of a PEFT file, in the order of the GGUF file.
pub(crate) fn to_gguf(b: &[f32], rank: usize, head_dim: usize) -> Vec<f32> {
    let mut ordered = vec![0.0; b.len()];
    for (row, values) in b.chunks_exact(rank).enumerate() {
        let at = gguf_row(row, head_dim) * rank;
        ordered[at..at + rank].copy_from_slice(values);
    }
    ordered
}

/// The inverse of [`to_gguf`].
pub(super) fn to_peft(b: &[f32], rank: usize, head_dim: usize) -> Vec<f32> {
    let mut ordered = Vec::with_capacity(b.len());
    for row in 0..b.len() / rank {
        let at = gguf_row(row, head_dim) * rank;
        ordered.extend_from_slice(&b[at..at + rank]);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_neighbours_and_back() {
        // Two heads of four rows, rank 1: row i holds i.
        let peft: Vec<f32> = (0u8..8).map(f32::from).collect();
        let gguf = to_gguf(&peft, 1, 4);
        assert_eq!(gguf, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(to_peft(&gguf, 1, 4), peft);
    }
}
