//! `flywheel-trainer prove`: shows on the real model, through the same store, run
//! and gate as any other votes, that thumbs and corrections make a better
//! adapter and that bad votes make none.
//!
//! Writes votes into stores of its own, in folders that it is given, and touches
//! no other. Judges nothing itself: it compares the runs' reports with what is
//! demanded.

mod corrections;
mod facts;
mod planted;
mod thumbs;
mod votes;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::native::{NativeEngine, NativeOptions};
use serde::Serialize;

use crate::evaluate::Generator;
use crate::pipeline::RunOutcome;
use crate::report::{Decision, Report};
use crate::{Config, Services, Stop, TrainerError, once};

/// What is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Proof {
    /// 50 thumbs up and 50 down, no correction: KTO.
    Thumbs,
    /// 200 corrections: DPO.
    Corrections,
    /// Flipped corrections are refused, the same unflipped are published.
    Planted,
}

/// What `flywheel-trainer prove` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct ProveArgs {
    /// What to prove.
    #[arg(value_enum)]
    proof: Proof,
    /// The GGUF file.
    #[arg(long, env = "FLYWHEEL_MODEL")]
    model: PathBuf,
    /// A folder for stores and runs; each must not exist in it yet.
    #[arg(long)]
    scratch: PathBuf,
    /// General prompts of which nothing may be forgotten, as JSON lines of
    /// `{"prompt", "expect"}`.
    #[arg(long)]
    replay: PathBuf,
    /// General prompts whose right answers get a thumbs-up, likewise.
    #[arg(long)]
    general: Option<PathBuf>,
    /// Another recipe than the proof's own.
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// Of the planted datasets, from this seed on…
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// …so many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Prints JSON lines instead of text.
    #[arg(long)]
    pub json: bool,
}

/// One thing that was demanded, and what was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// Demanded.
    pub demanded: String,
    /// Seen.
    pub seen: String,
    /// Whether it held.
    pub held: bool,
}

impl Check {
    fn new(what: &str, demanded: &str, seen: String, held: bool) -> Self {
        Self {
            what: what.to_owned(),
            demanded: demanded.to_owned(),
            seen,
            held,
        }
    }

    /// The check as a line.
    #[must_use]
    pub fn text(&self) -> String {
        let mark = if self.held { "held" } else { "MISSED" };
        format!(
            "{:<52} {:<28} {:<40} {mark}\n",
            self.what, self.demanded, self.seen
        )
    }
}

/// Proves, and tells what was seen.
///
/// # Errors
/// When a run fails; what does not hold is no error.
pub async fn prove(args: &ProveArgs, stop: &Stop) -> Result<Vec<Check>, TrainerError> {
    std::fs::create_dir_all(&args.scratch).map_err(TrainerError::file(&args.scratch))?;
    match args.proof {
        Proof::Thumbs => thumbs::prove(args, stop).await,
        Proof::Corrections => corrections::prove(args, stop).await,
        Proof::Planted => planted::prove(args, stop).await,
    }
}

/// The recipe that was given, or the proof's own.
fn recipe(args: &ProveArgs, own: &str) -> Result<Config, TrainerError> {
    match &args.recipe {
        None => Config::parse(own),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(TrainerError::file(path))?;
            Config::parse(&text)
        }
    }
}

/// Services over a store of their own, as `config` says.
async fn open(args: &ProveArgs, name: &str, mut config: Config) -> Result<Services, TrainerError> {
    let data = args.scratch.join(name);
    if data.exists() {
        let problem = format!("{} exists: each proof begins anew", data.display());
        let key = "scratch";
        return Err(TrainerError::Config { key, problem });
    }
    share_answers(&args.scratch, &data).map_err(TrainerError::file(&data))?;
    config.model = Some(args.model.clone());
    config.data = Some(data);
    config.eval.replay = Some(args.replay.clone());
    Services::open(config).await
}

/// Lets all proofs of a folder keep answers in one place: each is named by the base,
/// the adapter and the prompts, and the base's to the same prompts are the same.
fn share_answers(scratch: &Path, data: &Path) -> std::io::Result<()> {
    let shared = scratch.join("answers");
    std::fs::create_dir_all(&shared)?;
    let journal = data.join("trainer");
    std::fs::create_dir_all(&journal)?;
    std::os::unix::fs::symlink(shared.canonicalize()?, journal.join("answers"))
}

/// One run on what was voted; its report.
async fn run(services: &Services, stop: &Stop) -> Result<Report, TrainerError> {
    match once(services, stop).await? {
        RunOutcome::Judged(report) => Ok(*report),
        RunOutcome::Unchanged(_) => {
            let problem = "the run had nothing to train".to_owned();
            Err(TrainerError::NotEnoughData(problem))
        }
    }
}

/// The base's greedy answers to these prompts.
async fn base_answers(
    services: &Services,
    prompts: &[String],
) -> Result<Vec<String>, TrainerError> {
    let options = NativeOptions {
        threads: services.config.threads,
        ..NativeOptions::default()
    };
    let engine = Arc::new(NativeEngine::start(Arc::clone(&services.base), options)?);
    let tokens_max = services.config.eval.answer_tokens_max;
    let generator = Generator::new(engine.clone(), tokens_max, None);
    let conversations: Vec<Vec<engine::ChatMessage>> = prompts
        .iter()
        .map(|prompt| {
            vec![engine::ChatMessage::new(
                engine::Role::User,
                prompt.as_str(),
            )]
        })
        .collect();
    let answers = generator.answers(None, &conversations).await;
    engine.shutdown().await;
    Ok(answers?.into_iter().map(|answer| answer.text).collect())
}

/// What every proof of a good dataset demands of its run.
fn of_good_run(report: &Report, checks: &mut Vec<Check>) {
    let points = report.evaluation.replay.as_ref();
    let (lost, known) = points.map_or((f64::NAN, 0), |r| (r.points_lost(), r.base_right));
    let seen = format!("{lost:.1} points of {known} prompts");
    checks.push(Check::new(
        "replay: right answers lost",
        "≤ 1 point",
        seen,
        lost <= 1.0,
    ));
    let published = report.decision == Decision::Published;
    let seen = match published {
        true => format!("published {}", report.candidate.short()),
        false => report.reasons.join("; "),
    };
    checks.push(Check::new(
        "the gate's verdict",
        "published",
        seen,
        published,
    ));
}

/// Notes where a run's report is.
fn tell(services: &Services, report: &Report) {
    let folder = services.journal.root().join("runs").join(&report.run_id);
    tracing::info!("report: {}", folder.join("report.html").display());
}
