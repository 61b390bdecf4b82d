//! The portable kernel: what the others are tested against.

use super::activations::Activations;
use super::parallel::Tile;
use crate::quant::{BLOCK, GROUP, PackedMatrix};

/// Fills a tile.
///
/// # Safety
/// `y` has `N` rows of [`GROUP`], which are the caller's.
pub(super) unsafe fn tile<const N: usize>(
    weights: &PackedMatrix,
    group: usize,
    x: &Activations,
    first: usize,
    y: Tile,
) {
    let mut sums = [[0.0; GROUP]; N];
    for b in 0..weights.blocks {
        let lines = weights.lines(group, b);
        let (words, scales) = x.block(b, first, N);
        for r in 0..GROUP {
            let (scale, min) = weights.scale_and_min(group, b, r);
            let codes: [i32; BLOCK] =
                std::array::from_fn(|k| i32::from(weights.code(lines, r, k)) - weights.zero);
            for ((acc, words), x) in sums.iter_mut().zip(words).zip(scales) {
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
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: by contract; an array of floats is aligned as one.
        unsafe { y.at(i, 0).cast::<[f32; GROUP]>().write(*sums) };
    }
}
