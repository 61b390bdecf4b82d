//! `flywheel bench serving`: what running streams notice of everything else.
//!
//! Each part compares two states of the same engine in turns, so that other load
//! on the machine meets both alike.

mod flips;
mod loads;
mod prompts;
mod server;
mod swaps;
mod tiers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use engine::bench::streams::{Next, Told};
use engine::bench::{conversation, request};
use engine::native::{NativeEngine, NativeOptions};
use engine::{ChatMessage, Engine};

use super::figure::{Figure, Target, milliseconds, quantile};
use super::{Common, failed};
use crate::cli::CliError;
use crate::cli::output::Output;

/// Streams that run while something else happens.
const STREAMS: usize = 8;
/// Prompt tokens of each, at least.
const PROMPT_TOKENS: u32 = 40;
/// The parts, as `--only` names them.
const PARTS: [&str; 5] = ["swaps", "loads", "flips", "prompts", "tiers"];

/// What is measured, and how long.
#[derive(Debug, clap::Args)]
pub(super) struct ServingArgs {
    /// Only this part: swaps, loads, flips, prompts or tiers.
    #[arg(long, value_parser = PARTS)]
    only: Option<String>,
    /// How often short measurements are repeated.
    #[arg(long = "repeat", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Adapter swaps under running streams.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(4..=1_000_000))]
    swaps: u32,
    /// Adapters that are registered in the last part; each takes 10 MB of disk
    /// for a while.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(17..=10_000))]
    registered: u64,
    /// Those of them that fit in memory.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1000))]
    resident: u64,
    /// Requests to them.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    requests: u32,
    /// Where adapters are stored meanwhile; by default a temporary folder.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// What the parts share.
struct Stage<'a> {
    native: &'a NativeEngine,
    engine: Arc<dyn Engine>,
    common: &'a Common,
    args: &'a ServingArgs,
    scratch: PathBuf,
    figures: Vec<Figure>,
}

pub(super) async fn run(common: &Common, args: ServingArgs) -> Result<ExitCode, CliError> {
    let scratch = match &args.scratch {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            tempfile::tempdir_in(folder)?
        }
        None => tempfile::tempdir()?,
    };
    let options = NativeOptions {
        threads: common.threads,
        adapter_bytes_max: u64::MAX,
        ..NativeOptions::default()
    };
    let native = Arc::new(NativeEngine::open(&common.model()?, options).map_err(failed)?);
    let mut stage = Stage {
        native: &native,
        engine: native.clone(),
        common,
        args: &args,
        scratch: scratch.path().to_owned(),
        figures: Vec::new(),
    };
    for part in PARTS {
        if args.only.as_deref().is_some_and(|only| only != part) {
            continue;
        }
        match part {
            "swaps" => swaps::run(&mut stage).await?,
            "loads" => loads::run(&mut stage).await?,
            "flips" => flips::run(&mut stage).await?,
            "prompts" => prompts::run(&mut stage).await?,
            _ => tiers::run(&mut stage).await?,
        }
    }
    let figures = std::mem::take(&mut stage.figures);
    drop(stage);
    native.shutdown().await;
    Output::new(common.json).rows(&figures, &Figure::HEAD, Figure::cells)?;
    Ok(ExitCode::SUCCESS)
}

impl Stage<'_> {
    /// Conversations that begin with the numbers from `first` on.
    async fn prompts(&self, first: u32, count: u32) -> Result<Vec<Vec<ChatMessage>>, CliError> {
        let mut prompts = Vec::new();
        for number in first..first + count {
            let prompt = conversation(self.engine.as_ref(), PROMPT_TOKENS, number).await;
            prompts.push(prompt.map_err(failed)?);
        }
        Ok(prompts)
    }

    /// Streams of the bare base, so many tokens long, each place with its prompt.
    async fn base_streams(&self, tokens: u32) -> Result<Next, CliError> {
        let prompts = self.prompts(0, STREAMS as u32).await?;
        Ok(Arc::new(move |place| {
            request(prompts[place % prompts.len()].clone(), None, tokens)
        }))
    }

    async fn unload_all(&self) -> Result<(), CliError> {
        let loaded = self.engine.adapters();
        for info in loaded.iter().filter(|info| info.accepts_requests) {
            let unloaded = self.engine.unload_adapter(&info.digest).await;
            unloaded.map_err(failed)?;
        }
        Ok(())
    }
}

/// The pauses of all streams that end in one of the spans, in milliseconds.
fn pauses(told: &Told, spans: &[(Instant, Instant)]) -> Vec<f64> {
    let of = |(from, until): &(Instant, Instant)| {
        let heard = told.heard.iter();
        let (from, until) = (*from, *until);
        heard
            .flat_map(move |heard| heard.pauses(from, until))
            .collect::<Vec<_>>()
    };
    spans.iter().flat_map(of).map(milliseconds).collect()
}

/// Median, 99th of a hundred and longest of two kinds of pauses, side by side.
fn compare(name: &str, mut pauses: Vec<f64>, mut without: Vec<f64>, p99: Target) -> [Figure; 3] {
    let mut figure = |what: &str, q| {
        Figure::new(
            format!("{name}: between tokens, {what}"),
            quantile(&mut pauses, q),
            "ms",
        )
        .beside(quantile(&mut without, q))
    };
    [
        figure("p50", 0.5),
        figure("p99", 0.99).should(p99),
        figure("longest", 1.0),
    ]
}
