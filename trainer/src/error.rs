//! Why training, evaluation or publication did not happen.

use std::path::PathBuf;

use crate::trial::TrialFailure;

/// The trainer's errors. A candidate that the gate refuses is no error.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// The configuration is wrong.
    #[error("configuration: {key}: {problem}")]
    Config {
        /// The key, as in the file.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file's content is not what it should be.
    #[error("{path}: line {line}: {problem}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The base model or the adapter is unusable.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The engine that generates for the evaluation failed.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// The feedback store failed.
    #[error(transparent)]
    Feedback(#[from] feedback::FeedbackError),
    /// The control store failed.
    #[error(transparent)]
    Control(#[from] control::ControlError),
    /// Training files or jobs failed.
    #[error(transparent)]
    FineTuning(#[from] fine_tuning::FineTuningError),
    /// A store could not be opened.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// The adapter store failed.
    #[error(transparent)]
    AdapterStore(#[from] adapter_store::AdapterStoreError),
    /// The rendered prompt is no token prefix of the rendered conversation, so
    /// that what is scored would not be what is served.
    #[error("the chat template's prompt is no prefix of the conversation for example {0}")]
    TemplatePrefix(String),
    /// The run fell apart; the last good adapter was kept.
    #[error(transparent)]
    Unstable(#[from] Instability),
    /// The data failed on the smaller base that it was tried on.
    #[error(transparent)]
    Trial(#[from] TrialFailure),
    /// There is nothing to train or to judge with.
    #[error("not enough data: {0}")]
    NotEnoughData(String),
    /// The run was stopped from outside.
    #[error("the run was stopped")]
    Stopped,
    /// Another trainer holds the lease, or it was lost.
    #[error("the lease is held by another trainer")]
    LeaseLost,
}

/// How a run falls apart.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Instability {
    /// A loss or gradient was not finite.
    #[error("step {step}: the {what} is not finite")]
    NonFinite {
        /// The optimizer step, from 0.
        step: usize,
        /// Loss or gradient norm.
        what: &'static str,
    },
    /// The loss grew and stayed.
    #[error("step {step}: the loss rose from {first:.4} to {last:.4}: the run diverges")]
    Diverged {
        /// Optimizer steps done.
        step: usize,
        /// Mean loss of the first steps.
        first: f64,
        /// Mean loss of the last ones.
        last: f64,
    },
}

impl TrainerError {
    /// Wraps an IO error with the path that it is about.
    pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}
