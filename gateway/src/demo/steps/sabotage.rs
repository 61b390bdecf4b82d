//! An adapter that is bad on purpose: the evaluation refuses it; forced in, a
//! guard stops it.

use std::path::PathBuf;

use adapter_store::AdapterStore;
use ids::AdapterDigest;
use serde_json::json;

use super::super::client::Ask;
use super::super::report::Report;
use super::super::setup::{MODEL, Stage};
use super::super::{DemoError, sabotage, say};
use super::ask_all;
use super::promote::short;

/// The folder's name beneath the adapter root, and the alias.
const BAD: &str = "bad-on-purpose";
/// What `flywheel-trainer evaluate` exits with for an adapter that must not get out.
const REFUSED: i32 = 3;
/// Users that ask in one round while the bad adapter is forced in.
const ROUND: usize = 20;
/// Rounds after which the guard must have acted.
const ROUNDS_MAX: usize = 6;

fn folder(stage: &Stage) -> PathBuf {
    stage.data.join("adapter-root").join(BAD)
}

/// Makes the bad adapter out of the good one and shows that the gate refuses it.
pub(crate) async fn refused(
    stage: &mut Stage,
    report: &mut Report,
    candidate: &str,
) -> Result<(), DemoError> {
    let digest: AdapterDigest = candidate
        .parse()
        .map_err(|error| DemoError::Protocol(format!("{error}")))?;
    let unreadable = |error| DemoError::Protocol(format!("the adapter store: {error}"));
    let store = AdapterStore::local(&stage.data.join("adapters")).map_err(unreadable)?;
    let good = store.get(&digest).await.map_err(unreadable)?;
    let folder = folder(stage);
    sabotage::write_bad_adapter(&good.files.config_json, &good.files.safetensors, &folder)?;
    let output = stage.evaluate(&folder).await?;
    for line in output
        .stdout
        .lines()
        .chain(output.stderr.lines())
        .filter(|l| l.contains("refused"))
    {
        say(&format!("    {}", line.trim()));
    }
    report.check(
        "bad adapter at the evaluation",
        "refused",
        if output.code == REFUSED {
            "refused"
        } else {
            "not refused"
        },
        output.code == REFUSED,
    );
    Ok(())
}

/// Gives the bad adapter half of the users; the guard must take it away.
pub(crate) async fn forced(
    stage: &mut Stage,
    report: &mut Report,
    stable: &str,
) -> Result<(), DemoError> {
    stage
        .flywheel(&["adapters", "load", BAD, "--path", BAD])
        .await?;
    stage
        .flywheel(&[
            "rollout",
            "set",
            MODEL,
            "--canary",
            BAD,
            "--basis-points",
            "5000",
        ])
        .await?;
    let mut reached = 0;
    let mut asked = 0;
    let mut aborted = None;
    for round in 0..ROUNDS_MAX {
        let adapters = ask_round(stage, &format!("forced-{round}")).await?;
        asked += adapters.len();
        reached += adapters
            .iter()
            .filter(|adapter| adapter.as_deref() != Some(stable))
            .count();
        aborted = abort_reason(stage).await?;
        if aborted.is_some() {
            break;
        }
    }
    let seen = match &aborted {
        Some(reason) => format!("stopped after {reached} of {asked} answers: {reason}"),
        None => format!("still running after {asked} answers"),
    };
    report.check(
        "bad adapter forced in at 50%",
        "stopped by the kill switch",
        &seen,
        aborted.is_some(),
    );

    let after = ask_round(stage, "after").await?;
    let on_stable = after
        .iter()
        .filter(|adapter| adapter.as_deref() == Some(stable))
        .count();
    report.check(
        "answered by, after the abort",
        &short(stable),
        &format!("{} for {on_stable} of {}", short(stable), after.len()),
        on_stable == after.len(),
    );
    Ok(())
}

/// One question each by new users; which adapter answered each.
async fn ask_round(stage: &Stage, name: &str) -> Result<Vec<Option<String>>, DemoError> {
    let users: Vec<String> = (0..ROUND).map(|n| format!("{name}-{n}")).collect();
    let asks: Vec<Ask<'_>> = users
        .iter()
        .map(|user| Ask {
            model: MODEL,
            user,
            prompt: "What is the capital of France?",
            max_tokens: 48,
            stream: true,
            metadata: json!({}),
        })
        .collect();
    let answers = ask_all(&stage.client, &asks).await?;
    Ok(answers.into_iter().map(|answer| answer.adapter).collect())
}

/// Why the rollout was aborted, if it was.
async fn abort_reason(stage: &Stage) -> Result<Option<String>, DemoError> {
    let rollout = stage
        .client
        .admin_get(&format!("/admin/v1/rollouts/{MODEL}"))
        .await?;
    if rollout["status"].as_str() != Some("aborted") {
        return Ok(None);
    }
    Ok(Some(
        rollout["abort_reason"]
            .as_str()
            .unwrap_or("no reason given")
            .to_owned(),
    ))
}
