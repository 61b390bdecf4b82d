//! Low-rank additions to many parts of a batch at once: `y += scale · B · A · x`
//! for rows that have an adapter.
//!
//! With an adapter for each sequence, a decoding step has thousands of these,
//! each far too small for a parallel region of its own; so all that belong to
//! one input are computed in two regions, first every A, then every B.

use super::factor::Factor;
use super::parallel::{self, SharedOutput};

/// Activation rows that one task computes at most.
const ROWS_AT_ONCE: usize = 48;
/// Output columns that one task computes, at most.
const COLUMNS_AT_ONCE: usize = 512;

/// Factors of a module: A `[rank, in]`, B `[out, rank]`.
pub struct LowRankPair {
    /// What the product is multiplied with.
    pub scale: f32,
    /// `[rank, in]`
    pub a: Factor,
    /// `[out, rank]`
    pub b: Factor,
}

/// One addition: some rows of an input through a pair to rows of an output.
pub struct LowRankTerm<'a> {
    /// The factors.
    pub pair: &'a LowRankPair,
    /// `[n, in]`
    pub x: &'a [f32],
    /// Rows of `x` and `y`.
    pub n: usize,
    /// `[n, out]`
    pub y: &'a mut [f32],
}

/// Computes all terms. Each row of a `y` depends on its own rows of `x` and `y`
/// alone, bit for bit.
///
/// # Panics
/// If a slice has another length than its shape.
pub fn add_low_rank(terms: &mut [LowRankTerm<'_>]) {
    let mut inner: Vec<Vec<f32>> = terms
        .iter()
        .map(|term| vec![0.0; term.n * term.pair.a.rows()]) // [n, rank]
        .collect();
    multiply_all(terms, &mut inner);
    add_all(terms, &inner);
}

/// `inner = scale · A · x` for every term.
fn multiply_all(terms: &[LowRankTerm<'_>], inner: &mut [Vec<f32>]) {
    let mut tasks = Vec::new();
    for (term, inner) in terms.iter().zip(inner) {
        let (rank, cols) = (term.pair.a.rows(), term.pair.a.cols());
        assert!(term.x.len() == term.n * cols);
        let x = term.x.chunks(ROWS_AT_ONCE * cols);
        let inner = SharedOutput::new(inner, rank);
        for (i, x) in x.enumerate() {
            tasks.push((term.pair, x, i * ROWS_AT_ONCE, inner));
        }
    }
    parallel::run(tasks.len(), |i| {
        let (pair, x, first, inner) = &tasks[i];
        let n = x.len() / pair.a.cols();
        let rank = pair.a.rows();
        let part = inner.window(first * rank, rank, rank);
        // SAFETY: each task has rows of its own.
        unsafe { pair.a.multiply_columns(x, n, 0..rank, &part, false) };
        for row in 0..n {
            // SAFETY: as above.
            let row = unsafe { part.part(row, 0, rank) };
            row.iter_mut().for_each(|value| *value *= pair.scale);
        }
    });
}

/// `y += B · inner` for every term.
fn add_all(terms: &mut [LowRankTerm<'_>], inner: &[Vec<f32>]) {
    let mut tasks = Vec::new();
    for (term, inner) in terms.iter_mut().zip(inner) {
        let (out, rank) = (term.pair.b.rows(), term.pair.b.cols());
        assert!(term.y.len() == term.n * out && inner.len() == term.n * rank);
        let y = SharedOutput::new(&mut *term.y, out);
        for (i, inner) in inner.chunks(ROWS_AT_ONCE * rank).enumerate() {
            for first in (0..out).step_by(COLUMNS_AT_ONCE) {
                let columns = first..(first + COLUMNS_AT_ONCE).min(out);
                tasks.push((&term.pair.b, inner, i * ROWS_AT_ONCE, columns, y));
            }
        }
    }
    parallel::run(tasks.len(), |i| {
        let (b, inner, first, columns, y) = &tasks[i];
        let (out, n) = (b.rows(), inner.len() / b.cols());
        let part = y.window(first * out, out, out);
        // SAFETY: each task has rows and columns of its own.
        unsafe { b.multiply_columns(inner, n, columns.clone(), &part, true) };
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::FactorFormat;

    fn noise(seed: u32, len: usize) -> Vec<f32> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .take(len)
        .collect()
    }

    struct Module {
        a: Vec<f32>,
        b: Vec<f32>,
        pair: LowRankPair,
        out: usize,
        rank: usize,
        cols: usize,
    }

    fn module(seed: u32, (out, rank, cols): (usize, usize, usize), format: FactorFormat) -> Module {
        let (a, b) = (noise(seed, rank * cols), noise(seed ^ 99, out * rank));
        let pair = LowRankPair {
            scale: 0.5,
            a: Factor::new(rank, cols, &a, format),
            b: Factor::new(out, rank, &b, format),
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
        let half = Factor::new(2, 16, &weights, FactorFormat::F16);
        weights[3] = 1e6;
        let single = Factor::new(2, 16, &weights, FactorFormat::F16);
        assert_eq!((half.byte_len(), single.byte_len()), (16 * 32, 16 * 64));
    }

    #[test]
    fn terms_equal_their_definition_and_do_not_depend_on_each_other() {
        check(FactorFormat::F32, 1e-3);
        check(FactorFormat::F16, 2e-2);
    }

    fn check(format: FactorFormat, tolerance: f64) {
        let shapes = [(40, 16, 64), (530, 5, 32), (1100, 33, 96), (16, 1, 32)];
        let modules: Vec<Module> = shapes
            .iter()
            .enumerate()
            .map(|(i, &shape)| module(i as u32, shape, format))
            .collect();
        let counts = [1, 3, 100, 7];
        let xs: Vec<Vec<f32>> = modules
            .iter()
            .zip(counts)
            .map(|(m, n)| noise(n as u32, n * m.cols))
            .collect();
        let mut ys: Vec<Vec<f32>> = modules
            .iter()
            .zip(counts)
            .map(|(m, n)| vec![1.0; n * m.out])
            .collect();
        let mut terms: Vec<LowRankTerm<'_>> = modules
            .iter()
            .zip(&xs)
            .zip(&mut ys)
            .zip(counts)
            .map(|(((m, x), y), n)| LowRankTerm {
                pair: &m.pair,
                x,
                n,
                y,
            })
            .collect();
        add_low_rank(&mut terms);
        for ((m, x), (y, n)) in modules.iter().zip(&xs).zip(ys.iter().zip(counts)) {
            for row in 0..n {
                let x = &x[row * m.cols..(row + 1) * m.cols];
                let found = &y[row * m.out..(row + 1) * m.out];
                for column in [0, m.out / 2, m.out - 1] {
                    let exact = 1.0 + exact(m, x, column);
                    assert!((f64::from(found[column]) - exact).abs() < tolerance);
                }
                let mut alone = vec![1.0; m.out];
                add_low_rank(&mut [LowRankTerm {
                    pair: &m.pair,
                    x,
                    n: 1,
                    y: &mut alone,
                }]);
                assert_eq!(found, alone);
            }
        }
    }
}
