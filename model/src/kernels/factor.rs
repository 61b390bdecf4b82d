//! Small dense matrices in panels of 16 output columns: the factors of low-rank
//! adapters.
//!
//! Decoding reads every value of a factor for one row of activations, so what
//! counts is their size: they can be kept in half precision, and are widened a
//! panel at a time in the cache.

use std::ops::Range;

use half::f16;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};

use super::gemm::{self, PanelRow, Rows};
use super::panels::with_panels;
use super::parallel::SharedOutput;
use crate::quant::GROUP;

/// How the values of a factor are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactorFormat {
    /// As they are.
    F32,
    /// Rounded to IEEE half precision; as they are where one is too large.
    F16,
}

/// A factor, `[rows, cols]`.
pub struct Factor {
    rows: usize,
    cols: usize,
    values: Values,
}

/// `[groups of 16 rows][cols][16]`
enum Values {
    F32(Vec<PanelRow>),
    F16(Vec<[u16; GROUP]>),
}

impl Factor {
    /// Takes `weights[rows, cols]`.
    ///
    /// # Panics
    /// If the length is another.
    #[must_use]
    pub fn new(rows: usize, cols: usize, weights: &[f32], format: FactorFormat) -> Self {
        assert!(cols > 0 && weights.len() == rows * cols);
        let too_large = |value: &f32| usize::from(value.abs() > f16::MAX.to_f32());
        let fits = || weights.iter().map(too_large).sum::<usize>() == 0;
        let values = if format == FactorFormat::F16 && fits() {
            let mut halves = vec![f16::ZERO; weights.len()];
            halves.convert_from_f32_slice(weights);
            Values::F16(lay_out(rows, cols, &halves, [0; GROUP], |row, r, value| {
                row[r] = value.to_bits();
            }))
        } else {
            let zero = PanelRow([0.0; GROUP]);
            Values::F32(lay_out(rows, cols, weights, zero, |row, r, value| {
                row.0[r] = value;
            }))
        };
        Self { rows, cols, values }
    }

    /// Output features.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of memory.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        match &self.values {
            Values::F32(values) => size_of_val(values.as_slice()),
            Values::F16(values) => size_of_val(values.as_slice()),
        }
    }

    /// `y[n, columns] = x[n, cols] · Wᵀ` for some output columns, the first of
    /// them a multiple of 32, or `y += …`. Each row of `y` depends on its own
    /// row of `x` (and of `y`) alone, bit for bit.
    ///
    /// # Safety
    /// No other task uses those columns of `y`.
    pub(super) unsafe fn multiply_columns(
        &self,
        x: &[f32],
        n: usize,
        columns: Range<usize>,
        y: &SharedOutput<'_>,
        accumulate: bool,
    ) {
        assert!(x.len() == n * self.cols && y.width() == self.rows);
        assert!(columns.start.is_multiple_of(2 * GROUP) && columns.end <= self.rows);
        let x = Rows {
            x,
            n,
            stride: self.cols,
            offset: 0,
        };
        for column in columns.step_by(2 * GROUP) {
            let first = column / GROUP * self.cols;
            let second = first + self.cols;
            match &self.values {
                Values::F32(values) => {
                    let panel = |at| values.get(at..at + self.cols);
                    let Some(panel_1) = panel(first) else { return };
                    // past the last panel nothing is computed
                    let panels = (panel_1, panel(second).unwrap_or(panel_1));
                    // SAFETY: by contract.
                    unsafe { gemm::panel_product(x, panels, y, column, accumulate) };
                }
                Values::F16(values) => with_panels(self.cols, |panel_1, panel_2| {
                    for (at, panel) in [(first, &mut *panel_1), (second, &mut *panel_2)] {
                        if let Some(values) = values.get(at..at + self.cols) {
                            widen(values, panel);
                        }
                    }
                    // SAFETY: by contract.
                    unsafe {
                        gemm::panel_product(x, (panel_1, panel_2), y, column, accumulate);
                    }
                }),
            }
        }
    }
}

fn lay_out<T: Copy, R: Copy>(
    rows: usize,
    cols: usize,
    weights: &[T],
    zero: R,
    set: impl Fn(&mut R, usize, T),
) -> Vec<R> {
    let mut panels = vec![zero; rows.div_ceil(GROUP) * cols];
    let groups = weights.chunks(GROUP * cols);
    for (panel, group) in panels.chunks_exact_mut(cols).zip(groups) {
        let mut lines: [&[T]; GROUP] = [&[]; GROUP];
        for (line, weights) in lines.iter_mut().zip(group.chunks_exact(cols)) {
            *line = weights;
        }
        // column by column, so that what is written lies together
        for (column, out) in panel.iter_mut().enumerate() {
            for (row, line) in lines.iter().enumerate() {
                if let Some(weight) = line.get(column) {
                    set(out, row, *weight);
                }
            }
        }
    }
    panels
}

fn widen(values: &[[u16; GROUP]], panel: &mut [PanelRow]) {
    for (values, row) in values.iter().zip(panel) {
        values
            .as_slice()
            .reinterpret_cast::<f16>()
            .convert_to_f32_slice(&mut row.0);
    }
}
