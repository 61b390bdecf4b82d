//! Loading an adapter version: its files are checked and laid out; then it
//! waits, within a deadline, for room in the adapters' memory.
//!
//! Never runs on the device thread, gives way to it (see [`super::background`]), and
//! keeps to one thread if it begins while streams run. One load at a time, in the order
//! in which they came, so that what is laid out but has no room yet is one adapter.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ids::AdapterDigest;
use model::BaseModel;
use model::lora::PeftReader;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::adapters::{AdapterRegistry, AdapterReservation};
use super::backend::Placement;
use super::background::{Background, Hands};
use super::lora::DeviceAdapter;
use super::worker::Gauges;
use crate::api::{AdapterInfo, AdapterPackage, EngineError, Wait};

/// The longest that a load waits, whatever is configured.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// Loads versions into a registry.
pub(super) struct Loader {
    pub(super) model: Arc<BaseModel>,
    pub(super) adapters: Arc<AdapterRegistry>,
    /// That of the engine, which decides how factors are kept.
    pub(super) placement: Placement,
    /// How long a load waits for sequences to let go of others' memory.
    pub(super) wait_max: Duration,
    /// Where versions are checked and laid out.
    pub(super) background: Background,
    /// Tell whether streams run.
    pub(super) gauges: Arc<Gauges>,
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
        let (model, placement) = (Arc::clone(&self.model), self.placement.clone());
        let gauges = Arc::clone(&self.gauges);
        let lay_out = move || {
            let hands = Hands::beside(gauges.running.load(Ordering::Relaxed));
            lay_out(&package, &model, &placement, hands)
        };
        let adapter = self.background.run(lay_out).await??;
        let reservation = self.reserve(adapter.byte_len(), deadline).await?;
        Ok(reservation.complete(adapter))
    }

    async fn reserve(
        &self,
        bytes: u64,
        deadline: Instant,
    ) -> Result<AdapterReservation, EngineError> {
        let adapters = &self.adapters;
        adapters.reserve_until(bytes, deadline, self.wait_max).await
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
    placement: &Placement,
    hands: Hands,
) -> Result<DeviceAdapter, EngineError> {
    // the digest takes about as long as one of the two halves of the layout
    let (digest, laid_out) = hands.both(
        || AdapterDigest::of_files(&package.config_json, &package.safetensors),
        || read(package, model, placement, hands),
    );
    if digest != package.digest {
        let reason = format!("its files have the digest {digest}, not {}", package.digest);
        return Err(EngineError::AdapterRejected(reason));
    }
    laid_out
}

fn read(
    package: &AdapterPackage,
    model: &BaseModel,
    placement: &Placement,
    hands: Hands,
) -> Result<DeviceAdapter, EngineError> {
    let AdapterPackage {
        digest,
        config_json,
        safetensors,
    } = package;
    let files = PeftReader::open(config_json, safetensors, &model.config)
        .map_err(|error| EngineError::AdapterRejected(error.to_string()))?;
    placement.read(*digest, &files, &model.config, hands)
}
