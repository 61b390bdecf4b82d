//! The network in candle's tensors, on candle's CPU device or on the GPU that
//! `FLYWHEEL_TEST_DEVICE` names (`make test-cuda`), against the operations made
//! for the CPU, which are held against torch and finite differences.

use candle_core::DType;
use engine::native::Device;
use model::BaseModel;
use model::lora::{LoraAdapter, LoraConfig};

use super::{real, sequence, tiny, tiny_adapter};
use crate::forward::Pass;
use crate::ops::dropout::Dropout;
use crate::pack::{Sequence, plan};
use crate::parameters::Parameters;
use crate::train::TrainConfig;
use crate::{Compute, FrozenModel, Place, TrainerError};

const SEQUENCES: [(&[u32], usize); 4] = [
    (&[1, 108, 45, 261, 9, 31, 2], 3),
    (&[1, 108, 45, 261, 17, 18, 19, 20, 2], 3),
    (&[1, 108, 45, 7, 2], 2),
    (&[5, 6, 2], 1),
];

/// Log-probabilities, and the gradients of each group of parameters.
struct Computed {
    log_probs: Vec<f32>,
    gradients: Vec<Vec<f32>>,
}

fn compute(
    base: &BaseModel,
    place: &Place,
    adapter: &LoraAdapter,
    (recompute, dropout): (bool, Option<Dropout>),
) -> Computed {
    let model = FrozenModel::on(place, &base.weights, &base.config, 256).unwrap();
    let parameters = Parameters::from_adapter(adapter).unwrap();
    let sequences = SEQUENCES.map(|(tokens, start)| sequence(tokens, start));
    let groups: Vec<Vec<&Sequence>> = sequences.chunks(2).map(|s| s.iter().collect()).collect();
    let packs = plan(&groups, TrainConfig::default().pack_rows_max);
    assert!(packs.len() == 1 && packs[0].tree.segments.len() > 4);
    let mut gradients: Vec<Vec<f32>> = parameters.lengths().map(|n| vec![0.0; n]).collect();
    let mut log_probs = Vec::new();
    let mut slopes = |seen: &[f32]| -> Result<Vec<f32>, TrainerError> {
        log_probs = seen.to_vec();
        Ok((0..seen.len()).map(|i| i as f32 * 0.1 - 0.3).collect())
    };
    let pass = Pass {
        pack: &packs[0],
        parameters: &parameters,
        dropout,
        recompute,
    };
    model
        .add_gradients(&pass, &mut slopes, &mut gradients)
        .unwrap();
    Computed {
        log_probs,
        gradients,
    }
}

/// The largest difference of a log-probability, and the smallest cosine of the
/// gradients of a group.
fn compare(a: &Computed, b: &Computed) -> (f32, f64) {
    assert_eq!(a.log_probs.len(), b.log_probs.len());
    let off = a.log_probs.iter().zip(&b.log_probs);
    let off = off.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum()
    };
    let cosine = |(a, b): (&Vec<f32>, &Vec<f32>)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let cosines = a.gradients.iter().zip(&b.gradients).map(cosine);
    (off, cosines.fold(1.0, f64::min))
}

fn tensors(compute: Compute) -> Place {
    let name = std::env::var("FLYWHEEL_TEST_DEVICE");
    let device: Device = name.as_deref().unwrap_or("candle").parse().unwrap();
    Place::open(device, compute).unwrap()
}

#[test]
fn log_probabilities_and_every_gradient_are_those_of_the_operations_for_the_cpu() {
    for recompute in [false, true] {
        for dropout in [None, Dropout::new(0.3, [1, 2, 3, 4])] {
            let how = (recompute, dropout);
            let ours = compute(tiny(), &Place::cpu(), &tiny_adapter(), how);
            let theirs = compute(tiny(), &tensors(Compute::F32), &tiny_adapter(), how);
            assert!(compare(&ours, &theirs).0 < 1e-5);
            for (ours, theirs) in ours.gradients.iter().zip(&theirs.gradients) {
                let largest = ours.iter().fold(0.0f32, |max, g| max.max(g.abs()));
                assert!(largest > 0.0);
                for (a, b) in ours.iter().zip(theirs) {
                    assert!((a - b).abs() < 2e-5 * (1.0 + largest), "{a} is not {b}");
                }
            }
        }
    }
}

/// Measured: 0.04 nats and a cosine of 0.993.
#[test]
fn in_bf16_they_differ_by_rounding() {
    let how = (true, None);
    let ours = compute(tiny(), &Place::cpu(), &tiny_adapter(), how);
    let theirs = compute(tiny(), &tensors(Compute::Bf16), &tiny_adapter(), how);
    let (off, cosine) = compare(&ours, &theirs);
    assert!(off > 1e-5, "it is f32");
    assert!(off < 0.3 && cosine > 0.99, "{off} {cosine}");
    let place = tensors(Compute::Bf16);
    assert_eq!(place.tensors().unwrap().dtype(), DType::BF16);
}

/// In the blocks as they are served. Measured: 5e-5 nats and a cosine of 1 − 7e-8.
#[test]
fn so_it_is_with_the_real_model() {
    let base = real();
    let lora = LoraConfig::uniform(4, 8.0);
    let mut adapter = LoraAdapter::new_random(&base.config, &lora, 3).unwrap();
    for pair in adapter.modules.values_mut() {
        let values = pair.b.iter_mut().enumerate();
        values.for_each(|(i, b)| *b = (i as f32 * 0.7).sin() * 0.01);
    }
    let how = (true, None);
    let ours = compute(&base, &Place::cpu(), &adapter, how);
    let theirs = compute(&base, &tensors(Compute::F32), &adapter, how);
    let (off, cosine) = compare(&ours, &theirs);
    assert!(off < 1e-3 && cosine > 0.9999, "{off} {cosine}");
}
