//! AVX2: a register is 8 rows, so a group is computed in two halves.

use std::arch::x86_64::*;

use super::activations::{Activations, Words};
use super::int8::Tile;
use crate::quant::{CodeWidth, GROUP, Line, PackedMatrix};

const HALF: usize = GROUP / 2;

/// Fills a tile.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<const N: usize>(
    weights: &PackedMatrix,
    group: usize,
    x: &Activations,
    first: usize,
    out: &mut Tile<N>,
) {
    for half in 0..2 {
        let mut acc = [_mm256_setzero_ps(); N];
        for b in 0..weights.blocks {
            let steps = load_steps(weights, weights.lines(group, b), half);
            let at = (group * weights.blocks + b) * GROUP + half * HALF;
            let scale = load_half(&weights.scales[at..at + HALF]);
            let (words, x_scales) = x.block(b, first, N);
            for i in 0..N {
                let dot = match weights.width {
                    CodeWidth::Four => {
                        let zero = x_scales[i].sum.wrapping_mul(-weights.zero);
                        _mm256_add_epi32(dot_nibbles(&steps, &words[i]), _mm256_set1_epi32(zero))
                    }
                    CodeWidth::Eight => dot_bytes(&steps, &words[i]),
                };
                if !weights.mins.is_empty() {
                    let min = load_half(&weights.mins[at..at + HALF]);
                    acc[i] = _mm256_fmadd_ps(min, _mm256_set1_ps(x_scales[i].scaled_sum), acc[i]);
                }
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x_scales[i].scale));
                acc[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, acc[i]);
            }
        }
        for (row, acc) in out.iter_mut().zip(acc) {
            // SAFETY: a row is 16 floats, and a half 8.
            unsafe { _mm256_storeu_ps(row.as_mut_ptr().add(half * HALF), acc) };
        }
    }
}

/// Codes up to 15: products of eight steps fit 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_nibbles(steps: &[__m256i; 8], words: &Words) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for (step, &word) in steps.iter().zip(words) {
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(*step, _mm256_set1_epi32(word)));
    }
    _mm256_madd_epi16(sum, _mm256_set1_epi16(1))
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
#[inline]
#[target_feature(enable = "avx2")]
fn load_steps(weights: &PackedMatrix, lines: &[Line], half: usize) -> [__m256i; 8] {
    let nibble = _mm256_set1_epi8(0x0f);
    let zero = _mm256_set1_epi8(weights.zero as i8);
    let mut steps = [_mm256_setzero_si256(); 8];
    for (j, line) in lines.iter().enumerate().take(8) {
        // SAFETY: a line is two aligned halves of 32 bytes.
        let bytes = unsafe { _mm256_load_si256(line.0.as_ptr().add(half * 32).cast()) };
        match weights.width {
            CodeWidth::Eight => steps[j] = _mm256_sub_epi8(bytes, zero),
            CodeWidth::Four => {
                steps[j % 4] = _mm256_and_si256(bytes, nibble);
                steps[j % 4 + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble);
            }
        }
    }
    steps
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load_half(values: &[u16]) -> __m256 {
    assert!(values.len() == HALF);
    // SAFETY: 8 values are 16 bytes.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}
