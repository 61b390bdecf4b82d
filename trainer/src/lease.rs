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
/// How often one that another has is asked for again.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long it is asked for: a holder that died has lost it before.
const WAIT_MAX: Duration = TTL.saturating_add(RENEW_EVERY);
/// Of the work's name in the holder's, which has a limit of its own.
const WORK_CHARS_MAX: usize = 64;

/// A held lease. When it is lost, the run's stop flag is set.
pub(crate) struct HeldLease {
    control: Arc<dyn ControlStore>,
    clock: Arc<dyn Clock>,
    lease: Lease,
    lost: Arc<AtomicBool>,
    renewer: JoinHandle<()>,
}

impl HeldLease {
    /// Takes the lease for `work` and keeps renewing it.
    ///
    /// # Errors
    /// [`TrainerError::LeaseLost`] while another has it, though it be for the
    /// same work.
    pub(crate) async fn acquire(
        control: Arc<dyn ControlStore>,
        clock: Arc<dyn Clock>,
        work: &str,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, TrainerError> {
        let lease = control
            .acquire_lease(NAME, &holder(work), TTL, clock.now())
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

    /// Takes the lease as soon as a holder that died has lost it.
    ///
    /// # Errors
    /// [`TrainerError::LeaseLost`] where its holder lives,
    /// [`TrainerError::Stopped`] once `stop` is set.
    pub(crate) async fn wait_for(
        control: Arc<dyn ControlStore>,
        clock: Arc<dyn Clock>,
        work: &str,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, TrainerError> {
        let began = clock.now();
        let mut is_told = false;
        loop {
            let (control, clock_there) = (Arc::clone(&control), Arc::clone(&clock));
            match Self::acquire(control, clock_there, work, Arc::clone(&stop)).await {
                Err(TrainerError::LeaseLost) if clock.now().since(began) < WAIT_MAX => {}
                result => return result,
            }
            if stop.load(Ordering::Relaxed) {
                return Err(TrainerError::Stopped);
            }
            if !is_told {
                is_told = true;
                tracing::info!(
                    "another trainer has the lease; if it died, this one goes on within {} s",
                    WAIT_MAX.as_secs()
                );
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
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

/// A name of its own for every acquisition: the store lets an equal one in.
fn holder(work: &str) -> String {
    let work: String = work.chars().take(WORK_CHARS_MAX).collect();
    format!("{work}-{:032x}", rand::random::<u128>())
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ids::{ManualClock, UnixMillis};
    use store::{Backend, Durability, StoreOptions, StoreUrl};

    use super::*;

    async fn control(data: &std::path::Path) -> Arc<dyn ControlStore> {
        let url = StoreUrl::parse("embedded", data).unwrap();
        let options = StoreOptions {
            required: Durability::Unknown,
            ..StoreOptions::default()
        };
        let backend = Backend::open(&url, &options).await.unwrap();
        control::open(&backend).await.unwrap()
    }

    fn flag() -> Arc<AtomicBool> {
        Arc::new(AtomicBool::new(false))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_trainers_at_the_same_work_do_not_both_have_it() {
        let data = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(UnixMillis(1)));
        let (here, there) = (control(data.path()).await, control(data.path()).await);
        let first = HeldLease::acquire(here, Arc::clone(&clock), "ftjob-1", flag());
        let first = first.await.unwrap();
        let second = |there| HeldLease::acquire(there, Arc::clone(&clock), "ftjob-1", flag());
        let refused = second(Arc::clone(&there)).await;
        assert!(matches!(refused, Err(TrainerError::LeaseLost)));
        first.confirm().await.unwrap();
        first.release().await;
        second(there).await.unwrap().release().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dead_holder_is_outlived_and_a_living_one_is_not() {
        let data = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(UnixMillis(1)));
        let control = control(data.path()).await;
        let held = |ttl| {
            let (control, now) = (Arc::clone(&control), clock.now());
            async move { control.acquire_lease(NAME, "dead", ttl, now).await.unwrap() }
        };
        let waiting = |stop: Arc<AtomicBool>| {
            let (control, clock) = (Arc::clone(&control), Arc::clone(&clock));
            tokio::spawn(async move { HeldLease::wait_for(control, clock, "run-1", stop).await })
        };
        held(TTL).await.unwrap();
        let waits = waiting(flag());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!waits.is_finished());
        clock.advance(TTL);
        waits.await.unwrap().unwrap().release().await;

        // one that is prolonged again and again is not a dead one's
        held(WAIT_MAX * 2).await.unwrap();
        let waits = waiting(flag());
        tokio::time::sleep(Duration::from_millis(100)).await;
        clock.advance(WAIT_MAX);
        let refused = waits.await.unwrap();
        assert!(matches!(refused, Err(TrainerError::LeaseLost)));
        let stop = flag();
        let waits = waiting(Arc::clone(&stop));
        stop.store(true, Ordering::Relaxed);
        let stopped = waits.await.unwrap();
        assert!(matches!(stopped, Err(TrainerError::Stopped)));
    }
}
