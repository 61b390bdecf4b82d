//! A fine-tuning job on the tiny model, from its file to its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use fine_tuning::{Command, HyperParameters, Job, Method, NewJob, Purpose, Status, Transition};
use ids::{Clock, JobId, ManualClock, UnixMillis};
use model::lora::LoraAdapter;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{beside, services, stages, tiny, words};
use crate::jobs::{forget, next};
use crate::{MemoryPlan, Services, TrainerError};

/// As long as a lease lasts.
const LEASE: Duration = Duration::from_secs(60);

const RECIPE: &str = "[eval]\nanswer_tokens_max = 4\n[training]\nepochs = 1\n\
                      sequence_tokens_max = 256\n[training.lora]\nrank = 2\n";

/// A job that waits, on a file of pairs.
pub(super) async fn queued(services: &Services, id: &str) -> Job {
    let folder = tempfile::tempdir().unwrap();
    let pairs = std::fs::read(stages::pairs(folder.path(), 9)).unwrap();
    let files = &services.tuning.files;
    let begun = files.begin("pairs.jsonl", Purpose::FineTune, UnixMillis(1));
    let mut upload = begun.await.unwrap();
    upload.write(Bytes::from(pairs)).await.unwrap();
    let file = upload.finish(UnixMillis(1)).await.unwrap();
    let asked = NewJob {
        model: "tiny".to_owned(),
        start: None,
        method: Method::Dpo,
        hyperparameters: HyperParameters::default(),
        training_file: file.id,
        validation_file: None,
        suffix: None,
        seed: 3,
        metadata: BTreeMap::new(),
    };
    let jobs = &services.tuning.jobs;
    jobs.create(JobId::new(id).unwrap(), asked, services.clock.now())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_memory_is_planned_and_its_progress_told() {
    let data = tempfile::tempdir().unwrap();
    let services = services(data.path(), RECIPE).await;
    let job = queued(&services, "ftjob-1").await;
    let stop = Arc::new(AtomicBool::new(false));
    crate::jobs::work(&services, job.clone(), stop)
        .await
        .unwrap();
    let ended = services.tuning.jobs.get(&job.id).await.unwrap();
    let events = services.tuning.history.events(&job.id, None, 100).await;
    let (events, _) = events.unwrap();
    assert!(ended.status.is_final(), "{ended:?} {events:?}");
    let step = events
        .iter()
        .find(|event| event.message.starts_with("Step "));
    let told = step.unwrap().data.as_ref().unwrap();
    assert!(told["memory_bytes"].as_u64() > Some(0) && told["seconds_left"].is_number());
    // numbered without a gap
    let numbers: Vec<u64> = events.iter().rev().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let plan = data.path().join("trainer/jobs/ftjob-1/memory.json");
    let plan: MemoryPlan = serde_json::from_slice(&std::fs::read(plan).unwrap()).unwrap();
    let sum: u64 = plan.terms.iter().map(|term| term.bytes).sum();
    assert!(plan.peak_bytes == sum && plan.peak_bytes < plan.limit_bytes);
    let told = std::fs::read_to_string(data.path().join("trainer/events.jsonl")).unwrap();
    assert!(told.contains("\"event\":\"memory\""), "{told}");
}

/// A clock that stands where it was put.
struct At(UnixMillis);

impl Clock for At {
    fn now(&self) -> UnixMillis {
        self.0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_of_jobs_that_have_ended_go_after_a_while() {
    let data = tempfile::tempdir().unwrap();
    let recipe = format!("{RECIPE}[storage]\njob_days = 3\n");
    let mut services = services(data.path(), &recipe).await;
    let checkpoint = |id: &str| {
        data.path()
            .join("trainer/jobs")
            .join(id)
            .join("checkpoint.bin")
    };
    for id in ["cancelled", "paused", "waiting", "unheard"] {
        if id != "unheard" {
            queued(&services, id).await;
        }
        std::fs::create_dir_all(checkpoint(id).parent().unwrap()).unwrap();
        std::fs::write(checkpoint(id), "state").unwrap();
    }
    let now = services.clock.now();
    for (id, command) in [("cancelled", Command::Cancel), ("paused", Command::Pause)] {
        let id = JobId::new(id).unwrap();
        let jobs = &services.tuning.jobs;
        jobs.command(&id, command, now).await.unwrap();
    }
    let there = || -> Vec<&str> {
        let all = ["cancelled", "paused", "waiting", "unheard"];
        all.into_iter()
            .filter(|id| checkpoint(id).exists())
            .collect()
    };
    let after = |hours: i64| Arc::new(At(UnixMillis(now.0 + hours * 3_600_000)));
    services.clock = after(71);
    forget(&services).await.unwrap();
    assert_eq!(there(), ["cancelled", "paused", "waiting", "unheard"]);
    services.clock = after(73);
    forget(&services).await.unwrap();
    assert_eq!(there(), ["paused", "waiting"]);
    // what a job that may still go on needs is never too old
    services.clock = after(10_000);
    forget(&services).await.unwrap();
    assert_eq!(there(), ["paused", "waiting"]);
}

/// The recipe of jobs that pass the gate, whatever comes out; their rows and their
/// evaluation wait for somebody to write the general prompts into a pipe.
struct Judged(tempfile::TempDir);

impl Judged {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let (mode, kind) = (rustix::fs::Mode::RWXU, rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(rustix::fs::CWD, folder.pipe(), kind, mode, 0).unwrap();
        folder
    }

    fn pipe(&self) -> PathBuf {
        self.0.path().join("replay.jsonl")
    }

    fn recipe(&self) -> String {
        format!(
            "[gate]\npreference_accuracy_min = 0.0\ndegenerate_share_max = 1.0\n\
             declined_share_max = 1.0\nlength_factor_max = 1e9\n\
             points_lost_max = 100.0\nmargin_lost_max = 1e9\n\
             [eval]\nanswer_tokens_max = 4\nreplay = {:?}\n\
             [training]\nepochs = 2\nsequence_tokens_max = 256\n[training.lora]\nrank = 2\n",
            self.pipe()
        )
    }

    /// Lets whoever reads the general prompts go on.
    async fn go_on(&self) {
        let (pipe, line) = (self.pipe(), "{\"prompt\":\"a\",\"expect\":\"b\"}\n");
        let write = tokio::task::spawn_blocking(move || std::fs::write(pipe, line));
        let written = tokio::time::timeout(LEASE, write).await;
        written.unwrap().unwrap().unwrap();
    }
}

impl Drop for Judged {
    /// Whoever still waits at the pipe's other end must not wait for ever.
    fn drop(&mut self) {
        let both = std::fs::File::options()
            .read(true)
            .write(true)
            .open(self.pipe());
        drop(both);
    }
}

async fn messages(services: &Services, id: &JobId) -> Vec<String> {
    let events = services.tuning.history.events(id, None, 100).await;
    let (events, _) = events.unwrap();
    events.into_iter().map(|event| event.message).collect()
}

/// Works on a job up to its evaluation.
async fn evaluating(
    services: &Services,
    judged: &Judged,
    job: &Job,
) -> JoinHandle<Result<(), TrainerError>> {
    let (services_there, job_there) = (services.clone(), job.clone());
    let before = messages(services, &job.id).await.len();
    let work = beside(move || async move {
        let stop = Arc::new(AtomicBool::new(false));
        crate::jobs::work(&services_there, job_there, stop).await
    });
    // rows are held against the general prompts, too
    judged.go_on().await;
    for _ in 0..6000 {
        let told = messages(services, &job.id).await;
        let new = &told[..told.len() - before];
        if new.iter().any(|message| message.starts_with("Evaluating")) {
            return work;
        }
        assert!(!work.is_finished(), "{told:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the job did not get to its evaluation");
}

async fn names(services: &Services) -> usize {
    let aliases = control::aliases::list(&*services.control).await;
    aliases.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_that_is_cancelled_while_it_is_judged_gets_no_name() {
    let (data, judged) = (tempfile::tempdir().unwrap(), Judged::new());
    let services = services(data.path(), &judged.recipe()).await;
    let job = queued(&services, "ftjob-1").await;
    let work = evaluating(&services, &judged, &job).await;
    let (jobs, now) = (&services.tuning.jobs, services.clock.now());
    jobs.command(&job.id, Command::Cancel, now).await.unwrap();
    judged.go_on().await;
    work.await.unwrap().unwrap();
    let ended = jobs.get(&job.id).await.unwrap();
    assert_eq!(
        (ended.status, ended.fine_tuned_model),
        (Status::Cancelled, None)
    );
    assert!(ended.result_files.is_empty());
    assert_eq!(names(&services).await, 0);
    assert_eq!(services.adapters.list().await.unwrap().len(), 0);
    let told = messages(&services, &job.id).await;
    assert_eq!(told[0], "Fine-tuning stopped", "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_that_is_paused_while_it_is_judged_is_judged_again_later() {
    let (data, judged) = (tempfile::tempdir().unwrap(), Judged::new());
    let mut services = services(data.path(), &judged.recipe()).await;
    let job = queued(&services, "ftjob-1").await;
    let work = evaluating(&services, &judged, &job).await;
    let (jobs, now) = (services.tuning.jobs.clone(), services.clock.now());
    jobs.command(&job.id, Command::Pause, now).await.unwrap();
    judged.go_on().await;
    work.await.unwrap().unwrap();
    let held = jobs.get(&job.id).await.unwrap();
    assert_eq!((held.status, names(&services).await), (Status::Paused, 0));
    let checkpoint = data.path().join("trainer/jobs/ftjob-1/checkpoint.bin");
    assert!(checkpoint.exists());

    // meanwhile the configuration becomes another
    let mut config = (*services.config).clone();
    config.training.learning_rate *= 2.0;
    config.training.lora.rank = 4;
    config.dataset.split_salt = "other".to_owned();
    services.config = Arc::new(config);
    let job = jobs.command(&job.id, Command::Resume, now).await.unwrap();
    let work = evaluating(&services, &judged, &job).await;
    judged.go_on().await;
    work.await.unwrap().unwrap();
    let ended = jobs.get(&job.id).await.unwrap();
    let told = messages(&services, &job.id).await;
    assert_eq!(ended.status, Status::Succeeded, "{told:?}");
    assert_eq!(ended.result_files.len(), 2);
    assert_eq!((names(&services).await, checkpoint.exists()), (1, false));
    // one of the checkpoints became the outcome
    let checkpoints = services.tuning.history.checkpoints(&job.id, None, 10).await;
    let (checkpoints, _) = checkpoints.unwrap();
    assert_eq!(checkpoints.len(), 2);
    assert!(checkpoints.iter().any(|one| ended.step == Some(one.step)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_trainer_without_the_lease_leaves_the_job_to_who_has_it() {
    let (data, judged) = (tempfile::tempdir().unwrap(), Judged::new());
    let mut services = services(data.path(), &judged.recipe()).await;
    let clock = Arc::new(ManualClock::new(services.clock.now()));
    services.clock = clock.clone();
    let job = queued(&services, "ftjob-1").await;
    let work = evaluating(&services, &judged, &job).await;
    // asleep for so long that another took the lease, and the job
    clock.advance(LEASE);
    let (control, now) = (&services.control, clock.now());
    let taken = control.acquire_lease("trainer", "another", LEASE, now);
    taken.await.unwrap().unwrap();
    judged.go_on().await;
    let result = work.await.unwrap();
    assert!(matches!(result, Err(TrainerError::LeaseLost)), "{result:?}");
    let left = services.tuning.jobs.get(&job.id).await.unwrap();
    assert_eq!((left.status, names(&services).await), (Status::Running, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_dead_trainer_is_next_once_its_lease_has_ended() {
    let data = tempfile::tempdir().unwrap();
    let mut services = services(data.path(), RECIPE).await;
    let clock = Arc::new(ManualClock::new(services.clock.now()));
    services.clock = clock.clone();
    let job = queued(&services, "ftjob-1").await;
    let (control, now) = (&services.control, clock.now());
    let dead = control.acquire_lease("trainer", "dead", LEASE, now).await;
    assert!(dead.unwrap().is_some());
    let jobs = &services.tuning.jobs;
    jobs.transition(&job.id, Transition::Take, now)
        .await
        .unwrap();
    // nor is another begun while it may be alive
    queued(&services, "ftjob-2").await;
    assert_eq!(next(&services).await.unwrap(), None);
    clock.advance(LEASE);
    let next = next(&services).await.unwrap().unwrap();
    assert_eq!((next.id, next.status), (job.id, Status::Queued));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_until_there_is_room_for_it() {
    let data = tempfile::tempdir().unwrap();
    let recipe = format!("{RECIPE}[storage]\nfree_bytes_min = {}\n", i64::MAX);
    let services = services(data.path(), &recipe).await;
    let job = queued(&services, "ftjob-1").await;
    let stop = Arc::new(AtomicBool::new(false));
    let result = crate::jobs::work(&services, job.clone(), stop).await;
    assert!(
        matches!(result, Err(TrainerError::Config { key, .. }) if key == "storage.free_bytes_min")
    );
    let waits = services.tuning.jobs.get(&job.id).await.unwrap();
    assert_eq!(waits.status, Status::Queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_trainers_die_of_fails() {
    let data = tempfile::tempdir().unwrap();
    let services = services(data.path(), RECIPE).await;
    let job = queued(&services, "ftjob-1").await;
    let folder = data.path().join("trainer/jobs/ftjob-1");
    std::fs::create_dir_all(&folder).unwrap();
    while crate::beginnings::begin(&folder).unwrap() {}
    let stop = Arc::new(AtomicBool::new(false));
    crate::jobs::work(&services, job.clone(), stop)
        .await
        .unwrap();
    let failed = services.tuning.jobs.get(&job.id).await.unwrap();
    assert_eq!(failed.status, Status::Failed);
    assert!(failed.error.unwrap().message.contains("died"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_job_leaves_what_the_gate_saw() {
    let data = tempfile::tempdir().unwrap();
    // what the second row asks is one of the general prompts
    let replay = data.path().join("replay.jsonl");
    let general = json!({ "prompt": words(10, 6), "expect": "a" });
    std::fs::write(&replay, general.to_string()).unwrap();
    let judged = format!("[gate]\nheld_out_min = 1000\n[eval]\nreplay = {replay:?}\n");
    let services = services(data.path(), &RECIPE.replace("[eval]\n", &judged)).await;
    let job = queued(&services, "ftjob-1").await;
    let stop = Arc::new(AtomicBool::new(false));
    crate::jobs::work(&services, job.clone(), stop)
        .await
        .unwrap();
    let refused = services.tuning.jobs.get(&job.id).await.unwrap();
    let told = messages(&services, &job.id).await;
    assert!(
        told.iter()
            .any(|message| message.contains("line 2: overlaps")),
        "{told:?}"
    );
    assert_eq!(refused.status, Status::Failed);
    let reason = &refused.error.as_ref().unwrap().message;
    let [steps, report] = &refused.result_files[..] else {
        panic!("{refused:?}");
    };
    let files = &services.tuning.files;
    for file in [steps, report] {
        let record = files.get(file).await.unwrap();
        assert_eq!(record.purpose, Purpose::FineTuneResults);
    }
    let steps = files.content(steps).await.unwrap();
    let steps = std::str::from_utf8(&steps).unwrap();
    assert!(
        steps.starts_with("step,train_loss,") && steps.lines().count() > 1,
        "{steps}"
    );
    let report = files.content(report).await.unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["passed"], false);
    let first = report["reasons"][0].as_str().unwrap();
    assert!(reason.contains(first), "{reason}");
    assert!(report["evaluation"]["preference"].is_object(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_falls_apart_keeps_its_last_good_adapter() {
    let data = tempfile::tempdir().unwrap();
    // a decay that turns each factor round and makes it 39 times as large
    let recipe = "[training]\nepochs = 8\npatience_epochs = 0\nlearning_rate = 4e-2\n\
                  warmup_ratio = 0.0\ndecay = \"constant\"\nmicro_batches = 1\n\
                  sequence_tokens_max = 256\nadamw = { weight_decay = 1000.0 }\n\
                  [training.lora]\nrank = 2\n";
    let services = services(data.path(), recipe).await;
    let job = queued(&services, "ftjob-1").await;
    let stop = Arc::new(AtomicBool::new(false));
    crate::jobs::work(&services, job.clone(), stop)
        .await
        .unwrap();
    let failed = services.tuning.jobs.get(&job.id).await.unwrap();
    assert_eq!(failed.error.unwrap().code, "training_failed");
    let kept = data.path().join("trainer/jobs/ftjob-1/last_good");
    let read = |name: &str| std::fs::read(kept.join(name)).unwrap();
    let (config, weights) = (
        read("adapter_config.json"),
        read("adapter_model.safetensors"),
    );
    let adapter = LoraAdapter::from_peft(&config, &weights, &tiny().config).unwrap();
    let mut factors = adapter.modules.values();
    assert!(factors.all(|m| m.a.iter().chain(&m.b).all(|v| v.is_finite())));
}
