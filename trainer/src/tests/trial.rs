//! The data is tried on a smaller base: the large one here is one that cannot be
//! trained, so that touching it shows.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{golden, services_of, stages};
use crate::{RunOutcome, Services, TrainerError, TrialFailure, run_once, trial};

const LARGE: &str = "architectures/llama3/model.gguf";
const SMALL: &str = "tiny_llama/model.gguf";

/// Pairs that the tiny model learns, held out as they are trained.
async fn large(data: &Path, trial: &str) -> Services {
    let pairs = stages::pairs(data, 24);
    let training = "epochs = 6\nlearning_rate = 1e-2\nmicro_batches = 1\nseed = 4";
    let recipe = format!(
        "{}\n[trial]\nmodel = {:?}\n{trial}\n",
        stages::recipe(&pairs, training),
        golden(SMALL)
    );
    services_of(LARGE, data, &recipe).await
}

fn events(data: &Path) -> String {
    std::fs::read_to_string(data.join("trainer/events.jsonl")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_fails_on_the_smaller_base_never_reaches_the_large_one() {
    let data = tempfile::tempdir().unwrap();
    let services = large(data.path(), "margin_min = 1e6").await;
    let error = run_once(&services, Arc::new(AtomicBool::new(false)), true)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            TrainerError::Trial(
                TrialFailure::Margin { stage: 1, .. } | TrialFailure::Accuracy { stage: 1, .. }
            )
        ),
        "{error}"
    );
    let told = events(data.path());
    assert!(told.contains("\"event\":\"trial\"") && told.contains("\"state\":\"trying\""));
    assert!(!told.contains("\"state\":\"training\""), "{told}");
    let status = std::fs::read_to_string(data.path().join("trainer/status.json")).unwrap();
    assert!(status.contains("the trial on"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_passes_goes_on_to_the_large_base() {
    let data = tempfile::tempdir().unwrap();
    let services = large(data.path(), "accuracy_min = 0.0\nmargin_min = -1e6").await;
    let error = run_once(&services, Arc::new(AtomicBool::new(false)), true)
        .await
        .unwrap_err();
    // the large one is of a kind that cannot be trained
    assert!(
        matches!(error, TrainerError::Config { key: "model", .. }),
        "{error}"
    );
    assert!(events(data.path()).contains("\"state\":\"training\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passed_trial_is_reported_and_not_made_twice() {
    let data = tempfile::tempdir().unwrap();
    let services = large(data.path(), "accuracy_min = 0.0\nmargin_min = -1e6").await;
    let folder = tempfile::tempdir().unwrap();
    let prepared = stages::prepared(&services, folder.path());
    let stop = Arc::new(AtomicBool::new(false));
    let first = trial::run(&services, folder.path(), &prepared, &stop)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.base, super::tiny().digest);
    assert_ne!(first.base, services.base.digest);
    let held_out = first.stages[0].held_out.as_ref().unwrap();
    assert_eq!(held_out.epoch, first.stages[0].epoch);
    assert!(folder.path().join("trial/trial.json").exists());
    // a run that goes on finds the stages done, whatever becomes of the clock
    let curve = || std::fs::metadata(folder.path().join("trial/steps.jsonl")).unwrap();
    let written = curve().modified().unwrap();
    let again = trial::run(&services, folder.path(), &prepared, &stop)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(curve().modified().unwrap(), written);
    let of = |report: &crate::TrialReport| {
        (report.base, report.stages[0].epoch, report.stages[0].tokens)
    };
    assert_eq!(of(&again), of(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smaller_base_is_smaller() {
    let data = tempfile::tempdir().unwrap();
    let pairs = stages::pairs(data.path(), 9);
    let recipe = format!(
        "{}\n[trial]\nmodel = {:?}\n",
        stages::recipe(&pairs, ""),
        golden(LARGE)
    );
    let services = services_of(SMALL, data.path(), &recipe).await;
    let outcome = run_once(&services, Arc::new(AtomicBool::new(false)), true).await;
    assert!(
        matches!(
            outcome,
            Err(TrainerError::Config {
                key: "trial.model",
                ..
            })
        ),
        "{outcome:?}"
    );
    // and without a trial the same data is trained
    let data = tempfile::tempdir().unwrap();
    let services = services_of(SMALL, data.path(), &stages::recipe(&pairs, "epochs = 1")).await;
    let outcome = run_once(&services, Arc::new(AtomicBool::new(false)), true)
        .await
        .unwrap();
    let RunOutcome::Judged(report) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(report.training.unwrap().trial, None);
}
