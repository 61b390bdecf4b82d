//! The processes of the demo: the gateway, the trainer as its sidecar, and the
//! administration commands, each the same binary that a user would run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::DemoError;

/// How long a process may take to end after SIGTERM before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A long-running process; killed when dropped.
pub(super) struct Process {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> DemoError {
    let what = what.into();
    move |source| DemoError::Io { what, source }
}

/// The path of a binary that stands beside this one.
pub(super) fn sibling(name: &str) -> Result<PathBuf, DemoError> {
    let this = std::env::current_exe().map_err(io("finding this program's own path"))?;
    let path = this.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(DemoError::Process {
        name: name.to_owned(),
        reason: format!(
            "not found at {}; build it with `make build`",
            path.display()
        ),
        log: "none".to_owned(),
    })
}

/// `program` without this shell's `FLYWHEEL_…` settings: the demo is at home in
/// its own folder, and must never reach a store or a gateway in use.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("FLYWHEEL_") && name != "FLYWHEEL_LOG" {
            command.env_remove(name.as_ref());
        }
    }
    command
}

impl Process {
    /// Starts `program`, with its output in `log`.
    pub(super) fn start(
        name: &'static str,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
        log: PathBuf,
    ) -> Result<Self, DemoError> {
        let file = File::create(&log).map_err(io(format!("creating {}", log.display())))?;
        let errors = file.try_clone().map_err(io("sharing a log file"))?;
        let child = command(program)
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(io(format!("starting {}", program.display())))?;
        Ok(Self { name, log, child })
    }

    /// An error when the process has ended although it should run.
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(format!("ended early with {status}"))),
            Err(error) => Err(self.failure(error.to_string())),
        }
    }

    fn failure(&self, reason: String) -> DemoError {
        DemoError::Process {
            name: self.name.to_owned(),
            reason,
            log: self.log.display().to_string(),
        }
    }

    /// Asks the process to end and waits; it must end cleanly.
    pub(super) async fn stop(mut self) -> Result<(), DemoError> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let asked = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            asked.map_err(|error| self.failure(error.to_string()))?;
        }
        match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failure(format!("ended with {status}"))),
            Ok(Err(error)) => Err(self.failure(error.to_string())),
            Err(_) => Err(self.failure("did not end after SIGTERM".to_owned())),
        }
    }

    /// Lets the process run on after this program's end.
    pub(super) fn detach(self) -> Option<u32> {
        let id = self.child.id();
        // Dropping the child would kill it; the process is meant to outlive us.
        std::mem::forget(self);
        id
    }
}

/// What a finished command printed.
pub(super) struct Output {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs a command to its end.
pub(super) async fn run(
    program: &Path,
    args: &[&str],
    env: &[(&str, &str)],
) -> Result<Output, DemoError> {
    let output = command(program)
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(io(format!("running {}", program.display())))?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
