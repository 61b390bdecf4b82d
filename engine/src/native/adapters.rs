//! The native engine's adapter versions are laid out for the device.

use ids::AdapterDigest;

use super::lora::DeviceAdapter;
pub(super) use crate::residents::CLAIM_GRACE;
#[cfg(test)]
pub(super) use crate::residents::NoRoom;
use crate::residents::{Lease, Reservation, Resident, Residents};

pub(super) type AdapterRegistry = Residents<DeviceAdapter>;
pub(super) type AdapterLease = Lease<DeviceAdapter>;
pub(super) type AdapterReservation = Reservation<DeviceAdapter>;

impl Resident for DeviceAdapter {
    fn digest(&self) -> AdapterDigest {
        self.digest
    }

    fn rank(&self) -> u32 {
        u32::try_from(self.rank).unwrap_or(u32::MAX)
    }

    fn byte_len(&self) -> u64 {
        self.byte_len()
    }
}
