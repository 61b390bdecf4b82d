//! Products of several matrices with one input, and what the adapters of its rows
//! add to them.
//!
//! Two parallel regions: the first quantizes rows of the input and multiplies them with
//! every A that they have, the second takes some columns of an output at a time, first
//! the matrix, then every B while those columns are in a near cache. (Where the rows are
//! too few for all threads, they are quantized before.) With an adapter for each sequence, a
//! decoding step has thousands of terms, each far too small for a region; what they
//! read, and the next product's A, is fetched while the matrices compute. The next
//! product's matrices are fetched by threads that wait for it.

use std::ops::Range;

use super::activations::{Activations, Passes};
use super::ahead::{Ahead, share};
use super::cpu::Level;
use super::int8::{matmul_group, steps_of};
use super::low_rank::{Inner, Terms, upcoming};
use super::memory::Span;
use super::panels;
use super::parallel::{self, SharedOutput};
use crate::quant::{GROUP, PackedMatrix, QuantMatrix};

/// Output columns that are computed together.
const COLUMNS: usize = 2 * GROUP;
/// The most of such parts before adapters' terms are added to them: so many that each
/// term reads its B in long runs, so few that the outputs are still in a near cache.
const PARTS_MAX: usize = 8;
/// The same, times rows.
const ROWS_AND_PARTS_MAX: usize = 8 * PARTS_MAX;

/// The most that a helping thread is told of the next product, in bytes: a part of what
/// a core's second cache holds.
const ANNOUNCED_MAX: usize = 256 << 10;

/// `ys[i] = x · W_iᵀ` for `x[n, cols]`, and the terms. With `passes`, all matrices
/// must have products with 8-bit activations.
pub(crate) fn project(
    matrices: &[&QuantMatrix],
    (x, n): (&[f32], usize),
    ys: &mut [&mut [f32]],
    passes: Option<Passes>,
    terms: Terms<'_>,
) {
    project_at(Level::detect(), matrices, (x, n), ys, passes, terms);
}

/// The same at a given level, which this CPU must have.
pub(super) fn project_at(
    level: Level,
    matrices: &[&QuantMatrix],
    (x, n): (&[f32], usize),
    ys: &mut [&mut [f32]],
    passes: Option<Passes>,
    terms: Terms<'_>,
) {
    let cols = matrices.first().map_or(0, |matrix| matrix.cols());
    for term in terms.of_this {
        let matrix = matrices.get(term.output);
        assert!(matrix.is_some_and(|matrix| matrix.rows() == term.pair.outputs()));
    }
    let mut inner = Inner::new(&terms);
    let activations = inner.compute((x, n, cols), passes);
    let outputs: Vec<Output<'_>> = matrices
        .iter()
        .zip(ys)
        .enumerate()
        .map(|(index, (matrix, y))| {
            let packed = activations.as_ref().zip(matrix.packed());
            Output {
                index,
                weights: packed.map_or(Weights::F32(matrix, x, n), |(activations, packed)| {
                    Weights::Int8(packed, activations)
                }),
                rows: matrix.rows(),
                y: SharedOutput::new(y, matrix.rows()),
            }
        })
        .collect();
    let parts = outputs.iter().map(Output::parts).sum();
    let at_once = (ROWS_AND_PARTS_MAX / n.max(1)).clamp(1, PARTS_MAX);
    announce(terms.next);
    parallel::run_shares(|region| {
        let range = region.of(parts);
        let next = upcoming(terms.of_next, terms.chunks, region);
        let next_bytes = next.clone().map(Span::bytes).sum();
        let beside = share((next, next_bytes), region.eighths_of_thread(), 8);
        let mut ahead = Ahead::of(beside);
        let mut number = range.start;
        while let Some((output, part)) = locate(&outputs, number).filter(|_| number < range.end) {
            let end = (part + at_once).min(output.parts());
            let end = end.min(part + range.end - number);
            let columns = output.columns(part).start..output.columns(end - 1).end;
            let read = inner.values(output.index, &columns);
            ahead.begin(read, end - part, range.end - number);
            number += end - part;
            // SAFETY: each part is computed by one task.
            unsafe {
                for part in part..end {
                    output.compute(level, part, &mut ahead, end - part);
                }
                inner.add_all(output.index, &columns, &output.y);
            }
        }
    });
}

/// Tells the threads that help what they will read of the next product.
fn announce(matrices: &[&QuantMatrix]) {
    let parts = matrices.iter().map(|matrix| parts_of(matrix.rows())).sum();
    parallel::announce_ranges(parts, |mut range| {
        for matrix in matrices {
            let parts = parts_of(matrix.rows());
            if range.start < parts {
                // as far as this matrix goes
                let groups = 2 * range.start..2 * range.end.min(parts);
                let spans = |packed: &PackedMatrix| packed.spans(groups, ANNOUNCED_MAX);
                return matrix.packed().map(spans).unwrap_or_default();
            }
            range = range.start - parts..range.end - parts;
        }
        Default::default()
    });
}

/// Parts of so many output columns.
fn parts_of(columns: usize) -> usize {
    columns.div_ceil(COLUMNS)
}

/// The output that a part of all is of, and its number there.
fn locate<'o, 'a>(outputs: &'o [Output<'a>], mut part: usize) -> Option<(&'o Output<'a>, usize)> {
    for output in outputs {
        if part < output.parts() {
            return Some((output, part));
        }
        part -= output.parts();
    }
    None
}

/// One matrix's product.
struct Output<'a> {
    index: usize,
    weights: Weights<'a>,
    rows: usize,
    y: SharedOutput<'a>,
}

/// How it is computed.
enum Weights<'a> {
    Int8(&'a PackedMatrix, &'a Activations),
    F32(&'a QuantMatrix, &'a [f32], usize),
}

impl Output<'_> {
    fn parts(&self) -> usize {
        parts_of(self.rows)
    }

    fn columns(&self, part: usize) -> Range<usize> {
        part * COLUMNS..((part + 1) * COLUMNS).min(self.rows)
    }

    /// # Safety
    /// No other task uses the part's columns.
    unsafe fn compute(&self, level: Level, part: usize, ahead: &mut Ahead, parts_left: usize) {
        match self.weights {
            Weights::Int8(packed, activations) => {
                for group in 2 * part..(2 * part + 2).min(packed.groups) {
                    let end = (2 * (part + parts_left)).min(packed.groups);
                    ahead.spread(end - group, steps_of(packed, activations));
                    let x = (activations, 0..activations.rows());
                    // SAFETY: by contract; the CPU has the level.
                    unsafe { matmul_group(level, packed, group, x, ahead, &self.y) };
                }
            }
            // SAFETY: by contract.
            Weights::F32(matrix, x, n) => unsafe {
                panels::multiply_columns_f32(matrix, x, n, part, &self.y);
            },
        }
    }
}
