//! Stores a candidate that passed and makes it known.

use std::collections::BTreeMap;

use adapter_store::{AdapterFiles, Lineage, Source};
use control::{AuditEntry, ControlError, Expected};
use ids::{AdapterDigest, AliasName, BasisPoints, ModelName};
use rollout::Command;
use serde_json::json;

use crate::TrainerError;
use crate::report::{Report, TrainingReport};
use crate::services::Services;

/// Who changes the control state.
const ACTOR: &str = "flywheel-trainer";
/// How often a write that somebody else overtook is tried again.
const CONFLICTS_MAX: usize = 5;

/// Stores the files with their lineage, points the alias `MODEL/candidate` at
/// them and, if so configured, starts a canary.
pub(crate) async fn publish(
    services: &Services,
    files: &AdapterFiles,
    report: &Report,
    training: &TrainingReport,
    parent: Option<AdapterDigest>,
    model_name: Option<&ModelName>,
) -> Result<AdapterDigest, TrainerError> {
    let extra = [
        ("run_id", json!(report.run_id)),
        ("seed", json!(training.recipe.seed)),
        ("recipe", json!(training.recipe)),
        ("stages", json!(training.stages)),
        ("tokens", json!(training.tokens)),
    ];
    let lineage = Lineage {
        base: Some(services.base.digest),
        dataset: Some(training.dataset),
        parent,
        evaluation: Some(json!(report.evaluation)),
        created: services.clock.now(),
        source: Source::Trained,
        extra: extra
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
    };
    let digest = services.adapters.put(files, &lineage).await?;
    let name = model_name.map_or(services.base.name.as_str(), ModelName::as_str);
    let alias = AliasName::new(format!("{name}/candidate")).map_err(|e| TrainerError::Config {
        key: "model_name",
        problem: e.to_string(),
    })?;
    let audit = audit(services, "trainer.publish");
    control::aliases::set(&*services.control, &alias, digest, Expected::Any, audit).await?;
    let share = services.config.publish.initial_basis_points;
    if let (true, Some(name)) = (share > BasisPoints::ZERO, model_name) {
        start_canary(services, name, digest, share).await?;
    }
    Ok(digest)
}

fn audit(services: &Services, action: &str) -> AuditEntry {
    AuditEntry {
        actor: ACTOR.to_owned(),
        action: action.to_owned(),
        at: services.clock.now(),
    }
}

/// Puts the version on trial. A trial that is already running is left alone.
async fn start_canary(
    services: &Services,
    name: &ModelName,
    adapter: AdapterDigest,
    basis_points: BasisPoints,
) -> Result<(), TrainerError> {
    for _ in 0..CONFLICTS_MAX {
        let Some((revision, rollout)) = control::rollouts::get(&*services.control, name).await?
        else {
            tracing::warn!(%name, "no rollout to start a canary in");
            return Ok(());
        };
        // The version's digest is new to this rollout, and so is the salt.
        let new_salt = format!("{}-{}", adapter.short(), services.clock.now().0);
        let command = Command::SetCanary {
            adapter,
            basis_points,
            new_salt,
        };
        let next = match rollout.apply(command, services.clock.now()) {
            Ok(next) if !rollout.in_flight() => next,
            Ok(_) => {
                tracing::warn!(%name, "another canary is on trial; the candidate waits");
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(%name, %error, "the canary was not started");
                return Ok(());
            }
        };
        let audit = audit(services, "trainer.canary");
        let expected = Expected::Revision(revision);
        match control::rollouts::put(&*services.control, &next, expected, audit).await {
            Err(ControlError::Conflict { .. }) => {}
            other => return Ok(other.map(|_| ())?),
        }
    }
    tracing::warn!(%name, "the rollout kept changing; the canary was not started");
    Ok(())
}
