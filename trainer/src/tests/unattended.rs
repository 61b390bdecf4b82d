//! A trainer that nobody looks after: what a dead one left, what failed, and
//! what ended runs leave on the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fine_tuning::Transition;
use ids::{Clock as _, ManualClock, UnixMillis};

use super::{beside, jobs, services, stages};
use crate::leftovers::forget;
use crate::prepared::Prepared;
use crate::{Services, Stop, TrainerError, resume, run_once, sidecar};

fn runs(data: &Path) -> PathBuf {
    data.join("trainer/runs")
}

/// A run that was prepared and left behind.
fn interrupted(services: &Services, data: &Path) -> PathBuf {
    let folder = runs(data).join("run-1");
    std::fs::create_dir_all(&folder).unwrap();
    let prepared = stages::prepared(services, &folder);
    prepared.keep(&folder).unwrap();
    folder
}

fn recipe(data: &Path, training: &str) -> String {
    let pairs = stages::pairs(data, 9);
    format!(
        "[gate]\nheld_out_min = 1\n{}",
        stages::recipe(&pairs, training)
    )
}

/// Lets the sidecar run until `is_done`, or for a minute.
async fn attended(services: &Services, is_done: impl AsyncFn() -> bool) {
    let stop = Stop::default();
    let (services, stop_there) = (services.clone(), stop.clone());
    let running = beside(move || async move { sidecar(&services, &stop_there).await });
    let mut done = false;
    for _ in 0..600 {
        done = is_done().await;
        if done || running.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.set();
    running.await.unwrap().unwrap();
    assert!(done, "it was not done in a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_starts_goes_on_with_an_interrupted_run() {
    let data = tempfile::tempdir().unwrap();
    let services = services(data.path(), &recipe(data.path(), "epochs = 1")).await;
    let folder = interrupted(&services, data.path());
    attended(&services, async || !Prepared::is_interrupted(&folder)).await;
    assert!(folder.join("report.json").exists());
    let last = std::fs::read_to_string(data.path().join("trainer/last_run.json")).unwrap();
    assert!(last.contains("run-1"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_starts_takes_up_what_a_dead_one_left() {
    let data = tempfile::tempdir().unwrap();
    let services = services(
        data.path(),
        "[training]\nepochs = 1\nsequence_tokens_max = 256\n[training.lora]\nrank = 2\n",
    )
    .await;
    let job = jobs::queued(&services, "ftjob-1").await;
    let tuning = &services.tuning.jobs;
    for transition in [Transition::Take, Transition::Train] {
        tuning
            .transition(&job.id, transition, services.clock.now())
            .await
            .unwrap();
    }
    let is_done = async || tuning.get(&job.id).await.unwrap().status.is_final();
    attended(&services, is_done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_holds_up_no_job() {
    let data = tempfile::tempdir().unwrap();
    // due at once, without a vote to train on, and then not for an hour
    let recipe = "[schedule]\ncron = \"* * * * *\"\nbackoff_seconds = 3600\n\
                  [training]\nepochs = 1\nsequence_tokens_max = 256\n[training.lora]\nrank = 2\n";
    let services = services(data.path(), recipe).await;
    let schedule = data.path().join("trainer/schedule.json");
    std::fs::write(schedule, "{\"served_until\":0}").unwrap();
    let ended = || {
        let events = std::fs::read_to_string(data.path().join("trainer/events.jsonl"));
        events.is_ok_and(|events| events.contains("run_ended"))
    };
    let job = jobs::queued(&services, "ftjob-1").await;
    let tuning = &services.tuning.jobs;
    let is_done = async || ended() && tuning.get(&job.id).await.unwrap().status.is_final();
    attended(&services, is_done).await;
    let told = std::fs::read_to_string(data.path().join("trainer/events.jsonl")).unwrap();
    assert_eq!(told.matches("run_ended").count(), 1, "{told}");
    assert!(!told.contains("run_given_up"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_trainer_lives_is_not_gone_on_with() {
    let data = tempfile::tempdir().unwrap();
    let mut services = services(data.path(), &recipe(data.path(), "epochs = 1")).await;
    let clock = Arc::new(ManualClock::new(services.clock.now()));
    services.clock = clock.clone();
    let folder = interrupted(&services, data.path());
    let hour = Duration::from_secs(3600);
    let (control, now) = (&services.control, clock.now());
    let alive = control.acquire_lease("trainer", "run-1", hour, now).await;
    assert!(alive.unwrap().is_some());
    let (there, stop) = (services.clone(), Arc::new(AtomicBool::new(false)));
    let waits = beside(move || async move { resume(&there, stop).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    clock.advance(Duration::from_secs(120));
    let refused = waits.await.unwrap();
    assert!(
        matches!(refused, Err(TrainerError::LeaseLost)),
        "{refused:?}"
    );
    assert!(Prepared::is_interrupted(&folder) && !folder.join("steps.jsonl").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_trainers_die_of_is_given_up() {
    let data = tempfile::tempdir().unwrap();
    let services = services(data.path(), &recipe(data.path(), "epochs = 1")).await;
    let folder = interrupted(&services, data.path());
    while crate::beginnings::begin(&folder).unwrap() {}
    let stop = Arc::new(AtomicBool::new(false));
    let outcome = resume(&services, stop).await.unwrap();
    assert!(outcome.is_none() && !Prepared::is_interrupted(&folder));
    let told = std::fs::read_to_string(data.path().join("trainer/events.jsonl")).unwrap();
    assert!(told.contains("run_given_up"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_falls_apart_leaves_no_checkpoint() {
    let data = tempfile::tempdir().unwrap();
    let training = "epochs = 8\nlearning_rate = 1e-2\nwarmup_ratio = 0.0\ndecay = \"constant\"\n\
                    patience_epochs = 0\nmicro_batches = 1\nadamw = { weight_decay = 1000.0 }";
    let services = services(data.path(), &recipe(data.path(), training)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let error = run_once(&services, stop, true).await.unwrap_err();
    assert!(matches!(error, TrainerError::Unstable(_)), "{error}");
    let folder = std::fs::read_dir(runs(data.path())).unwrap().next();
    let folder = folder.unwrap().unwrap().path();
    assert!(folder.join("last_good").exists() && folder.join("steps.jsonl").exists());
    assert!(!folder.join("checkpoint.bin").exists() && !Prepared::is_interrupted(&folder));
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_and_adapters_of_runs_go_after_a_while_and_reports_stay() {
    let data = tempfile::tempdir().unwrap();
    let mut services = services(data.path(), "[storage]\nrun_days = 3\n").await;
    let heavy = [
        "checkpoint.bin",
        "done/adapter_model.safetensors",
        "stage-2/last_good/adapter_model.safetensors",
        "trial/stage-1/checkpoint.next",
    ];
    let light = ["report.json", "curve.svg", "stage-2/steps.jsonl"];
    for run in ["ended", "going"] {
        for name in heavy.iter().chain(&light) {
            let path = runs(data.path()).join(run).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "content").unwrap();
        }
    }
    std::fs::write(runs(data.path()).join("going/prepared.json"), "{}").unwrap();
    let there = |run: &str, names: &[&str]| {
        let paths = names
            .iter()
            .map(|name| runs(data.path()).join(run).join(name));
        paths.filter(|path| path.exists()).count()
    };
    let began = services.clock.now();
    let mut left_after = |hours: i64| {
        services.clock = Arc::new(ManualClock::new(UnixMillis(began.0 + hours * 3_600_000)));
        forget(&services).unwrap();
        ["ended", "going"].map(|run| (there(run, &heavy), there(run, &light)))
    };
    assert_eq!(left_after(71), [(4, 3), (4, 3)]);
    assert_eq!(left_after(73), [(0, 3), (4, 3)]);
}
