//! A whole run is killed in each of its parts, again and again: what it publishes is
//! what a run publishes that nobody killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ids::{ManualClock, UnixMillis};
use serde_json::{Value, json};

use super::{services, stages, words};
use crate::prepared::Prepared;
use crate::{resume, run_once};

/// The folder in which the child runs.
const FOLDER: &str = "FLYWHEEL_TEST_KILLED_FOLDER";
/// By how much the child's clock is ahead, in seconds: the lease of the one that was
/// killed before it has expired.
const AHEAD: &str = "FLYWHEEL_TEST_KILLED_AHEAD";
/// Longer than a lease.
const LEASE_SECONDS: i64 = 120;

/// Conversations and pairs, imitated and then preferred; whatever comes out of it is
/// published.
fn recipe(data: &Path) -> String {
    let chats = data.join("chats.jsonl");
    let turn = |role: &str, number, count| json!({ "role": role, "content": words(number, count) });
    let row = |i: u64| {
        let messages = [turn("user", 500 + i, 6), turn("assistant", 600 + i, 3)];
        json!({ "messages": messages }).to_string()
    };
    let rows: Vec<String> = (0..24).map(row).collect();
    std::fs::write(&chats, rows.join("\n")).unwrap();
    let pairs = stages::pairs(data, 24);
    let lax = "[gate]\nheld_out_min = 1\npreference_accuracy_min = 0.0\n\
               degenerate_share_max = 1.0\ndeclined_share_max = 1.0\nlength_factor_max = 1e9\n\
               points_lost_max = 100.0\nmargin_lost_max = 1e9\n";
    format!(
        "{lax}[eval]\nanswer_tokens_max = 4\n\
         [training]\nsequence_tokens_max = 256\nepochs = 3\npatience_epochs = 0\n\
         learning_rate = 1e-3\nmicro_batch_pairs = 2\nmicro_batches = 1\n\
         checkpoint_every_steps = 3\n[training.lora]\nrank = 2\n\
         [[stage]]\nkind = \"sft\"\n[[stage.file]]\npath = {chats:?}\n\
         [[stage]]\nkind = \"dpo\"\n[[stage.file]]\npath = {pairs:?}\n"
    )
}

/// Not a test: what the parent starts, kills and starts again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of another test"]
async fn child() {
    let Some(data) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let mut services = services(&data, &recipe(&data)).await;
    let ahead: i64 = std::env::var(AHEAD).unwrap().parse().unwrap();
    let now = UnixMillis(services.clock.now().0 + ahead * 1000);
    services.clock = Arc::new(ManualClock::new(now));
    let stop = Arc::new(AtomicBool::new(false));
    if Prepared::interrupted(&services.journal).unwrap().is_some() {
        resume(&services, stop).await.unwrap();
    } else if run_folder(&data).is_none() {
        run_once(&services, stop, true).await.unwrap();
    }
}

fn start(data: &Path, ahead: i64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::killed::child", "--ignored"])
        .env(FOLDER, data)
        .env(AHEAD, ahead.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The run's folder, once there is one.
fn run_folder(data: &Path) -> Option<PathBuf> {
    let runs = std::fs::read_dir(data.join("trainer/runs")).ok()?;
    let mut runs: Vec<PathBuf> = runs.map(|run| run.unwrap().path()).collect();
    assert!(runs.len() < 2, "a run began anew: {runs:?}");
    runs.pop()
}

/// A part of the run.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// So many steps of a stage are told.
    Steps(&'static str, usize),
    /// A stage is done.
    Done(&'static str),
    /// The status says so.
    State(&'static str),
}

impl Part {
    fn is_reached(self, data: &Path) -> bool {
        let of_run = |name: &str| run_folder(data).unwrap_or_default().join(name);
        match self {
            Self::Steps(stage, count) => {
                let steps = of_run(&format!("{stage}/steps.jsonl"));
                read(&steps).lines().count() >= count
            }
            Self::Done(stage) => of_run(&format!("{stage}/stage.json")).exists(),
            Self::State(state) => {
                let status: Value = serde_json::from_str(&read(&data.join("trainer/status.json")))
                    .unwrap_or_default();
                status["state"] == state
            }
        }
    }
}

/// Starts a child and kills it as soon as it is there; false when it ended before.
fn kill_in(part: Part, data: &Path, ahead: i64) -> bool {
    let mut child = start(data, ahead);
    let deadline = Instant::now() + Duration::from_secs(120);
    while !part.is_reached(data) {
        assert!(Instant::now() < deadline, "{part:?} was not reached");
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success(), "{part:?}");
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

/// What a run leaves: the candidate's digest, the decision, and the curves.
fn left(data: &Path) -> (Value, Value, [String; 4]) {
    let folder = run_folder(data).unwrap();
    let report: Value = serde_json::from_str(&read(&folder.join("report.json"))).unwrap();
    let names = [
        "stage-1/steps",
        "stage-1/epochs",
        "stage-2/steps",
        "stage-2/epochs",
    ];
    let curves = names.map(|name| read(&folder.join(format!("{name}.jsonl"))));
    (
        report["candidate"].clone(),
        report["decision"].clone(),
        curves,
    )
}

#[test]
fn a_run_that_is_killed_everywhere_publishes_the_same_adapter() {
    let whole = tempfile::tempdir().unwrap();
    assert!(start(whole.path(), 0).wait().unwrap().success());
    let whole = left(whole.path());
    assert_eq!(whole.1, "published");
    assert!(whole.2.iter().all(|curve| !curve.is_empty()));

    let killed = tempfile::tempdir().unwrap();
    let parts = [
        Part::Steps("stage-1", 1),
        Part::Steps("stage-1", 17),
        Part::Done("stage-1"),
        Part::Steps("stage-2", 5),
        Part::Steps("stage-2", 20),
        Part::Done("stage-2"),
        Part::State("evaluating"),
        Part::State("publishing"),
    ];
    let mut kills = 0;
    for (begun, part) in (0..).zip(parts) {
        kills += usize::from(kill_in(part, killed.path(), begun * LEASE_SECONDS));
    }
    // the last parts are short, and a child may be through before it is seen there
    assert!(kills >= 5, "{kills} kills came in time");
    let ahead = LEASE_SECONDS * parts.len() as i64;
    assert!(start(killed.path(), ahead).wait().unwrap().success());
    assert_eq!(left(killed.path()), whole);
}
