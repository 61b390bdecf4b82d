//! Training beside running streams, as the sidecar does it: its own process, on
//! the same CPUs, behind serving.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use engine::bench::streams::Running;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::{STREAMS, Stage, pauses};
use crate::cli::CliError;
use crate::cli::bench::failed;
use crate::cli::bench::figure::{Figure, Target, quantile};

/// The trainer's program, beside this one.
const PROGRAM: &str = "flywheel-trainer";
/// Tokens of the streams: more than they can have while they are watched.
const STREAM_TOKENS: u32 = 1000;
/// Pieces of text of each stream before anything is measured.
const WARM_UP: u64 = 24;
/// How long streams are watched, with training and then without.
const WATCHED: Duration = Duration::from_secs(6);
/// Steps of the trainer: far more than it can have meanwhile.
const STEPS: &str = "100";
/// How long the trainer may take until it trains.
const STARTED_MAX: Duration = Duration::from_secs(120);

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<(), CliError> {
    for count in [1, STREAMS] {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..stage.args.rounds {
            let streams = stage.base_streams(STREAM_TOKENS).await?;
            let trainer = Trainer::start(stage).await?;
            let running = Running::start(&stage.engine, count, &streams);
            running.warmed_up(WARM_UP).await;
            let from = Instant::now();
            tokio::time::sleep(WATCHED).await;
            let until = Instant::now();
            trainer.stop().await?;
            let alone = Instant::now();
            tokio::time::sleep(WATCHED).await;
            let ended = Instant::now();
            let told = running.stop().await;
            with.extend(pauses(&told, &[(from, until)]));
            without.extend(pauses(&told, &[(alone, ended)]));
        }
        for (what, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
            let name = format!("training beside {count} streams: between tokens, {what}");
            let figure = Figure::new(name, quantile(&mut with, q), "ms");
            let figure = figure.beside(quantile(&mut without, q));
            stage.figures.push(match what {
                "p95" => figure.should(Target::AtMost(1.3)),
                _ => figure,
            });
        }
    }
    Ok(())
}

/// A process that trains until it is stopped.
struct Trainer {
    child: Child,
    /// Kept open: what writes to a closed pipe fails.
    _lines: Lines<BufReader<ChildStderr>>,
}

impl Trainer {
    /// Starts one, with the priority that it has by default, and waits for its
    /// first step.
    async fn start(stage: &Stage<'_>) -> Result<Self, CliError> {
        let mut command = Command::new(program()?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLYWHEEL_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["bench", "--steps", STEPS, "--behind-serving"])
            .args(["--threads", &stage.common.threads.to_string()])
            .arg("--model")
            .arg(stage.common.model()?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = child.stderr.take();
        let stderr = stderr.ok_or_else(|| failed("the trainer has no output"))?;
        let mut lines = BufReader::new(stderr).lines();
        let first_step = async {
            let mut last = String::new();
            while let Some(line) = lines.next_line().await? {
                if line.contains("step 1:") {
                    return Ok(());
                }
                last = line;
            }
            Err(failed(format!("the trainer did not begin: {last}")))
        };
        tokio::time::timeout(STARTED_MAX, first_step)
            .await
            .map_err(|_| failed("the trainer did not begin in time"))??;
        let _lines = lines;
        Ok(Self { child, _lines })
    }

    async fn stop(mut self) -> Result<(), CliError> {
        if let Some(status) = self.child.try_wait()? {
            return Err(failed(format!("the trainer ended with {status}")));
        }
        Ok(self.child.kill().await?)
    }
}

fn program() -> Result<PathBuf, CliError> {
    let path = std::env::current_exe()?.with_file_name(PROGRAM);
    match path.exists() {
        true => Ok(path),
        false => Err(failed(format!("{} is missing: make build", path.display()))),
    }
}
