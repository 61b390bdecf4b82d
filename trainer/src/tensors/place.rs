//! Where training computes, and with what numbers.

use candle_core::{DType, Device};
use engine::native::Device as Named;
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::memory::{Computed, Own, Room};
use crate::train::{Recompute, TrainConfig};

/// What numbers enter products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16, on a GPU: half the memory traffic, and its matrix units.
    Bf16,
}

/// Where training computes.
#[derive(Debug, Clone)]
pub struct Place(At);

#[derive(Debug, Clone)]
enum At {
    /// By `ops`.
    Cpu,
    /// By this module.
    Tensors(Tensors),
}

/// A device, and what products are computed with.
#[derive(Debug, Clone)]
pub(crate) struct Tensors {
    pub(super) device: Device,
    pub(super) dtype: DType,
    /// What was taken of the device's memory before training took any, where that
    /// is known.
    pub(super) taken_before: Option<u64>,
}

impl Place {
    /// This machine's CPU, by the operations made for it.
    #[must_use]
    pub fn cpu() -> Self {
        Self(At::Cpu)
    }

    /// Opens a device.
    ///
    /// # Errors
    /// [`TrainerError::Config`] if this program has no code for it, there is no
    /// such device, or it does not compute so.
    pub fn open(device: Named, compute: Compute) -> Result<Self, TrainerError> {
        let dtype = match compute {
            Compute::F32 => DType::F32,
            Compute::Bf16 => DType::BF16,
        };
        let tensors = |device, dtype| Ok(Self(At::Tensors(Tensors::new(device, dtype))));
        match device {
            Named::Cpu if compute == Compute::F32 => Ok(Self::cpu()),
            Named::Cpu => Err(TrainerError::Config {
                key: "compute",
                problem: "bf16 is for GPUs; on the device cpu training computes in f32".to_owned(),
            }),
            Named::Candle { bf16: true } => tensors(Device::Cpu, DType::BF16),
            Named::Candle { bf16: false } => tensors(Device::Cpu, dtype),
            Named::Cuda(number) => tensors(cuda(number)?, dtype),
        }
    }

    /// What computes here.
    pub(crate) fn computed(&self) -> Computed {
        match self.tensors() {
            None => Computed::Fused,
            Some(on) => Computed::Tensors {
                number_bytes: on.dtype.size_in_bytes() as u64,
                pooled: on.taken_before.is_some(),
            },
        }
    }

    /// The memory that training is in here, of which it may take `own_max` bytes
    /// where others use it too. None where the system does not say.
    pub(crate) fn room(&self, own_max: Option<u64>) -> Option<Room> {
        let Some(on) = self.tensors() else {
            return Room::of_process();
        };
        match memory(&on.device)? {
            Memory::OfHost => Room::of_process(),
            Memory::OfDevice { taken, all } => {
                let own = own_max.map(|bytes_max| Own {
                    taken_bytes: taken.saturating_sub(on.taken_before.unwrap_or(taken)),
                    bytes_max,
                });
                Some(Room::new(taken, all, own))
            }
        }
    }

    /// How much is taken of the memory that the device has of its own, by whoever.
    /// None where tensors are in the process's, or the device does not say.
    pub(crate) fn device_taken_bytes(&self) -> Option<u64> {
        match memory(&self.tensors()?.device)? {
            Memory::OfHost => None,
            Memory::OfDevice { taken, .. } => Some(taken),
        }
    }

    /// The recipe as it is trained where nobody can plan the memory: on a device,
    /// layers are computed again there unless the recipe says that they are not.
    pub(crate) fn recipe(&self, config: &TrainConfig) -> TrainConfig {
        let mut config = config.clone();
        if self.tensors().is_some() && config.recompute == Recompute::Auto {
            config.recompute = Recompute::Always;
        }
        config
    }

    /// The tensors' device, if it is not by `ops`.
    pub(crate) fn tensors(&self) -> Option<&Tensors> {
        match &self.0 {
            At::Cpu => None,
            At::Tensors(tensors) => Some(tensors),
        }
    }
}

/// A memory that tensors are in.
enum Memory {
    /// The process's own.
    OfHost,
    /// A GPU's, of which others may have a part.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "no device of its own")
    )]
    OfDevice { taken: u64, all: u64 },
}

#[cfg(feature = "cuda")]
fn memory(device: &Device) -> Option<Memory> {
    let Ok(cuda) = device.as_cuda_device() else {
        return Some(Memory::OfHost);
    };
    match cuda.cuda_stream().context().mem_get_info() {
        Ok((free, all)) => Some(Memory::OfDevice {
            taken: all.saturating_sub(free) as u64,
            all: all as u64,
        }),
        Err(error) => {
            tracing::warn!(%error, "the device does not say how much memory it has");
            None
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn memory(device: &Device) -> Option<Memory> {
    device.is_cpu().then_some(Memory::OfHost)
}

impl Tensors {
    pub(super) fn new(device: Device, dtype: DType) -> Self {
        let taken_before = match memory(&device) {
            Some(Memory::OfDevice { taken, .. }) => Some(taken),
            _ => None,
        };
        Self {
            device,
            dtype,
            taken_before,
        }
    }

    /// The type of what enters products.
    #[cfg(test)]
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device, TrainerError> {
    Device::new_cuda(number).map_err(|error| TrainerError::Config {
        key: "device",
        problem: format!("cuda:{number} cannot be used: {error}"),
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(number: usize) -> Result<Device, TrainerError> {
    Err(TrainerError::Config {
        key: "device",
        problem: format!(
            "cuda:{number} cannot be used: this program was built without the cargo feature `cuda`"
        ),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together_is_refused_by_its_key() {
        let refusal = |device, compute| Place::open(device, compute).unwrap_err().to_string();
        assert!(refusal(Named::Cpu, Compute::Bf16).contains("compute: bf16"));
        #[cfg(not(feature = "cuda"))]
        assert!(refusal(Named::Cuda(1), Compute::F32).contains("feature `cuda`"));
    }

    #[test]
    fn where_nobody_can_plan_the_memory_layers_are_computed_again() {
        let config = TrainConfig::default();
        let recompute = |device| {
            let place = Place::open(device, Compute::F32).unwrap();
            place.recipe(&config).recompute
        };
        assert_eq!(recompute(Named::Cpu), Recompute::Auto);
        assert_eq!(recompute(Named::Candle { bf16: false }), Recompute::Always);
    }
}
