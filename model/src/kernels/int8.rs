//! Products of packed weights with quantized activations.
//!
//! For a block, a row's integer dot product is exact; then
//! `acc ← fma(min, x.scaled_sum, acc)` where the format has minima, and
//! `acc ← fma(dot, scale · x.scale, acc)`, over the blocks in order. Every
//! level computes exactly this, so all give the same bits.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{Activations, Passes};
use super::ahead::Ahead;
use super::cpu::Level;
use super::parallel::{SharedOutput, Tile};
use crate::quant::{GROUP, PackedMatrix};

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

/// One group of 16 weight rows with some activation rows, of which the first's results
/// are the first row of `y`; meanwhile fetches what is ahead.
///
/// # Safety
/// The CPU has the level. No other task uses the group's columns of those rows of `y`.
pub(super) unsafe fn matmul_group(
    level: Level,
    weights: &PackedMatrix,
    group: usize,
    (x, rows): (&Activations, Range<usize>),
    ahead: &mut Ahead,
    y: &SharedOutput<'_>,
) {
    let passes = x.passes.count();
    assert!(rows.end <= x.rows());
    let (start, end) = (rows.start * passes, rows.end * passes);
    let mut at = start;
    while at < end {
        let tile = (x, start, at);
        // SAFETY: by contract.
        at += unsafe {
            match end - at {
                TILE_ROWS.. => matmul_tile::<TILE_ROWS>(level, weights, group, tile, ahead, y),
                4..TILE_ROWS => matmul_tile::<4>(level, weights, group, tile, ahead, y),
                2..4 => matmul_tile::<2>(level, weights, group, tile, ahead, y),
                _ => matmul_tile::<1>(level, weights, group, tile, ahead, y),
            }
        };
    }
}

/// One tile, from row `first` of the activations on, where `start`'s results are the
/// first row of `y`; returns how many activation rows it has.
///
/// # Safety
/// As [`matmul_group`].
#[inline(always)]
unsafe fn matmul_tile<const N: usize>(
    level: Level,
    weights: &PackedMatrix,
    group: usize,
    (x, start, first): (&Activations, usize, usize),
    ahead: &mut Ahead,
    y: &SharedOutput<'_>,
) -> usize {
    let passes = x.passes.count();
    let (row, rows, col) = ((first - start) / passes, N / passes, group * GROUP);
    let cols = GROUP.min(y.width() - col);
    // the weights of all tiles but the first are at hand
    let distance = (first == start).then_some(ahead.distance());
    if x.passes == Passes::One && cols == GROUP {
        // SAFETY: by contract; the columns are there.
        unsafe {
            let y = y.tile(row..row + rows, col, GROUP);
            compute_tile::<N>(level, weights, group, (x, first), (distance, ahead), y);
        }
        return N;
    }
    let mut found = MaybeUninit::<[[f32; GROUP]; N]>::uninit();
    // SAFETY: all of it is written before it is read; otherwise by contract.
    let found = unsafe {
        let tile = Tile::new(found.as_mut_ptr().cast(), GROUP);
        compute_tile::<N>(level, weights, group, (x, first), (distance, ahead), tile);
        found.assume_init_ref()
    };
    for (i, found) in found.chunks_exact(passes).enumerate() {
        // SAFETY: by contract.
        let y = unsafe { y.part(row + i, col, GROUP) };
        match (found, <&mut [f32; GROUP]>::try_from(&mut *y)) {
            ([found, rest], Ok(y)) => sums(found, rest, y),
            ([found, rest], Err(_)) => sums(found, rest, y),
            _ => y.copy_from_slice(&found[0][..y.len()]),
        }
    }
    N
}

/// `y = found + rest`, as far as `y` goes.
#[inline(always)]
fn sums(found: &[f32; GROUP], rest: &[f32; GROUP], y: &mut [f32]) {
    for ((y, found), rest) in y.iter_mut().zip(found).zip(rest) {
        *y = found + rest;
    }
}

/// Writes the results of `N` activation rows from `first` on. The weights that are
/// `distance` blocks later are fetched, if there is one, where hardware does not.
///
/// # Safety
/// The CPU has the level; `y` has `N` rows of [`GROUP`], which no other task uses.
#[inline(always)]
unsafe fn compute_tile<const N: usize>(
    level: Level,
    weights: &PackedMatrix,
    group: usize,
    (x, first): (&Activations, usize),
    (distance, ahead): (Option<usize>, &mut Ahead),
    y: Tile,
) {
    match level {
        // SAFETY: by contract.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe {
            super::int8_avx512::tile::<N>(weights, group, (x, first), distance, ahead, y);
        },
        // SAFETY: by contract.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe {
            super::int8_avx2::tile::<N>(weights, group, x, first, ahead, y);
        },
        // SAFETY: by contract.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { super::int8_neon::tile::<N>(weights, group, x, first, y) },
        // SAFETY: by contract.
        _ => unsafe {
            // only AVX-512 asks for weights ahead of what the hardware does
            let _ = distance;
            ahead.step();
            super::int8_scalar::tile::<N>(weights, group, x, first, y);
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
