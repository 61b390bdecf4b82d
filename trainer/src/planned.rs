//! The memory of a stage or a job is planned before it begins, and the plan is
//! kept in its folder: one that goes on keeps it, since packs decide the last
//! bit of a sum.

use std::path::Path;

use model::lora::LoraAdapter;
use serde_json::json;

use crate::TrainerError;
use crate::journal::replace;
use crate::memory::{Demand, MemoryPlan, measured, plan_memory};
use crate::services::Services;
use crate::train::{Examples, TrainConfig};

/// The plan's name in the folder.
const FILE_NAME: &str = "memory.json";

/// The recipe with what its memory is planned to be.
///
/// # Errors
/// [`TrainerError::Config`] with the sum when it does not fit.
pub(crate) fn planned(
    services: &Services,
    folder: &Path,
    start: &LoraAdapter,
    examples: &Examples,
    config: &TrainConfig,
) -> Result<TrainConfig, TrainerError> {
    if services.place.tensors().is_some() {
        return Ok(services.place.recipe(config));
    }
    let path = folder.join(FILE_NAME);
    let before = std::fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<MemoryPlan>(&bytes).ok());
    if let Some(plan) = before {
        return Ok(plan.apply(config));
    }
    let Some((resident_bytes, limit_bytes)) = measured() else {
        tracing::warn!("the system does not say how much memory there is");
        return Ok(config.clone());
    };
    let modules = start.modules.values();
    let demand = Demand {
        model: &services.base.config,
        parameters: modules.map(|module| module.a.len() + module.b.len()).sum(),
        resident_bytes,
        limit_bytes,
    };
    let plan = plan_memory(&demand, examples, config)?;
    tracing::info!("memory: {}", plan.text());
    let now = services.clock.now();
    services.journal.event(now, "memory", json!(plan))?;
    let json = serde_json::to_vec_pretty(&plan).unwrap_or_default();
    replace(&path, &json)?;
    Ok(plan.apply(config))
}
