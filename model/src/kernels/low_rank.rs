//! Low-rank additions to rows of a batch: `y += scale · B · A · x` for the rows
//! that have an adapter.
//!
//! Knows how one term is computed; when, and beside what, is `project`'s matter.

use std::cell::Cell;
use std::ops::Range;

use super::activations::{Activations, Parts, Passes};
use super::gemm::Onto;
use super::low_rank_pair::LowRankPair;
use super::memory::Span;
use super::parallel::{self, Share, SharedOutput};
use super::wide::{WideRows, quantize_wide, scales_of, words_of};
use crate::quant::QuantMatrix;

/// The most activation rows of a chunk.
const ROWS_AT_ONCE: usize = 48;

thread_local! {
    /// Kept from one product to the next.
    static BUFFERS: Cell<Buffers> = const { Cell::new(Buffers::new()) };
}

/// What an adapter adds to some rows of an output.
pub struct LowRankTerm<'a> {
    /// Which of the outputs of a product.
    pub output: usize,
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// The factors.
    pub pair: &'a LowRankPair,
}

/// What adapters add to a product.
#[derive(Clone, Copy, Default)]
pub struct Terms<'a> {
    /// In the order of their outputs.
    pub of_this: &'a [LowRankTerm<'a>],
    /// Of the product that comes next: it is faster where it is told now.
    pub of_next: &'a [LowRankTerm<'a>],
    /// The matrices of that product.
    pub next: &'a [&'a QuantMatrix],
    /// What [`row_chunks`] made of the rows of all terms; of all rows of the batch, and
    /// the same for all of its products.
    pub chunks: &'a [Range<usize>],
}

/// Divides `n` rows of a batch, some of which are computed with one adapter, for the
/// tasks that compute with adapters. The groups are in the order of their rows.
///
/// # Panics
/// If they are not.
#[must_use]
pub fn row_chunks(n: usize, groups: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let at_once = n.div_ceil(parallel::threads()).clamp(1, ROWS_AT_ONCE);
    let mut chunks = Vec::new();
    let mut add = |rows: Range<usize>| {
        for first in rows.clone().step_by(at_once) {
            chunks.push(first..(first + at_once).min(rows.end));
        }
    };
    let mut end = 0;
    for group in groups {
        assert!(end <= group.start && group.start <= group.end && group.end <= n);
        add(end..group.start);
        end = group.end;
        add(group);
    }
    add(end..n);
    chunks
}

/// `scale · A · x` for every term, one after the other.
#[derive(Default)]
struct Buffers {
    /// `[n, rank]` for each.
    values: Vec<f32>,
    /// The same in 16 bits, for factors in 8: codes, and scales.
    words: Vec<i32>,
    scales: Vec<f32>,
    /// Where each term's begin.
    places: Vec<Place>,
    /// Terms and chunks, by number.
    pieces: Vec<(usize, usize)>,
}

#[derive(Clone, Copy, Default)]
struct Place {
    values: usize,
    words: usize,
    scales: usize,
}

impl Buffers {
    const fn new() -> Self {
        Self {
            values: Vec::new(),
            words: Vec::new(),
            scales: Vec::new(),
            places: Vec::new(),
            pieces: Vec::new(),
        }
    }
}

/// The inner products of all terms of a projection.
pub(super) struct Inner<'t> {
    terms: &'t [LowRankTerm<'t>],
    chunks: &'t [Range<usize>],
    buffers: Buffers,
}

impl<'t> Inner<'t> {
    /// Room for what [`Inner::compute`] finds.
    pub(super) fn new(terms: &Terms<'t>) -> Self {
        let (chunks, terms) = (terms.chunks, terms.of_this);
        assert!(terms.is_sorted_by_key(|term| term.output));
        let mut buffers = BUFFERS.take();
        buffers.places.clear();
        let mut end = Place::default();
        for term in terms {
            buffers.places.push(end);
            let (n, rank) = (term.rows.len(), term.pair.b.cols());
            assert!(term.pair.a.rows() == rank);
            end.values += n * rank;
            end.words += n * words_of(rank);
            end.scales += n * scales_of(rank);
        }
        // all of it is written before it is read
        grow(&mut buffers.values, end.values);
        grow(&mut buffers.words, end.words);
        grow(&mut buffers.scales, end.scales);
        Self {
            terms,
            chunks,
            buffers,
        }
    }

