//! Loading an adapter version: its files are checked and laid out; then it
//! waits, within a deadline, for room in the adapters' memory.
//!
//! Never runs on the device thread. One load at a time, in the order in which
//! they came, so that what is laid out but has no room yet is one adapter.

use std::sync::Arc;
use std::time::Duration;

use ids::AdapterDigest;
use model::BaseModel;
use model::lora::LoraAdapter;
use model::quant::Precision;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::adapters::AdapterRegistry;
use super::lora::DeviceAdapter;
use crate::api::{AdapterInfo, AdapterPackage, EngineError, Wait};

/// The longest that a load waits, whatever is configured.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// Loads versions into a registry.
pub(super) struct Loader {
    pub(super) model: Arc<BaseModel>,
    pub(super) adapters: Arc<AdapterRegistry>,
    /// That of the engine, which decides how factors are kept.
    pub(super) precision: Precision,
    /// How long a load waits for sequences to let go of others' memory.
    pub(super) wait_max: Duration,
    /// Held by the load whose turn it is.
    pub(super) turn: Mutex<()>,
}

impl Loader {
    /// Checks a version and makes it resident.
    pub(super) async fn load(&self, package: AdapterPackage) -> Result<AdapterInfo, EngineError> {
        if let Some(resident) = self.adapters.revive(&package.digest) {
            return Ok(resident);
        }
        let deadline = Instant::now() + self.wait_max.min(WAIT_MAX);
        let turn = tokio::time::timeout_at(deadline, self.turn.lock()).await;
        let _turn = turn.map_err(|_| self.timed_out())?;
        if let Some(resident) = self.adapters.revive(&package.digest) {
            return Ok(resident);
        }
        // while it is laid out it is not in the budget: one load at a time
        // bounds what that can be
        let (model, precision) = (Arc::clone(&self.model), self.precision);
        let lay_out = move || lay_out(&package, &model, precision);
        let adapter = super::engine::run_blocking(lay_out).await??;
        let bytes = adapter.byte_len();
        let reservation = self.adapters.reserve_until(bytes, deadline, self.wait_max);
        let reservation = reservation.await?;
        Ok(reservation.complete(adapter))
    }

    fn timed_out(&self) -> EngineError {
        EngineError::TimedOut {
            wait: Wait::AdapterMemory,
            limit: self.wait_max,
        }
    }
}

fn lay_out(
    package: &AdapterPackage,
    model: &BaseModel,
    precision: Precision,
) -> Result<DeviceAdapter, EngineError> {
    let digest = AdapterDigest::of_files(&package.config_json, &package.safetensors);
    if digest != package.digest {
        let reason = format!("its files have the digest {digest}, not {}", package.digest);
        return Err(EngineError::AdapterRejected(reason));
    }
    let adapter = LoraAdapter::from_peft(&package.config_json, &package.safetensors, &model.config)
        .map_err(|error| EngineError::AdapterRejected(error.to_string()))?;
    Ok(DeviceAdapter::new(
        digest,
        &adapter,
        &model.config,
        precision,
    ))
}
