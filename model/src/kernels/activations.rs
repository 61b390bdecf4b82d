//! Activations quantized to 8 bits: per block of 32 a scale in f32, 32 signed
//! codes and their sum.

use rayon::prelude::*;

use super::multiversion::multiversion;
use crate::quant::BLOCK;

/// Codes of a block, four to a word, the first in the lowest byte.
pub(super) type Words = [i32; BLOCK / 4];

/// From how many values on several threads quantize.
const PARALLEL_FROM: usize = 64 * 1024;

/// Quantized activations, block-major: all rows' first blocks come first.
pub(crate) struct Activations {
    /// Rows.
    pub(super) n: usize,
    /// `[blocks][n]`
    pub(super) codes: Vec<Words>,
    /// `[blocks][n]`
    pub(super) scales: Vec<BlockScale>,
}

/// What belongs to a block's codes.
#[derive(Clone, Copy, Default)]
pub(super) struct BlockScale {
    /// The value of one code step.
    pub(super) scale: f32,
    /// `scale` times the sum of the codes.
    pub(super) scaled_sum: f32,
    /// The sum of the codes.
    pub(super) sum: i32,
}

impl Activations {
    /// Quantizes `x[n, cols]`; `cols` is a whole number of blocks.
    pub(crate) fn quantize(x: &[f32], n: usize, cols: usize) -> Self {
        assert!(x.len() == n * cols && cols.is_multiple_of(BLOCK));
        let blocks = cols / BLOCK;
        let mut codes = vec![Words::default(); blocks * n];
        let mut scales = vec![BlockScale::default(); blocks * n];
        if n * cols < PARALLEL_FROM {
            for (b, (codes, scales)) in codes
                .chunks_exact_mut(n)
                .zip(scales.chunks_exact_mut(n))
                .enumerate()
            {
                quantize_column(x, cols, b, codes, scales);
            }
        } else {
            codes
                .par_chunks_exact_mut(n)
                .zip(scales.par_chunks_exact_mut(n))
                .enumerate()
                .for_each(|(b, (codes, scales))| quantize_column(x, cols, b, codes, scales));
        }
        Self { n, codes, scales }
    }

    /// `x`, which this was made of, less what the codes stand for.
    pub(crate) fn residual(&self, x: &[f32]) -> Vec<f32> {
        let mut rest = x.to_vec();
        let cols = x.len() / self.n.max(1);
        for (i, row) in rest.chunks_exact_mut(cols.max(1)).enumerate() {
            for (b, block) in row.chunks_exact_mut(BLOCK).enumerate() {
                let at = b * self.n + i;
                let (words, scale) = (&self.codes[at], self.scales[at].scale);
                for (values, word) in block.chunks_exact_mut(4).zip(words) {
                    for (value, code) in values.iter_mut().zip(word.to_le_bytes()) {
                        *value = scale.mul_add(-f32::from(code as i8), *value);
                    }
                }
            }
        }
        rest
    }

    /// The codes and scales of some rows in one block.
    #[inline(always)]
    pub(super) fn block(&self, b: usize, first: usize, n: usize) -> (&[Words], &[BlockScale]) {
        let at = b * self.n + first;
        (&self.codes[at..at + n], &self.scales[at..at + n])
    }
}

multiversion! {
    /// Quantizes block `b` of every row.
    fn quantize_column(x: &[f32], cols: usize, b: usize, codes: &mut [Words], scales: &mut [BlockScale])
        = quantize_column_body;
}

#[inline(always)]
fn quantize_column_body(
    x: &[f32],
    cols: usize,
    b: usize,
    codes: &mut [Words],
    scales: &mut [BlockScale],
) {
    let rows = x.chunks_exact(cols);
    for ((row, words), scale) in rows.zip(codes).zip(scales) {
        if let Some((block, _)) = row[b * BLOCK..].split_first_chunk::<BLOCK>() {
            (*words, *scale) = quantize_block(block);
        }
    }
}

/// Rounds to the nearest code, ties to even. A block with a NaN or an infinity
/// gets a scale that is not finite, so that products are not finite either.
#[inline(always)]
fn quantize_block(x: &[f32; BLOCK]) -> (Words, BlockScale) {
    /// Adding it leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let largest = x
        .iter()
        .map(|v| v.to_bits() & 0x7fff_ffff)
        .fold(0, u32::max);
    let largest = f32::from_bits(largest);
    let scale = largest / 127.0;
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut codes = [0i32; BLOCK];
    for (code, v) in codes.iter_mut().zip(x) {
        *code = ((v * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    }
    let sum = codes.iter().fold(0i32, |sum, &code| sum.wrapping_add(code));
    let mut words = Words::default();
    for (word, codes) in words.iter_mut().zip(codes.chunks_exact(4)) {
        *word = (codes[0] & 0xff)
            | (codes[1] & 0xff) << 8
            | (codes[2] & 0xff) << 16
            | (codes[3] & 0xff) << 24;
    }
    (
        words,
        BlockScale {
            scale,
            scaled_sum: scale * sum as f32,
            sum,
        },
    )
}
