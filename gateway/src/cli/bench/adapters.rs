//! `flywheel bench adapters`: random adapters as PEFT folders, for load tests of
//! this gateway and of others.

use std::path::PathBuf;
use std::process::ExitCode;

use engine::native::{NativeEngine, NativeOptions};

use super::{Common, failed};
use crate::cli::CliError;
use crate::cli::output::line;

/// Where to, and how many.
#[derive(Debug, clap::Args)]
pub(super) struct AdaptersArgs {
    /// The folder in which each adapter gets its own: `0`, `1` and so on.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    count: u64,
}

pub(super) async fn run(common: &Common, args: &AdaptersArgs) -> Result<ExitCode, CliError> {
    let options = NativeOptions {
        threads: 1,
        ..NativeOptions::default()
    };
    let engine = NativeEngine::open(&common.model()?, options).map_err(failed)?;
    for seed in 0..args.count {
        let package = engine
            .synthetic_adapter(common.rank, seed)
            .map_err(failed)?;
        let folder = args.out.join(seed.to_string());
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("adapter_config.json"), &package.config_json)?;
        std::fs::write(
            folder.join("adapter_model.safetensors"),
            &package.safetensors,
        )?;
        line(&format!("{} {}", folder.display(), package.digest))?;
    }
    engine.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
