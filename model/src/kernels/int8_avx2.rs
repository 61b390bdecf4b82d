//! AVX2: a register is 8 rows, so a group is computed in two halves: one after
//! the other where a tile's sums fill the registers, else both in one pass, which
//! reads memory in order.
//!
//! A block of 4-bit codes costs 8 multiplications and as many loads for each
//! activation row; the codes stay in registers meanwhile.

use std::arch::x86_64::*;

use super::activations::{Activations, BlockScale, Words};
use super::ahead::Ahead;
use super::parallel::Tile;
use crate::quant::{CodeWidth, GROUP, PackedMatrix};

const HALF: usize = GROUP / 2;

/// Fills a tile.
///
/// # Safety
/// The CPU has these features. `y` has `N` rows of [`GROUP`], which are the caller's.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile<const N: usize>(
    weights: &PackedMatrix,
    group: usize,
    x: &Activations,
    first: usize,
    ahead: &mut Ahead,
    y: Tile,
) {
    // SAFETY: by contract.
    unsafe {
        match (weights.width, weights.mins.is_empty()) {
            (CodeWidth::Four, false) => halves::<N, true, true>(weights, group, x, first, ahead, y),
            (CodeWidth::Four, true) => halves::<N, true, false>(weights, group, x, first, ahead, y),
            (CodeWidth::Eight, false) => {
                halves::<N, false, true>(weights, group, x, first, ahead, y);
            }
            (CodeWidth::Eight, true) => {
                halves::<N, false, false>(weights, group, x, first, ahead, y);
            }
        }
    }
}

/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn halves<const N: usize, const FOUR: bool, const MIN: bool>(
    weights: &PackedMatrix,
    group: usize,
    x: &Activations,
    first: usize,
    ahead: &mut Ahead,
    y: Tile,
) {
    // SAFETY: by contract.
    unsafe {
        if N <= 2 {
            tile_of::<N, 2, FOUR, MIN>(weights, group, x, first, 0, ahead, y);
        } else {
            tile_of::<N, 1, FOUR, MIN>(weights, group, x, first, 0, ahead, y);
            tile_of::<N, 1, FOUR, MIN>(weights, group, x, first, 1, ahead, y);
        }
    }
}

/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_of<const N: usize, const HALVES: usize, const FOUR: bool, const MIN: bool>(
    weights: &PackedMatrix,
    group: usize,
    x: &Activations,
    first: usize,
    first_half: usize,
    ahead: &mut Ahead,
    y: Tile,
) {
    let blocks = weights.blocks;
    let lines = if FOUR { 4 } else { 8 };
    assert!(weights.codes.len() >= (group + 1) * blocks * lines);
    assert!(weights.scales.len() >= (group + 1) * blocks * GROUP);
    assert!(!MIN || weights.mins.len() == weights.scales.len());
    assert!(first + N <= x.n && x.codes.len().min(x.scales.len()) >= blocks * x.n);
    assert!(first_half + HALVES <= 2);
    let mut acc = [[_mm256_setzero_ps(); N]; HALVES];
    for b in 0..blocks {
        if first_half + HALVES == 2 {
            // the other half brought the codes' lines already
            ahead.step();
        }
        let (at, x_at) = (group * blocks + b, b * x.n + first);
        // SAFETY: the first and the last assertion about lengths.
        let (codes, words, of_x) = unsafe {
            (
                weights.codes.as_ptr().add(at * lines).cast::<u8>(),
                x.codes.as_ptr().add(x_at),
                x.scales.as_ptr().add(x_at),
            )
        };
        for (h, acc) in acc.iter_mut().enumerate() {
            let half = first_half + h;
            // SAFETY: the first three assertions; a line is 64 aligned bytes.
            let (steps, scale, min) = unsafe {
                let part = at * GROUP + half * HALF;
                (
                    load_steps::<FOUR>(codes.add(half * 32), weights.zero),
                    load_half(weights.scales.as_ptr().add(part)),
                    if MIN {
                        load_half(weights.mins.as_ptr().add(part))
                    } else {
                        _mm256_setzero_ps()
                    },
                )
            };
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the last assertion about lengths.
                let (words, of_x) = unsafe { (&*words.add(i), &*of_x.add(i)) };
                let dot = if FOUR {
                    dot_nibbles(&steps, words)
                } else {
                    dot_bytes(&steps, words)
                };
                *acc = add_block::<FOUR, MIN>(*acc, dot, scale, min, of_x, weights.zero);
            }
        }
    }
    for (h, acc) in acc.iter().enumerate() {
        for (i, acc) in acc.iter().enumerate() {
            // SAFETY: by contract; a half is 8 of 16 columns.
            unsafe { _mm256_storeu_ps(y.at(i, (first_half + h) * HALF), *acc) };
        }
    }
}

/// `acc + min · x.scaled_sum + dot · (scale · x.scale)`; the zero code is taken
/// off here where the codes are unsigned and have no minimum.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_block<const FOUR: bool, const MIN: bool>(
    mut acc: __m256,
    mut dot: __m256i,
    scale: __m256,
    min: __m256,
    of_x: &BlockScale,
    zero: i32,
) -> __m256 {
    if MIN {
        acc = _mm256_fmadd_ps(min, _mm256_set1_ps(of_x.scaled_sum), acc);
    } else if FOUR {
        dot = _mm256_add_epi32(dot, _mm256_set1_epi32(of_x.sum.wrapping_mul(-zero)));
    }
    let scale = _mm256_mul_ps(scale, _mm256_set1_ps(of_x.scale));
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, acc)
}

/// Codes up to 15: products of eight steps fit 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_nibbles(steps: &[__m256i; 8], words: &Words) -> __m256i {
    let product = |j: usize| _mm256_maddubs_epi16(steps[j], _mm256_set1_epi32(words[j]));
    let even = _mm256_add_epi16(
        _mm256_add_epi16(product(0), product(1)),
        _mm256_add_epi16(product(2), product(3)),
    );
    let odd = _mm256_add_epi16(
        _mm256_add_epi16(product(4), product(5)),
        _mm256_add_epi16(product(6), product(7)),
    );
    _mm256_madd_epi16(_mm256_add_epi16(even, odd), _mm256_set1_epi16(1))
}

/// Signed codes: the sign goes to the activation, since one side must be unsigned.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_bytes(steps: &[__m256i; 8], words: &Words) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for (step, &word) in steps.iter().zip(words) {
        let signed = _mm256_sign_epi8(_mm256_set1_epi32(word), *step);
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(*step), signed);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    sum
}

/// The eight steps of half a block: unsigned nibbles, or signed bytes with the
/// zero taken off.
///
/// # Safety
/// `codes` is the half of the first of 4 or 8 lines, aligned to 32.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_steps<const FOUR: bool>(codes: *const u8, zero: i32) -> [__m256i; 8] {
    let mut steps = [_mm256_setzero_si256(); 8];
    for j in 0..if FOUR { 4 } else { 8 } {
        // SAFETY: by contract.
        let bytes = unsafe { _mm256_load_si256(codes.add(j * 64).cast()) };
        if FOUR {
            let nibble = _mm256_set1_epi8(0x0f);
            steps[j] = _mm256_and_si256(bytes, nibble);
            steps[j + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble);
        } else {
            steps[j] = _mm256_sub_epi8(bytes, _mm256_set1_epi8(zero as i8));
        }
    }
    steps
}

/// # Safety
/// There are 8 values at `values`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load_half(values: *const u16) -> __m256 {
    // SAFETY: by contract.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(values.cast()) })
}
