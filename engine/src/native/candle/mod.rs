//! The forward pass in candle's tensors: on an NVIDIA GPU, and on the CPU,
//! where the same code is held against the goldens.
//!
//! The blocks of a GGUF file are computed with as they are, by candle's
//! quantized kernels. Knows no queue and no sampling. Unlike with our own
//! kernels, a row's last bits may depend on what else is in its batch: candle
//! and cuBLAS choose their kernels by its size.

mod adapter;
mod attention;
mod backend;
mod cache;
mod plan;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod weights;

use candle_core::{DType, Device, Error};
use model::ModelConfig;
use model::kernels::PAGE_TOKENS;
use model::quant::Precision;

use crate::api::EngineError;

pub(super) use adapter::AdapterTensors;
pub(super) use backend::CandleBackend;

type Result<T> = std::result::Result<T, Error>;

/// Where tensors are, and what is computed with.
#[derive(Clone)]
pub(super) struct Place {
    device: Device,
    /// Of what enters products, and of keys and values. Norms, rotations, the
    /// weights of attention and the sum over the layers are f32.
    dtype: DType,
    /// Whether matrices are dequantized when they are loaded.
    dequantizes: bool,
}

impl Place {
    /// The CPU.
    pub(super) fn on_cpu(bf16: bool, precision: Precision) -> Self {
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        Self::new(Device::Cpu, dtype, precision)
    }

    /// The NVIDIA GPU with this number.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if there is none.
    #[cfg(feature = "cuda")]
    pub(super) fn on_cuda(
        number: usize,
        precision: Precision,
    ) -> std::result::Result<Self, EngineError> {
        let device = Device::new_cuda(number).map_err(|error| {
            EngineError::Failed(format!("the device cuda:{number} cannot be used: {error}"))
        })?;
        Ok(Self::new(device, DType::BF16, precision))
    }

    fn new(device: Device, dtype: DType, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self {
                device,
                dtype: DType::F32,
                dequantizes: true,
            },
            Precision::Int8 | Precision::Int8Twice => Self {
                device,
                dtype,
                dequantizes: false,
            },
        }
    }

    /// Bytes of a page of keys and values.
    pub(super) fn page_bytes(&self, config: &ModelConfig) -> u64 {
        let values = config.layer_count * 2 * config.kv_size() * PAGE_TOKENS;
        (values * self.dtype.size_in_bytes()) as u64
    }
}

pub(super) fn failed(error: &Error) -> EngineError {
    EngineError::Failed(error.to_string())
}

/// A number as the devices index with.
fn index(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(Error::wrap)
}
