//! Low-rank additions to rows of a batch: `y += scale · B · A · x` for the rows
//! that have an adapter.
//!
//! Knows how one term is computed; when, and beside what, is `project`'s matter.

use std::cell::Cell;
use std::ops::Range;

use super::factor::{Factor, FactorInput};
use super::memory::Span;
use super::parallel::{self, SharedOutput};
use super::wide::{WideRows, quantize_wide, scales_of, words_of};
use crate::quant::QuantMatrix;

/// Activation rows that one task computes at most.
const ROWS_AT_ONCE: usize = 48;

thread_local! {
    /// Kept from one product to the next.
    static BUFFERS: Cell<Buffers> = const { Cell::new(Buffers::new()) };
    /// A task's input in 16 bits.
    static WIDE: Cell<(Vec<i32>, Vec<f32>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

/// Factors of a module: A `[rank, in]`, B `[out, rank]`.
pub struct LowRankPair {
    /// What the product is multiplied with.
    pub scale: f32,
    /// `[rank, in]`
    pub a: Factor,
    /// `[out, rank]`
    pub b: Factor,
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
        }
    }
}

/// The inner products of all terms of a projection.
pub(super) struct Inner<'t> {
    terms: &'t [LowRankTerm<'t>],
    buffers: Buffers,
}

impl<'t> Inner<'t> {
    /// Room for what [`Inner::tasks`] computes. The terms are in the order of their
    /// outputs.
    pub(super) fn new(terms: &'t [LowRankTerm<'t>]) -> Self {
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
        Self { terms, buffers }
    }

    /// The tasks that compute the inner products of `x[_, cols]`.
    pub(super) fn tasks<'a>(&'a mut self, x: &'a [f32], cols: usize) -> InnerTasks<'a> {
        let mut products = Vec::new();
        for (term, place) in self.terms.iter().zip(&self.buffers.places) {
            assert!(term.pair.a.cols() == cols && term.rows.end * cols <= x.len());
            for first in (0..term.rows.len()).step_by(ROWS_AT_ONCE) {
                let rows = first..(first + ROWS_AT_ONCE).min(term.rows.len());
                products.push(Product {
                    term,
                    place: *place,
                    rows,
                });
            }
        }
        let tasks = tasks_of(&mut products);
        let flat = &mut self.buffers;
        let (values, words, scales) = (flat.values.len(), flat.words.len(), flat.scales.len());
        InnerTasks {
            products,
            tasks,
            x,
            cols,
            values: SharedOutput::new(&mut flat.values, values),
            words: SharedOutput::new(&mut flat.words, words),
            scales: SharedOutput::new(&mut flat.scales, scales),
        }
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
            .map(move |(term, _)| Span::of(term.pair.b.units_of(columns)))
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
        let input = FactorInput {
            x: &self.buffers.values[place.values..][..n * rank],
            wide: WideRows {
                n,
                words: &self.buffers.words[place.words..][..n * words_of(rank)],
                scales: &self.buffers.scales[place.scales..][..n * scales_of(rank)],
            },
        };
        let y = y.window(term.rows.start * b.rows(), b.rows(), b.rows());
        // SAFETY: by contract.
        unsafe { b.multiply_columns(input, columns, &y, true) };
    }
}

impl Drop for Inner<'_> {
    fn drop(&mut self) {
        BUFFERS.set(std::mem::take(&mut self.buffers));
    }
}

/// Makes a buffer at least as long as that.
fn grow<T: Default + Clone>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// A · x for some rows of a term.
struct Product<'a> {
    term: &'a LowRankTerm<'a>,
    place: Place,
    /// Counted from the term's first.
    rows: Range<usize>,
}

impl Product<'_> {
    /// Rows of the batch.
    fn input(&self) -> Range<usize> {
        let start = self.term.rows.start;
        start + self.rows.start..start + self.rows.end
    }
}

/// Orders the products, and divides them into tasks. Where the rows of a batch are
/// enough for all threads, the products of the same rows are one task, which
/// quantizes its input once.
fn tasks_of(products: &mut [Product<'_>]) -> Vec<Range<usize>> {
    products.sort_by_key(|product| product.input().start);
    let same = |a: &Product<'_>, b: &Product<'_>| a.input() == b.input();
    let inputs = products.chunk_by(same).count();
    if inputs < 2 * parallel::threads() {
        return (0..products.len()).map(|i| i..i + 1).collect();
    }
    let mut end = 0;
    let task = |chunk: &[Product<'_>]| {
        end += chunk.len();
        end - chunk.len()..end
    };
    products.chunk_by(same).map(task).collect()
}

/// Products of A, to be run in any order.
pub(super) struct InnerTasks<'a> {
    products: Vec<Product<'a>>,
    /// Which of them each task computes; of one input.
    tasks: Vec<Range<usize>>,
    x: &'a [f32],
    cols: usize,
    values: SharedOutput<'a>,
    words: SharedOutput<'a, i32>,
    scales: SharedOutput<'a>,
}

