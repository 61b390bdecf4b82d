//! The loop: ln 2 at the first step, learning, stopping, and what is not finite.

use std::sync::atomic::{AtomicBool, Ordering};

use model::lora::{LoraAdapter, LoraConfig};

use super::{frozen, sequence, tiny, tiny_adapter};
use crate::train::{
    EpochMetrics, Examples, Items, Observer, Outcome, PairExample, Silent, StepMetrics,
    TrainConfig, train,
};
use crate::{Instability, TrainerError};

#[derive(Default)]
struct Record {
    steps: Vec<StepMetrics>,
    epochs: Vec<EpochMetrics>,
}

impl Observer for Record {
    fn step(&mut self, metrics: &StepMetrics) {
        self.steps.push(metrics.clone());
    }

    fn epoch(&mut self, metrics: &EpochMetrics) {
        self.epochs.push(metrics.clone());
    }
}

fn examples() -> Examples {
    let pair = |i: u32| PairExample {
        id: i.to_string(),
        chosen: sequence(&[1, 30, 40 + i, 31, 100, 101, 2], 4),
        rejected: sequence(&[1, 30, 40 + i, 31, 150, 151, 152 + i, 2], 4),
    };
    Examples {
        train: Items::Pairs((0..8).map(pair).collect()),
        validation: Items::Pairs((8..11).map(pair).collect()),
        retained: Vec::new(),
    }
}

fn config() -> TrainConfig {
    TrainConfig {
        epochs: 6,
        learning_rate: 1e-2,
        micro_batch_pairs: 4,
        micro_batches: 1,
        patience_epochs: 0,
        ..TrainConfig::default()
    }
}

fn fresh() -> LoraAdapter {
    LoraAdapter::new_random(&tiny().config, &LoraConfig::uniform(4, 8.0), 5).unwrap()
}

#[test]
fn it_starts_at_ln_2_and_learns() {
    // From a fresh adapter and from a trained one, which is then the reference.
    for start in [fresh(), tiny_adapter()] {
        let mut record = Record::default();
        let stop = AtomicBool::new(false);
        let (model, digest) = (frozen(tiny()), tiny().digest);
        let trained = train(
            &model,
            digest,
            &start,
            &examples(),
            &config(),
            &mut record,
            &stop,
        )
        .unwrap();
        let first = &record.steps[0];
        assert!(
            (first.loss_dpo - std::f64::consts::LN_2).abs() < 1e-6,
            "{}",
            first.loss_dpo
        );
        assert!(first.rewards_margins.abs() < 1e-6 && first.grad_norm > 0.0);
        let last = record.steps.last().unwrap();
        assert_eq!((last.step, last.steps, record.steps.len()), (12, 12, 12));
        assert!(last.loss < first.loss && last.rewards_margins > 0.1);
        assert_eq!(record.epochs.len(), 6);
        assert!(record.epochs[5].accuracy > 0.99, "{:?}", record.epochs[5]);
        assert_eq!(trained.outcome, Outcome::Finished);
        assert_ne!(trained.adapter, start);
        assert_eq!(trained.tokens, 6 * 8 * (7 + 8));
    }
}

#[test]
fn a_run_is_reproducible() {
    let run = || {
        let stop = AtomicBool::new(false);
        let (model, digest) = (frozen(tiny()), tiny().digest);
        train(
            &model,
            digest,
            &fresh(),
            &examples(),
            &config(),
            &mut Silent,
            &stop,
        )
        .unwrap()
        .adapter
    };
    assert_eq!(run(), run());
}

#[test]
fn a_stopped_run_keeps_the_best_epoch() {
    struct StopIn<'a>(&'a AtomicBool);
    impl Observer for StopIn<'_> {
        fn step(&mut self, metrics: &StepMetrics) {
            self.0.store(metrics.step == 3, Ordering::Relaxed);
        }
        fn epoch(&mut self, _: &EpochMetrics) {}
    }
    let stop = AtomicBool::new(false);
    let (model, digest) = (frozen(tiny()), tiny().digest);
    let failed = train(
        &model,
        digest,
        &fresh(),
        &examples(),
        &config(),
        &mut StopIn(&stop),
        &stop,
    );
    let failed = failed.unwrap_err();
    assert!(matches!(failed.error, TrainerError::Stopped));
    assert_ne!(*failed.last_good.unwrap(), fresh());
}

