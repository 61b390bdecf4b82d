//! The command line: serving, and administration over the HTTP API.

mod adapters;
mod bench;
mod client;
mod error;
mod feedback;
mod output;
mod rollout;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use error::CliError;
use output::Output;

/// Flywheel serves a base model and lets it learn from its users' votes.
#[derive(Debug, Parser)]
#[command(name = "flywheel", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the gateway.
    Serve(ServeArgs),
    /// Turns the whole wheel once, from the first question to the promotion.
    Demo(crate::demo::DemoArgs),
    /// Measures the engine on this machine: prefill and decoding, alone and in
    /// batches, with and without adapters.
    Bench(bench::BenchArgs),
    /// Lists, loads, unloads and names adapters.
    Adapters {
        #[command(subcommand)]
        command: adapters::Command,
        #[command(flatten)]
        remote: Remote,
    },
    /// Shows and moves rollouts.
    Rollout {
        #[command(subcommand)]
        command: rollout::Command,
        #[command(flatten)]
        remote: Remote,
    },
    /// Exports votes.
    Feedback {
        #[command(subcommand)]
        command: feedback::Command,
        #[command(flatten)]
        remote: Remote,
    },
}

/// What `flywheel serve` takes. Precedence: flag, environment, file, default.
#[derive(Debug, Args)]
struct ServeArgs {
    /// A TOML file with any of these options, and more.
    #[arg(long, env = "FLYWHEEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The GGUF file, or the folder as published, to serve; or `hf:ORG/REPO/FILE`.
    #[arg(long, env = "FLYWHEEL_MODEL", value_name = "PATH")]
    model: Option<PathBuf>,
    /// Where to listen; by default 127.0.0.1:8080. Without API keys only a
    /// loopback address is accepted.
    #[arg(long, env = "FLYWHEEL_LISTEN", value_name = "ADDR")]
    listen: Option<String>,
    /// The data folder; by default ./data.
    #[arg(long, env = "FLYWHEEL_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// `embedded` (the default) or `redis[s]://HOST:PORT/DB`. Credentials come
    /// from FLYWHEEL_REDIS_USERNAME and FLYWHEEL_REDIS_PASSWORD[_FILE].
    #[arg(long, env = "FLYWHEEL_STORE", value_name = "STORE")]
    store: Option<String>,
    /// The folder beneath which adapters may be loaded by path.
    #[arg(long, env = "FLYWHEEL_ADAPTER_ROOT", value_name = "DIR")]
    adapter_root: Option<PathBuf>,
}

/// Which gateway is administered, and how the answer is shown. The admin key is
/// FLYWHEEL_ADMIN_KEY, or what the gateway wrote to DATA/admin.key.
#[derive(Debug, Args)]
struct Remote {
    /// The gateway.
    #[arg(
        long,
        global = true,
        env = "FLYWHEEL_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// The gateway's data folder, for its admin key.
    #[arg(
        long,
        global = true,
        env = "FLYWHEEL_DATA",
        value_name = "DIR",
        default_value = "data"
    )]
    data: PathBuf,
    /// Prints JSON lines instead of tables.
    #[arg(long, global = true)]
    json: bool,
}

/// Runs a command to its end.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    // Another part of the process may have chosen already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(dispatch(cli.command)) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a command line tells a person what went wrong"
)]
fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

async fn dispatch(command: Command) -> Result<ExitCode, CliError> {
    let connect = |remote: &Remote| client::Client::new(&remote.url, &remote.data);
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Demo(args) => match crate::demo::run(args).await? {
            true => Ok(ExitCode::SUCCESS),
            false => Ok(ExitCode::FAILURE),
        },
        Command::Bench(args) => bench::run(args).await,
        Command::Adapters { command, remote } => {
            adapters::run(command, &connect(&remote)?, Output::new(remote.json)).await
        }
        Command::Rollout { command, remote } => {
            rollout::run(command, &connect(&remote)?, Output::new(remote.json)).await
        }
        Command::Feedback { command, remote } => feedback::run(command, &connect(&remote)?).await,
    }
}
