//! The demo's steps, one file each, in the order in which they run.

pub(super) mod canary;
pub(super) mod promote;
pub(super) mod sabotage;
pub(super) mod train;
pub(super) mod votes;

use std::sync::atomic::Ordering;

use futures::StreamExt;

use super::client::{Answer, Ask, Client};
use super::report::Report;
use super::setup::{BackgroundCount, Stage};
use super::{DemoError, domain};

/// Requests of the demo that are under way at once.
const CONCURRENCY: usize = 8;

/// Asks everything, several at once, and returns the answers in order.
async fn ask_all(client: &Client, asks: &[Ask<'_>]) -> Result<Vec<Answer>, DemoError> {
    let futures: Vec<_> = asks.iter().map(|ask| client.ask(ask)).collect();
    futures::stream::iter(futures)
        .buffered(CONCURRENCY)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect()
}

/// How many of the answers contain what they should.
fn exact<'a>(pairs: impl Iterator<Item = (&'a Answer, &'a str)>) -> usize {
    pairs
        .filter(|(answer, expect)| domain::contains(&answer.text, expect))
        .count()
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// The lines of the table that concern the whole run.
pub(super) fn totals(stage: &Stage, report: &mut Report, background: &BackgroundCount) {
    let sent = stage.client.tally.sent.load(Ordering::Relaxed);
    let failed = stage.client.tally.failed.load(Ordering::Relaxed);
    report.check(
        "requests failed",
        "0",
        &format!("{failed} of {sent}"),
        failed == 0,
    );
    let answered = background.answered.load(Ordering::Relaxed);
    let broken = background.failed.load(Ordering::Relaxed);
    let held = broken == 0 && answered > 0;
    let seen = format!("{answered} answered, {broken} failed");
    report.check(
        "background requests, all the time",
        "none failed",
        &seen,
        held,
    );
    let minutes = report.total().as_secs_f64() / 60.0;
    report.check(
        "time for all steps",
        "< 15 minutes",
        &format!("{minutes:.1} minutes"),
        minutes < 15.0,
    );
}
