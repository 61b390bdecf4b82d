//! Whether an fsync came before an acknowledgement, as system calls tell it.
//!
//! A page cache survives a SIGKILL, so that only the calls themselves show
//! what would survive a loss of power.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What is traced: everything by which requests come, answers go and files are
/// made durable.
const CALLS: &str = "read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,fsync,fdatasync";
/// How much of each buffer is kept; the markers have to be within.
const BUFFER_BYTES_MAX: &str = "65536";

/// A running trace of one process and all its threads.
#[derive(Debug)]
pub struct Strace {
    child: Child,
    file: PathBuf,
}

impl Strace {
    /// Starts to trace a running process into `file`. A call that a thread is
    /// in already may be missed; [`Strace::so_far`] tells what is seen.
    ///
    /// # Errors
    /// Where strace is not installed or may not trace.
    pub fn attach(pid: u32, file: &Path) -> io::Result<Self> {
        let mut child = Command::new("strace")
            .args([
                "-f",
                "-s",
                BUFFER_BYTES_MAX,
                "-e",
                &format!("trace={CALLS}"),
                "-p",
                &pid.to_string(),
                "-o",
            ])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("strace ({error}): run `make deps`"))
            })?;
        let mut said = String::new();
        if let Some(stderr) = child.stderr.as_mut() {
            BufReader::new(stderr).read_line(&mut said)?;
        }
        if !said.contains("attached") {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::other(format!("strace may not trace: {said}")));
        }
        Ok(Self {
            child,
            file: file.to_owned(),
        })
    }

    /// Ends the trace, lets the process go on, and gives what was written.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(mut self) -> io::Result<String> {
        self.child.kill()?;
        self.child.wait()?;
        self.so_far()
    }

    /// What was written until now.
    ///
    /// # Errors
    /// The system's.
    pub fn so_far(&self) -> io::Result<String> {
        std::fs::read(&self.file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why a trace says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The text that marks the request was not seen.
    #[error("the request is not in the trace")]
    NoArrival,
    /// The text that marks the answer was not seen after it.
    #[error("the answer is not in the trace")]
    NoAcknowledgement,
}

/// Whether an fsync or fdatasync that began after the call that shows
/// `arrival` had returned 0 before the call that shows `acknowledgement`
/// began. The texts are as strace writes them: quotes, `\r` and `\n` escaped.
///
/// # Errors
/// Where either text is missing.
pub fn fsynced_between(
    trace: &str,
    arrival: &str,
    acknowledgement: &str,
) -> Result<bool, TraceError> {
    let mut lines = trace.lines();
    lines
        .find(|line| line.contains(arrival))
        .ok_or(TraceError::NoArrival)?;
    let mut begun = HashSet::new();
    let mut fsynced = false;
    for line in lines {
        let (pid, call) = line.split_once(' ').unwrap_or(("", line));
        let call = call.trim_start();
        if call.contains(acknowledgement) {
            return Ok(fsynced);
        }
        let succeeded = call.ends_with(" = 0");
        if call.starts_with("fsync(") || call.starts_with("fdatasync(") {
            if call.ends_with("<unfinished ...>") {
                begun.insert(pid.to_owned());
            }
            fsynced |= succeeded;
        } else if call.starts_with("<... fsync resumed")
            || call.starts_with("<... fdatasync resumed")
        {
            fsynced |= begun.remove(pid) && succeeded;
        }
    }
    Err(TraceError::NoAcknowledgement)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn judge(lines: &[&str]) -> Result<bool, TraceError> {
        fsynced_between(&lines.join("\n"), "\"vote", "\"2xx")
    }

    #[test]
    fn only_an_fsync_in_between_counts() {
        let (vote, sync, ack) = (
            "7  read(0, \"vote\", 4) = 4",
            "8  fdatasync(5) = 0",
            "7  write(1, \"2xx\", 3) = 3",
        );
        assert_eq!(judge(&[vote, sync, ack]), Ok(true));
        assert_eq!(judge(&[sync, vote, ack, sync]), Ok(false));
        assert_eq!(
            judge(&[vote, "8  fdatasync(5) = -1 EIO (Input/output error)", ack]),
            Ok(false)
        );
        assert_eq!(judge(&[sync, ack]), Err(TraceError::NoArrival));
        assert_eq!(
            judge(&[ack, vote, sync]),
            Err(TraceError::NoAcknowledgement)
        );
    }

    #[test]
    fn a_split_call_counts_when_all_of_it_is_in_between() {
        let (vote, ack) = (
            "7  <... read resumed>\"vote\", 4) = 4",
            "7  write(1, \"2xx\", 3 <unfinished ...>",
        );
        let (begin, end) = ("8  fsync(5 <unfinished ...>", "8  <... fsync resumed>) = 0");
        assert_eq!(judge(&[vote, begin, end, ack]), Ok(true));
        assert_eq!(judge(&[begin, vote, end, ack]), Ok(false));
        assert_eq!(judge(&[vote, begin, ack, end]), Ok(false));
        assert_eq!(
            judge(&[vote, begin, "9  <... fsync resumed>) = 0", ack]),
            Ok(false)
        );
    }
}
