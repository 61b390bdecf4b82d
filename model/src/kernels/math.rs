//! Element-wise functions over rows, vectorized, with fixed orders of sums.

use super::multiversion::multiversion;
use crate::quant::GROUP;

/// e^x by range reduction and a polynomial; within 2 units of the last place.
/// Not a number stays so.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding it leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_HIGH, x);
    let r = n.mul_add(-LN2_LOW, r);
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let value = (r * r).mul_add(p, r) + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    value * f32::from_bits((exponent.wrapping_add(127) as u32) << 23)
}

/// Adds the 16 lanes of a sum pairwise.
#[inline(always)]
fn add_lanes(mut lanes: [f32; GROUP]) -> f32 {
    let mut width = GROUP / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

multiversion! {
    /// `out = x / rms(x) · weight`, row by row; a row is as long as `weight`.
    pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) = rms_norm_body;
}

#[inline(always)]
fn rms_norm_body(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let len = weight.len();
    for (x, out) in x.chunks_exact(len).zip(out.chunks_exact_mut(len)) {
        let mut lanes = [0.0f32; GROUP];
        let (chunks, tail) = x.as_chunks::<GROUP>();
        for chunk in chunks {
            for (lane, v) in lanes.iter_mut().zip(chunk) {
                *lane = v.mul_add(*v, *lane);
            }
        }
        for (lane, v) in lanes.iter_mut().zip(tail) {
            *lane = v.mul_add(*v, *lane);
        }
        let scale = 1.0 / (add_lanes(lanes) / len as f32 + epsilon).sqrt();
        for ((out, v), w) in out.iter_mut().zip(x).zip(weight) {
            *out = v * scale * w;
        }
    }
}

multiversion! {
    /// `gate ← silu(gate) · up`
    pub fn silu_mul(gate: &mut [f32], up: &[f32]) = silu_mul_body;
}

#[inline(always)]
fn silu_mul_body(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

multiversion! {
    /// `gate ← gelu(gate) · up`, with the approximation of GELU that uses tanh.
    pub fn gelu_mul(gate: &mut [f32], up: &[f32]) = gelu_mul_body;
}

#[inline(always)]
fn gelu_mul_body(gate: &mut [f32], up: &[f32]) {
    const SQRT_8_BY_PI: f32 = 1.595_769;
    for (g, u) in gate.iter_mut().zip(up) {
        // (1 + tanh z) / 2 is the sigmoid of 2z
        let double = SQRT_8_BY_PI * (*g + 0.044_715 * *g * *g * *g);
        *g = *g / (1.0 + exp(-double)) * u;
    }
}

multiversion! {
    /// `x ← x + y`
    pub fn add(x: &mut [f32], y: &[f32]) = add_body;
}

#[inline(always)]
fn add_body(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

multiversion! {
    /// Whether no value is infinite or not a number.
    pub(crate) fn all_finite(values: &[f32]) -> bool = all_finite_body;
}

#[inline(always)]
fn all_finite_body(values: &[f32]) -> bool {
    largest_bits(values) < f32::INFINITY.to_bits()
}

/// The bits of the largest magnitude: of numbers without a sign, the larger one has
/// the larger bits, and those of what is not finite are larger than any number's.
#[inline(always)]
pub(super) fn largest_bits(values: &[f32]) -> u32 {
    let bits = values.iter().map(|value| value.to_bits() & 0x7fff_ffff);
    bits.fold(0, u32::max)
}

multiversion! {
    /// Makes scores probabilities.
    pub fn softmax(scores: &mut [f32]) = softmax_body;
}

#[inline(always)]
fn softmax_body(scores: &mut [f32]) {
    let max = maximum(scores);
    let mut lanes = [0.0f32; GROUP];
    let (chunks, tail) = scores.as_chunks_mut::<GROUP>();
    for chunk in chunks {
        for (lane, s) in lanes.iter_mut().zip(chunk) {
            *s = exp(*s - max);
            *lane += *s;
        }
    }
    for (lane, s) in lanes.iter_mut().zip(tail) {
        *s = exp(*s - max);
        *lane += *s;
    }
    let inverse = 1.0 / add_lanes(lanes);
    for s in scores {
        *s *= inverse;
    }
}

#[inline(always)]
fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; GROUP];
    let (chunks, tail) = values.as_chunks::<GROUP>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    let lanes = lanes.iter().chain(tail);
    lanes.fold(f32::NEG_INFINITY, |max, v| if *v > max { *v } else { max })
}

