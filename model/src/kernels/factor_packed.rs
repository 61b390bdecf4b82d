//! Factors in 8 bits that are multiplied with the same activations, in 8 bits too, as
//! the matrix that they adapt: the A of a module. So they are laid out as such matrices
//! are, and multiplied by the same kernels.
//!
//! A matrix's scales are in half precision, which reaches less far than a factor's do.
//! Its weights are therefore kept in a unit of its own, the power of two below the
//! largest of them: an error is at most half of 1/127 of a block's largest and 2⁻²⁴ units
//! together. So what is a hundred thousand times smaller than a factor's largest value is
//! kept coarsely.

use std::ops::Range;

use super::activations::Activations;
use super::ahead::Ahead;
use super::cpu::Level;
use super::factor::Codes;
use super::int8::matmul_group;
use super::math::largest_bits;
use super::memory::{Arena, Span};
use super::multiversion::multiversion;
use super::parallel::SharedOutput;
use super::wide;
use crate::quant::{BLOCK, Format, GROUP, Line, PackedMatrix};

/// The format that its matrix is like: bytes whose zero is 128, and a scale.
const FORMAT: Format = Format::Q8_0;
/// Lines of a block's codes.
const LINES: usize = BLOCK / 4;
/// Flips a signed code into one of a matrix, whose zero is 128.
const SIGN: u8 = 0x80;

/// A factor `[rows, cols]`, of whole blocks of columns.
pub(super) struct Packed {
    matrix: PackedMatrix,
    /// What its values are multiples of.
    unit: f32,
}

impl Codes for Packed {
    fn takes(cols: usize) -> bool {
        cols.is_multiple_of(BLOCK)
    }

    fn byte_len_of(shape: (usize, usize)) -> usize {
        PackedMatrix::byte_len_of(FORMAT, shape)
    }

    fn reserved(shape: (usize, usize), arena: &mut Arena) -> Self {
        Self {
            matrix: PackedMatrix::reserved(FORMAT, shape, arena),
            unit: 1.0,
        }
    }

    fn fill(&mut self, cols: usize, weights: &[f32]) -> bool {
        let largest = largest_bits(weights);
        self.unit = unit_of(largest);
        let PackedMatrix {
            codes,
            scales,
            blocks,
            ..
        } = &mut self.matrix;
        let groups = codes
            .chunks_mut(*blocks * LINES)
            .zip(scales.chunks_mut(*blocks * GROUP));
        for ((lines, scales), weights) in groups.zip(weights.chunks(GROUP * cols)) {
            lay_out_group(weights, cols, 1.0 / self.unit, lines, scales);
        }
        largest < f32::INFINITY.to_bits()
    }

    #[cfg(test)]
    fn byte_len(&self) -> usize {
        self.matrix.byte_len()
    }
}

impl Packed {
    /// What [`Packed::multiply`]'s results are to be multiplied with.
    pub(super) fn unit(&self) -> f32 {
        self.unit
    }

    /// Where it lies; without the scales where they do not come after the codes.
    pub(super) fn span(&self) -> Span {
        let codes = Span::of::<Line>(&self.matrix.codes);
        codes.with_next(Span::of::<u16>(&self.matrix.scales))
    }

    /// `y[rows, _] = x[rows, cols] · Wᵀ` in its unit, for some rows of the activations.
    ///
    /// # Safety
    /// No other task uses those rows of `y`, of which the first is the first's.
    pub(super) unsafe fn multiply(
        &self,
        x: &Activations,
        rows: Range<usize>,
        y: &SharedOutput<'_>,
    ) {
        let level = Level::detect();
        let mut ahead = Ahead::in_factor();
        for group in 0..self.matrix.groups {
            let x = (x, rows.clone());
            // SAFETY: by contract; the level was detected.
            unsafe { matmul_group(level, &self.matrix, group, x, &mut ahead, y) };
        }
    }
}

