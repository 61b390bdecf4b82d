//! `flywheel bench`: what this machine's engine and gateway do, measured.

mod adapters;
mod figure;
mod serving;
mod speed;

use std::path::PathBuf;
use std::process::ExitCode;

use super::CliError;

/// What `flywheel bench` takes.
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    speed: speed::SpeedArgs,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Measures what streams notice of swaps, loads, long prompts and more
    /// adapters than fit in memory; each figure beside its target.
    Serving(serving::ServingArgs),
    /// Writes random adapters for the model as PEFT folders.
    Adapters(adapters::AdaptersArgs),
}

/// What every measurement takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// The GGUF file, or the folder as published (in Q8_0), to measure.
    #[arg(long, global = true, env = "FLYWHEEL_MODEL", value_name = "PATH")]
    model: Option<PathBuf>,
    /// Threads that compute; 0 is one for each CPU.
    #[arg(long, global = true, default_value_t = 0)]
    threads: usize,
    /// The rank of the random adapters.
    #[arg(long, global = true, default_value_t = 16)]
    rank: usize,
    /// Prints JSON lines instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

impl Common {
    fn model(&self) -> Result<PathBuf, CliError> {
        let missing = || CliError::Argument("--model or FLYWHEEL_MODEL must be given".to_owned());
        hub::resolve_and_log(self.model.as_deref().ok_or_else(missing)?).map_err(failed)
    }
}

pub(super) async fn run(args: BenchArgs) -> Result<ExitCode, CliError> {
    match args.what {
        None => speed::run(args.common, args.speed).await,
        Some(What::Serving(serving)) => serving::run(&args.common, serving).await,
        Some(What::Adapters(adapters)) => adapters::run(&args.common, &adapters).await,
    }
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Bench(error.to_string())
}
