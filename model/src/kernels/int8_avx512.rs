//! AVX-512 VNNI: a register is 16 rows, `vpdpbusd` takes four columns at once.

use std::arch::x86_64::*;

use super::activations::Activations;
use super::ahead::Ahead;
use super::parallel::Tile;
use crate::quant::{CodeWidth, GROUP, Line, PackedMatrix};

/// Fills a tile.
///
/// # Safety
/// The CPU has these features. `y` has `N` rows of [`GROUP`], which are the caller's.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn tile<const N: usize>(
    weights: &PackedMatrix,
    group: usize,
    (x, first): (&Activations, usize),
    distance: Option<usize>,
    ahead: &mut Ahead,
    y: Tile,
) {
    let x = (x, first);
    // SAFETY: by contract.
    unsafe {
        match (weights.width, weights.mins.is_empty()) {
            (CodeWidth::Four, false) => {
                tile_of::<N, 4, true>(weights, group, x, distance, ahead, y)
            }
            (CodeWidth::Four, true) => {
                tile_of::<N, 4, false>(weights, group, x, distance, ahead, y)
            }
            (CodeWidth::Eight, false) => {
                tile_of::<N, 8, true>(weights, group, x, distance, ahead, y)
            }
            (CodeWidth::Eight, true) => {
                tile_of::<N, 8, false>(weights, group, x, distance, ahead, y)
            }
        }
    }
}

/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn tile_of<const N: usize, const LINES: usize, const MIN: bool>(
    weights: &PackedMatrix,
    group: usize,
    (x, first): (&Activations, usize),
    distance: Option<usize>,
    ahead: &mut Ahead,
    y: Tile,
) {
    let first_block = group * weights.blocks;
    let lines = &weights.codes[first_block * LINES..(first_block + weights.blocks) * LINES];
    let scales = &weights.scales[first_block * GROUP..(first_block + weights.blocks) * GROUP];
    let mins = if MIN {
        &weights.mins[first_block * GROUP..][..scales.len()]
    } else {
        scales
    };
    let mut acc = [_mm512_setzero_ps(); N];
    for b in 0..weights.blocks {
        if let Some(distance) = distance {
            prefetch_block::<LINES, MIN>(weights, first_block + b + distance);
        }
        ahead.step();
        let steps = load_steps::<LINES>(&lines[b * LINES..(b + 1) * LINES]);
        let scale = load_half(&scales[b * GROUP..(b + 1) * GROUP]);
        let min = if MIN {
            load_half(&mins[b * GROUP..(b + 1) * GROUP])
        } else {
            scale
        };
        let (words, x_scales) = x.block(b, first, N);
        for i in 0..N {
            let start = if MIN {
                0
            } else {
                x_scales[i].sum.wrapping_mul(-weights.zero)
            };
            let mut dot = _mm512_set1_epi32(start);
            for (step, &word) in steps.iter().zip(&words[i]) {
                dot = _mm512_dpbusd_epi32(dot, *step, _mm512_set1_epi32(word));
            }
            if MIN {
                acc[i] = _mm512_fmadd_ps(min, _mm512_set1_ps(x_scales[i].scaled_sum), acc[i]);
            }
            let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x_scales[i].scale));
            acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc[i]);
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        // SAFETY: by contract.
        unsafe { _mm512_storeu_ps(y.at(i, 0), acc) };
    }
}

/// Begins to fetch a block: three streams are more than the hardware keeps ahead of.
#[inline(always)]
fn prefetch_block<const LINES: usize, const MIN: bool>(weights: &PackedMatrix, block: usize) {
    let fetch = |at: *const i8| {
        // SAFETY: a prefetch never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) }
    };
    for line in 0..LINES {
        fetch(
            weights
                .codes
                .as_ptr()
                .wrapping_add(block * LINES + line)
                .cast(),
        );
    }
    fetch(weights.scales.as_ptr().wrapping_add(block * GROUP).cast());
    if MIN {
        fetch(weights.mins.as_ptr().wrapping_add(block * GROUP).cast());
    }
}

/// The eight steps of a block, one byte a code.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_steps<const LINES: usize>(lines: &[Line]) -> [__m512i; 8] {
    let nibble = _mm512_set1_epi8(0x0f);
    let mut steps = [_mm512_setzero_si512(); 8];
    for (j, line) in lines.iter().enumerate().take(LINES) {
        // SAFETY: a line is 64 bytes, aligned to 64.
        let line = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
        if LINES == 8 {
            steps[j] = line;
        } else {
            steps[j] = _mm512_and_si512(line, nibble);
            steps[j + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(line), nibble);
        }
    }
    steps
}

#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn load_half(values: &[u16]) -> __m512 {
    assert!(values.len() == GROUP);
    // SAFETY: 16 values are 32 bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(values.as_ptr().cast()) })
}
