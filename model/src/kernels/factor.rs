//! Small dense matrices in groups of 16 output columns: the factors of low-rank
//! adapters.
//!
//! Decoding reads every value of a factor for one row of activations, so what
//! counts is their size: they can be kept in half precision, widened a panel at
//! a time in the cache, or in 8 bits, multiplied as integers.

use std::ops::Range;

use half::f16;
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};

use super::cpu::Level;
use super::gemm::{self, Onto, PanelRow, Rows};
use super::math::largest_bits;
use super::memory::{Arena, Plain, Slice};
use super::multiversion::multiversion;
use super::panels::with_panels;
use super::parallel::SharedOutput;
use super::wide::{self, WideRows, scales_of, words_of};
use crate::quant::{BLOCK, GROUP};

/// How the values of a factor are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactorFormat {
    /// As they are.
    F32,
    /// Rounded to IEEE half precision; as they are where one is too large.
    F16,
    /// Rounded to 8 bits with a scale for each 32 inputs of an output.
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
}

/// A factor has a value that is too large for its format, or that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoesNotFit;

/// A factor, `[rows, cols]`.
pub struct Factor {
    rows: usize,
    cols: usize,
    values: Values,
}

/// In groups of 16 rows.
enum Values {
    /// `[groups][cols][16]`
    F32(Slice<PanelRow>),
    /// `[groups][cols][16]`
    F16(Slice<[u16; GROUP]>),
    /// `[groups]`, for each block of 32 columns a unit of scales and one for
    /// each pair of columns.
    Int8(Slice<Unit>),
}

/// 32 bytes: the scales of 16 rows, the upper halves of f32; or the codes of two
/// columns, those of a row side by side.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Unit(pub(super) [u8; 2 * GROUP]);

// SAFETY: bytes.
unsafe impl Plain for Unit {}

impl Unit {
    /// The scale of a row, in a unit of scales.
    pub(super) fn scale(&self, row: usize) -> f32 {
        let bits = u16::from_le_bytes([self.0[2 * row], self.0[2 * row + 1]]);
        f32::from_bits(u32::from(bits) << 16)
    }
}

/// Rows that a factor is multiplied with: as they are, and in 16 bits for those
/// that are kept in 8.
#[derive(Clone, Copy)]
pub(super) struct FactorInput<'a> {
    pub(super) x: &'a [f32],
    pub(super) wide: WideRows<'a>,
}

