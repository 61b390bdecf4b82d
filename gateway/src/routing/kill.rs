//! The kill switch: everyone to stable, without asking any store.

use std::sync::atomic::{AtomicBool, Ordering};

use ids::UnixMillis;
use std::sync::{Mutex, PoisonError};

/// One atomic that every request reads; what is said about it lies beside.
#[derive(Default)]
pub(crate) struct KillSwitch {
    active: AtomicBool,
    about: Mutex<About>,
}

/// What an administrator said when the switch was last moved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) reason: Option<String>,
    pub(crate) since: Option<UnixMillis>,
}

impl KillSwitch {
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Throws or releases the switch; effective for the next request.
    pub(crate) fn set(&self, active: bool, reason: Option<String>, now: UnixMillis) {
        self.active.store(active, Ordering::Release);
        let mut about = self.about.lock().unwrap_or_else(PoisonError::into_inner);
        *about = About {
            reason,
            since: Some(now),
        };
    }

    pub(crate) fn about(&self) -> About {
        self.about
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
