//! One training run at a time, over all trainers of one control store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use control::{ControlStore, Lease};
use ids::Clock;
use tokio::task::JoinHandle;

use crate::TrainerError;

/// The lease's name.
const NAME: &str = "trainer";
/// How long it lasts unless it is renewed.
const TTL: Duration = Duration::from_secs(60);
/// How often it is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(15);

/// A held lease. When it is lost, the run's stop flag is set.
pub(crate) struct HeldLease {
    control: Arc<dyn ControlStore>,
    clock: Arc<dyn Clock>,
    lease: Lease,
    lost: Arc<AtomicBool>,
    renewer: JoinHandle<()>,
}

impl HeldLease {
    /// Takes the lease and keeps renewing it.
    pub(crate) async fn acquire(
        control: Arc<dyn ControlStore>,
        clock: Arc<dyn Clock>,
        holder: &str,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, TrainerError> {
        let lease = control
            .acquire_lease(NAME, holder, TTL, clock.now())
            .await?;
        let lease = lease.ok_or(TrainerError::LeaseLost)?;
        let lost = Arc::new(AtomicBool::new(false));
        let renewer = tokio::spawn(renew(
            Arc::clone(&control),
            Arc::clone(&clock),
            lease.clone(),
            Arc::clone(&lost),
            stop,
        ));
        Ok(Self {
            control,
            clock,
            lease,
            lost,
            renewer,
        })
    }

    /// Checks, at the store, that the lease is still held.
    pub(crate) async fn confirm(&self) -> Result<(), TrainerError> {
        let renewed = self
            .control
            .renew_lease(&self.lease, TTL, self.clock.now())
            .await?;
        match renewed {
            Some(_) if !self.lost.load(Ordering::Relaxed) => Ok(()),
            _ => Err(TrainerError::LeaseLost),
        }
    }

    /// Gives the lease back.
    pub(crate) async fn release(self) {
        self.renewer.abort();
        if let Err(error) = self.control.release_lease(&self.lease).await {
            tracing::warn!(%error, "the lease was not given back; it expires");
        }
    }
}

async fn renew(
    control: Arc<dyn ControlStore>,
    clock: Arc<dyn Clock>,
    mut lease: Lease,
    lost: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match control.renew_lease(&lease, TTL, clock.now()).await {
            Ok(Some(renewed)) => lease = renewed,
            Ok(None) => break,
            // A store that is away may be back before the lease ends.
            Err(error) if clock.now() < lease.expires_at => {
                tracing::warn!(%error, "the lease could not be renewed");
            }
            Err(_) => break,
        }
    }
    tracing::error!("the trainer's lease was lost; the run stops");
    lost.store(true, Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
}
