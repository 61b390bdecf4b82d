//! The memory of images that are on their way: those of all requests that wait or
//! run, bounded together.

use std::sync::Arc;

use engine::EngineError;
use image::RgbImage;
use parking_lot::Mutex;

/// Bytes that the images of all requests may take, as models take them.
pub(crate) const PICTURES_BYTES_MAX: u64 = 512 << 20;

/// What the images of all requests take.
#[derive(Debug)]
pub(crate) struct PictureMemory {
    bytes: Mutex<u64>,
    bytes_max: u64,
}

/// A part of it, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    memory: Arc<PictureMemory>,
    bytes: u64,
}

/// The images of a request, as its model takes them.
#[derive(Debug)]
pub(crate) struct Pictures {
    pub(crate) images: Vec<RgbImage>,
    pub(crate) _reserved: Reserved,
}

impl PictureMemory {
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(0),
            bytes_max,
        })
    }

    /// Sets memory aside, or says that it is taken.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reserved, EngineError> {
        let mut taken = self.bytes.lock();
        let all = taken.saturating_add(bytes);
        if all > self.bytes_max {
            return Err(EngineError::ImageMemory {
                needed: bytes,
                free: self.bytes_max.saturating_sub(*taken),
            });
        }
        *taken = all;
        Ok(Reserved {
            memory: Arc::clone(self),
            bytes,
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut taken = self.memory.bytes.lock();
        *taken = taken.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let memory = PictureMemory::new(10);
        let first = memory.reserve(7).unwrap();
        let expected = EngineError::ImageMemory { needed: 4, free: 3 };
        assert_eq!(memory.reserve(4).unwrap_err(), expected);
        let second = memory.reserve(3).unwrap();
        drop(first);
        memory.reserve(7).unwrap();
        drop(second);
        memory.reserve(10).unwrap();
    }
}
