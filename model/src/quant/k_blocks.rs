//! Super-blocks of 256 weights, the formats that ggml calls K-quants.
//!
//! A super-block has eight slices of 32 weights, which is how it is decoded
//! here. Its f16 scale (and minimum) is multiplied with small integers of each
//! 16 or 32 weights. Every weight is computed by the same operations in the
//! same order as ggml's own code does, so that the bits are the same.

use half::f16;

use super::Format;
use super::blocks::BLOCK;

/// Weights of a super-block.
pub(super) const SUPER_BLOCK: usize = 256;
/// Slices of a super-block.
const SLICES: usize = SUPER_BLOCK / BLOCK;

/// The weights of one slice.
type Slice = [f32; BLOCK];

/// Writes the weights of whole super-blocks to `out`.
#[inline(always)]
pub(super) fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.chunks_exact(format.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(SUPER_BLOCK)) {
        for (slice, weights) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            dequantize_slice(format, block, slice, weights);
        }
    }
}

/// Writes the weights of 32 columns of a row, from column `32 · slice` on.
#[inline(always)]
pub(super) fn dequantize_columns(format: Format, row: &[u8], slice: usize, out: &mut Slice) {
    let len = format.block_bytes();
    let start = slice / SLICES * len;
    dequantize_slice(format, &row[start..start + len], slice % SLICES, out);
}

#[inline(always)]
fn dequantize_slice(format: Format, block: &[u8], slice: usize, out: &mut Slice) {
    match format {
        Format::Q2K => q2(block, slice, out),
        Format::Q3K => q3(block, slice, out),
        Format::Q4K => q4(block, slice, out),
        Format::Q5K => q5(block, slice, out),
        Format::Q6K => q6(block, slice, out),
        // no other format has super-blocks
        _ => out.fill(f32::NAN),
    }
}

#[inline(always)]
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32_const()
}

/// `scales[16]`, `codes[64]` of 2 bits, scale, minimum.
#[inline(always)]
fn q2(block: &[u8], slice: usize, out: &mut Slice) {
    let codes = &block[16 + slice / 4 * BLOCK..][..BLOCK];
    let shift = 2 * (slice % 4);
    let (scale, min) = (half_at(block, 80), half_at(block, 82));
    for (i, (out, codes)) in halves(out, codes).enumerate() {
        let scales = block[2 * slice + i];
        let scale = scale * f32::from(scales & 0x0f);
        let min = min * f32::from(scales >> 4);
        for (weight, code) in out.iter_mut().zip(codes) {
            *weight = scale * f32::from((code >> shift) & 3) - min;
        }
    }
}

/// `high[32]`, one bit of every code; `low[64]`, two; `scales[12]`; scale. A
/// code whose high bit is not set is lower by 4.
#[inline(always)]
fn q3(block: &[u8], slice: usize, out: &mut Slice) {
    let (high, low) = (
        &block[..BLOCK],
        &block[BLOCK + slice / 4 * BLOCK..][..BLOCK],
    );
    let scales = &block[96..108];
    let shift = 2 * (slice % 4);
    let scale = half_at(block, 108);
    let mut codes = [0i8; BLOCK];
    for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
        let above = ((high >> slice) & 1) << 2;
        *code = ((low >> shift) & 3 | above) as i8 - 4;
    }
    for (i, (out, codes)) in halves(out, &codes).enumerate() {
        let at = 2 * slice + i;
        let low = scales[at % 8] >> (4 * (at / 8)) & 0x0f;
        let high = scales[8 + at % 4] >> (2 * (at / 4)) & 3;
        let scale = scale * f32::from((low | high << 4) as i8 - 32);
        for (weight, code) in out.iter_mut().zip(codes) {
            *weight = scale * f32::from(*code);
        }
    }
}

/// The 6-bit scale and minimum of a slice, out of the twelve bytes that hold
/// those of eight.
#[inline(always)]
fn scale_and_min(packed: &[u8], slice: usize) -> (f32, f32) {
    let (scale, min) = if slice < 4 {
        (packed[slice] & 0x3f, packed[slice + 4] & 0x3f)
    } else {
        let low = packed[slice + 4];
        let (scale_high, min_high) = (packed[slice - 4] >> 6, packed[slice] >> 6);
        (low & 0x0f | scale_high << 4, low >> 4 | min_high << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// Scale, minimum, `scales[12]`, `codes[128]` of 4 bits.
#[inline(always)]
fn q4(block: &[u8], slice: usize, out: &mut Slice) {
    let (scale, min) = scale_and_min(&block[4..16], slice);
    let (scale, min) = (half_at(block, 0) * scale, half_at(block, 2) * min);
    let codes = &block[16 + slice / 2 * BLOCK..][..BLOCK];
    let shift = 4 * (slice % 2);
    for (weight, code) in out.iter_mut().zip(codes) {
        *weight = scale * f32::from((code >> shift) & 0x0f) - min;
    }
}

/// Scale, minimum, `scales[12]`, `high[32]`, one bit of every code, `low[128]`, four.
#[inline(always)]
fn q5(block: &[u8], slice: usize, out: &mut Slice) {
    let (scale, min) = scale_and_min(&block[4..16], slice);
    let (scale, min) = (half_at(block, 0) * scale, half_at(block, 2) * min);
    let high = &block[16..48];
    let low = &block[48 + slice / 2 * BLOCK..][..BLOCK];
    let shift = 4 * (slice % 2);
    for ((weight, low), high) in out.iter_mut().zip(low).zip(high) {
        let code = (low >> shift) & 0x0f | ((high >> slice) & 1) << 4;
        *weight = scale * f32::from(code) - min;
    }
}

/// `low[128]`, four bits of every code; `high[64]`, two; `scales[16]`, signed;
/// scale. Codes are around 32.
#[inline(always)]
fn q6(block: &[u8], slice: usize, out: &mut Slice) {
    let (half, within) = (slice / 4, slice % 4);
    let low = &block[64 * half + BLOCK * (within % 2)..][..BLOCK];
    let high = &block[128 + BLOCK * half..][..BLOCK];
    let (low_shift, high_shift) = (4 * (within / 2), 2 * within);
    let scale = half_at(block, 208);
    let mut codes = [0i8; BLOCK];
    for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
        let bits = (low >> low_shift) & 0x0f | ((high >> high_shift) & 3) << 4;
        *code = bits as i8 - 32;
    }
    for (i, (out, codes)) in halves(out, &codes).enumerate() {
        let scale = scale * f32::from(block[192 + 2 * slice + i] as i8);
        for (weight, code) in out.iter_mut().zip(codes) {
            *weight = scale * f32::from(*code);
        }
    }
}

/// The two halves of a slice, which have a scale each in some formats.
#[inline(always)]
fn halves<'a, T>(
    out: &'a mut Slice,
    codes: &'a [T],
) -> impl Iterator<Item = (&'a mut [f32], &'a [T])> {
    out.chunks_exact_mut(BLOCK / 2)
        .zip(codes.chunks_exact(BLOCK / 2))
}
