//! Where training computes, and with what numbers.

use candle_core::{DType, Device};
use engine::native::Device as Named;
use serde::{Deserialize, Serialize};

use crate::TrainerError;
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
        let tensors = |device, dtype| Ok(Self(At::Tensors(Tensors { device, dtype })));
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

    /// The recipe as it is trained here. Nobody plans a device's memory, so there
    /// layers are computed again unless the recipe says that they are not.
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

impl Tensors {
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
    fn where_nobody_plans_the_memory_layers_are_computed_again() {
        let config = TrainConfig::default();
        let recompute = |device| {
            let place = Place::open(device, Compute::F32).unwrap();
            place.recipe(&config).recompute
        };
        assert_eq!(recompute(Named::Cpu), Recompute::Auto);
        assert_eq!(recompute(Named::Candle { bf16: false }), Recompute::Always);
    }
}