multiversion! {
    /// The natural logarithm of the sum of exponentials, and the maximum; not a
    /// number where a value is not finite.
    pub fn log_sum_exp(values: &[f32]) -> f32 = log_sum_exp_body;
}

#[inline(always)]
fn log_sum_exp_body(values: &[f32]) -> f32 {
    let max = maximum(values);
    let mut lanes = [0.0f32; GROUP];
    let (chunks, tail) = values.as_chunks::<GROUP>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += exp(*v - max);
        }
    }
    for (lane, v) in lanes.iter_mut().zip(tail) {
        *lane += exp(*v - max);
    }
    max + add_lanes(lanes).ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_noise::noise;

    proptest! {
        /// What was compiled for this CPU's level against the portable code.
        #[test]
        fn this_cpu_gives_the_bits_of_portable_code(len in 1usize..70, scale in 1f32..30.0, seed: u64) {
            let values = |salt: u64| -> Vec<f32> {
                noise(seed ^ salt, len).iter().map(|v| v * scale).collect()
            };
            let (x, y) = (values(0), values(1));
            let both = |there: fn(&mut [f32], &[f32]), here: fn(&mut [f32], &[f32])| {
                let (mut found, mut expected) = (x.clone(), x.clone());
                there(&mut found, &y);
                here(&mut expected, &y);
                (found, expected)
            };
            let pairs = [
                both(silu_mul, silu_mul_body),
                both(gelu_mul, gelu_mul_body),
                both(add, add_body),
                both(|x, _| softmax(x), |x, _| softmax_body(x)),
                both(|x, y| x[0] = log_sum_exp(y), |x, y| x[0] = log_sum_exp_body(y)),
                both(
                    |x, y| rms_norm(y, y, 1e-5, x),
                    |x, y| rms_norm_body(y, y, 1e-5, x),
                ),
            ];
            for (found, expected) in pairs {
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
        }
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_order() {
        for len in [1, 5, 16, 37] {
            let mut scores: Vec<f32> = (0..len).map(|i| (i % 7) as f32 * 3.0 - 4.0).collect();
            let before = scores.clone();
            softmax(&mut scores);
            assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            for i in 1..len {
                assert_eq!(before[i] > before[i - 1], scores[i] > scores[i - 1]);
            }
        }
    }

    #[test]
    fn a_norm_gives_unit_rows() {
        let x: Vec<f32> = (0..37).map(|i| i as f32 - 10.0).collect();
        let mut out = vec![0.0; 37];
        rms_norm(&x, &[1.0; 37], 0.0, &mut out);
        assert!((out.iter().map(|v| v * v).sum::<f32>() / 37.0 - 1.0).abs() < 1e-5);
    }

    #[test]
    fn gelu_matches_its_definition() {
        let values = [-30.0f32, -1.0, -0.1, 0.0, 0.5, 2.0, 40.0];
        let mut gate = values.to_vec();
        gelu_mul(&mut gate, &[2.0; 7]);
        for (found, x) in gate.iter().zip(values.map(f64::from)) {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            assert!((f64::from(*found) - x * (1.0 + inner.tanh())).abs() < 1e-5);
        }
    }

    #[test]
    fn silu_and_log_sum_exp_match_their_definitions() {
        let mut gate = vec![-30.0, -1.0, 0.0, 2.0, 40.0];
        silu_mul(&mut gate, &[2.0; 5]);
        for (found, x) in gate.iter().zip([-30.0f64, -1.0, 0.0, 2.0, 40.0]) {
            assert!((f64::from(*found) - 2.0 * x / (1.0 + (-x).exp())).abs() < 1e-5);
        }
        let values: Vec<f32> = (0..50).map(|i| (i * 37 % 11) as f32).collect();
        let exact = values.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln();
        assert!((f64::from(log_sum_exp(&values)) - exact).abs() < 1e-5);
    }
}
