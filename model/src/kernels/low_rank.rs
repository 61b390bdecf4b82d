//! Low-rank additions to rows of a batch: `y += scale · B · A · x` for the rows
//! that have an adapter.
//!
//! Knows how one term is computed; when, and beside what, is `project`'s matter.

use std::cell::Cell;
use std::ops::Range;

use super::activations::{Activations, Parts, Passes};
use super::factor::{DoesNotFit, Factor, FactorFormat};
use super::factor_packed::Packed;
use super::factor_units::Units;
use super::gemm::Onto;
use super::memory::{Arena, Span};
use super::parallel::{self, Share, SharedOutput};
use super::wide::{WideRows, quantize_wide, scales_of, words_of};
use crate::quant::QuantMatrix;

/// The most activation rows of a chunk.
const ROWS_AT_ONCE: usize = 48;

thread_local! {
    /// Kept from one product to the next.
    static BUFFERS: Cell<Buffers> = const { Cell::new(Buffers::new()) };
}

/// Factors of a module: A `[rank, in]`, B `[out, rank]`.
pub struct LowRankPair {
    /// What the product is multiplied with.
    scale: f32,
    /// `[rank, in]`
    a: Factor<Packed>,
    /// `[out, rank]`
    b: Factor<Units>,
}

/// The shapes of a module's factors: A `[rank, in]`, B `[out, rank]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairShape {
    /// Outputs of the module.
    pub out: usize,
    /// Rows of A, columns of B.
    pub rank: usize,
    /// Inputs of the module.
    pub cols: usize,
}

impl PairShape {
    fn of_a(self) -> (usize, usize) {
        (self.rank, self.cols)
    }

    fn of_b(self) -> (usize, usize) {
        (self.out, self.rank)
    }
}

impl LowRankPair {
    /// Takes `a` and `b`, into an arena; where one does not fit the format, as it is.
    ///
    /// # Panics
    /// If a length is another than its shape, or a shape has no columns.
    #[must_use]
    pub fn new(
        shape: PairShape,
        scale: f32,
        [a, b]: [&[f32]; 2],
        format: FactorFormat,
        arena: &mut Arena,
    ) -> Self {
        Self {
            scale,
            a: Factor::new(shape.of_a(), a, format, arena),
            b: Factor::new(shape.of_b(), b, format, arena),
        }
    }

    /// Zeros, and the place in an arena for what [`Self::fill`] is given later.
    ///
    /// # Panics
    /// If a shape has no columns.
    #[must_use]
    pub fn reserved(shape: PairShape, format: FactorFormat, arena: &mut Arena) -> Self {
        Self {
            scale: 0.0,
            a: Factor::reserved(shape.of_a(), format, arena),
            b: Factor::reserved(shape.of_b(), format, arena),
        }
    }

    /// Lays out factors in the place that was reserved for them.
    ///
    /// # Errors
    /// [`DoesNotFit`], also where the shape is another; what the pair is then, is not
    /// specified.
    pub fn fill(&mut self, scale: f32, [a, b]: [&[f32]; 2]) -> Result<(), DoesNotFit> {
        let fits = |rows, cols, values: &[f32]| rows * cols == values.len();
        if !fits(self.a.rows(), self.a.cols(), a) || !fits(self.b.rows(), self.b.cols(), b) {
            return Err(DoesNotFit);
        }
        self.scale = scale;
        self.a.fill(a).and(self.b.fill(b))
    }

    /// Bytes of an arena that a pair takes.
    #[must_use]
    pub fn byte_len_of(shape: PairShape, format: FactorFormat) -> usize {
        Factor::<Packed>::byte_len_of(shape.of_a(), format)
            + Factor::<Units>::byte_len_of(shape.of_b(), format)
    }

    /// Rows of B.
    pub(super) fn outputs(&self) -> usize {
        self.b.rows()
    }

    /// Rows of A.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.a.rows()
    }
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
mod tests {
    use super::*;
    use crate::kernels::Team;
    use crate::kernels::factor::Codes;
    use crate::kernels::project::project;
    use crate::quant::{Format, QuantMatrix};
    use crate::test_noise::noise;

