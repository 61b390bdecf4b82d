//! Files, jobs and their histories on real storage.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use control::ControlStore;
use fine_tuning::{
    Checkpoint, CheckpointMetrics, Command, Event, EventKind, Failure, FileRecord, Files,
    FineTuningError, History, HyperParameters, JOBS_ACTIVE_MAX, Jobs, Level, Method, NewJob, Place,
    Purpose, Status, Transition,
};
use ids::{FileId, JobId, UnixMillis};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

async fn add(files: &Files, name: &str, pieces: &[&str], at: UnixMillis) -> FileRecord {
    let mut upload = files.begin(name, Purpose::FineTune, at).await.unwrap();
    for piece in pieces {
        upload
            .write(Bytes::from((*piece).to_owned()))
            .await
            .unwrap();
    }
    upload.finish(at).await.unwrap()
}

#[tokio::test]
async fn a_file_is_kept_listed_checked_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(Place::local(folder.path()).unwrap());
    let one = add(&files, "one.jsonl", &["{}\n", "{}\n"], NOW).await;
    let two = add(
        &files,
        "two.jsonl",
        &["x"],
        NOW.plus(Duration::from_secs(1)),
    )
    .await;
    assert_eq!((one.bytes, one.filename.as_str()), (6, "one.jsonl"));
    assert_eq!(files.list().await.unwrap(), [one.clone(), two.clone()]);
    // another process sees the same
    let again = Files::new(Place::local(folder.path()).unwrap());
    assert_eq!(again.content(&one.id).await.unwrap(), "{}\n{}\n");
    again.delete(&one.id).await.unwrap();
    assert!(matches!(
        files.get(&one.id).await,
        Err(FineTuningError::NoFile(_))
    ));
    assert_eq!(files.list().await.unwrap(), std::slice::from_ref(&two));

    let content = folder.path().join("files/contents").join(two.id.as_str());
    std::fs::write(content, "y").unwrap();
    assert!(matches!(
        files.content(&two.id).await,
        Err(FineTuningError::Corrupt { .. })
    ));
}

#[tokio::test]
async fn what_is_not_finished_does_not_exist() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(Place::local(folder.path()).unwrap());
    let empty = files.begin("e", Purpose::FineTune, NOW).await.unwrap();
    assert!(matches!(
        empty.finish(NOW).await,
        Err(FineTuningError::FileSize { bytes: 0, .. })
    ));
    let mut given_up = files.begin("g", Purpose::FineTune, NOW).await.unwrap();
    given_up.write(Bytes::from_static(b"abc")).await.unwrap();
    given_up.abort().await;
    assert!(files.list().await.unwrap().is_empty());
    for name in ["", "a\nb", &"x".repeat(257)] {
        let begun = files.begin(name, Purpose::FineTune, NOW).await;
        assert!(matches!(begun, Err(FineTuningError::FileName { .. })));
    }
    // content without a record goes once it is old
    let contents = folder.path().join("files/contents");
    std::fs::create_dir_all(&contents).unwrap();
    std::fs::write(contents.join("file-lost"), "abc").unwrap();
    let modified = std::fs::metadata(contents.join("file-lost")).unwrap();
    let modified = modified
        .modified()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH);
    let written = UnixMillis(i64::try_from(modified.unwrap().as_millis()).unwrap());
    add(&files, "now", &["x"], written).await;
    assert!(contents.join("file-lost").exists());
    add(
        &files,
        "later",
        &["x"],
        written.plus(Duration::from_secs(2 * 86_400)),
    )
    .await;
    assert!(!contents.join("file-lost").exists());
    assert_eq!(files.list().await.unwrap().len(), 2);
}

fn asked(file: &str) -> NewJob {
    NewJob {
        model: "m".to_owned(),
        start: None,
        method: Method::Dpo,
        hyperparameters: HyperParameters {
            beta: Some(0.25),
            ..HyperParameters::default()
        },
        training_file: FileId::new(file).unwrap(),
        validation_file: None,
        suffix: None,
        seed: 7,
        metadata: BTreeMap::new(),
    }
}

async fn control(folder: &std::path::Path) -> Arc<dyn ControlStore> {
    let url = store::StoreUrl::parse("embedded", folder).unwrap();
    let options = store::StoreOptions::default();
    let backend = store::Backend::open(&url, &options).await.unwrap();
    control::open(&backend).await.unwrap()
}

