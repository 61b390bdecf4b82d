//! Loading an adapter version: checked, its memory set aside, its weights
//! merged, and a model instance built of them, in the background. It takes no
//! requests before all of it is there.

use std::sync::Arc;
use std::time::Duration;

use engine::parts::{Resident, Residents};
use engine::{AdapterInfo, AdapterPackage, EngineError, Wait};
use ids::AdapterDigest;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::instance::{Instance, Plan};
use crate::merge::Deltas;

/// The longest that a load waits, whatever is configured.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// A resident adapter version.
pub(crate) struct Version {
    digest: AdapterDigest,
    rank: u32,
    bytes: u64,
    pub(crate) instance: Arc<Instance>,
}

impl Resident for Version {
    fn digest(&self) -> AdapterDigest {
        self.digest
    }

    fn rank(&self) -> u32 {
        self.rank
    }

    fn byte_len(&self) -> u64 {
        self.bytes
    }
}

/// Loads versions, one at a time, in the order in which they came: what is in
/// memory beside the budget is what one load needs to merge.
pub(crate) struct Loader {
    pub(crate) plan: Arc<Plan>,
    pub(crate) versions: Arc<Residents<Version>>,
    pub(crate) turn: Mutex<()>,
}

impl Loader {
    /// Makes a version resident.
    pub(crate) async fn load(&self, package: AdapterPackage) -> Result<AdapterInfo, EngineError> {
        if let Some(resident) = self.versions.revive(&package.digest) {
            return Ok(resident);
        }
        let limit = self.plan.options.adapter_wait_max;
        let deadline = Instant::now() + limit.min(WAIT_MAX);
        let turn = tokio::time::timeout_at(deadline, self.turn.lock()).await;
        let _turn = turn.map_err(|_| EngineError::TimedOut {
            wait: Wait::AdapterMemory,
            limit,
        })?;
        if let Some(resident) = self.versions.revive(&package.digest) {
            return Ok(resident);
        }
        let digest = package.digest;
        let plan = Arc::clone(&self.plan);
        let (deltas, bytes) = run_blocking(move || check(&package, &plan)).await??;
        let reservation = self.versions.reserve_until(bytes, deadline, limit).await?;
        let plan = Arc::clone(&self.plan);
        let build = move || build(&deltas, &plan, digest, bytes);
        let version = run_blocking(build).await??;
        Ok(reservation.complete(version))
    }
}

/// Reads an adapter, and what an instance with it will take.
fn check(package: &AdapterPackage, plan: &Plan) -> Result<(Deltas, u64), EngineError> {
    let deltas = Deltas::read(package, &plan.base)?;
    let isq = plan.options.isq.as_deref();
    let bytes = plan.base.instance_bytes(&deltas.names(), isq);
    let bytes = bytes.map_err(|error| EngineError::Failed(error.to_string()))?;
    Ok((deltas, bytes))
}

fn build(
    deltas: &Deltas,
    plan: &Arc<Plan>,
    digest: AdapterDigest,
    bytes: u64,
) -> Result<Version, EngineError> {
    let failed = |error: &dyn std::fmt::Display| {
        EngineError::Failed(format!("the adapter {digest} was not loaded: {error}"))
    };
    let folder = plan.options.scratch().map_err(|error| failed(&error))?;
    let weights = deltas
        .write(&plan.base, folder.path())
        .map_err(|error| failed(&error))?;
    let instance = plan.load(weights).map_err(|error| failed(&error))?;
    Ok(Version {
        digest,
        rank: deltas.rank,
        bytes,
        instance: Arc::new(instance),
    })
}

/// Runs work that takes long outside of the async threads.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, EngineError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| EngineError::Failed(format!("a task ended: {error}")))
}
