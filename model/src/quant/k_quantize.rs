//! Rounding weights to Q4_K.
//!
//! Each 32 weights get the scale and minimum, out of some candidates, with the
//! least squared error; then these are rounded to six bits of the largest.

use half::f16;

use super::blocks::BLOCK;
use super::k_blocks::SUPER_BLOCK;

/// The highest code.
const CODE_MAX: f32 = 15.0;
/// The highest scale and minimum of a slice.
const STEP_MAX: f32 = 63.0;
/// Scales that are tried, as the code that the highest weight gets.
const CANDIDATES: [f32; 9] = [15.0, 14.0, 14.4, 14.8, 15.2, 15.6, 16.0, 16.4, 17.0];

/// A slice of 32 weights is about `scale · code − min`, with `min` at least 0.
#[derive(Clone, Copy, Default)]
struct Fit {
    scale: f32,
    min: f32,
}

/// Appends the super-blocks of `weights`.
pub(super) fn q4(weights: &[f32], out: &mut Vec<u8>) {
    for block in weights.as_chunks::<SUPER_BLOCK>().0 {
        let slices = block.as_chunks::<BLOCK>().0;
        let mut fits = [Fit::default(); SUPER_BLOCK / BLOCK];
        for (fit, slice) in fits.iter_mut().zip(slices) {
            *fit = best_fit(slice);
        }
        let (scale, scales) = six_bits(fits.map(|fit| fit.scale));
        let (min, mins) = six_bits(fits.map(|fit| fit.min));
        out.extend(scale.to_le_bytes());
        out.extend(min.to_le_bytes());
        out.extend(packed(scales, mins));
        for (pair, slices) in slices.as_chunks::<2>().0.iter().enumerate() {
            let code = |i: usize, weight: f32| {
                let fit = Fit {
                    scale: scale.to_f32() * f32::from(scales[2 * pair + i]),
                    min: min.to_f32() * f32::from(mins[2 * pair + i]),
                };
                fit.code(weight)
            };
            let bytes = slices[0].iter().zip(&slices[1]);
            out.extend(bytes.map(|(low, high)| code(0, *low) | code(1, *high) << 4));
        }
    }
}

impl Fit {
    fn code(self, weight: f32) -> u8 {
        if self.scale <= 0.0 {
            return 0;
        }
        let code = ((weight + self.min) / self.scale).round();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to 15"
        )]
        let code = code.clamp(0.0, CODE_MAX) as u8;
        code
    }

    fn squared_error(self, weights: &[f32; BLOCK]) -> f32 {
        let errors = weights.iter().map(|weight| {
            let error = self.scale * f32::from(self.code(*weight)) - self.min - weight;
            error * error
        });
        errors.sum()
    }

    /// The least squares scale and minimum for the codes that this gives.
    fn refined(self, weights: &[f32; BLOCK]) -> Self {
        let (mut codes, mut squares, mut sum, mut products) = (0.0, 0.0, 0.0, 0.0);
        for weight in weights {
            let code = f32::from(self.code(*weight));
            codes += code;
            squares += code * code;
            sum += weight;
            products += code * weight;
        }
        #[expect(clippy::cast_precision_loss, reason = "32")]
        let n = BLOCK as f32;
        let determinant = n * squares - codes * codes;
        if determinant <= 0.0 {
            return self;
        }
        let scale = (n * products - codes * sum) / determinant;
        let min = (codes * products - squares * sum) / determinant;
        if min >= 0.0 {
            return Self { scale, min };
        }
        // no constant may be added: the best scale alone
        Self {
            scale: products / squares,
            min: 0.0,
        }
    }
}

fn best_fit(weights: &[f32; BLOCK]) -> Fit {
    let low = weights.iter().copied().fold(0.0, f32::min);
    let high = weights.iter().copied().fold(low, f32::max);
    let mut best = (f32::INFINITY, Fit::default());
    for levels in CANDIDATES {
        let first = Fit {
            scale: (high - low) / levels,
            min: -low,
        };
        for fit in [first, first.refined(weights)] {
            let error = fit.squared_error(weights);
            if error < best.0 && fit.scale >= 0.0 {
                best = (error, fit);
            }
        }
    }
    best.1
}

/// Numbers as six-bit multiples of one step.
fn six_bits<const N: usize>(values: [f32; N]) -> (f16, [u8; N]) {
    let largest = values.iter().copied().fold(0.0, f32::max);
    let step = f16::from_f32(largest / STEP_MAX);
    let inverse = if step == f16::ZERO {
        0.0
    } else {
        1.0 / step.to_f32()
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 63"
    )]
    let multiple = |value: f32| (value * inverse).round().clamp(0.0, STEP_MAX) as u8;
    (step, values.map(multiple))
}

/// The twelve bytes that hold eight scales and minima of six bits.
fn packed(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for i in 0..4 {
        bytes[i] = scales[i] | scales[i + 4] >> 4 << 6;
        bytes[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        bytes[i + 8] = scales[i + 4] & 0x0f | (mins[i + 4] & 0x0f) << 4;
    }
    bytes
}