    struct Module {
        a: Vec<f32>,
        b: Vec<f32>,
        pair: LowRankPair,
        out: usize,
        rank: usize,
        cols: usize,
    }

    fn module(seed: u64, (out, rank, cols): (usize, usize, usize), format: FactorFormat) -> Module {
        let (a, b) = (noise(seed, rank * cols), noise(seed ^ 99, out * rank));
        let shape = PairShape { out, rank, cols };
        let arena = &mut Arena::with_capacity(0);
        let pair = LowRankPair::new(shape, 0.5, [&a, &b], format, arena);
        Module {
            a,
            b,
            pair,
            out,
            rank,
            cols,
        }
    }

    fn exact(m: &Module, x: &[f32], column: usize) -> f64 {
        (0..m.rank)
            .map(|r| {
                let dot = |k: usize| f64::from(m.a[r * m.cols + k]) * f64::from(x[k]);
                let inner: f64 = (0..m.cols).map(dot).sum();
                0.5 * f64::from(m.b[column * m.rank + r]) * inner
            })
            .sum()
    }

    #[test]
    fn chunks_are_all_rows_and_no_chunk_is_of_two_groups() {
        let mut team = Team::new(4, "test").unwrap();
        team.lead(|| {
            let chunks = |n, groups: &[(usize, usize)]| {
                row_chunks(n, groups.iter().map(|(start, end)| *start..*end))
            };
            assert!(chunks(0, &[]).is_empty());
            assert_eq!(chunks(1, &[(0, 1)]), vec![0..1; 1]);
            // two of eight rows for each thread, or one where the next is another's
            assert_eq!(chunks(8, &[(0, 8)]), [0..2, 2..4, 4..6, 6..8]);
            assert_eq!(
                chunks(8, &[(0, 1), (1, 1), (3, 6)]),
                [0..1, 1..3, 3..5, 5..6, 6..8]
            );
            let many = chunks(1000, &[(10, 990)]);
            assert!(
                many.iter()
                    .all(|chunk| (1..=ROWS_AT_ONCE).contains(&chunk.len()))
            );
            assert!(many.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!((many[0].start, many[many.len() - 1].end), (0, 1000));
            for border in [10, 990] {
                assert!(many.iter().any(|chunk| chunk.start == border));
            }
        });
    }

    #[test]
    fn a_value_beyond_half_precision_keeps_the_factor_in_single() {
        fn bytes<C: Codes>(weights: &[f32], format: FactorFormat) -> usize {
            let arena = &mut Arena::with_capacity(0);
            Factor::<C>::new((2, 32), weights, format, arena).byte_len()
        }
        let mut weights = noise(1, 64);
        for bytes in [bytes::<Units>, bytes::<Packed>] {
            assert_eq!(bytes(&weights, FactorFormat::F16), 32 * 32);
            let codes = bytes(&weights, FactorFormat::Int8);
            assert!((17 * 32..17 * 32 + 64).contains(&codes), "{codes}");
            weights[3] = 1e6;
            assert_eq!(bytes(&weights, FactorFormat::F16), 32 * 64);
            weights[3] = f32::INFINITY;
            assert_eq!(bytes(&weights, FactorFormat::Int8), 32 * 64);
            weights[3] = 0.5;
        }
    }

    #[test]
    fn terms_equal_their_definition_and_do_not_depend_on_each_other() {
        // fewer threads than chunks there are, and more
        let all = [1, 2, 40, 100].map(|threads| {
            let mut team = Team::new(threads, "test").unwrap();
            team.lead(|| {
                let floats = [
                    check(FactorFormat::F32, None, 1e-3),
                    check(FactorFormat::F16, None, 2e-2),
                    check(FactorFormat::F32, Some(Passes::One), 1e-3),
                ];
                // half a step of 1/127 in each of the A and B: 0.03 in the mean square
                let codes = [None, Some(Passes::One), Some(Passes::Two)]
                    .map(|passes| check(FactorFormat::Int8, passes, 2e-1));
                [floats, codes]
            })
        });
        assert!(all.iter().all(|found| *found == all[0]));
    }

    /// Two outputs of 40 and 530 columns; three adapters on some rows of each. Returns
    /// the outputs.
    fn check(format: FactorFormat, passes: Option<Passes>, tolerance: f64) -> [Vec<f32>; 2] {
        let (n, cols, outs) = (120, 96, [40, 530]);
        let weights = outs.map(|out| {
            let weights = noise(out as u64, out * cols);
            QuantMatrix::quantize_from_f32(Format::Q8_0, out, cols, &weights).unwrap()
        });
        let matrices = weights.each_ref();
        let groups = [
            (0..1, 16, 0),
            (1..1, 16, 0),
            (3..103, 33, 1),
            (110..117, 5, 2),
        ];
        let mut modules: Vec<(usize, Range<usize>, Module)> = groups
            .iter()
            .flat_map(|(rows, rank, seed)| {
                let of = |o: usize| {
                    (
                        o,
                        rows.clone(),
                        module(seed + o as u64, (outs[o], *rank, cols), format),
                    )
                };
                [of(0), of(1)]
            })
            .collect();
        modules.sort_by_key(|(output, ..)| *output);
        let terms: Vec<LowRankTerm<'_>> = modules
            .iter()
            .map(|(output, rows, module)| LowRankTerm {
                output: *output,
                rows: rows.clone(),
                pair: &module.pair,
            })
            .collect();
        let x = noise(7, n * cols);
        let mut of_base = outs.map(|out| vec![f32::NAN; n * out]);
        let mut slices = of_base.each_mut().map(Vec::as_mut_slice);
        project(&matrices, (&x, n), &mut slices, passes, Terms::default());
        let mut ys = outs.map(|out| vec![f32::NAN; n * out]);
        let mut slices = ys.each_mut().map(Vec::as_mut_slice);
        fn of_this<'a>(of_this: &'a [LowRankTerm<'a>], chunks: &'a [Range<usize>]) -> Terms<'a> {
            Terms {
                of_this,
                of_next: of_this,
                next: &[],
                chunks,
            }
        }
        let chunks = row_chunks(n, groups.iter().map(|(rows, ..)| rows.clone()));
        let of_all = of_this(&terms, &chunks);
        project(&matrices, (&x, n), &mut slices, passes, of_all);
        let in_term = |row: usize| groups.iter().any(|(rows, _, _)| rows.contains(&row));
        for row in (0..n).filter(|&row| !in_term(row)) {
            for ((y, of_base), out) in ys.iter().zip(&of_base).zip(outs) {
                let of_row = row * out..(row + 1) * out;
                assert_eq!(y[of_row.clone()], of_base[of_row]);
            }
        }
        for (output, rows, module) in &modules {
            for row in rows.clone() {
                let x = &x[row * cols..(row + 1) * cols];
                let of_row = row * module.out..(row + 1) * module.out;
                let (found, of_base) = (&ys[*output][of_row.clone()], &of_base[*output][of_row]);
                for column in [0, module.out / 2, module.out - 1] {
                    let exact = exact(module, x, column);
                    let added = f64::from(found[column]) - f64::from(of_base[column]);
                    assert!((added - exact).abs() < tolerance, "{format:?}");
                }
                let mut alone = vec![f32::NAN; module.out];
                let term = [LowRankTerm {
                    output: 0,
                    rows: 0..1,
                    pair: &module.pair,
                }];
                project(
                    &[matrices[*output]],
                    (x, 1),
                    &mut [&mut alone],
                    passes,
                    of_this(&term, std::slice::from_ref(&(0..1))),
                );
                assert_eq!(found, alone);
            }
        }
        ys
    }

    #[test]
    #[should_panic = "assertion failed"]
    fn chunks_that_overlap_are_refused() {
        let module = module(1, (40, 4, 64), FactorFormat::F32);
        let matrix = QuantMatrix::quantize_from_f32(Format::Q8_0, 40, 64, &[0.0; 40 * 64]);
        let terms = [LowRankTerm {
            output: 0,
            rows: 0..4,
            pair: &module.pair,
        }];
        let terms = Terms {
            of_this: &terms,
            chunks: &[0..2, 0..2],
            ..Terms::default()
        };
        let y = &mut [0.0; 4 * 40];
        project(
            &[&matrix.unwrap()],
            (&[1.0; 4 * 64], 4),
            &mut [y],
            None,
            terms,
        );
    }
}
