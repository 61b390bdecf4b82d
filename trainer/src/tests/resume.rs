//! A child process is killed at many points and goes on: adapter, optimizer
//! and curve are those of a run that nobody interrupted.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ids::{BaseDigest, Sha256Digest};
use model::lora::{LoraAdapter, LoraConfig};

use super::{frozen, sequence, tiny};
use crate::TrainerError;
use crate::checkpoints::CheckpointFile;
use crate::train::{
    Checkpoint, Checkpoints, Curve, EpochMetrics, Examples, Items, Job, Observer, PairExample,
    RatedExample, StepMetrics, TrainConfig, train_with,
};

/// The folder in which the child trains.
const FOLDER: &str = "FLYWHEEL_TEST_RESUME_FOLDER";
/// What the child trains: `pairs` or `rated`.
const KIND: &str = "FLYWHEEL_TEST_RESUME_KIND";
/// What the child says before it ends by itself.
const DONE: &str = "done";

fn examples(kind: &str) -> Examples {
    let chosen = |i: u32| sequence(&[1, 30, 40 + i, 31, 100, 101, 2], 4);
    let rejected = |i: u32| sequence(&[1, 30, 40 + i, 31, 150, 151, 152 + i, 2], 4);
    let items = |range: std::ops::Range<u32>| match kind {
        "pairs" => Items::Pairs(
            range
                .map(|i| PairExample {
                    id: i.to_string(),
                    chosen: chosen(i),
                    rejected: rejected(i),
                })
                .collect(),
        ),
        _ => Items::Rated(
            range
                .map(|i| RatedExample {
                    sequence: if i % 2 == 0 { chosen(i) } else { rejected(i) },
                    is_good: i % 2 == 0,
                })
                .collect(),
        ),
    };
    Examples {
        train: items(0..12),
        validation: items(12..15),
        retained: Vec::new(),
    }
}

fn config() -> TrainConfig {
    let mut config = TrainConfig {
        epochs: 4,
        learning_rate: 1e-2,
        micro_batch_pairs: 3,
        micro_batches: 1,
        patience_epochs: 0,
        ..TrainConfig::default()
    };
    config.lora.dropout = 0.1;
    config
}

/// Writes the curve as it grows, as the sidecar does, and takes its time.
struct Slow<'a>(&'a Path);

impl Observer for Slow<'_> {
    fn step(&mut self, metrics: &StepMetrics) {
        let line = serde_json::to_string(metrics).unwrap();
        crate::journal::append(&self.0.join("steps.jsonl"), &line).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }

    fn epoch(&mut self, metrics: &EpochMetrics) {
        let line = serde_json::to_string(metrics).unwrap();
        crate::journal::append(&self.0.join("epochs.jsonl"), &line).unwrap();
    }

    fn resumed(&mut self, curve: &Curve) {
        let write = |name: &str, text: &str| std::fs::write(self.0.join(name), text).unwrap();
        write("steps.jsonl", &curve.steps);
        write("epochs.jsonl", &curve.epochs);
    }
}

fn run(folder: &Path, kind: &str, config: &TrainConfig) -> Result<LoraAdapter, TrainerError> {
    run_from(folder, kind, config, (tiny().digest, 5))
}

/// The same over what is called another base, or from another adapter.
fn run_from(
    folder: &Path,
    kind: &str,
    config: &TrainConfig,
    (base, seed): (BaseDigest, u64),
) -> Result<LoraAdapter, TrainerError> {
    let lora = LoraConfig::uniform(4, 8.0);
    let start = LoraAdapter::new_random(&tiny().config, &lora, seed).unwrap();
    let (model, examples) = (frozen(tiny()), examples(kind));
    let job = Job {
        model: &model,
        base,
        start: &start,
        examples: &examples,
        config,
    };
    let mut checkpoints = CheckpointFile::new(folder, 3);
    let stop = AtomicBool::new(false);
    Ok(train_with(job, &mut checkpoints, &mut Slow(folder), &stop)?.adapter)
}

/// Not a test: what the parent starts, kills and starts again.
#[test]
#[ignore = "the child of another test"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let adapter = run(folder, &std::env::var(KIND).unwrap(), &config()).unwrap();
    let files = adapter.to_peft(&tiny().config).unwrap();
    std::fs::write(folder.join("adapter"), files.safetensors).unwrap();
    std::fs::write(folder.join(DONE), "").unwrap();
}

fn start(folder: &Path, kind: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::resume::child", "--ignored"])
        .env(FOLDER, folder)
        .env(KIND, kind)
        .env("RAYON_NUM_THREADS", "2")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn steps(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("steps.jsonl"))
        .unwrap_or_default()
        .lines()
        .count()
}

/// Kills the child once it has reported this many steps; false when it was
/// done before.
fn kill_at(folder: &Path, kind: &str, at: usize) -> bool {
    let mut child = start(folder, kind);
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        if folder.join(DONE).exists() || child.try_wait().unwrap().is_some() {
            child.wait().unwrap();
            return false;
        }
        if steps(folder) >= at {
            break;
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

struct Ended {
    adapter: Vec<u8>,
    checkpoint: Checkpoint,
    curves: [String; 2],
}

fn result(folder: &Path) -> Ended {
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    Ended {
        adapter: std::fs::read(folder.join("adapter")).unwrap(),
        checkpoint: CheckpointFile::new(folder, 3).last().unwrap().unwrap(),
        curves: [text("steps.jsonl"), text("epochs.jsonl")],
    }
}

#[test]
fn killed_runs_end_as_if_nothing_had_happened() {
    for kind in ["pairs", "rated"] {
        let whole = tempfile::tempdir().unwrap();
        assert!(start(whole.path(), kind).wait().unwrap().success());
        let whole = result(whole.path());
        assert_eq!(whole.checkpoint.position.steps, 16);
        let killed = tempfile::tempdir().unwrap();
        // before the first checkpoint, within epochs, right at their ends;
        // what was lost since a checkpoint is trained again
        let kills = [1, 2, 4, 5, 8, 9, 12, 13, 15, 16]
            .into_iter()
            .filter(|&at| kill_at(killed.path(), kind, at))
            .count();
        assert!(kills >= 5, "{kills} kills came in time");
        if !killed.path().join(DONE).exists() {
            assert!(start(killed.path(), kind).wait().unwrap().success());
        }
        let resumed = result(killed.path());
        assert_eq!(resumed.adapter, whole.adapter, "{kind}: the adapter");
        assert_eq!(resumed.curves, whole.curves, "{kind}: the curve");
        assert_eq!(
            resumed.checkpoint.digest(),
            whole.checkpoint.digest(),
            "{kind}: the optimizer"
        );
        assert_eq!(whole.curves[0], whole.checkpoint.curve.steps);
        assert_eq!(whole.curves[1], whole.checkpoint.curve.epochs);
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "pairs", &config()).unwrap();
    let other = TrainConfig {
        beta: 0.2,
        ..config()
    };
    let base = BaseDigest(Sha256Digest::of(b"another"));
    for result in [
        run(folder.path(), "pairs", &other),
        run(folder.path(), "rated", &config()),
        // whose references it has are other sums
        run_from(folder.path(), "pairs", &config(), (base, 5)),
        run_from(folder.path(), "pairs", &config(), (tiny().digest, 6)),
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(error, TrainerError::Config { key: "resume", .. }),
            "{error}"
        );
    }
    // its own is gone on from: there is nothing left to do
    run(folder.path(), "pairs", &config()).unwrap();
}
