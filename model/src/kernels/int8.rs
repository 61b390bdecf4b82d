//! Products of packed weights with quantized activations.
//!
//! For a block, a row's integer dot product is exact; then
//! `acc ← fma(min, x.scaled_sum, acc)` where the format has minima, and
//! `acc ← fma(dot, scale · x.scale, acc)`, over the blocks in order. Every
//! level computes exactly this, so all give the same bits.

use super::activations::{Activations, Passes};
use super::ahead::Ahead;
use super::cpu::Level;
use super::parallel::SharedOutput;
use crate::quant::{GROUP, PackedMatrix};

/// Results of 16 weight rows for some activation rows.
pub(super) type Tile<const N: usize> = [[f32; GROUP]; N];

/// The most rows of a tile.
const TILE_ROWS: usize = 8;

/// How often [`matmul_group`] fetches a little of what is ahead: for each block of a
/// tile. The scalar level, which is none to be fast at, does it once a tile.
pub(super) fn steps_of(weights: &PackedMatrix, x: &Activations) -> usize {
    weights.blocks * tiles_of(x.n)
}

/// Tiles of so many rows: whole ones, and of what is left one for each power of two.
fn tiles_of(rows: usize) -> usize {
    rows / TILE_ROWS + (rows % TILE_ROWS).count_ones() as usize
}

/// One group of 16 weight rows with all activation rows; meanwhile fetches what is
/// ahead.
pub(super) fn matmul_group(
    level: Level,
    weights: &PackedMatrix,
    group: usize,
    x: &Activations,
    ahead: &mut Ahead,
    y: &SharedOutput<'_>,
) {
    let mut first = 0;
    while first < x.n {
        first += match x.n - first {
            TILE_ROWS.. => matmul_tile::<TILE_ROWS>(level, weights, group, (x, first), ahead, y),
            4..TILE_ROWS => matmul_tile::<4>(level, weights, group, (x, first), ahead, y),
            2..4 => matmul_tile::<2>(level, weights, group, (x, first), ahead, y),
            _ => matmul_tile::<1>(level, weights, group, (x, first), ahead, y),
        };
    }
}

/// One tile; returns how many activation rows it has.
#[inline(always)]
fn matmul_tile<const N: usize>(
    level: Level,
    weights: &PackedMatrix,
    group: usize,
    (x, first): (&Activations, usize),
    ahead: &mut Ahead,
    y: &SharedOutput<'_>,
) -> usize {
    let mut tile = [[0.0; GROUP]; N];
    match level {
        // SAFETY: the level is one that this CPU has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe {
            super::int8_avx512::tile(weights, group, x, first, ahead, &mut tile);
        },
        // SAFETY: the level is one that this CPU has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe {
            super::int8_avx2::tile(weights, group, x, first, ahead, &mut tile);
        },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => super::int8_neon::tile(weights, group, x, first, &mut tile),
        _ => {
            ahead.step();
            super::int8_scalar::tile(weights, group, x, first, &mut tile);
        }
    }
    // SAFETY: each group is computed by one task, and owns its columns.
    let part = |row| unsafe { y.part(row, group * GROUP, GROUP) };
    match x.passes {
        Passes::One => {
            for (i, row) in tile.iter().enumerate() {
                copy_row(row, part(first + i));
            }
        }
        Passes::Two => {
            for (i, [row, rest]) in tile.as_chunks::<2>().0.iter().enumerate() {
                for ((y, row), rest) in part(first / 2 + i).iter_mut().zip(row).zip(rest) {
                    *y = row + rest;
                }
            }
        }
    }
    N
}

/// Copies a row's results, all of them where the group is whole.
#[inline(always)]
fn copy_row(from: &[f32; GROUP], to: &mut [f32]) {
    match to.first_chunk_mut() {
        Some(to) => *to = *from,
        None => to.copy_from_slice(&from[..to.len()]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
