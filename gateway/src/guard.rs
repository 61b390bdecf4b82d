//! Writes down what a guard or the schedule decided about a rollout.

use std::time::Duration;

use control::{ControlError, Expected};
use ids::ModelName;
use rollout::{Arm, Command, verdict};

use crate::app::{App, GUARD};
use crate::routing::{PublicModel, Trial, default_guardrails};

/// How often a write is tried again after somebody else's.
const ATTEMPTS_MAX: u32 = 5;
/// Pause before the store is tried again after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Aborts the trial's rollout. The canary is stopped in memory already, so that
/// this may take its time.
pub(crate) async fn abort(app: &App, trial: &Trial, reason: String) {
    for _ in 0..ATTEMPTS_MAX {
        match try_apply(
            app,
            trial,
            Command::Abort {
                reason: reason.clone(),
            },
        )
        .await
        {
            Ok(()) => break,
            Err(ControlError::Conflict { .. }) => {}
            Err(error) => {
                tracing::error!(model = %trial.model, %error, "an abort could not be written yet");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
    app.refresh().await;
}

/// Applies a command while the rollout still runs this very trial.
async fn try_apply(app: &App, trial: &Trial, command: Command) -> Result<(), ControlError> {
    let control = app.control.as_ref();
    let Some((revision, rollout)) = control::rollouts::get(control, &trial.model).await? else {
        return Ok(());
    };
    if rollout.salt != trial.salt || !rollout.in_flight() {
        return Ok(());
    }
    let action = format!("rollout.{}", command.name());
    let next = match rollout.apply(command, app.clock.now()) {
        Ok(next) => next,
        Err(error) => {
            tracing::warn!(model = %trial.model, %error, "a guard's command did not fit");
            return Ok(());
        }
    };
    let audit = app.audit_as(GUARD, &action);
    control::rollouts::put(control, &next, Expected::Revision(revision), audit).await?;
    tracing::warn!(model = %trial.model, action, "a guard changed the rollout");
    Ok(())
}

/// Aborts every rollout on trial and says which were.
pub(crate) async fn abort_all(app: &App, reason: &str) -> Vec<ModelName> {
    let Ok(serving) = app.serving() else {
        return Vec::new();
    };
    let table = serving.router.table();
    let mut aborted = Vec::new();
    for model in table
        .models
        .values()
        .filter(|model| model.rollout.in_flight())
    {
        let Some(trial) = &model.trial else { continue };
        let command = Command::Abort {
            reason: reason.to_owned(),
        };
        match try_apply(app, trial, command).await {
            Ok(()) => aborted.push(trial.model.clone()),
            Err(error) => tracing::error!(model = %trial.model, %error, "an abort was not written"),
        }
    }
    app.refresh().await;
    aborted
}

/// What the schedule and the guards want now, for every rollout on trial: the
/// next step when it is due, or an abort that could not be written earlier.
pub(crate) async fn tend(app: &App) {
    let Ok(serving) = app.serving() else { return };
    let table = serving.router.table();
    for model in table.models.values() {
        if let Some((trial, command)) = due(model, app.clock.now())
            && let Err(error) = try_apply(app, trial, command).await
        {
            tracing::warn!(model = %trial.model, %error, "a due change was not written");
        }
    }
}

fn due(model: &PublicModel, now: ids::UnixMillis) -> Option<(&Trial, Command)> {
    let trial = model.trial.as_deref()?;
    let guardrails = match model.rollout.guardrails.as_slice() {
        [] => default_guardrails(),
        guardrails => guardrails.to_vec(),
    };
    let verdict = verdict(&guardrails, &trial.counters(Arm::Canary).guard);
    model
        .rollout
        .due(&verdict, now)
        .map(|command| (trial, command))
}
