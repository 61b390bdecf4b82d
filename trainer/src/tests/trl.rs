//! TRL's own trainers, for every loss of ours that it has: the first step's
//! loss, metrics and gradients, and twenty optimizer steps from there. On a tiny
//! model, and where `make check-trl` had them made on the default model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::BaseModel;
use model::lora::LoraAdapter;
use serde::Deserialize;

use super::tiny_model::{as_peft, read_tensors};
use super::{frozen, golden, real, sequence};
use crate::loss::PreferenceLoss;
use crate::parameters::Parameters;
use crate::train::{
    Decay, EpochMetrics, Examples, Items, KtoWeights, MicroBatch, Observer, PairExample,
    PlainExample, RatedExample, ReferenceCache, StepInput, StepMetrics, TrainConfig, train,
};

const STEPS: usize = 20;

#[derive(Deserialize)]
struct Facts {
    learning_rate: f64,
    beta: f64,
    sft_weight: f64,
    label_smoothing: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
    pairs: Vec<Pair>,
    rated: Vec<Rated>,
    runs: BTreeMap<String, Vec<BTreeMap<String, f64>>>,
}

#[derive(Deserialize)]
struct Pair {
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    completion_start: usize,
}

#[derive(Deserialize)]
struct Rated {
    tokens: Vec<u32>,
    completion_start: usize,
    is_good: bool,
}

/// What TRL made of a model and an adapter for it.
struct Case {
    base: Arc<BaseModel>,
    start: LoraAdapter,
    facts: Facts,
    folder: PathBuf,
}

impl Case {
    fn open(base: Arc<BaseModel>, adapter: &Path, folder: PathBuf) -> Self {
        let read = |name: &str| std::fs::read(adapter.join(name)).unwrap();
        let (config, weights) = (
            read("adapter_config.json"),
            read("adapter_model.safetensors"),
        );
        let start = LoraAdapter::from_peft(&config, &weights, &base.config).unwrap();
        let facts = std::fs::read(folder.join("trl.json")).unwrap();
        let facts: Facts = serde_json::from_slice(&facts).unwrap();
        assert_eq!(facts.runs.len(), 9);
        Self {
            base,
            start,
            facts,
            folder,
        }
    }

    fn tiny() -> Self {
        let base = Arc::new(BaseModel::open(&golden("tiny_llama/model.gguf")).unwrap());
        Self::open(base, &golden("tiny_llama/adapter"), golden("training"))
    }

    /// The default model; what TRL made of it is too large to be kept.
    fn real() -> Self {
        let folder = std::env::var_os("FLYWHEEL_TRL_GOLDEN").map(PathBuf::from);
        let folder = folder.expect("FLYWHEEL_TRL_GOLDEN is not set: run `make check-trl`");
        Self::open(real(), &folder.join("adapter"), folder)
    }

    fn tensors(&self, run: &str, which: &str) -> BTreeMap<String, Vec<f32>> {
        let file = self.folder.join(format!("trl_{run}_{which}.safetensors"));
        read_tensors(&std::fs::read(file).unwrap())
    }

    fn as_peft(&self, adapter: &LoraAdapter) -> BTreeMap<String, Vec<f32>> {
        read_tensors(&adapter.to_peft(&self.base.config).unwrap().safetensors)
    }
}

impl Facts {
    fn items(&self, run: &str) -> Items {
        let pairs = self.pairs.iter();
        match run {
            "supervised" => Items::Plain(
                pairs
                    .map(|p| PlainExample {
                        sequence: sequence(&p.chosen, p.completion_start),
                    })
                    .collect(),
            ),
            "kto" => Items::Rated(
                self.rated
                    .iter()
                    .map(|r| RatedExample {
                        sequence: sequence(&r.tokens, r.completion_start),
                        is_good: r.is_good,
                    })
                    .collect(),
            ),
            _ => Items::Pairs(
                pairs
                    .map(|p| PairExample {
                        id: String::new(),
                        chosen: sequence(&p.chosen, p.completion_start),
                        rejected: sequence(&p.rejected, p.completion_start),
                    })
                    .collect(),
            ),
        }
    }

    fn config(&self, run: &str) -> TrainConfig {
        let loss = match run {
            "ipo" => PreferenceLoss::Ipo,
            "hinge" => PreferenceLoss::Hinge,
            "robust" => PreferenceLoss::Robust {
                label_smoothing: self.label_smoothing,
            },
            "apo_zero" => PreferenceLoss::ApoZero,
            "sigmoid_norm" => PreferenceLoss::SigmoidNorm,
            _ => PreferenceLoss::Sigmoid,
        };
        TrainConfig {
            epochs: STEPS,
            learning_rate: self.learning_rate,
            warmup_ratio: 0.0,
            decay: Decay::Constant,
            micro_batch_pairs: 16,
            loss,
            beta: self.beta,
            sft_weight: if run == "sigmoid_sft" {
                self.sft_weight
            } else {
                0.0
            },
            kto: KtoWeights {
                desirable_weight: self.desirable_weight,
                undesirable_weight: self.undesirable_weight,
            },
            ..TrainConfig::default()
        }
    }
}

#[derive(Default)]
struct Record(Vec<StepMetrics>);

impl Observer for Record {
    fn step(&mut self, metrics: &StepMetrics) {
        self.0.push(metrics.clone());
    }
    fn epoch(&mut self, _: &EpochMetrics) {}
}

