//! Why a command failed.

use crate::config::ConfigError;
use crate::server::StartError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The gateway did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The gateway was not reached.
    #[error("{url} does not answer: {source}")]
    Unreachable {
        /// Which.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The gateway refused.
    #[error("{status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// There is no admin key.
    #[error("no admin key: set FLYWHEEL_ADMIN_KEY, or give the gateway's folder with --data")]
    NoKey,
    /// The gateway answered something else than expected.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// An argument cannot be used.
    #[error("{0}")]
    Argument(String),
    /// The demo could not go on.
    #[error("the demo stopped: {0}")]
    Demo(#[from] crate::demo::DemoError),
    /// The engine could not be measured.
    #[error("the measurement failed: {0}")]
    Bench(String),
    /// The signals or the output.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
