//! The memory of images that are on their way: those of all requests that wait or
//! run, bounded together, and those of each tenant.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::EngineError;
use image::DynamicImage;
use parking_lot::Mutex;

use crate::fair::Tenant;

/// Bytes that the images of all requests may take, as models take them.
pub(crate) const PICTURES_BYTES_MAX: u64 = 512 << 20;
/// Those of one tenant's, in percent of that: others are left room whatever it sends.
const OF_TENANT_PERCENT: u64 = 25;

/// What the images of all requests take.
#[derive(Debug)]
pub(crate) struct PictureMemory {
    /// By tenant; who takes none is not in it.
    taken: Mutex<BTreeMap<Tenant, u64>>,
    bytes_max: u64,
}

/// A part of it, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    memory: Arc<PictureMemory>,
    tenant: Tenant,
    bytes: u64,
}

/// The images of a request, as the crate is given them.
#[derive(Debug)]
pub(crate) struct Pictures {
    pub(crate) images: Vec<DynamicImage>,
    pub(crate) _reserved: Reserved,
}

impl PictureMemory {
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::default(),
            bytes_max,
        })
    }

    /// Sets memory aside, or says that it is taken.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        tenant: &Tenant,
        bytes: u64,
    ) -> Result<Reserved, EngineError> {
        let mut taken = self.taken.lock();
        let own = taken.get(tenant).copied().unwrap_or_default();
        let own_max = self.bytes_max * OF_TENANT_PERCENT / 100;
        let free_of_all = self.bytes_max.saturating_sub(taken.values().sum());
        let free = own_max.saturating_sub(own).min(free_of_all);
        if bytes > free {
            return Err(EngineError::ImageMemory {
                needed: bytes,
                free,
            });
        }
        taken.insert(tenant.clone(), own + bytes);
        Ok(Reserved {
            memory: Arc::clone(self),
            tenant: tenant.clone(),
            bytes,
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut taken = self.memory.taken.lock();
        if let Some(own) = taken.get_mut(&self.tenant) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ids::TenantId;

    use super::*;

    fn refused(needed: u64, free: u64) -> EngineError {
        EngineError::ImageMemory { needed, free }
    }

    #[test]
    fn a_tenant_has_its_share_and_all_have_the_whole() {
        let memory = PictureMemory::new(40);
        let [one, other] = ["one", "other"].map(|id| Some(TenantId::new(id).unwrap()));
        let first = memory.reserve(&one, 7).unwrap();
        assert_eq!(memory.reserve(&one, 4).unwrap_err(), refused(4, 3));
        let _second = memory.reserve(&other, 10).unwrap();
        let third = memory.reserve(&one, 3).unwrap();
        drop(first);
        assert_eq!(memory.reserve(&one, 8).unwrap_err(), refused(8, 7));
        drop(third);
        let _again = memory.reserve(&one, 10).unwrap();
        let more = ["third", "fourth"].map(|id| Some(TenantId::new(id).unwrap()));
        let _held = more.map(|tenant| memory.reserve(&tenant, 10).unwrap());
        assert_eq!(memory.reserve(&None, 1).unwrap_err(), refused(1, 0));
    }

    #[test]
    fn whoever_takes_nothing_is_forgotten() {
        let memory = PictureMemory::new(40);
        drop(memory.reserve(&None, 10).unwrap());
        assert!(memory.taken.lock().is_empty());
    }
}