    /// Computes the inner products of `x[n, cols]`, and its activations where there are
    /// passes, in one region if the chunks are enough for all threads.
    pub(super) fn compute(
        &mut self,
        (x, n, cols): (&[f32], usize, usize),
        passes: Option<Passes>,
    ) -> Option<Activations> {
        if self.terms.is_empty() {
            return passes.map(|passes| Activations::quantize((x, n, cols), passes));
        }
        assert!(x.len() == n * cols);
        // the tasks' rows are disjoint, and all
        let follows = |end, chunk: &Range<usize>| {
            (chunk.start == end && chunk.end > end).then_some(chunk.end)
        };
        assert!(self.chunks.iter().try_fold(0, follows) == Some(n));
        let chunk_from = |at| self.chunks.binary_search_by_key(&at, |chunk| chunk.start);
        for LowRankTerm { rows, pair, .. } in self.terms {
            assert!(pair.a.cols() == cols && rows.end <= n);
            assert!(
                [rows.start, rows.end].map(|at| at == n || chunk_from(at).is_ok()) == [true; 2]
            );
        }
        let has_codes = self.terms.iter().any(|term| term.pair.a.codes().is_some());
        let passes_of_a = passes.or(has_codes.then_some(Passes::Two));
        let mut pieces = std::mem::take(&mut self.buffers.pieces);
        let tasks = InnerTasks::new(self.terms, &mut self.buffers, (x, cols));
        let found = if self.chunks.len() >= parallel::threads() {
            let at_once = chunks_at_once(self.chunks.len(), parallel::threads());
            let by_chunk = |parts: Option<&Parts<'_>>| {
                parallel::run(self.chunks.len().div_ceil(at_once), |i| {
                    for chunk in self.chunks.iter().skip(i * at_once).take(at_once) {
                        // SAFETY: each chunk belongs to one task.
                        unsafe { tasks.run_chunk(chunk, passes_of_a, parts) };
                    }
                });
            };
            match passes {
                Some(passes) => Some(Activations::from_parts((n, cols), passes, |parts| {
                    by_chunk(Some(parts));
                })),
                None => {
                    by_chunk(None);
                    None
                }
            }
        } else {
            let activations = passes_of_a.map(|passes| Activations::quantize((x, n, cols), passes));
            pieces.clear();
            for (t, term) in self.terms.iter().enumerate() {
                let chunks = self.chunks.iter().enumerate();
                let chunks = chunks.filter(|(_, chunk)| is_within(chunk, &term.rows));
                pieces.extend(chunks.map(|(c, _)| (t, c)));
            }
            parallel::run(pieces.len(), |i| {
                let (term, chunk) = pieces[i];
                let rows = &self.chunks[chunk];
                let codes = activations.as_ref().map(|all| (all, rows.clone()));
                // SAFETY: each piece belongs to one task.
                unsafe { tasks.compute(term, rows, codes) };
            });
            activations.filter(|_| passes.is_some())
        };
        self.buffers.pieces = pieces;
        found
    }

    /// The terms of an output, and where their inner products begin.
    fn terms_of(&self, output: usize) -> impl Iterator<Item = (&LowRankTerm<'t>, &Place)> {
        let start = self.terms.partition_point(|term| term.output < output);
        let terms = self.terms[start..]
            .iter()
            .zip(&self.buffers.places[start..]);
        terms.take_while(move |(term, _)| term.output == output)
    }

    /// What [`Inner::add_all`] will read of factors in 8 bits.
    pub(super) fn values(
        &self,
        output: usize,
        columns: &Range<usize>,
    ) -> impl Iterator<Item = Span> {
        self.terms_of(output)
            .filter_map(move |(term, _)| Some(Span::of(term.pair.b.codes()?.of(columns))))
    }

    /// Adds an output's terms to some of its columns, of which the first is a
    /// multiple of 32.
    ///
    /// # Safety
    /// No other task uses those columns of `y`.
    pub(super) unsafe fn add_all(
        &self,
        output: usize,
        columns: &Range<usize>,
        y: &SharedOutput<'_>,
    ) {
        for (term, place) in self.terms_of(output) {
            // SAFETY: by contract.
            unsafe { self.add(term, *place, columns.clone(), y) };
        }
    }

    /// # Safety
    /// As [`Inner::add_all`].
    unsafe fn add(
        &self,
        term: &LowRankTerm<'_>,
        place: Place,
        columns: Range<usize>,
        y: &SharedOutput<'_>,
    ) {
        let (n, b) = (term.rows.len(), &term.pair.b);
        let rank = b.cols();
        let y = y.window(term.rows.start * b.rows(), b.rows(), b.rows());
        match b.codes() {
            Some(units) => {
                let wide = WideRows {
                    n,
                    words: &self.buffers.words[place.words..][..n * words_of(rank)],
                    scales: &self.buffers.scales[place.scales..][..n * scales_of(rank)],
                };
                // SAFETY: by contract.
                unsafe { units.add_columns(wide, columns, &y) };
            }
            None => {
                let x = &self.buffers.values[place.values..][..n * rank];
                // SAFETY: by contract.
                unsafe { b.multiply_floats(x, columns, &y, Onto::Continues) };
            }
        }
    }
}

impl Drop for Inner<'_> {
    fn drop(&mut self) {
        BUFFERS.set(std::mem::take(&mut self.buffers));
    }
}