impl InnerTasks<'_> {
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Runs task `i`, which must not be run twice.
    pub(super) fn run(&self, i: usize) {
        let products = &self.products[self.tasks[i].clone()];
        let Some(input) = products.first().map(Product::input) else {
            return;
        };
        let x = &self.x[input.start * self.cols..input.end * self.cols];
        let (mut words, mut scales) = WIDE.take();
        if products.iter().any(|product| product.term.pair.a.is_int8()) {
            quantize_rows(x, self.cols, &mut words, &mut scales);
        }
        let wide = WideRows {
            n: input.len(),
            words: &words,
            scales: &scales,
        };
        for product in products {
            self.compute(product, FactorInput { x, wide });
        }
        WIDE.set((words, scales));
    }

    fn compute(&self, product: &Product<'_>, input: FactorInput<'_>) {
        let (pair, place, rows) = (product.term.pair, product.place, &product.rows);
        let rank = pair.a.rows();
        let start = place.values + rows.start * rank;
        let part = self.values.window(start, rank, rank);
        // SAFETY: each product has rows of its own, and is computed once.
        unsafe { pair.a.multiply_columns(input, 0..rank, &part, false) };
        for row in 0..rows.len() {
            // SAFETY: as above.
            let values = unsafe { part.part(row, 0, rank) };
            values.iter_mut().for_each(|value| *value *= pair.scale);
            if pair.b.is_int8() {
                let (len, count) = (words_of(rank), scales_of(rank));
                let row = rows.start + row;
                // SAFETY: as above.
                unsafe {
                    let words = self.words.part(0, place.words + row * len, len);
                    let scales = self.scales.part(0, place.scales + row * count, count);
                    quantize_wide(values, words, scales);
                }
            }
        }
    }
}

fn quantize_rows(x: &[f32], cols: usize, words: &mut Vec<i32>, scales: &mut Vec<f32>) {
    let (len, count) = (words_of(cols), scales_of(cols));
    grow(words, x.len() / cols * len);
    grow(scales, x.len() / cols * count);
    let rows = words.chunks_mut(len).zip(scales.chunks_mut(count));
    for (x, (words, scales)) in x.chunks_exact(cols).zip(rows) {
        quantize_wide(x, words, scales);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernels::project::project;
    use crate::kernels::{Arena, FactorFormat};
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
        let pair = LowRankPair {
            scale: 0.5,
            a: Factor::new((rank, cols), &a, format, &mut Arena::with_capacity(0)),
            b: Factor::new((out, rank), &b, format, &mut Arena::with_capacity(0)),
        };
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
    fn a_value_beyond_half_precision_keeps_the_factor_in_single() {
        let mut weights = noise(1, 32);
        let factor = |weights: &[f32], format| {
            Factor::new((2, 16), weights, format, &mut Arena::with_capacity(0)).byte_len()
        };
        assert_eq!(factor(&weights, FactorFormat::F16), 16 * 32);
        assert_eq!(factor(&weights, FactorFormat::Int8), 9 * 32 + 32);
        weights[3] = 1e6;
        assert_eq!(factor(&weights, FactorFormat::F16), 16 * 64);
        weights[3] = f32::INFINITY;
        assert_eq!(factor(&weights, FactorFormat::Int8), 16 * 64);
    }

    #[test]
    fn terms_equal_their_definition_and_do_not_depend_on_each_other() {
        check(FactorFormat::F32, 1e-3);
        check(FactorFormat::F16, 2e-2);
        // half a step of 1/127 in each of the A and B: 0.03 in the mean square
        check(FactorFormat::Int8, 2e-1);
    }

    /// Two outputs of 40 and 530 columns; three adapters on some rows of each.
    fn check(format: FactorFormat, tolerance: f64) {
        let (n, cols, outs) = (120, 96, [40, 530]);
        let weights = outs.map(|out| {
            let zeros = vec![0.0; out * cols];
            QuantMatrix::quantize_from_f32(Format::Q8_0, out, cols, &zeros).unwrap()
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
        let mut ys = outs.map(|out| vec![f32::NAN; n * out]);
        let mut slices = ys.each_mut().map(Vec::as_mut_slice);
        fn of_this<'a>(of_this: &'a [LowRankTerm<'a>]) -> Terms<'a> {
            Terms {
                of_this,
                of_next: of_this,
                next: &[],
            }
        }
        project(&matrices, (&x, n), &mut slices, None, of_this(&terms));
        let in_term = |row: usize| groups.iter().any(|(rows, _, _)| rows.contains(&row));
        for row in (0..n).filter(|&row| !in_term(row)) {
            assert!(
                ys[0][row * outs[0]..(row + 1) * outs[0]]
                    .iter()
                    .all(|y| *y == 0.0)
            );
        }
        for (output, rows, module) in &modules {
            for row in rows.clone() {
                let x = &x[row * cols..(row + 1) * cols];
                let found = &ys[*output][row * module.out..(row + 1) * module.out];
                for column in [0, module.out / 2, module.out - 1] {
                    let exact = exact(module, x, column);
                    assert!(
                        (f64::from(found[column]) - exact).abs() < tolerance,
                        "{format:?}"
                    );
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
                    None,
                    of_this(&term),
                );
                assert_eq!(found, alone);
            }
        }
    }
}
