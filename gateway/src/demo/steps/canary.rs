//! The candidate gets a share of the users, and the share is measured.

use std::collections::HashSet;

use serde_json::json;

use super::super::DemoError;
use super::super::client::Ask;
use super::super::report::Report;
use super::super::setup::{MODEL, Stage};
use super::ask_all;

/// Users that ask at a share of 5%.
const USERS_EARLY: usize = 400;
/// Users that ask at a share of 50%: the first of those above.
const USERS_LATE: usize = 160;

/// Sets the share and lets users ask. Returns those that got the canary.
/// `before` are those that had it at a lower share; none may have lost it.
pub(crate) async fn run(
    stage: &mut Stage,
    report: &mut Report,
    candidate: &str,
    basis_points: u32,
    before: Option<&HashSet<usize>>,
) -> Result<HashSet<usize>, DemoError> {
    let share = basis_points.to_string();
    let set = [
        "rollout",
        "set",
        MODEL,
        "--canary",
        candidate,
        "--basis-points",
        &share,
    ];
    stage.flywheel(&set).await?;
    let count = if before.is_some() {
        USERS_LATE
    } else {
        USERS_EARLY
    };
    let users: Vec<String> = (0..count).map(|n| format!("user-{n}")).collect();
    let asks: Vec<Ask<'_>> = users
        .iter()
        .enumerate()
        .map(|(n, user)| Ask {
            model: MODEL,
            user,
            prompt: "Say hello.",
            max_tokens: 4,
            stream: n % 4 == 0,
            metadata: json!({}),
        })
        .collect();
    let answers = ask_all(&stage.client, &asks).await?;
    let on_canary: HashSet<usize> = (0..count)
        .filter(|n| {
            answers
                .get(*n)
                .is_some_and(|answer| answer.adapter.as_deref() == Some(candidate))
        })
        .collect();
    let others = answers
        .iter()
        .filter(|answer| answer.adapter.is_some() && answer.adapter.as_deref() != Some(candidate))
        .count();

    let wanted = f64::from(basis_points) / 10_000.0;
    let observed = on_canary.len() as f64 / count as f64;
    let sigma = (wanted * (1.0 - wanted) / count as f64).sqrt();
    report.check(
        &format!("canary share asked for and observed ({count} users)"),
        &format!("{:.0}% ± {:.1} (4σ)", 100.0 * wanted, 400.0 * sigma),
        &format!("{:.1}%", 100.0 * observed),
        (observed - wanted).abs() <= 4.0 * sigma && others == 0 && !on_canary.is_empty(),
    );
    if let Some(before) = before {
        let lost = before
            .iter()
            .filter(|n| **n < count && !on_canary.contains(n))
            .count();
        report.check(
            "users who lost the canary as its share rose",
            "0",
            &lost.to_string(),
            lost == 0,
        );
    }
    Ok(on_canary)
}
