//! Factors in 8 bits that are multiplied with few values, each of them in 16 bits: the
//! B of a module, whose inputs are as many as its rank.

use std::ops::Range;

use super::cpu::Level;
use super::factor::Codes;
use super::math::largest_bits;
use super::memory::{Arena, Plain, Slice};
use super::multiversion::multiversion;
use super::parallel::SharedOutput;
use super::wide::{self, WideRows, scales_of, words_of};
use crate::quant::{BLOCK, GROUP};

/// A factor `[rows, cols]` in groups of 16 rows: for each block of 32 columns a unit of
/// scales and one for each pair of columns.
pub(super) struct Units {
    rows: usize,
    cols: usize,
    /// `[groups][units of a group]`
    units: Slice<Unit>,
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

impl Codes for Units {
    fn takes(_: usize) -> bool {
        true
    }

    fn byte_len_of((rows, cols): (usize, usize)) -> usize {
        Arena::slice_bytes::<Unit>(rows.div_ceil(GROUP) * units_of(cols))
    }

    fn reserved((rows, cols): (usize, usize), arena: &mut Arena) -> Self {
        Self {
            rows,
            cols,
            units: arena.zeroed(rows.div_ceil(GROUP) * units_of(cols)),
        }
    }

    fn fill(&mut self, cols: usize, weights: &[f32]) -> bool {
        let groups = weights.chunks(GROUP * cols);
        let mut fits = true;
        for (units, weights) in self.units.chunks_mut(units_of(cols)).zip(groups) {
            fits &= lay_out_group(weights, cols, units);
        }
        fits
    }

    #[cfg(test)]
    fn byte_len(&self) -> usize {
        self.units.byte_len()
    }
}

impl Units {
    /// Those of some output columns, the first of them a multiple of 16.
    pub(super) fn of(&self, columns: &Range<usize>) -> &[Unit] {
        let of_group = units_of(self.cols);
        let groups = columns.start / GROUP..columns.end.div_ceil(GROUP);
        self.units
            .get(groups.start * of_group..groups.end * of_group)
            .unwrap_or_default()
    }

    /// `y[n, columns] += x[n, cols] · Wᵀ` for some output columns, the first of them a
    /// multiple of 16. Each row of `y` depends on its own row of `x` (and of `y`) alone,
    /// bit for bit.
    ///
    /// # Safety
    /// No other task uses those columns of `y`.
    pub(super) unsafe fn add_columns(
        &self,
        x: WideRows<'_>,
        columns: Range<usize>,
        y: &SharedOutput<'_>,
    ) {
        assert!(columns.start.is_multiple_of(GROUP) && columns.end <= self.rows);
        assert!(y.width() == self.rows);
        let level = Level::detect();
        let units = self.of(&columns);
        if columns.len().is_multiple_of(GROUP) && x.n == 1 && self.cols <= BLOCK {
            // SAFETY: by contract.
            let y = unsafe { y.part(0, columns.start, columns.len()) };
            return wide::add_to_row(level, units, x, y);
        }
        let groups = units.chunks_exact(units_of(self.cols));
        for (column, units) in columns.step_by(GROUP).zip(groups) {
            wide::multiply_group(level, units, self.cols, x, |row, found| {
                // SAFETY: by contract.
                let y = unsafe { y.part(row, column, GROUP) };
                match <&mut [f32; GROUP]>::try_from(&mut *y) {
                    Ok(y) => y.iter_mut().zip(found).for_each(|(y, v)| *y += v),
                    Err(_) => y.iter_mut().zip(found).for_each(|(y, v)| *y += v),
                }
            });
        }
    }

    /// All of them.
    #[cfg(test)]
    pub(super) fn all(&self) -> &[Unit] {
        &self.units
    }
}

/// Units of a group of 16 rows.
fn units_of(cols: usize) -> usize {
    scales_of(cols) + words_of(cols)
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
            wide::codes_of(&weights, step, codes.as_flattened_mut());
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

/// The step of a block's codes, of the bits of its largest magnitude: what 127 of
/// them reach that with, rounded up to the upper half of an f32. Zero where its
/// inverse would overflow.
#[inline(always)]
fn step_of(largest: u32) -> f32 {
    let largest = f32::from_bits(largest);
    let step = f32::from_bits((largest / 127.0).to_bits().saturating_add(0xffff) & 0xffff_0000);
    if step < f32::MIN_POSITIVE { 0.0 } else { step }
}