#[test]
fn what_is_not_finite_stops_the_run() {
    let mut start = tiny_adapter();
    start.modules.values_mut().next().unwrap().b[0] = f32::NAN;
    let stop = AtomicBool::new(false);
    let (model, digest) = (frozen(tiny()), tiny().digest);
    let mut examples = examples();
    examples.validation = Items::default();
    let failed = train(
        &model,
        digest,
        &start,
        &examples,
        &config(),
        &mut Silent,
        &stop,
    );
    let failed = failed.unwrap_err();
    assert!(matches!(
        failed.error,
        TrainerError::Unstable(Instability::NonFinite {
            step: 0,
            what: "loss"
        })
    ));
    assert!(failed.last_good.is_none());
}

#[test]
fn validation_that_no_longer_improves_stops_the_run() {
    let mut config = config();
    config.epochs = 40;
    config.learning_rate = 0.3;
    config.patience_epochs = 2;
    let stop = AtomicBool::new(false);
    let mut record = Record::default();
    let (model, digest) = (frozen(tiny()), tiny().digest);
    let trained = train(
        &model,
        digest,
        &fresh(),
        &examples(),
        &config,
        &mut record,
        &stop,
    )
    .unwrap();
    assert_eq!(trained.outcome, Outcome::EarlyStopped);
    assert_eq!(record.epochs.len(), trained.epoch + 2);
    assert!(record.epochs[trained.epoch - 1].best);
}

#[test]
fn answers_that_were_learned_by_heart_count_as_exact() {
    let mut examples = examples();
    // what validates is what is trained
    examples.validation = examples.train.clone();
    let config = TrainConfig {
        epochs: 30,
        ..config()
    };
    let stop = AtomicBool::new(false);
    let mut record = Record::default();
    let (model, digest) = (frozen(tiny()), tiny().digest);
    let trained = train(
        &model,
        digest,
        &fresh(),
        &examples,
        &config,
        &mut record,
        &stop,
    )
    .unwrap();
    let exact: Vec<f64> = record.epochs.iter().map(|e| e.exact_match).collect();
    let best = exact.iter().copied().fold(0.0, f64::max);
    assert!(best > 0.99 && exact[0] < best, "{exact:?}");
    // of the epochs that are best at that, the one with the greatest margin
    let taken = &record.epochs[trained.epoch - 1];
    let mut rivals = record.epochs.iter().filter(|e| e.exact_match >= best);
    assert!(taken.token_accuracy > 0.99 && record.epochs[0].token_accuracy < 0.99);
    assert!(taken.exact_match >= best && rivals.all(|e| e.margin <= taken.margin));
}

#[test]
fn nothing_to_train_is_refused() {
    let stop = AtomicBool::new(false);
    let (model, digest) = (frozen(tiny()), tiny().digest);
    let failed = train(
        &model,
        digest,
        &fresh(),
        &Examples::default(),
        &config(),
        &mut Silent,
        &stop,
    );
    assert!(matches!(
        failed.unwrap_err().error,
        TrainerError::NotEnoughData(_)
    ));
}

#[test]
fn the_same_inputs_make_the_same_version() {
    let (model, digest) = (frozen(tiny()), tiny().digest);
    let version = |seed: u64| {
        let config = TrainConfig { seed, ..config() };
        let lora = LoraConfig::uniform(4, 8.0);
        let start = LoraAdapter::new_random(&tiny().config, &lora, seed).unwrap();
        let (stop, mut silent) = (AtomicBool::new(false), Silent);
        let trained = train(
            &model,
            digest,
            &start,
            &examples(),
            &config,
            &mut silent,
            &stop,
        )
        .unwrap();
        let peft = trained.adapter.to_peft(&tiny().config).unwrap();
        adapter_store::AdapterFiles::new(peft.config_json, peft.safetensors).digest()
    };
    assert_eq!(version(5), version(5));
    assert_ne!(version(5), version(6));
}
