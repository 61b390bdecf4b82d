//! A fine-tuning job on the tiny model, from its file to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use fine_tuning::{Command, HyperParameters, Job, Method, NewJob, Purpose};
use ids::{Clock, JobId, UnixMillis};

use super::{services, stages};
use crate::jobs::forget;
use crate::{MemoryPlan, Services};

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
