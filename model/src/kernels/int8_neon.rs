//! NEON: a register is 4 rows, so a group is computed in quarters.

use std::arch::aarch64::*;

use super::activations::{Activations, Words};
use super::parallel::Tile;
use crate::quant::{CodeWidth, GROUP, Line, PackedMatrix};

const QUARTER: usize = GROUP / 4;

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
    // SAFETY: NEON is part of every aarch64 CPU that Rust's target supports; otherwise by
    // contract.
    unsafe { tile_neon::<N>(weights, group, x, first, y) }
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "neon")]
unsafe fn tile_neon<const N: usize>(
    weights: &PackedMatrix,
    group: usize,
    x: &Activations,
    first: usize,
    y: Tile,
) {
    for quarter in 0..4 {
        let mut acc = [vdupq_n_f32(0.0); N];
        for b in 0..weights.blocks {
            let steps = load_steps(weights, weights.lines(group, b), quarter);
            let mut scale = [0.0; QUARTER];
            let mut min = [0.0; QUARTER];
            for r in 0..QUARTER {
                (scale[r], min[r]) = weights.scale_and_min(group, b, quarter * QUARTER + r);
            }
            // SAFETY: both arrays are 4 floats.
            let (scale, min) = unsafe { (vld1q_f32(scale.as_ptr()), vld1q_f32(min.as_ptr())) };
            let (words, x_scales) = x.block(b, first, N);
            for i in 0..N {
                let dot = dot(&steps, &words[i]);
                if !weights.mins.is_empty() {
                    acc[i] = vfmaq_n_f32(acc[i], min, x_scales[i].scaled_sum);
                }
                let scale = vmulq_n_f32(scale, x_scales[i].scale);
                acc[i] = vfmaq_f32(acc[i], vcvtq_f32_s32(dot), scale);
            }
        }
        for (i, acc) in acc.into_iter().enumerate() {
            // SAFETY: by contract; a quarter is 4 of 16 columns.
            unsafe { vst1q_f32(y.at(i, quarter * QUARTER), acc) };
        }
    }
}

/// Four rows' dot products: 8-bit products to 16 bits, neighbours added to 32.
#[inline]
#[target_feature(enable = "neon")]
fn dot(steps: &[int8x16_t; 8], words: &Words) -> int32x4_t {
    let (mut low, mut high) = (vdupq_n_s32(0), vdupq_n_s32(0));
    for (step, &word) in steps.iter().zip(words) {
        let x = vreinterpret_s8_s32(vdup_n_s32(word));
        low = vpadalq_s16(low, vmull_s8(vget_low_s8(*step), x));
        high = vpadalq_s16(high, vmull_s8(vget_high_s8(*step), x));
    }
    vpaddq_s32(low, high)
}

/// The eight steps of a quarter block as signed bytes with the zero taken off.
#[inline]
#[target_feature(enable = "neon")]
fn load_steps(weights: &PackedMatrix, lines: &[Line], quarter: usize) -> [int8x16_t; 8] {
    let zero = vdupq_n_u8(weights.zero as u8);
    let mut steps = [vdupq_n_s8(0); 8];
    for (j, line) in lines.iter().enumerate().take(8) {
        // SAFETY: a line is four quarters of 16 bytes.
        let bytes = unsafe { vld1q_u8(line.0.as_ptr().add(quarter * 16)) };
        match weights.width {
            CodeWidth::Eight => steps[j] = vreinterpretq_s8_u8(vsubq_u8(bytes, zero)),
            CodeWidth::Four => {
                let low = vandq_u8(bytes, vdupq_n_u8(0x0f));
                steps[j % 4] = vreinterpretq_s8_u8(vsubq_u8(low, zero));
                let high = vshrq_n_u8::<4>(bytes);
                steps[j % 4 + 4] = vreinterpretq_s8_u8(vsubq_u8(high, zero));
            }
        }
    }
    steps
}
