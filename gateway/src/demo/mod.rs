//! `flywheel demo`: turns the whole wheel once on the real model, from outside.
//!
//! It is a client of the programs, never a part of them: it starts the gateway
//! and the trainer as processes, speaks HTTP to the one and reads the status
//! file of the other, and gives the same administration commands that an
//! operator would. Every demand is a line of the final table; the exit status
//! is 0 only if all held.

mod client;
mod domain;
mod error;
mod processes;
mod report;
mod sabotage;
mod setup;
mod steps;
mod training;

use std::path::PathBuf;

pub use error::DemoError;
use report::Report;

/// What `flywheel demo` was asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// The GGUF file to serve and to train on.
    #[arg(long, env = "FLYWHEEL_MODEL")]
    pub model: PathBuf,
    /// Where the demo keeps its data; a new temporary folder by default.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Leaves the gateway and the trainer running at the end.
    #[arg(long)]
    pub keep: bool,
}

/// Turns the wheel. True when everything held.
///
/// # Errors
/// Whatever made it impossible to go on.
pub async fn run(args: DemoArgs) -> Result<bool, DemoError> {
    let mut report = Report::default();
    report.step("Start the gateway and the trainer");
    let mut stage = setup::Stage::start(&args).await?;

    report.step("Ask the domain set and the general questions, and vote");
    steps::votes::run(&mut stage, &mut report).await?;

    report.step("Train on the bad cases and evaluate (the trainer does this by itself)");
    let candidate = steps::train::run(&mut stage, &mut report).await?;

    if let Some(candidate) = candidate {
        report.step("Canary at 5%");
        let early = steps::canary::run(&mut stage, &mut report, &candidate, 500, None).await?;
        report.step("Canary at 50%");
        steps::canary::run(&mut stage, &mut report, &candidate, 5000, Some(&early)).await?;
        report.step("Promote, and ask the held-out questions");
        steps::promote::run(&mut stage, &mut report, &candidate).await?;
        report.step("A bad adapter is refused by the evaluation");
        steps::sabotage::refused(&mut stage, &mut report, &candidate).await?;
        report.step("Forced in, it is stopped by the kill switch");
        steps::sabotage::forced(&mut stage, &mut report, &candidate).await?;
    }

    report.step("Finish");
    let background = stage.stop_background().await;
    steps::totals(&stage, &mut report, &background);
    say(&format!("\n{}", report.finish()));
    let held = report.held();
    say(if held {
        "\nThe wheel turned: every demand held."
    } else {
        "\nNOT every demand held; see the table."
    });
    stage.end(args.keep).await?;
    Ok(held)
}

/// Prints a line for the person who watches.
#[expect(
    clippy::print_stdout,
    reason = "the demo speaks to a person on standard output"
)]
fn say(line: &str) {
    println!("{line}");
}
