//! The portable kernel: what the others are tested against.

use super::activations::Activations;
use super::int8::Tile;
use crate::quant::{BLOCK, GROUP, PackedMatrix};

/// Fills a tile.
pub(super) fn tile<const N: usize>(
    weights: &PackedMatrix,
    group: usize,
    x: &Activations,
    first: usize,
    out: &mut Tile<N>,
) {
    for b in 0..weights.blocks {
        let lines = weights.lines(group, b);
        let (words, scales) = x.block(b, first, N);
        for r in 0..GROUP {
            let (scale, min) = weights.scale_and_min(group, b, r);
            let codes: [i32; BLOCK] =
                std::array::from_fn(|k| i32::from(weights.code(lines, r, k)) - weights.zero);
            for ((acc, words), x) in out.iter_mut().zip(words).zip(scales) {
                let dot: i32 = codes
                    .iter()
                    .enumerate()
                    .map(|(k, code)| code * i32::from((words[k / 4] >> (8 * (k % 4))) as i8))
                    .sum();
                if !weights.mins.is_empty() {
                    acc[r] = min.mul_add(x.scaled_sum, acc[r]);
                }
                acc[r] = (dot as f32).mul_add(scale * x.scale, acc[r]);
            }
        }
    }
}
