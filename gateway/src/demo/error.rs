//! Why the demo stopped.

/// Why the demo stopped, with what to look at.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The gateway could not be reached or broke off.
    #[error("the gateway did not answer: {0}")]
    Http(#[from] reqwest::Error),
    /// The gateway refused a request that should have been accepted.
    #[error("{url} answered {status}: {body}")]
    Refused {
        /// The path asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// An answer is not what the API promises.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// A shipped file is damaged.
    #[error("the shipped file {file} is unusable: {reason}")]
    Data {
        /// Which file.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A process did not start, ended early or failed.
    #[error("{name}: {reason} (its log: {log})")]
    Process {
        /// Which process.
        name: String,
        /// What happened.
        reason: String,
        /// Where its output is.
        log: String,
    },
    /// A step took longer than it may.
    #[error("{what} took longer than {limit_s} s")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The bound.
        limit_s: u64,
    },
}
