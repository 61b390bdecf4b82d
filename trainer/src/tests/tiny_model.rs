//! The tiny model: torch's loss and gradients, finite differences through the
//! whole network, packed against separate, and a gradient for every tensor.

use std::collections::BTreeMap;

use model::ModelConfig;
use model::lora::{LoraAdapter, LoraConfig};
use safetensors::SafeTensors;
use serde::Deserialize;

use super::{frozen, golden, sequence, tiny, tiny_adapter};
use crate::pack::{Sequence, plan};
use crate::parameters::{ParameterView, Parameters};
use crate::train::{
    Examples, MicroBatch, PairExample, PlainExample, ReferenceCache, StepInput, StepMetrics,
    TrainConfig,
};

#[derive(Deserialize)]
struct Facts {
    beta: f64,
    sft_weight: f64,
    pairs: Vec<Pair>,
    log_probs: Vec<[f64; 4]>,
    loss: f64,
    loss_dpo: f64,
    loss_sft: f64,
}

#[derive(Deserialize)]
struct Pair {
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    completion_start: usize,
}

fn facts() -> (Facts, Examples) {
    let text = std::fs::read(golden("training/dpo.json")).unwrap();
    let facts: Facts = serde_json::from_slice(&text).unwrap();
    let pair = |(i, p): (usize, &Pair)| PairExample {
        id: i.to_string(),
        chosen: sequence(&p.chosen, p.completion_start),
        rejected: sequence(&p.rejected, p.completion_start),
    };
    let train: Vec<PairExample> = facts.pairs.iter().enumerate().map(pair).collect();
    (
        facts,
        Examples {
            train: train.into(),
            ..Examples::default()
        },
    )
}

/// Metrics and gradients of one micro-batch of everything, the bare base being
/// the reference.
fn gradients(
    parameters: &Parameters,
    examples: &Examples,
    config: &TrainConfig,
) -> (StepMetrics, Vec<Vec<f32>>) {
    let model = frozen(tiny());
    let start = ParameterView::default();
    let mut references =
        ReferenceCache::new(tiny().digest, ids::Sha256Digest::of(b"the bare base"));
    let mut sums: Vec<Vec<f32>> = parameters.lengths().map(|n| vec![0.0; n]).collect();
    let mut metrics = StepMetrics::default();
    let input = StepInput {
        model: &model,
        parameters,
        start: &start,
        examples,
        config,
    };
    let micro = MicroBatch {
        items: (0..examples.train.len()).collect(),
        retained: (0..examples.retained.len()).collect(),
    };
    input
        .accumulate(&[micro], &mut references, &mut sums, &mut metrics)
        .unwrap();
    (metrics, sums)
}

fn config(facts: &Facts) -> TrainConfig {
    TrainConfig {
        beta: facts.beta,
        sft_weight: facts.sft_weight,
        ..TrainConfig::default()
    }
}

/// The gradients as a PEFT file has them: q and k in the published row order.
pub(super) fn as_peft(
    model: &ModelConfig,
    parameters: &Parameters,
    sums: &[Vec<f32>],
) -> BTreeMap<String, Vec<f32>> {
    let mut adapter = parameters.to_adapter().unwrap();
    let named: BTreeMap<String, Vec<f32>> = parameters
        .named(sums)
        .map(|(name, values)| (name, values.to_vec()))
        .collect();
    for (id, pair) in &mut adapter.modules {
        pair.a = named[&format!("{id}.lora_A")].clone();
        pair.b = named[&format!("{id}.lora_B")].clone();
    }
    let files = adapter.to_peft(model).unwrap();
    read_tensors(&files.safetensors)
}

pub(super) fn read_tensors(bytes: &[u8]) -> BTreeMap<String, Vec<f32>> {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let values = |data: &[u8]| {
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    };
    tensors
        .iter()
        .map(|(name, view)| (name.to_owned(), values(view.data())))
        .collect()
}

#[test]
fn loss_and_every_gradient_are_torchs() {
    let (facts, examples) = facts();
    let parameters = Parameters::from_adapter(&tiny_adapter()).unwrap();
    let (metrics, sums) = gradients(&parameters, &examples, &config(&facts));
    assert!(
        (metrics.loss - facts.loss).abs() < 2e-5,
        "{} {}",
        metrics.loss,
        facts.loss
    );
    assert!((metrics.loss_dpo - facts.loss_dpo).abs() < 1e-5);
    assert!((metrics.loss_sft - facts.loss_sft).abs() < 2e-5);
    let mean = |i: usize| facts.log_probs.iter().map(|p| p[i]).sum::<f64>() / 3.0;
    assert!((metrics.logps_chosen - mean(0)).abs() < 1e-4);
    assert!((metrics.logps_rejected - mean(1)).abs() < 1e-4);
    let torch = std::fs::read(golden("training/dpo_gradients.safetensors")).unwrap();
    let torch = read_tensors(&torch);
    let ours = as_peft(&tiny().config, &parameters, &sums);
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        torch.keys().collect::<Vec<_>>()
    );
    for (name, torch) in &torch {
        let largest = torch.iter().fold(0.0f32, |max, g| max.max(g.abs()));
        assert!(largest > 1e-4, "{name} has no gradient to compare");
        for (a, b) in ours[name].iter().zip(torch) {
            assert!(
                (a - b).abs() < 2e-5 * (1.0 + largest),
                "{name}: {a} is not {b}"
            );
        }
    }
}