/// What a thread will mostly read of factors in 8 bits for the inner products of some
/// terms: as [`Inner::compute`] divides them among tasks.
pub(super) fn upcoming<'t>(
    terms: &'t [LowRankTerm<'t>],
    chunks: &'t [Range<usize>],
    share: Share,
) -> impl Iterator<Item = Span> + Clone {
    let is_read = move |(number, term): &(usize, &LowRankTerm<'_>)| {
        if chunks.len() < share.threads() {
            return share.takes_task(*number);
        }
        match chunks.binary_search_by_key(&term.rows.start, |chunk| chunk.start) {
            // others read what is of several chunks, too
            Ok(chunk) if chunks[chunk].len() == term.rows.len() => {
                share.takes_task(chunk / chunks_at_once(chunks.len(), share.threads()))
            }
            _ => true,
        }
    };
    let codes = terms.iter().enumerate().filter(is_read);
    codes.filter_map(|(_, term)| Some(term.pair.a.codes()?.span()))
}

/// How many of so many chunks are one task's. Two rows beside each other share lines of
/// the activations' codes.
fn chunks_at_once(chunks: usize, threads: usize) -> usize {
    (chunks / (2 * threads)).clamp(1, 2)
}

/// Makes a buffer at least as long as that.
fn grow<T: Default + Clone>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// Whether a chunk is some of those rows; else it is none of them.
fn is_within(chunk: &Range<usize>, rows: &Range<usize>) -> bool {
    rows.start <= chunk.start && chunk.end <= rows.end && !chunk.is_empty()
}

/// Products of A with chunks of rows, to be run in any order.
struct InnerTasks<'a> {
    terms: &'a [LowRankTerm<'a>],
    places: &'a [Place],
    x: &'a [f32],
    cols: usize,
    values: SharedOutput<'a>,
    words: SharedOutput<'a, i32>,
    scales: SharedOutput<'a>,
}

impl<'a> InnerTasks<'a> {
    fn new(
        terms: &'a [LowRankTerm<'a>],
        buffers: &'a mut Buffers,
        (x, cols): (&'a [f32], usize),
    ) -> Self {
        let (values, words, scales) = (
            buffers.values.len(),
            buffers.words.len(),
            buffers.scales.len(),
        );
        Self {
            terms,
            places: &buffers.places,
            x,
            cols,
            values: SharedOutput::new(&mut buffers.values, values),
            words: SharedOutput::new(&mut buffers.words, words),
            scales: SharedOutput::new(&mut buffers.scales, scales),
        }
    }

    /// All that there is to compute of some rows: their activations, which go to
    /// `parts` if the batch's are wanted, and their inner products.
    ///
    /// # Safety
    /// No other task computes those rows.
    unsafe fn run_chunk(
        &self,
        rows: &Range<usize>,
        passes: Option<Passes>,
        parts: Option<&Parts<'_>>,
    ) {
        let activations = passes.map(|passes| {
            let x = &self.x[rows.start * self.cols..rows.end * self.cols];
            Activations::quantize_rows(x, self.cols, passes)
        });
        if let (Some(parts), Some(activations)) = (parts, &activations) {
            // SAFETY: by contract.
            unsafe { parts.put(rows.clone(), activations) };
        }
        for (number, term) in self.terms.iter().enumerate() {
            if is_within(rows, &term.rows) {
                let codes = activations.as_ref().map(|part| (part, 0..rows.len()));
                // SAFETY: by contract.
                unsafe { self.compute(number, rows, codes) };
            }
        }
    }

    /// A term's inner products of some rows, which are those of the codes if there are.
    ///
    /// # Safety
    /// No other task computes those rows of that term.
    unsafe fn compute(
        &self,
        number: usize,
        rows: &Range<usize>,
        codes: Option<(&Activations, Range<usize>)>,
    ) {
        let (term, place) = (&self.terms[number], self.places[number]);
        let (LowRankPair { scale, a, b }, rank) = (term.pair, term.pair.rank());
        let first = rows.start - term.rows.start;
        let part = self.values.window(place.values + first * rank, rank, rank);
        let mut scale = *scale;
        match a.codes().zip(codes) {
            Some((packed, (activations, rows))) => {
                scale *= packed.unit();
                // SAFETY: by contract.
                unsafe { packed.multiply(activations, rows, &part) };
            }
            None => {
                let x = &self.x[rows.start * self.cols..rows.end * self.cols];
                // SAFETY: by contract.
                unsafe { a.multiply_floats(x, 0..rank, &part, Onto::Replaces) };
            }
        }
        for row in 0..rows.len() {
            // SAFETY: by contract.
            let values = unsafe { part.part(row, 0, rank) };
            values.iter_mut().for_each(|value| *value *= scale);
            if b.codes().is_some() {
                let (len, count) = (words_of(rank), scales_of(rank));
                let row = first + row;
                // SAFETY: by contract.
                unsafe {
                    let words = self.words.part(0, place.words + row * len, len);
                    let scales = self.scales.part(0, place.scales + row * count, count);
                    quantize_wide(values, words, scales);
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
