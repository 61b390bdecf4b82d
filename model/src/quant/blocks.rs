//! One block of each quantized format, decoded to codes and back to weights.
//!
//! A weight is `scale · (code − zero) + min`; every format is a case of that.

use half::{bf16, f16};

use super::{Format, k_blocks, k_quantize};

/// Weights in a quantized block.
pub(crate) const BLOCK: usize = 32;

/// A decoded block: 32 unsigned codes with what turns them into weights.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) scale: f16,
    pub(super) min: f16,
    pub(super) codes: [u8; BLOCK],
}

/// What code means zero weight in a format.
pub(super) fn zero_code(format: Format) -> u8 {
    match format {
        Format::Q4_0 => 8,
        Format::Q5_0 => 16,
        Format::Q8_0 => 128,
        _ => 0,
    }
}

/// Whether blocks of a format carry a minimum.
pub(super) fn has_min(format: Format) -> bool {
    matches!(format, Format::Q4_1 | Format::Q5_1)
}

#[inline(always)]
fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Decodes a block of a quantized format.
#[inline(always)]
pub(super) fn decode(format: Format, bytes: &[u8]) -> Block {
    let scale = half_at(bytes, 0);
    let mut codes = [0u8; BLOCK];
    let (min, header) = if has_min(format) {
        (half_at(bytes, 2), 4)
    } else {
        (f16::ZERO, 2)
    };
    match format {
        Format::Q8_0 => {
            for (code, &byte) in codes.iter_mut().zip(&bytes[header..header + BLOCK]) {
                *code = byte ^ 0x80;
            }
        }
        Format::Q5_0 | Format::Q5_1 => {
            let high = u32::from_le_bytes([
                bytes[header],
                bytes[header + 1],
                bytes[header + 2],
                bytes[header + 3],
            ]);
            decode_nibbles(&bytes[header + 4..header + 20], &mut codes);
            for (j, code) in codes.iter_mut().enumerate() {
                *code |= (((high >> j) & 1) as u8) << 4;
            }
        }
        _ => decode_nibbles(&bytes[header..header + 16], &mut codes),
    }
    Block { scale, min, codes }
}

#[inline(always)]
fn decode_nibbles(bytes: &[u8], codes: &mut [u8; BLOCK]) {
    let (low, high) = codes.split_at_mut(BLOCK / 2);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = byte & 0x0f;
        *high = byte >> 4;
    }
}

/// Writes the weights of a run of blocks (or of float values) to `out`.
#[inline(always)]
pub(crate) fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) {
    match format {
        Format::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
            }
        }
        Format::F16 => {
            for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = f16::from_le_bytes([raw[0], raw[1]]).to_f32();
            }
        }
        Format::Bf16 => {
            for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = bf16::from_le_bytes([raw[0], raw[1]]).to_f32();
            }
        }
        Format::Q4_0 => dequantize_blocks::<18>(Format::Q4_0, bytes, out),
        Format::Q4_1 => dequantize_blocks::<20>(Format::Q4_1, bytes, out),
        Format::Q5_0 => dequantize_blocks::<22>(Format::Q5_0, bytes, out),
        Format::Q5_1 => dequantize_blocks::<24>(Format::Q5_1, bytes, out),
        Format::Q8_0 => dequantize_blocks::<34>(Format::Q8_0, bytes, out),
        Format::Q2K => k_blocks::dequantize(Format::Q2K, bytes, out),
        Format::Q3K => k_blocks::dequantize(Format::Q3K, bytes, out),
        Format::Q4K => k_blocks::dequantize(Format::Q4K, bytes, out),
        Format::Q5K => k_blocks::dequantize(Format::Q5K, bytes, out),
        Format::Q6K => k_blocks::dequantize(Format::Q6K, bytes, out),
    }
}

/// Writes the weights of a row's columns from `32 · b` on to `out`, at most 32.
#[inline(always)]
pub(crate) fn dequantize_columns(format: Format, row: &[u8], b: usize, out: &mut [f32]) {
    if format.is_k_quant() {
        if let Some(out) = out.first_chunk_mut() {
            k_blocks::dequantize_columns(format, row, b, out);
        }
        return;
    }
    let (len, bytes) = (format.block_len(), format.block_bytes());
    let start = b * BLOCK / len * bytes;
    let end = start + out.len() / len * bytes;
    dequantize(format, &row[start..end], out);
}

#[inline(always)]
fn dequantize_blocks<const BYTES: usize>(format: Format, bytes: &[u8], out: &mut [f32]) {
    let zero = i32::from(zero_code(format));
    for (weights, raw) in out.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(BYTES)) {
        let block = decode(format, raw);
        let (scale, min) = (block.scale.to_f32_const(), block.min.to_f32_const());
        for (weight, &code) in weights.iter_mut().zip(&block.codes) {
            *weight = (i32::from(code).wrapping_sub(zero)) as f32 * scale + min;
        }
    }
}

/// Appends the bytes of `weights` in a format; whole blocks only. Nothing for
/// formats that are only read.
pub(crate) fn quantize(format: Format, weights: &[f32], out: &mut Vec<u8>) {
    match format {
        Format::F32 => weights.iter().for_each(|w| out.extend(w.to_le_bytes())),
        Format::F16 => weights
            .iter()
            .for_each(|w| out.extend(f16::from_f32(*w).to_le_bytes())),
        Format::Bf16 => weights
            .iter()
            .for_each(|w| out.extend(bf16::from_f32(*w).to_le_bytes())),
        Format::Q4K => k_quantize::q4(weights, out),
        _ if format.has_int8() => weights
            .chunks_exact(BLOCK)
            .for_each(|block| quantize_block(format, block, out)),
        _ => {}
    }
}

fn quantize_block(format: Format, weights: &[f32], out: &mut Vec<u8>) {
    let zero = f32::from(zero_code(format));
    let levels: f32 = match format {
        Format::Q4_0 | Format::Q4_1 => 15.0,
        Format::Q5_0 | Format::Q5_1 => 31.0,
        _ => 255.0,
    };
    let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (scale, min) = if has_min(format) {
        ((high - low) / levels, low)
    } else {
        // codes reach further below zero than above
        (high.max(-low) / (levels - zero), 0.0)
    };
    let (scale, min) = (f16::from_f32(scale), f16::from_f32(min));
    let inverse = if scale == f16::ZERO {
        0.0
    } else {
        1.0 / scale.to_f32()
    };
    let code = |w: f32| {
        ((w - min.to_f32()) * inverse + zero)
            .round()
            .clamp(0.0, levels) as u8
    };
    let codes: Vec<u8> = weights.iter().map(|&w| code(w)).collect();

    out.extend(scale.to_le_bytes());
    if has_min(format) {
        out.extend(min.to_le_bytes());
    }
    if format == Format::Q8_0 {
        out.extend(codes.iter().map(|code| code ^ 0x80));
        return;
    }
    if matches!(format, Format::Q5_0 | Format::Q5_1) {
        let high = codes.iter().enumerate().fold(0u32, |bits, (j, code)| {
            bits | (u32::from(code >> 4) & 1) << j
        });
        out.extend(high.to_le_bytes());
    }
    for (low, high) in codes[..BLOCK / 2].iter().zip(&codes[BLOCK / 2..]) {
        out.push((low & 0x0f) | (high & 0x0f) << 4);
    }
}
