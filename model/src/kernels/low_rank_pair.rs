//! The factors of a module that an adapter changes, and how each of them is kept.
//!
//! Knows which layout a factor has, not what is computed with it.

use super::factor::{DoesNotFit, Factor, FactorFormat};
use super::factor_packed::Packed;
use super::factor_units::Units;
use super::memory::Arena;

/// Factors of a module: A `[rank, in]`, B `[out, rank]`.
pub struct LowRankPair {
    /// What the product is multiplied with.
    pub(super) scale: f32,
    /// `[rank, in]`
    pub(super) a: Factor<Packed>,
    /// `[out, rank]`
    pub(super) b: Factor<Units>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::factor::Codes;
    use crate::test_noise::noise;

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
}
