//! Follows the trainer from outside, by the status file that it keeps for
//! whoever wants to know: what it does now, how far it is, how it ended.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::processes::Process;
use super::{DemoError, say};

/// How often the status is read.
const POLL: Duration = Duration::from_millis(500);
/// How often a line of progress is printed.
const PROGRESS: Duration = Duration::from_secs(15);
/// The longest that a run may take.
const RUN_LIMIT: Duration = Duration::from_secs(1500);

/// The trainer's status file, as far as the demo reads it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) state: String,
    pub(super) step: u64,
    pub(super) steps: u64,
    pub(super) loss: Option<f64>,
    pub(super) tokens_per_second: Option<f64>,
    pub(super) outcome: Option<String>,
    pub(super) digest: Option<String>,
    pub(super) report: Option<String>,
    pub(super) reasons: Vec<String>,
}

fn read(path: &Path) -> Option<Status> {
    let bytes = std::fs::read(path).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Waits until the trainer has finished a run; prints its progress.
pub(super) async fn wait_for_run(data: &Path, trainer: &mut Process) -> Result<Status, DemoError> {
    let path = data.join("trainer").join("status.json");
    let started = Instant::now();
    let mut printed = (String::new(), Instant::now());
    loop {
        trainer.check()?;
        if let Some(status) = read(&path) {
            if status.outcome.is_some() {
                return Ok(status);
            }
            if status.state != printed.0 || printed.1.elapsed() > PROGRESS {
                say(&line(&status));
                printed = (status.state.clone(), Instant::now());
            }
        }
        if started.elapsed() > RUN_LIMIT {
            return Err(DemoError::Timeout {
                what: "the training run",
                limit_s: RUN_LIMIT.as_secs(),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn line(status: &Status) -> String {
    let mut line = format!("    trainer: {}", status.state);
    if status.steps > 0 {
        line.push_str(&format!(", step {} of {}", status.step, status.steps));
    }
    if let Some(loss) = status.loss {
        line.push_str(&format!(", loss {loss:.4}"));
    }
    if let Some(rate) = status.tokens_per_second {
        line.push_str(&format!(", {rate:.0} tok/s"));
    }
    line
}

/// The run's evaluation report.
pub(super) fn read_report(status: &Status) -> Result<Value, DemoError> {
    let path = status.report.as_deref().unwrap_or_default();
    let bytes = std::fs::read(path).map_err(|source| DemoError::Io {
        what: format!("reading the report {path:?}"),
        source,
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| DemoError::Protocol(format!("the report {path} is no JSON: {error}")))
}