/// The power of two next below the largest magnitude, of its bits.
fn unit_of(largest: u32) -> f32 {
    const EXPONENT: u32 = 0x7f80_0000;
    match f32::from_bits(largest & EXPONENT) {
        unit if unit.is_normal() => unit,
        _ => 1.0,
    }
}

multiversion! {
    /// Lays out up to 16 rows of finite weights, which `inverse` brings below two.
    fn lay_out_group(
        weights: &[f32], cols: usize, inverse: f32, lines: &mut [Line], scales: &mut [u16],
    ) = lay_out_group_body;
}

#[inline(always)]
fn lay_out_group_body(
    weights: &[f32],
    cols: usize,
    inverse: f32,
    lines: &mut [Line],
    scales: &mut [u16],
) {
    let blocks = lines.as_chunks_mut::<LINES>().0.iter_mut();
    let blocks = blocks.zip(scales.as_chunks_mut::<GROUP>().0);
    for (b, (lines, scales)) in blocks.enumerate() {
        // of each row, its codes in fours
        let mut codes = [[[0; 4]; LINES]; GROUP];
        *scales = [0; GROUP];
        let rows = weights.chunks_exact(cols);
        for ((row, scale), codes) in rows.zip(scales).zip(&mut codes) {
            let mut scaled = [0.0; BLOCK];
            for (scaled, weight) in scaled.iter_mut().zip(&row[b * BLOCK..]) {
                *scaled = weight * inverse;
            }
            let (bits, step) = half_from(f32::from_bits(largest_bits(&scaled)) / 127.0);
            *scale = bits;
            wide::codes_of(&scaled, step, codes.as_flattened_mut());
        }
        for (j, line) in lines.iter_mut().enumerate() {
            for (four, codes) in line.0.as_chunks_mut::<4>().0.iter_mut().zip(&codes) {
                *four = codes[j].map(|code| code ^ SIGN);
            }
        }
    }
}