impl Factor {
    /// Takes `weights[rows, cols]`, into an arena.
    ///
    /// # Panics
    /// If the length is another.
    #[must_use]
    pub fn new(
        shape: (usize, usize),
        weights: &[f32],
        format: FactorFormat,
        arena: &mut Arena,
    ) -> Self {
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
    #[must_use]
    pub fn reserved((rows, cols): (usize, usize), format: FactorFormat, arena: &mut Arena) -> Self {
        assert!(cols > 0);
        let groups = rows.div_ceil(GROUP);
        let values = match format {
            FactorFormat::F32 => Values::F32(arena.zeroed(groups * cols)),
            FactorFormat::F16 => Values::F16(arena.zeroed(groups * cols)),
            FactorFormat::Int8 => Values::Int8(arena.zeroed(groups * units_of(cols))),
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
    pub fn fill(&mut self, weights: &[f32]) -> Result<(), DoesNotFit> {
        assert!(weights.len() == self.rows * self.cols);
        let groups = weights.chunks(GROUP * self.cols);
        match &mut self.values {
            Values::F32(panels) => {
                lay_out(self.cols, weights, panels, |row, r, value| row.0[r] = value);
                Ok(())
            }
            Values::F16(panels) => {
                let half = |value: f32| f16::from_f32(value).to_bits();
                lay_out(self.cols, weights, panels, |row, r, value| {
                    row[r] = half(value);
                });
                let fits = largest_bits(weights) <= FactorFormat::F16.largest().to_bits();
                fits.then_some(()).ok_or(DoesNotFit)
            }
            Values::Int8(units) => {
                let mut fits = true;
                for (units, weights) in units.chunks_mut(units_of(self.cols)).zip(groups) {
                    fits &= lay_out_group(weights, self.cols, units);
                }
                fits.then_some(()).ok_or(DoesNotFit)
            }
        }
    }

    /// Bytes of an arena that a factor takes.
    #[must_use]
    pub fn byte_len_of((rows, cols): (usize, usize), format: FactorFormat) -> usize {
        let groups = rows.div_ceil(GROUP);
        match format {
            FactorFormat::F32 => Arena::slice_bytes::<PanelRow>(groups * cols),
            FactorFormat::F16 => Arena::slice_bytes::<[u16; GROUP]>(groups * cols),
            FactorFormat::Int8 => Arena::slice_bytes::<Unit>(groups * units_of(cols)),
        }
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
            Values::F32(values) => values.byte_len(),
            Values::F16(values) => values.byte_len(),
            Values::Int8(units) => units.byte_len(),
        }
    }

    /// Whether products read [`FactorInput::wide`].
    pub(super) fn is_int8(&self) -> bool {
        matches!(self.values, Values::Int8(_))
    }

    /// The values of a factor that is kept in 8 bits.
    pub(super) fn units(&self) -> &[Unit] {
        match &self.values {
            Values::Int8(units) => units,
            _ => &[],
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
        input: FactorInput<'_>,
        columns: Range<usize>,
        y: &SharedOutput<'_>,
        accumulate: bool,
    ) {
        assert!(columns.start.is_multiple_of(2 * GROUP) && columns.end <= self.rows);
        assert!(y.width() == self.rows);
        if let Values::Int8(units) = &self.values {
            // SAFETY: by contract.
            return unsafe { self.multiply_int8(units, input.wide, columns, y, accumulate) };
        }
        let n = input.wide.n;
        assert!(input.x.len() == n * self.cols);
        let x = Rows {
            x: input.x,
            n,
            stride: self.cols,
            offset: 0,
        };
        let onto = match accumulate {
            true => Onto::Continues,
            false => Onto::Replaces,
        };
        for column in columns.step_by(2 * GROUP) {
            let first = column / GROUP * self.cols;
            self.with_two_panels(first, |panels| {
                // SAFETY: by contract.
                unsafe { gemm::panel_product(x, panels, y, column, onto) };
            });
        }
    }

    /// Those of some output columns, the first of them a multiple of 16.
    pub(super) fn units_of(&self, columns: &Range<usize>) -> &[Unit] {
        let of_group = units_of(self.cols);
        let groups = columns.start / GROUP..columns.end.div_ceil(GROUP);
        self.units()
            .get(groups.start * of_group..groups.end * of_group)
            .unwrap_or_default()
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

    /// # Safety
    /// As [`Factor::multiply_columns`].
    unsafe fn multiply_int8(
        &self,
        units: &[Unit],
        x: WideRows<'_>,
        columns: Range<usize>,
        y: &SharedOutput<'_>,
        accumulate: bool,
    ) {
        let level = Level::detect();
        let of_group = units_of(self.cols);
        if accumulate && columns.len().is_multiple_of(GROUP) && x.n == 1 && self.cols <= BLOCK {
            let units = &units[columns.start / GROUP * of_group..columns.end / GROUP * of_group];
            // SAFETY: by contract.
            let y = unsafe { y.part(0, columns.start, columns.len()) };
            return wide::add_to_row(level, units, x, y);
        }
        for column in columns.step_by(GROUP) {
            let units = &units[column / GROUP * of_group..][..of_group];
            wide::multiply_group(level, units, self.cols, x, |row, found| {
                // SAFETY: by contract.
                let y = unsafe { y.part(row, column, GROUP) };
                match <&mut [f32; GROUP]>::try_from(&mut *y) {
                    Ok(y) if accumulate => y.iter_mut().zip(found).for_each(|(y, v)| *y += v),
                    Ok(y) => *y = *found,
                    Err(_) if accumulate => y.iter_mut().zip(found).for_each(|(y, v)| *y += v),
                    Err(_) => y.copy_from_slice(&found[..y.len()]),
                }
            });
        }
    }
}

/// Units of a group of 16 rows.
fn units_of(cols: usize) -> usize {
    scales_of(cols) + words_of(cols)
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

multiversion! {
    /// Lays out up to 16 rows in 8 bits; whether all are finite.
    fn lay_out_group(weights: &[f32], cols: usize, units: &mut [Unit]) -> bool
        = lay_out_group_body;
}

#[inline(always)]
fn lay_out_group_body(weights: &[f32], cols: usize, mut units: &mut [Unit]) -> bool {
    let mut largest = 0;
    for first in (0..cols).step_by(BLOCK) {
        let len = BLOCK.min(cols - first);
        let (block, after) = units.split_at_mut(1 + words_of(len));
        units = after;
        // of each row: its scale, and its codes in pairs
        let mut scales = [[0; 2]; GROUP];
        let mut codes = [[[0; 2]; BLOCK / 2]; GROUP];
        let rows = weights.chunks_exact(cols);
        for ((row, scale), codes) in rows.zip(&mut scales).zip(&mut codes) {
            let mut weights = [0.0; BLOCK];
            match <&[f32; BLOCK]>::try_from(&row[first..first + len]) {
                Ok(whole) => weights = *whole,
                Err(_) => weights[..len].copy_from_slice(&row[first..first + len]),
            }
            let bits = largest_bits(&weights);
            largest = largest.max(bits);
            let step = step_of(bits);
            *scale = ((step.to_bits() >> 16) as u16).to_le_bytes();
            codes_of(&weights, step, codes.as_flattened_mut());
        }
        if let Some((of_scales, of_codes)) = block.split_first_mut() {
            of_scales.0.as_chunks_mut().0.copy_from_slice(&scales);
            for (p, unit) in of_codes.iter_mut().enumerate() {
                for (pair, codes) in unit.0.as_chunks_mut().0.iter_mut().zip(&codes) {
                    *pair = codes[p];
                }
            }
        }
    }
    largest < f32::INFINITY.to_bits()
}

/// The codes of a block with that step, as bytes.
#[inline(always)]
fn codes_of(weights: &[f32; BLOCK], step: f32, codes: &mut [u8]) {
    /// Adding it leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    // in a loop: `map` is a call that does not have this function's instructions
    for (code, weight) in codes.iter_mut().zip(weights) {
        *code = ((weight * inverse).clamp(-127.0, 127.0) + ROUND).to_bits() as u8;
    }
}

/// The step of a block's codes, of the bits of its largest magnitude: what 127 of
/// them reach that with, rounded up to the upper half of an f32. Zero where its
/// inverse would overflow.
#[inline(always)]
fn step_of(largest: u32) -> f32 {
    let largest = f32::from_bits(largest);
    let step = f32::from_bits((largest / 127.0).to_bits().saturating_add(0xffff) & 0xffff_0000);
    if step < f32::MIN_POSITIVE { 0.0 } else { step }
}

fn widen(values: &[[u16; GROUP]], panel: &mut [PanelRow]) {
    for (values, row) in values.iter().zip(panel) {
        values
            .as_slice()
            .reinterpret_cast::<f16>()
            .convert_to_f32_slice(&mut row.0);
    }
}