#[tokio::test]
async fn the_oldest_job_is_next_and_what_its_owner_says_holds() {
    let folder = tempfile::tempdir().unwrap();
    let control = control(folder.path()).await;
    let (owner, trainer) = (
        Jobs::new(control.clone(), "admin"),
        Jobs::new(control.clone(), "t"),
    );
    let later = NOW.plus(Duration::from_secs(1));
    let first = owner
        .create(JobId::generate(), asked("file-1"), NOW)
        .await
        .unwrap();
    let second = owner
        .create(JobId::generate(), asked("file-2"), later)
        .await
        .unwrap();
    assert_eq!(trainer.next().await.unwrap().unwrap(), first);
    let file = FileId::new("file-2").unwrap();
    assert_eq!(owner.user_of(&file).await.unwrap(), Some(second.id.clone()));

    let id = &first.id;
    trainer
        .transition(id, Transition::Take, later)
        .await
        .unwrap();
    trainer
        .transition(id, Transition::Train, later)
        .await
        .unwrap();
    assert_eq!(trainer.next().await.unwrap().unwrap().id, second.id);
    let paused = owner.command(id, Command::Pause, later).await.unwrap();
    assert_eq!(paused.status, Status::Paused);
    let failure = Failure {
        code: "c".to_owned(),
        message: "m".to_owned(),
        param: None,
    };
    let late = trainer
        .transition(id, Transition::Fail(failure.clone()), later)
        .await;
    assert!(matches!(late, Err(FineTuningError::Impossible { .. })));
    owner.command(id, Command::Resume, later).await.unwrap();
    assert_eq!(
        trainer.next().await.unwrap().unwrap().id,
        *id,
        "it keeps its place"
    );
    trainer
        .transition(id, Transition::Take, later)
        .await
        .unwrap();
    let failed = trainer
        .transition(id, Transition::Fail(failure.clone()), later)
        .await
        .unwrap();
    assert_eq!(
        (failed.error, failed.finished_at),
        (Some(failure), Some(later))
    );
    let audit = control.audit(0, 100).await.unwrap();
    let pause = audit
        .iter()
        .find(|record| record.action == "job.pause")
        .unwrap();
    assert_eq!(pause.actor, "admin");
    let unknown = JobId::new("ftjob-x").unwrap();
    assert!(matches!(
        owner.get(&unknown).await,
        Err(FineTuningError::NoJob(_))
    ));
}

#[tokio::test]
async fn no_more_jobs_wait_than_may() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::new(control(folder.path()).await, "admin");
    let mut last = None;
    for _ in 0..JOBS_ACTIVE_MAX {
        last = Some(
            jobs.create(JobId::generate(), asked("f"), NOW)
                .await
                .unwrap(),
        );
    }
    let full = jobs.create(JobId::generate(), asked("f"), NOW).await;
    assert!(matches!(
        full,
        Err(FineTuningError::TooManyJobs(JOBS_ACTIVE_MAX))
    ));
    jobs.command(&last.unwrap().id, Command::Cancel, NOW)
        .await
        .unwrap();
    assert!(
        jobs.create(JobId::generate(), asked("f"), NOW)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_history_is_numbered_and_paged_from_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let history = History::new(Place::local(folder.path()).unwrap());
    let (job, other) = (JobId::generate(), JobId::generate());
    for text in ["a", "b", "c"] {
        let event = Event {
            number: 0,
            at: NOW,
            level: Level::Info,
            kind: EventKind::Message,
            message: text.to_owned(),
            data: None,
        };
        history.tell(&job, event).await.unwrap();
    }
    let numbers = |events: &[Event]| events.iter().map(|e| e.number).collect::<Vec<_>>();
    let (page, more) = history.events(&job, None, 2).await.unwrap();
    assert_eq!((numbers(&page), more), (vec![3, 2], true));
    let (page, more) = history.events(&job, Some(2), 2).await.unwrap();
    assert_eq!((numbers(&page), more), (vec![1], false));
    assert_eq!(page[0].message, "a");
    assert!(history.events(&other, None, 2).await.unwrap().0.is_empty());

    for step in [5, 10] {
        let metrics = CheckpointMetrics {
            valid_loss: Some(0.5),
            ..CheckpointMetrics::default()
        };
        let checkpoint = Checkpoint {
            step,
            at: NOW,
            metrics,
        };
        history.checkpoint(&job, &checkpoint).await.unwrap();
        history.checkpoint(&job, &checkpoint).await.unwrap();
    }
    let (page, more) = history.checkpoints(&job, None, 10).await.unwrap();
    assert_eq!(page.iter().map(|c| c.step).collect::<Vec<_>>(), [10, 5]);
    assert!(!more);
}
