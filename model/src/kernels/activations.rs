//! Activations quantized to 8 bits: per block of 32 a scale in f32, 32 signed
//! codes and their sum.

use std::cell::Cell;
use std::ops::Range;

use super::multiversion::multiversion;
use super::parallel::{self, SharedOutput};
use crate::quant::BLOCK;

/// Codes of a block, four to a word, the first in the lowest byte.
pub(super) type Words = [i32; BLOCK / 4];

/// From how many values on several threads quantize.
const PARALLEL_FROM: usize = 64 * 1024;

/// How often an activation is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passes {
    /// Once.
    One,
    /// What the first codes leave is quantized again, as a row of its own after
    /// the first; the product is the sum of both rows' products.
    Two,
}

thread_local! {
    /// The memory of the last activations that this thread dropped.
    static SPARE: Cell<(Vec<Words>, Vec<BlockScale>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

/// Quantized activations, block-major: all rows' first blocks come first.
pub(crate) struct Activations {
    pub(super) passes: Passes,
    /// Rows, each pass counted.
    pub(super) n: usize,
    /// `[blocks][n]`, and memory beyond.
    pub(super) codes: Vec<Words>,
    /// `[blocks][n]`, and memory beyond.
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
    /// Quantizes `x[n, cols]`, where `cols` is a whole number of blocks; in the
    /// same parallel region runs `other(0) … other(others − 1)`.
    pub(super) fn quantize_beside(
        (x, n, cols): (&[f32], usize, usize),
        passes: Passes,
        others: usize,
        other: impl Fn(usize) + Sync + Send,
    ) -> Self {
        assert!(x.len() == n * cols && cols.is_multiple_of(BLOCK));
        let blocks = cols / BLOCK;
        let n = match passes {
            Passes::One => n,
            Passes::Two => 2 * n,
        };
        let (mut codes, mut scales) = SPARE.take();
        // all of it is written before it is read
        codes.resize(codes.len().max(blocks * n), Words::default());
        scales.resize(scales.len().max(blocks * n), BlockScale::default());
        let (all_codes, all_scales) = (
            SharedOutput::new(&mut codes, blocks * n),
            SharedOutput::new(&mut scales, blocks * n),
        );
        let columns = |range: Range<usize>| {
            let (at, len) = (range.start * n, range.len() * n);
            // SAFETY: each block's codes and scales belong to one task.
            let (codes, scales) =
                unsafe { (all_codes.part(0, at, len), all_scales.part(0, at, len)) };
            quantize_columns(x, cols, range.start, passes, codes, scales);
        };
        if others == 0 && n * cols < PARALLEL_FROM {
            columns(0..blocks);
        } else {
            parallel::run_shares(|share| {
                share.of(others).for_each(&other);
                columns(share.of(blocks));
            });
        }
        Self {
            passes,
            n,
            codes,
            scales,
        }
    }

    /// The codes and scales of some rows in one block.
    #[inline(always)]
    pub(super) fn block(&self, b: usize, first: usize, n: usize) -> (&[Words], &[BlockScale]) {
        let at = b * self.n + first;
        (&self.codes[at..at + n], &self.scales[at..at + n])
    }
}

impl Drop for Activations {
    fn drop(&mut self) {
        SPARE.set((
            std::mem::take(&mut self.codes),
            std::mem::take(&mut self.scales),
        ));
    }
}

multiversion! {
    /// Quantizes blocks of every row, from `first` on, as many as there is place for.
    fn quantize_columns(
        x: &[f32], cols: usize, first: usize, passes: Passes,
        codes: &mut [Words], scales: &mut [BlockScale],
    ) = quantize_columns_body;
}

#[inline(always)]
fn quantize_columns_body(
    x: &[f32],
    cols: usize,
    first: usize,
    passes: Passes,
    codes: &mut [Words],
    scales: &mut [BlockScale],
) {
    let n = x.len() / cols
        * match passes {
            Passes::One => 1,
            Passes::Two => 2,
        };
    let columns = codes.chunks_exact_mut(n).zip(scales.chunks_exact_mut(n));
    for (b, (codes, scales)) in (first..).zip(columns) {
        quantize_column(x, cols, b, passes, codes, scales);
    }
}

/// Quantizes block `b` of every row.
#[inline(always)]
fn quantize_column(
    x: &[f32],
    cols: usize,
    b: usize,
    passes: Passes,
    codes: &mut [Words],
    scales: &mut [BlockScale],
) {
    let blocks = x
        .chunks_exact(cols)
        .filter_map(|row| row[b * BLOCK..].first_chunk::<BLOCK>());
    match passes {
        Passes::One => {
            for ((block, words), scale) in blocks.zip(codes).zip(scales) {
                let (codes, of_block) = quantize_block(block);
                (*words, *scale) = (words_of(&codes), of_block);
            }
        }
        Passes::Two => {
            let pairs = codes.as_chunks_mut::<2>().0.iter_mut();
            let pairs = pairs.zip(scales.as_chunks_mut::<2>().0);
            for (block, ([first, rest], [first_scale, rest_scale])) in blocks.zip(pairs) {
                let (codes, scale) = quantize_block(block);
                let (left, left_scale) = quantize_block(&residual(block, &codes, scale.scale));
                (*first, *first_scale) = (words_of(&codes), scale);
                (*rest, *rest_scale) = (words_of(&left), left_scale);
            }
        }
    }
}

/// A block less what its codes stand for.
#[inline(always)]
fn residual(block: &[f32; BLOCK], codes: &[i32; BLOCK], scale: f32) -> [f32; BLOCK] {
    let mut left = *block;
    for (value, code) in left.iter_mut().zip(codes) {
        *value = scale.mul_add(-(*code as f32), *value);
    }
    left
}

/// Codes as products take them.
#[inline(always)]
fn words_of(codes: &[i32; BLOCK]) -> Words {
    let mut bytes = [0; BLOCK];
    for (byte, code) in bytes.iter_mut().zip(codes) {
        *byte = *code as u8; // the lowest
    }
    let mut words = Words::default();
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = i32::from_le_bytes(*bytes);
    }
    words
}

/// A sum in halves, as registers add.
#[inline(always)]
fn sum(codes: &[i32; BLOCK]) -> i32 {
    let mut sums = *codes;
    let mut len = BLOCK;
    while len > 1 {
        len /= 2;
        let (low, high) = sums.split_at_mut(len);
        for (low, high) in low.iter_mut().zip(high) {
            *low = low.wrapping_add(*high);
        }
    }
    sums[0]
}

/// Rounds to the nearest code, ties to even. A block with a NaN or an infinity
/// gets a scale that is not finite, so that products are not finite either.
#[inline(always)]
fn quantize_block(x: &[f32; BLOCK]) -> ([i32; BLOCK], BlockScale) {
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
    let sum = sum(&codes);
    (
        codes,
        BlockScale {
            scale,
            scaled_sum: scale * sum as f32,
            sum,
        },
    )
}
