//! `flywheel-trainer`: trains on feedback, beside the gateway or by hand.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use model::BaseModel;
use trainer::bench::{self, BenchArgs};
use trainer::data::{DataOptions, check_files};
use trainer::prove::{ProveArgs, prove};
use trainer::{
    Config, Decision, ExportArgs, RunOutcome, Services, Stop, TrainerError, again, behind_serving,
    export, judge, once, sidecar,
};

/// The exit status for a candidate that the gate refuses, or for refused rows.
const REFUSED: u8 = 3;

/// Trains adapters on feedback and publishes those that are better.
#[derive(Parser)]
#[command(version = trainer::CODE_VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Goes on with what was interrupted, then waits beside the gateway and
    /// trains by schedule or when bad cases wait.
    Run {
        #[command(flatten)]
        common: Common,
        /// What it does without it, too.
        #[arg(long, hide = true)]
        resume: bool,
    },
    /// Goes on with the last run that was interrupted, from its checkpoint.
    Resume(Common),
    /// Trains now, once; a run that was interrupted is given up.
    Once(Common),
    /// Judges an adapter in a PEFT folder against what is served; publishes nothing.
    Evaluate {
        #[command(flatten)]
        common: Common,
        /// The folder.
        #[arg(long)]
        adapter: PathBuf,
    },
    /// Checks training data: each row that would be refused, and why.
    CheckData(CheckData),
    /// Writes an adapter for use elsewhere: PEFT, llama.cpp's LoRA, or merged.
    Export(ExportArgs),
    /// Shows on the model that votes make better adapters, and bad votes none.
    Prove(ProveArgs),
    /// Measures a step of training: speed, memory, share of the machine's limit.
    Bench(BenchArgs),
}

#[derive(Args)]
struct CheckData {
    /// JSON lines (OpenAI's chat and preference formats, Alpaca, ShareGPT,
    /// reasoning, texts) or plain text (.txt, .md); together one dataset.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The base model, whose tokenizer and template rows are held against.
    #[arg(long, env = "FLYWHEEL_MODEL")]
    model: Option<PathBuf>,
    /// The most tokens of a row.
    #[arg(long, default_value_t = 1024)]
    tokens_max: usize,
    /// Evaluation files whose prompts must not be in the data.
    #[arg(long = "evaluation")]
    evaluations: Vec<PathBuf>,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Common {
    /// A TOML file with everything that can be set.
    #[arg(long, env = "FLYWHEEL_TRAINER_CONFIG")]
    config: Option<PathBuf>,
    /// The GGUF file that is served, or `hf:ORG/REPO/FILE`.
    #[arg(long, env = "FLYWHEEL_MODEL")]
    model: Option<PathBuf>,
    /// The data folder that the gateway uses too.
    #[arg(long, env = "FLYWHEEL_DATA")]
    data: Option<PathBuf>,
    /// `embedded` or `redis[s]://HOST:PORT/DB`.
    #[arg(long, env = "FLYWHEEL_STORE")]
    store: Option<String>,
    /// Where adapter versions are kept; `DATA/adapters` by default.
    #[arg(long, env = "FLYWHEEL_ADAPTERS")]
    adapters: Option<PathBuf>,
}

impl Common {
    /// The file's settings with flags and environment over them.
    fn config(self) -> Result<Config, TrainerError> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        config.model = self.model.or(config.model);
        config.data = self.data.or(config.data);
        config.store = self.store.or(config.store);
        config.adapters = self.adapters.or(config.adapters);
        Ok(config)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("FLYWHEEL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match start(cli.command) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, and tells.
fn measure(args: &BenchArgs) -> Result<ExitCode, TrainerError> {
    let report = bench::run(args)?;
    match args.json {
        true => tell(&format!("{}\n", serde_json::json!(report))),
        false => tell(&report.text()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Proves; the exit status says whether all of it held.
async fn show(args: ProveArgs) -> Result<ExitCode, TrainerError> {
    let stop = Stop::default();
    tokio::spawn(stop_on_signal(stop.clone()));
    let checks = prove(&args, &stop).await?;
    for check in &checks {
        match args.json {
            true => tell(&format!("{}\n", serde_json::json!(check))),
            false => tell(&check.text()),
        }
    }
    Ok(match checks.iter().all(|check| check.held) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(REFUSED),
    })
}

/// Checks data; the exit status says whether a row was refused.
fn check_data(args: &CheckData) -> Result<ExitCode, TrainerError> {
    let base = args.model.as_deref().map(BaseModel::open).transpose()?;
    let mut options = DataOptions {
        base: base.as_ref(),
        tokens_max: args.tokens_max,
        ..DataOptions::default()
    };
    for path in &args.evaluations {
        options.evaluation.add_file(path)?;
    }
    let report = check_files(&args.files, &options)?.report;
    match args.json {
        true => tell(&format!("{:#}\n", serde_json::json!(report))),
        false => tell(&report.text()),
    }
    Ok(match report.refused {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(REFUSED),
    })
}

fn start(command: Command) -> Result<ExitCode, TrainerError> {
    let (common, action) = match command {
        Command::Run { common, resume: _ } => (common, Action::Run),
        Command::Resume(common) => (common, Action::Resume),
        Command::Once(common) => (common, Action::Once),
        Command::CheckData(args) => return check_data(&args),
        Command::Bench(args) => return measure(&args),
        Command::Prove(args) => return runtime()?.block_on(show(args)),
        Command::Export(args) => {
            return runtime()?
                .block_on(export(args))
                .map(|()| ExitCode::SUCCESS);
        }
        Command::Evaluate { common, adapter } => (common, Action::Evaluate(adapter)),
    };
    let config = common.config()?;
    behind_serving(config.nice);
    runtime()?.block_on(act(config, action))
}

fn runtime() -> Result<tokio::runtime::Runtime, TrainerError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| TrainerError::File {
            path: "tokio runtime".into(),
            source,
        })
}

enum Action {
    Run,
    Resume,
    Once,
    Evaluate(PathBuf),
}

async fn act(config: Config, action: Action) -> Result<ExitCode, TrainerError> {
    let services = Services::open(config).await?;
    let stop = Stop::default();
    tokio::spawn(stop_on_signal(stop.clone()));
    match action {
        Action::Run => sidecar(&services, &stop).await.map(|()| ExitCode::SUCCESS),
        Action::Resume => match again(&services, &stop).await? {
            Some(RunOutcome::Judged(report)) => Ok(verdict(report.decision)),
            Some(RunOutcome::Unchanged(_)) => Ok(ExitCode::SUCCESS),
            None => {
                tell("no run was interrupted\n");
                Ok(ExitCode::SUCCESS)
            }
        },
        Action::Once => match once(&services, &stop).await? {
            RunOutcome::Judged(report) => Ok(verdict(report.decision)),
            RunOutcome::Unchanged(_) => Ok(ExitCode::SUCCESS),
        },
        Action::Evaluate(folder) => {
            let report = judge(&services, &folder).await?;
            tell(&report.text());
            Ok(verdict(report.decision))
        }
    }
}

fn verdict(decision: Decision) -> ExitCode {
    match decision {
        Decision::Published => ExitCode::SUCCESS,
        Decision::Refused => ExitCode::from(REFUSED),
    }
}

#[expect(clippy::print_stdout, reason = "the answer to the command")]
fn tell(text: &str) {
    print!("{text}");
}

async fn stop_on_signal(stop: Stop) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::warn!("signals cannot be heard");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stop.set();
}