/// The least number of half precision that is no smaller than one of `0.0..1.0`, and
/// the bits that it has there.
#[inline(always)]
fn half_from(value: f32) -> (u16, f32) {
    /// Bits of a mantissa that half precision does not have.
    const MORE: u32 = 0x1fff;
    /// How much less is added to an exponent there.
    const BIAS: u32 = (127 - 15) << 10;
    /// The smallest number that is not subnormal there, and the largest step of those.
    const NORMAL: f32 = 1.0 / 16_384.0;
    const STEP: f32 = NORMAL / 1024.0;
    if value >= NORMAL {
        let bits = (value.to_bits() + MORE) & !MORE;
        (((bits >> 13) - BIAS) as u16, f32::from_bits(bits))
    } else {
        let steps = (value / STEP).ceil();
        (steps as u16, steps * STEP)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::activations::Passes;
    use crate::kernels::factor::{Factor, FactorFormat};
    use crate::test_noise::noise;

    fn product(factor: &Packed, rows: usize, x: (&[f32], usize), passes: Passes) -> Vec<f32> {
        let (x, cols) = x;
        let n = x.len() / cols;
        let activations = Activations::quantize_rows(x, cols, passes);
        let mut y = vec![f32::NAN; n * rows];
        let out = SharedOutput::new(&mut y, rows);
        // SAFETY: there is no other task.
        unsafe { factor.multiply(&activations, 0..n, &out) };
        y.iter_mut().for_each(|y| *y *= factor.unit());
        y
    }

    fn packed(shape: (usize, usize), weights: &[f32]) -> Factor<Packed> {
        let arena = &mut Arena::with_capacity(0);
        Factor::new(shape, weights, FactorFormat::Int8, arena)
    }

    proptest! {
        #[test]
        fn a_half_is_the_next_one_up(value in 0.0f32..1.0) {
            for value in [value, value / 1e3, value / 1e5, value / 1e7] {
                let (bits, half) = half_from(value);
                prop_assert_eq!(f16::from_bits(bits).to_f32(), half);
                prop_assert!(half >= value);
                let before = bits.checked_sub(1).map(|bits| f16::from_bits(bits).to_f32());
                prop_assert!(before.is_none_or(|before| before < value));
            }
        }

        #[test]
        fn products_are_within_half_a_step(
            rows in 1usize..40, blocks in 1usize..5, n in 1usize..12, scale in -100i32..100, seed: u64,
        ) {
            let (cols, scale) = (blocks * BLOCK, 2f32.powi(scale));
            let weights: Vec<f32> = noise(seed, rows * cols).iter().map(|w| w * scale).collect();
            let x = noise(seed ^ 1, n * cols);
            let factor = packed((rows, cols), &weights);
            let found = product(factor.codes().unwrap(), rows, (&x, cols), Passes::Two);
            for (x, found) in x.chunks(cols).zip(found.chunks(rows)) {
                let magnitude: f64 = x.iter().map(|x| f64::from(x.abs())).sum();
                for (w, found) in weights.chunks(cols).zip(found) {
                    let products = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let error = (products.sum::<f64>() - f64::from(*found)).abs();
                    prop_assert!(error <= magnitude * f64::from(scale) / 126.0 / 2.0 * 1.02);
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_those_beside_it() {
        let (rows, cols) = (20, 96);
        let factor = packed((rows, cols), &noise(1, rows * cols));
        let x = noise(2, 11 * cols);
        for passes in [Passes::One, Passes::Two] {
            let factor = factor.codes().unwrap();
            let all = product(factor, rows, (&x, cols), passes);
            let activations = Activations::quantize((&x, 11, cols), passes);
            for (i, row) in x.chunks(cols).enumerate() {
                let alone = product(factor, rows, (row, cols), passes);
                assert_eq!(alone, all[i * rows..(i + 1) * rows]);
                let mut part = vec![f32::NAN; rows];
                let out = SharedOutput::new(&mut part, rows);
                // SAFETY: there is no other task.
                unsafe { factor.multiply(&activations, i..i + 1, &out) };
                part.iter_mut().for_each(|y| *y *= factor.unit());
                assert_eq!(part, alone);
            }
        }
    }

    #[test]
    fn values_of_all_sizes_are_within_half_a_step_or_unit() {
        let (rows, cols) = (17, 3 * BLOCK);
        let mut weights = noise(5, rows * cols);
        for (i, block) in weights.chunks_mut(BLOCK).enumerate() {
            let size = 2f32.powi(7 - i as i32);
            block.iter_mut().for_each(|weight| *weight *= size);
        }
        let factor = packed((rows, cols), &weights);
        for column in 0..cols {
            let mut x = vec![0.0; cols];
            x[column] = 1.0;
            let found = product(factor.codes().unwrap(), rows, (&x, cols), Passes::Two);
            for (row, found) in weights.chunks(cols).zip(found) {
                let first = column / BLOCK * BLOCK;
                let largest = row[first..first + BLOCK]
                    .iter()
                    .fold(0f32, |a, b| a.max(b.abs()));
                let step = largest / 127.0 + factor.codes().unwrap().unit() * 2f32.powi(-24);
                assert!((row[column] - found).abs() <= 0.51 * step, "{largest}");
            }
        }
    }

    #[test]
    fn zeros_and_what_is_hardly_more_are_zeros() {
        for value in [0.0, 1e-42] {
            let factor = packed((3, 32), &[value; 96]);
            let y = product(factor.codes().unwrap(), 3, (&[1.0; 32], 32), Passes::One);
            assert!(y.iter().all(|y| y.abs() < 1e-37), "{y:?}");
        }
    }

    #[test]
    fn what_is_no_whole_block_or_not_finite_is_not_kept_so() {
        assert!(packed((2, 40), &[1.0; 80]).codes().is_none());
        assert!(packed((1, 32), &[f32::NAN; 32]).codes().is_none());
        let arena = &mut Arena::with_capacity(0);
        let mut factor = Factor::<Packed>::reserved((1, 32), FactorFormat::Int8, arena);
        assert!(factor.fill(&[f32::INFINITY; 32]).is_err());
        assert!(factor.fill(&[1.0; 32]).is_ok());
    }
}