/// Every metric that TRL logged for the step, within `tolerance` of its size; the
/// gradients' norm, which is the first to part, after the first step within ten times that.
fn check_metrics(run: &str, ours: &StepMetrics, trl: &BTreeMap<String, f64>, tolerance: f64) {
    let ours = serde_json::to_value(ours).unwrap();
    let mut compared = 0;
    for (name, expected) in trl {
        let Some(found) = ours[name].as_f64() else {
            panic!("{run} has no {name}")
        };
        let error = (found - expected).abs();
        let after_first = ours["step"].as_u64().unwrap() > 1;
        let tolerance = match name.as_str() {
            "grad_norm" if after_first => 10.0 * tolerance,
            _ => tolerance,
        };
        let limit = tolerance * expected.abs().max(1.0);
        assert!(
            error < limit,
            "{run} {name}: {found}, not {expected}, at step {}",
            ours["step"]
        );
        compared += 1;
    }
    assert!(compared >= 1, "{run} compared nothing");
}

#[expect(
    clippy::print_stdout,
    reason = "`make check-trl` shows how far they are off"
)]
fn first_step(case: &Case) {
    let (facts, base) = (&case.facts, &*case.base);
    let mut parted = Vec::new();
    for (run, steps) in &facts.runs {
        let examples = Examples {
            train: facts.items(run),
            ..Examples::default()
        };
        let config = facts.config(run);
        let (model, parameters) = (frozen(base), Parameters::from_adapter(&case.start).unwrap());
        let start = parameters.view(false);
        let input = StepInput {
            model: &model,
            parameters: &parameters,
            start: &start,
            examples: &examples,
            config: &config,
        };
        let micro = MicroBatch {
            items: (0..examples.train.len()).collect(),
            retained: Vec::new(),
        };
        let mut references = ReferenceCache::new(base.digest, ids::Sha256Digest::of(b"start"));
        let mut sums: Vec<Vec<f32>> = parameters.lengths().map(|n| vec![0.0; n]).collect();
        let mut metrics = StepMetrics::default();
        input
            .accumulate(&[micro], &mut references, &mut sums, &mut metrics)
            .unwrap();
        let off = (metrics.loss - steps[0]["loss"]).abs();
        assert!(off < 1e-5, "{run}: {}", metrics.loss);
        let norms = sums.iter().map(|sums| norm(sums).powi(2));
        metrics.grad_norm = norms.sum::<f64>().sqrt();
        metrics.learning_rate = config.learning_rate;
        check_metrics(run, &metrics, &steps[0], 1e-4);
        let ours = as_peft(&base.config, &parameters, &sums);
        let trl = case.tensors(run, "gradients");
        assert_eq!(
            ours.keys().collect::<Vec<_>>(),
            trl.keys().collect::<Vec<_>>()
        );
        let mut worst = 0.0_f64;
        for (name, expected) in &trl {
            let off: Vec<f32> = ours[name]
                .iter()
                .zip(expected)
                .map(|(a, b)| a - b)
                .collect();
            let relative = norm(&off) / norm(expected).max(1e-12);
            worst = worst.max(relative);
            // what is no number is not within it either
            let is_within = relative < 1e-4;
            if !is_within {
                parted.push(format!("{run} {name}: {relative:.1e}"));
            }
        }
        println!("{run}: loss {off:.1e} off, gradients at most {worst:.1e}");
    }
    assert!(parted.is_empty(), "gradients: {parted:?}");
}

#[expect(clippy::print_stdout, reason = "as of the first step")]
fn twenty_steps(case: &Case) {
    let before = case.as_peft(&case.start);
    let mut parted = Vec::new();
    for (run, steps) in &case.facts.runs {
        let examples = Examples {
            train: case.facts.items(run),
            ..Examples::default()
        };
        let mut record = Record::default();
        let trained = train(
            &frozen(&case.base),
            case.base.digest,
            &case.start,
            &examples,
            &case.facts.config(run),
            &mut record,
            &AtomicBool::new(false),
        )
        .unwrap();
        assert_eq!((record.0.len(), steps.len()), (STEPS, STEPS), "{run}");
        for (ours, trl) in record.0.iter().zip(steps) {
            check_metrics(run, ours, trl, 1e-4);
        }
        let after = case.as_peft(&trained.adapter);
        let trl = case.tensors(run, "trained");
        assert_eq!(
            after.keys().collect::<Vec<_>>(),
            trl.keys().collect::<Vec<_>>()
        );
        let mut worst = 1.0_f64;
        for (name, expected) in &trl {
            let change = |to: &[f32]| -> Vec<f32> {
                to.iter().zip(&before[name]).map(|(a, b)| a - b).collect()
            };
            let (ours, theirs) = (change(&after[name]), change(expected));
            let dot: f64 = ours
                .iter()
                .zip(&theirs)
                .map(|(a, b)| f64::from(a * b))
                .sum();
            let cosine = dot / (norm(&ours) * norm(&theirs));
            worst = worst.min(cosine);
            let is_within = cosine > 0.9999;
            if !is_within {
                parted.push(format!("{run} {name}: {cosine:.6}"));
            }
        }
        println!("{run}: changes after {STEPS} steps at least at cosine {worst:.6}");
    }
    assert!(parted.is_empty(), "cosines: {parted:?}");
}

#[test]
fn the_first_step_is_trls() {
    first_step(&Case::tiny());
}

#[test]
fn twenty_steps_are_trls() {
    twenty_steps(&Case::tiny());
}

#[test]
#[ignore = "needs what TRL makes of the default model: `make check-trl`"]
fn the_first_step_is_trls_on_the_default_model() {
    first_step(&Case::real());
}

#[test]
#[ignore = "needs what TRL makes of the default model: `make check-trl`"]
fn twenty_steps_are_trls_on_the_default_model() {
    twenty_steps(&Case::real());
}

fn norm(values: &[f32]) -> f64 {
    let squares = values.iter().map(|&v| f64::from(v) * f64::from(v));
    squares.sum::<f64>().sqrt()
}
