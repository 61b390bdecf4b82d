//! Finite differences for the tests of the operations.
#![allow(clippy::unwrap_used)]

use candle_core::{Result, Tensor, Var};
use rand::{RngExt, SeedableRng};

/// Values in [-1, 1) from a seed.
pub(crate) fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// `Σ weight·f(inputs)` in f64.
fn objective(y: &Tensor, weights: &[f32]) -> f64 {
    let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    y.iter()
        .zip(weights)
        .map(|(&y, &w)| f64::from(y) * f64::from(w))
        .sum()
}

/// Checks every input's gradient of a random projection of `f` against
/// central differences, at each element.
pub(crate) fn finite_differences(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|t| Var::from_tensor(t).unwrap())
        .collect();
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tracked).unwrap();
    let weights = random(99, y.elem_count());
    let weight_tensor = super::tensor(weights.clone(), y.shape().clone()).unwrap();
    let grads = (y * weight_tensor)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    for (which, input) in inputs.iter().enumerate() {
        let gradient = grads.get(&vars[which]).unwrap().flatten_all().unwrap();
        let gradient = gradient.to_vec1::<f32>().unwrap();
        let at = input.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for i in 0..at.len() {
            let shifted = |by: f32| {
                let mut values = at.clone();
                values[i] += by;
                let mut moved = inputs.to_vec();
                moved[which] = super::tensor(values, input.shape().clone()).unwrap();
                objective(&f(&moved).unwrap(), &weights)
            };
            const STEP: f32 = 4e-3;
            let expected = (shifted(STEP) - shifted(-STEP)) / f64::from(2.0 * STEP);
            let error = (expected - f64::from(gradient[i])).abs();
            assert!(
                error < 2e-3 * (1.0 + expected.abs()),
                "input {which} element {i}: {} is not {expected}",
                gradient[i]
            );
        }
    }
}