#[test]
fn packed_is_separate() {
    let (facts, mut examples) = facts();
    examples.retained.push(PlainExample {
        sequence: sequence(&[1, 108, 45, 261, 9, 31, 2], 3),
    });
    let parameters = Parameters::from_adapter(&tiny_adapter()).unwrap();
    let mut config = config(&facts);
    config.retention.weight = 0.5;
    let (packed, packed_sums) = gradients(&parameters, &examples, &config);
    config.pack_rows_max = 1;
    let (separate, separate_sums) = gradients(&parameters, &examples, &config);
    assert!(packed.packed_rows < separate.packed_rows);
    assert!((packed.loss - separate.loss).abs() < 1e-6);
    for (a, b) in packed_sums
        .iter()
        .flatten()
        .zip(separate_sums.iter().flatten())
    {
        assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{a} is not {b}");
    }
}

#[test]
fn the_same_log_probabilities_alone_and_in_a_tree() {
    let model = frozen(tiny());
    let parameters = Parameters::from_adapter(&tiny_adapter()).unwrap();
    let (_, examples) = facts();
    let items = 0..examples.train.len();
    let all: Vec<Vec<&Sequence>> = items.map(|i| examples.train.sequences(i)).collect();
    let view = parameters.view(false);
    let packs = plan(&all, 1024);
    assert_eq!(packs.len(), 1);
    let together = model
        .log_probs(&packs[0], &view, false)
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    let mut alone = Vec::new();
    for sequence in all.iter().flatten() {
        for pack in plan(&[vec![*sequence]], 1024) {
            alone.extend(
                model
                    .log_probs(&pack, &view, false)
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap(),
            );
        }
    }
    assert_eq!(together.len(), alone.len());
    for (a, b) in together.iter().zip(&alone) {
        assert!((a - b).abs() < 1e-5, "{a} is not {b}");
    }
}

/// One number of each factor of each module, against central differences of
/// the whole loss.
#[test]
fn gradients_agree_with_finite_differences_through_all_layers() {
    let (facts, examples) = facts();
    let config = config(&facts);
    let adapter = tiny_adapter();
    let parameters = Parameters::from_adapter(&adapter).unwrap();
    let (_, sums) = gradients(&parameters, &examples, &config);
    let loss = |adapter: &LoraAdapter| {
        let parameters = Parameters::from_adapter(adapter).unwrap();
        gradients(&parameters, &examples, &config).0.loss
    };
    let named: BTreeMap<String, Vec<f32>> = parameters
        .named(&sums)
        .map(|(name, values)| (name, values.to_vec()))
        .collect();
    const STEP: f32 = 2e-3;
    for id in adapter.modules.keys() {
        for factor in ["A", "B"] {
            let gradient = &named[&format!("{id}.lora_{factor}")];
            let at = (0..gradient.len())
                .max_by(|&i, &j| gradient[i].abs().total_cmp(&gradient[j].abs()))
                .unwrap();
            let moved = |by: f32| {
                let mut adapter = adapter.clone();
                let pair = adapter.modules.get_mut(id).unwrap();
                let values = if factor == "A" {
                    &mut pair.a
                } else {
                    &mut pair.b
                };
                values[at] += by;
                loss(&adapter)
            };
            let expected = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
            let found = f64::from(gradient[at]);
            let error = (found - expected).abs();
            assert!(
                error < 1e-2 * (0.05 + expected.abs()),
                "{id} {factor}: {found} {expected}"
            );
        }
    }
}

#[test]
fn every_tensor_gets_a_gradient_and_a_is_still_while_b_is_zero() {
    let (facts, examples) = facts();
    let lora = LoraConfig::uniform(4, 8.0);
    let fresh = LoraAdapter::new_random(&tiny().config, &lora, 5).unwrap();
    let cases = [(fresh, false), (tiny_adapter(), true)];
    for (adapter, b_is_set) in cases {
        let parameters = Parameters::from_adapter(&adapter).unwrap();
        let (_, sums) = gradients(&parameters, &examples, &config(&facts));
        let named: Vec<(String, f32)> = parameters
            .named(&sums)
            .map(|(name, g)| (name, g.iter().fold(0.0f32, |max, v| max.max(v.abs()))))
            .collect();
        assert_eq!(named.len(), 2 * 7 * 2);
        for (name, largest) in named {
            let moves = b_is_set || name.ends_with("lora_B");
            assert_eq!(largest > 0.0, moves, "{name}: {largest}");
        }
    }
}

#[test]
fn parameters_survive_the_way_to_variables_and_back() {
    let adapter = tiny_adapter();
    let parameters = Parameters::from_adapter(&adapter).unwrap();
    assert_eq!(parameters.to_adapter().unwrap(), adapter);
}
