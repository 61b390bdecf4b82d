//! Activations quantized to 8 bits: per block of 32 a scale in f32, 32 signed
//! codes and their sum.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

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

impl Passes {
    /// How many rows of codes a row has.
    pub(super) fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// What activations are kept in.
type Memory = (Vec<Words>, Vec<BlockScale>);

thread_local! {
    /// The memory of the last activations of a batch that this thread dropped.
    static OF_BATCHES: Cell<Memory> = const { Cell::new((Vec::new(), Vec::new())) };
    /// The same of some rows of a batch.
    static OF_ROWS: Cell<Memory> = const { Cell::new((Vec::new(), Vec::new())) };
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
    /// Where their memory goes when they are dropped.
    spare: &'static LocalKey<Cell<Memory>>,
}

/// Activations of a batch that several tasks write.
pub(super) struct Parts<'a> {
    blocks: usize,
    passes: Passes,
    /// Rows, each pass counted.
    n: usize,
    codes: SharedOutput<'a, Words>,
    scales: SharedOutput<'a, BlockScale>,
}

impl Parts<'_> {
    /// Takes some rows of the batch.
    ///
    /// # Safety
    /// No other task uses those rows.
    pub(super) unsafe fn put(&self, rows: Range<usize>, part: &Activations) {
        let passes = self.passes.count();
        assert!(self.passes == part.passes && part.n == rows.len() * passes);
        for b in 0..self.blocks {
            let (codes, scales) = part.block(b, 0, part.n);
            let at = b * self.n + rows.start * passes;
            // SAFETY: by contract.
            unsafe {
                copy_few(codes, self.codes.part(0, at, part.n));
                copy_few(scales, self.scales.part(0, at, part.n));
            }
        }
    }
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
    /// Room for `n` rows of so many columns, a whole number of blocks.
    fn with_room(
        (n, cols): (usize, usize),
        passes: Passes,
        spare: &'static LocalKey<Cell<Memory>>,
    ) -> Self {
        assert!(cols.is_multiple_of(BLOCK));
        let n = n * passes.count();
        let len = cols / BLOCK * n;
        let (mut codes, mut scales) = spare.take();
        // all of it is written before it is read
        codes.resize(codes.len().max(len), Words::default());
        scales.resize(scales.len().max(len), BlockScale::default());
        Self {
            passes,
            n,
            codes,
            scales,
            spare,
        }
    }

    /// Quantizes `x[n, cols]`, where `cols` is a whole number of blocks, on several
    /// threads where that is worth it.
    pub(super) fn quantize((x, n, cols): (&[f32], usize, usize), passes: Passes) -> Self {
        assert!(x.len() == n * cols);
        let mut all = Self::with_room((n, cols), passes, &OF_BATCHES);
        if x.len() < PARALLEL_FROM {
            all.quantize_here(x, cols);
        } else {
            all.write_parts(cols, |parts| {
                parallel::run_ranges(parts.blocks, |range| {
                    let (at, len) = (range.start * parts.n, range.len() * parts.n);
                    // SAFETY: each block's codes and scales belong to one task.
                    let (codes, scales) =
                        unsafe { (parts.codes.part(0, at, len), parts.scales.part(0, at, len)) };
                    quantize_columns(x, cols, range.start, passes, codes, scales);
                });
            });
        }
        all
    }

    /// Quantizes some rows of a batch, on this thread.
    pub(super) fn quantize_rows(x: &[f32], cols: usize, passes: Passes) -> Self {
        assert!(x.len().is_multiple_of(cols));
        let mut rows = Self::with_room((x.len() / cols, cols), passes, &OF_ROWS);
        rows.quantize_here(x, cols);
        rows
    }

    /// Activations of `n` rows of so many columns, all of which `write` puts there.
    pub(super) fn from_parts(
        (n, cols): (usize, usize),
        passes: Passes,
        write: impl FnOnce(&Parts<'_>),
    ) -> Self {
        let mut all = Self::with_room((n, cols), passes, &OF_BATCHES);
        all.write_parts(cols, write);
        all
    }

    fn write_parts(&mut self, cols: usize, write: impl FnOnce(&Parts<'_>)) {
        let blocks = cols / BLOCK;
        write(&Parts {
            blocks,
            passes: self.passes,
            n: self.n,
            codes: SharedOutput::new(&mut self.codes, blocks * self.n),
            scales: SharedOutput::new(&mut self.scales, blocks * self.n),
        });
    }

    fn quantize_here(&mut self, x: &[f32], cols: usize) {
        let len = cols / BLOCK * self.n;
        let (codes, scales) = (&mut self.codes[..len], &mut self.scales[..len]);
        quantize_columns(x, cols, 0, self.passes, codes, scales);
    }

    /// Rows of the input.
    pub(super) fn rows(&self) -> usize {
        self.n / self.passes.count()
    }

    /// The codes and scales of some rows in one block.
    #[inline(always)]
    pub(super) fn block(&self, b: usize, first: usize, n: usize) -> (&[Words], &[BlockScale]) {
        let at = b * self.n + first;
        (&self.codes[at..at + n], &self.scales[at..at + n])
    }
}

/// Copies as many values as there are, without a call where it is one or two.
#[inline(always)]
fn copy_few<T: Copy>(from: &[T], to: &mut [T]) {
    match (from, &mut *to) {
        ([a], [to]) => *to = *a,
        ([a, b], [to, next]) => (*to, *next) = (*a, *b),
        _ => to.copy_from_slice(from),
    }
}

impl Drop for Activations {
    fn drop(&mut self) {
        let memory = (
            std::mem::take(&mut self.codes),
            std::mem::take(&mut self.scales),
        );
        self.spare.set(memory);
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
    let n = x.len() / cols * passes.count();
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
