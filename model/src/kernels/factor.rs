//! Small dense matrices in groups of 16 output columns: the factors of low-rank
//! adapters.
//!
//! Decoding reads every value of a factor for one row of activations, so what
//! counts is their size: they can be kept in half precision, widened a panel at
//! a time in the cache, or in 8 bits, multiplied as integers. How 8 bits are laid out
//! depends on what a factor is multiplied with, and is [`Codes`]' matter.

use std::ops::Range;

use half::f16;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};

use super::gemm::{self, Onto, PanelRow, Rows};
use super::math::largest_bits;
use super::memory::{Arena, Slice};
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
    /// Rounded to 8 bits with a scale for each 32 inputs of an output. Where the inputs
    /// are no multiple of what the layout takes together, [`FactorFormat::F16`].
    Int8,
}

impl FactorFormat {
    /// The largest magnitude that it has; of those of f32, what is not a number is the
    /// largest.
    fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::from_bits(0x7fff_ffff),
            Self::F16 => f16::MAX.to_f32(),
            Self::Int8 => f32::MAX,
        }
    }

    /// What it is for a factor of so many columns.
    fn of<C: Codes>(self, cols: usize) -> Self {
        match self {
            Self::Int8 if !C::takes(cols) => Self::F16,
            format => format,
        }
    }
}

/// A factor has a value that is too large for its format, or that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoesNotFit;

/// A layout of factors in 8 bits.
pub(super) trait Codes: Sized {
    /// Whether it is one for factors of so many columns.
    fn takes(cols: usize) -> bool;
    /// Bytes of an arena that a factor `[rows, cols]` takes.
    fn byte_len_of(shape: (usize, usize)) -> usize;
    /// A factor of zeros.
    fn reserved(shape: (usize, usize), arena: &mut Arena) -> Self;
    /// Lays out `weights[_, cols]`; whether all are finite.
    fn fill(&mut self, cols: usize, weights: &[f32]) -> bool;
    /// Bytes of memory.
    #[cfg(test)]
    fn byte_len(&self) -> usize;
}

/// A factor, `[rows, cols]`.
pub(super) struct Factor<C> {
    rows: usize,
    cols: usize,
    values: Values<C>,
}

/// In groups of 16 rows.
enum Values<C> {
    /// `[groups][cols][16]`
    F32(Slice<PanelRow>),
    /// `[groups][cols][16]`
    F16(Slice<[u16; GROUP]>),
    Int8(C),
}

impl<C: Codes> Factor<C> {
    /// Takes `weights[rows, cols]`, into an arena; where they do not fit the format, as
    /// they are.
    ///
    /// # Panics
    /// If the length is another.
    pub(super) fn new(
        shape: (usize, usize),
        weights: &[f32],
        format: FactorFormat,
        arena: &mut Arena,
    ) -> Self {
        let format = format.of::<C>(shape.1);
        let format = match largest_bits(weights) <= format.largest().to_bits() {
            true => format,
            false => FactorFormat::F32,
        };
        let mut factor = Self::reserved(shape, format, arena);
        // they fit
        let _ = factor.fill(weights);
        factor
    }

    /// Zeros, and the place in an arena for what [`Self::fill`] is given later.
    ///
    /// # Panics
    /// If there are no columns.
    pub(super) fn reserved(
        (rows, cols): (usize, usize),
        format: FactorFormat,
        arena: &mut Arena,
    ) -> Self {
        assert!(cols > 0);
        let groups = rows.div_ceil(GROUP);
        let values = match format.of::<C>(cols) {
            FactorFormat::F32 => Values::F32(arena.zeroed(groups * cols)),
            FactorFormat::F16 => Values::F16(arena.zeroed(groups * cols)),
            FactorFormat::Int8 => Values::Int8(C::reserved((rows, cols), arena)),
        };
        Self { rows, cols, values }
    }

