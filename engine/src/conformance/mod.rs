//! The suite that every engine passes, whatever it is made of.
//!
//! It only uses the [`Engine`] trait and needs an engine that nobody else uses
//! meanwhile, with small limits (see [`Fixture`]).

mod adapters;
mod constraints;
mod errors;
mod limits;
mod support;
mod text;
mod tools;

use ids::AdapterDigest;

use crate::api::{AdapterPackage, Engine, EngineError};

/// The longest queue that the suite fills.
pub const WAITING_MAX: u32 = 32;

/// What the suite needs beside the engine: two adapters for its base that
/// change its answers and of which both, but not many more, fit in its memory.
pub struct Fixture {
    /// Adapters that the base accepts.
    pub adapters: [AdapterPackage; 2],
    /// One whose digest is right but which does not fit the base.
    pub misfit: AdapterPackage,
}

/// What an engine did not keep.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// Something other than what the suite expects.
    #[error("{check}: {found}")]
    Expectation {
        /// What was checked.
        check: &'static str,
        /// What was found instead.
        found: String,
    },
    /// An error where there should be none.
    #[error("an unexpected error: {0}")]
    Engine(#[from] EngineError),
    /// A stream that ended before its last event.
    #[error("a stream ended without Done or an error")]
    CutOff,
    /// Something that should have happened by now.
    #[error("{0} did not happen in time")]
    Timeout(&'static str),
}

/// Runs the whole suite.
///
/// # Errors
/// The first violation.
pub async fn run(engine: &dyn Engine, fixture: &Fixture) -> Result<(), Violation> {
    text::run(engine).await?;
    errors::run(engine).await?;
    constraints::run(engine).await?;
    tools::run(engine).await?;
    limits::run(engine).await?;
    adapters::run(engine, fixture).await
}

fn expect(holds: bool, check: &'static str, found: impl std::fmt::Debug) -> Result<(), Violation> {
    if holds {
        return Ok(());
    }
    Err(Violation::Expectation {
        check,
        found: format!("{found:?}"),
    })
}

fn is_resident(engine: &dyn Engine, digest: AdapterDigest) -> bool {
    engine
        .adapters()
        .iter()
        .any(|adapter| adapter.digest == digest)
}
