//! The memory of a stage or a job is planned before it begins, and the plan is
//! kept in its folder: one that goes on keeps it, since packs decide the last
//! bit of a sum.

use std::path::Path;

use model::BaseModel;
use model::lora::LoraAdapter;
use serde_json::json;

use crate::TrainerError;
use crate::journal::replace;
use crate::memory::{Demand, MemoryPlan, Room, plan_memory};
use crate::services::Services;
use crate::tensors::Place;
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
    let path = folder.join(FILE_NAME);
    let before = std::fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<MemoryPlan>(&bytes).ok());
    if let Some(plan) = before {
        return Ok(plan.apply(config));
    }
    let (place, own_max) = (&services.place, services.config.device_bytes_max);
    let Some(room) = place.room(own_max) else {
        tracing::warn!("the system does not say how much memory there is");
        return Ok(place.recipe(config));
    };
    let demand = demand(place, &services.base, start, room);
    let plan = plan_memory(&demand, examples, config)?;
    tracing::info!("memory: {}", plan.text());
    let now = services.clock.now();
    services.journal.event(now, "memory", json!(plan))?;
    let json = serde_json::to_vec_pretty(&plan).unwrap_or_default();
    replace(&path, &json)?;
    Ok(plan.apply(config))
}

/// What a plan for training `start` in a memory is about, now.
pub(crate) fn demand<'a>(
    place: &Place,
    base: &'a BaseModel,
    start: &LoraAdapter,
    room: Room,
) -> Demand<'a> {
    let to_interleave_bytes = match place.tensors() {
        None => base.weights.bytes_to_pack() as u64,
        Some(_) => 0,
    };
    Demand {
        model: &base.config,
        parameters: start.parameter_count(),
        to_interleave_bytes,
        computed: place.computed(),
        room,
    }
}