    /// Lays out `weights[rows, cols]` in the place that was reserved for them.
    ///
    /// # Errors
    /// [`DoesNotFit`]; what the factor is then, is not specified.
    ///
    /// # Panics
    /// If the length is another.
    pub(super) fn fill(&mut self, weights: &[f32]) -> Result<(), DoesNotFit> {
        assert!(weights.len() == self.rows * self.cols);
        let fits = match &mut self.values {
            Values::F32(panels) => {
                lay_out(self.cols, weights, panels, |row, r, value| row.0[r] = value);
                true
            }
            Values::F16(panels) => {
                let half = |value: f32| f16::from_f32(value).to_bits();
                lay_out(self.cols, weights, panels, |row, r, value| {
                    row[r] = half(value);
                });
                largest_bits(weights) <= FactorFormat::F16.largest().to_bits()
            }
            Values::Int8(codes) => codes.fill(self.cols, weights),
        };
        fits.then_some(()).ok_or(DoesNotFit)
    }

    /// Bytes of an arena that a factor takes.
    pub(super) fn byte_len_of((rows, cols): (usize, usize), format: FactorFormat) -> usize {
        let groups = rows.div_ceil(GROUP);
        match format.of::<C>(cols) {
            FactorFormat::F32 => Arena::slice_bytes::<PanelRow>(groups * cols),
            FactorFormat::F16 => Arena::slice_bytes::<[u16; GROUP]>(groups * cols),
            FactorFormat::Int8 => C::byte_len_of((rows, cols)),
        }
    }

    /// Output features.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of memory.
    #[cfg(test)]
    pub(super) fn byte_len(&self) -> usize {
        match &self.values {
            Values::F32(values) => values.byte_len(),
            Values::F16(values) => values.byte_len(),
            Values::Int8(codes) => codes.byte_len(),
        }
    }

    /// The values of a factor that is kept in 8 bits.
    pub(super) fn codes(&self) -> Option<&C> {
        match &self.values {
            Values::Int8(codes) => Some(codes),
            _ => None,
        }
    }

    /// `y[n, columns] = x[n, cols] · Wᵀ`, or `y += …`, of a factor that is not kept in
    /// 8 bits, for some output columns, the first of them a multiple of 32. Each row of
    /// `y` depends on its own row of `x` (and of `y`) alone, bit for bit.
    ///
    /// # Safety
    /// No other task uses those columns of `y`, in as many rows as `x` has.
    pub(super) unsafe fn multiply_floats(
        &self,
        x: &[f32],
        columns: Range<usize>,
        y: &SharedOutput<'_>,
        onto: Onto,
    ) {
        assert!(columns.start.is_multiple_of(2 * GROUP) && columns.end <= self.rows);
        assert!(y.width() == self.rows && x.len().is_multiple_of(self.cols));
        let x = Rows {
            x,
            n: x.len() / self.cols,
            stride: self.cols,
            offset: 0,
        };
        for column in columns.step_by(2 * GROUP) {
            let first = column / GROUP * self.cols;
            self.with_two_panels(first, |panels| {
                // SAFETY: by contract.
                unsafe { gemm::panel_product(x, panels, y, column, onto) };
            });
        }
    }

    /// Calls `f` with the panels from row `first` of the values on. Past the last
    /// panel nothing is computed, so what the second is does not matter there.
    fn with_two_panels(&self, first: usize, f: impl FnOnce((&[PanelRow], &[PanelRow]))) {
        let second = first + self.cols;
        match &self.values {
            Values::F32(values) => {
                let panel = |at| values.get(at..at + self.cols);
                if let Some(panel_1) = panel(first) {
                    f((panel_1, panel(second).unwrap_or(panel_1)));
                }
            }
            Values::F16(values) => with_panels(self.cols, |panel_1, panel_2| {
                for (at, panel) in [(first, &mut *panel_1), (second, &mut *panel_2)] {
                    if let Some(values) = values.get(at..at + self.cols) {
                        widen(values, panel);
                    }
                }
                f((panel_1, panel_2));
            }),
            Values::Int8(_) => {}
        }
    }
}

/// Writes weights to panels of 16 rows.
fn lay_out<R>(cols: usize, weights: &[f32], panels: &mut [R], set: impl Fn(&mut R, usize, f32)) {
    for (row, weights) in weights.chunks_exact(cols).enumerate() {
        let panel = &mut panels[row / GROUP * cols..][..cols];
        for (out, weight) in panel.iter_mut().zip(weights) {
            set(out, row % GROUP, *weight);
        }
    }
}

fn widen(values: &[[u16; GROUP]], panel: &mut [PanelRow]) {
    for (values, row) in values.iter().zip(panel) {
        values
            .as_slice()
            .reinterpret_cast::<f16>()
            .convert_to_f32_slice(&mut row.0);
    }
}
