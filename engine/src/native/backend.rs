//! The seam between the engine and what computes: everything before a batch
//! (queues, pages, leases) and after its logits (sampling, text) is one code.
//!
//! Knows which implementations there are, and nothing of how they compute.

use std::sync::Arc;

use ids::AdapterDigest;
use model::kernels::KvFormat;
use model::lora::{LoraAdapter, PeftReader};
use model::quant::Precision;
use model::{BaseModel, ModelConfig, ModelError};

use super::background::Hands;
use super::cache::KvCache;
#[cfg(feature = "candle")]
use super::candle::{AdapterTensors, CandleBackend, Place, failed};
use super::device::Device;
use super::forward::{Chunk, Forward, kv_layout};
use super::lora::DeviceAdapter;
use crate::api::EngineError;

/// Computes batches, and keeps the keys and values of their pages.
pub(super) trait Backend: Send {
    /// Runs a batch, and returns the logits asked for, `[rows, vocab]`, in the
    /// order of the chunks. After an error, what the chunks' new positions
    /// hold in the cache is undefined.
    fn run(&mut self, chunks: &[Chunk<'_>]) -> Result<Vec<f32>, EngineError>;

    /// Memory that keys and values have taken.
    fn kv_byte_len(&self) -> u64;
}

/// Where and how a model is computed: makes what belongs there.
#[derive(Clone)]
pub(super) enum Placement {
    /// By our own kernels.
    Cpu {
        precision: Precision,
        kv_cache: KvFormat,
    },
    /// By candle's.
    #[cfg(feature = "candle")]
    Candle(Place),
}

impl Placement {
    /// Opens a device.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if this program has no code for it, there is no
    /// such device, or it cannot keep keys and values so.
    pub(super) fn open(
        device: Device,
        precision: Precision,
        kv_cache: KvFormat,
    ) -> Result<Self, EngineError> {
        if device != Device::Cpu && kv_cache == KvFormat::Q8_0 {
            return Err(EngineError::Failed(format!(
                "keys and values in 8 bits are for the device cpu, not for {device}"
            )));
        }
        match device {
            Device::Cpu => Ok(Self::Cpu {
                precision,
                kv_cache,
            }),
            #[cfg(feature = "candle")]
            Device::Candle { bf16 } => Ok(Self::Candle(Place::on_cpu(bf16, precision))),
            #[cfg(feature = "cuda")]
            Device::Cuda(number) => Place::on_cuda(number, precision).map(Self::Candle),
            #[cfg(not(feature = "candle"))]
            Device::Candle { .. } => Err(not_built(device, "candle")),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(not_built(device, "cuda")),
        }
    }

    /// Bytes of a page of the cache.
    pub(super) fn page_bytes(&self, model: &BaseModel) -> u64 {
        match self {
            Self::Cpu { kv_cache, .. } => kv_layout(model, *kv_cache).page_bytes() as u64,
            #[cfg(feature = "candle")]
            Self::Candle(place) => place.page_bytes(&model.config),
        }
    }

    /// What computes batches of sequences of at most `context_length` tokens,
    /// in at most `pages` pages.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if the device has too little memory.
    pub(super) fn backend(
        &self,
        model: &Arc<BaseModel>,
        context_length: usize,
        pages: usize,
    ) -> Result<Box<dyn Backend>, EngineError> {
        // ours takes its pages as they are first used
        #[cfg(not(feature = "candle"))]
        let _ = pages;
        match self {
            Self::Cpu {
                precision,
                kv_cache,
            } => {
                if *precision != Precision::F32 {
                    model.weights.pack();
                }
                Ok(Box::new(CpuBackend {
                    forward: Forward::new(Arc::clone(model), context_length, *precision),
                    cache: KvCache::new(kv_layout(model, *kv_cache)),
                }))
            }
            #[cfg(feature = "candle")]
            Self::Candle(place) => {
                let backend = CandleBackend::new(place, model, context_length, pages)?;
                Ok(Box::new(backend))
            }
        }
    }

    /// Lays out an adapter that was checked against `config`.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if the device has too little memory.
    pub(super) fn lay_out(
        &self,
        digest: AdapterDigest,
        adapter: &LoraAdapter,
        config: &ModelConfig,
    ) -> Result<DeviceAdapter, EngineError> {
        match self {
            Self::Cpu { precision, .. } => {
                Ok(DeviceAdapter::new(digest, adapter, config, *precision))
            }
            #[cfg(feature = "candle")]
            Self::Candle(place) => {
                let mut tensors = AdapterTensors::new(config);
                for (id, pair) in &adapter.modules {
                    let added = tensors.add(place, config, *id, pair);
                    added.map_err(|error| failed(&error))?;
                }
                Ok(DeviceAdapter::in_candle(digest, tensors))
            }
        }
    }

    /// Lays out the parts of an adapter as they are read; candle's tensors on one
    /// thread in any case.
    ///
    /// # Errors
    /// [`EngineError::AdapterRejected`] if a file is unfit,
    /// [`EngineError::Failed`] if the device has too little memory.
    pub(super) fn read(
        &self,
        digest: AdapterDigest,
        files: &PeftReader<'_>,
        config: &ModelConfig,
        hands: Hands,
    ) -> Result<DeviceAdapter, EngineError> {
        let rejected = |error: ModelError| EngineError::AdapterRejected(error.to_string());
        match self {
            Self::Cpu { precision, .. } => {
                DeviceAdapter::read(digest, files, config, *precision, hands).map_err(rejected)
            }
            #[cfg(feature = "candle")]
            Self::Candle(place) => {
                let mut tensors = AdapterTensors::new(config);
                let mut added = Ok(());
                let read = files.for_each(|id, pair| {
                    if added.is_ok() {
                        added = tensors.add(place, config, id, &pair);
                    }
                });
                read.map_err(rejected)?;
                added.map_err(|error| failed(&error))?;
                Ok(DeviceAdapter::in_candle(digest, tensors))
            }
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn not_built(device: Device, feature: &str) -> EngineError {
    EngineError::Failed(format!(
        "the device {device} cannot be used: this program was built without the cargo feature `{feature}`"
    ))
}

/// Our own kernels on this machine's CPU.
struct CpuBackend {
    forward: Forward,
    cache: KvCache,
}

impl Backend for CpuBackend {
    fn run(&mut self, chunks: &[Chunk<'_>]) -> Result<Vec<f32>, EngineError> {
        Ok(self.forward.run(&mut self.cache, chunks))
    }

    fn kv_byte_len(&self) -> u64 {
        self.cache.byte_len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(device: Device, kv_cache: KvFormat) -> String {
        let opened = Placement::open(device, Precision::Int8, kv_cache);
        opened.err().unwrap().to_string()
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_was_not_built_in_is_refused_with_its_features_name() {
        let text = refusal(Device::Cuda(0), KvFormat::F32);
        assert!(
            text.contains("cuda:0") && text.contains("feature `cuda`"),
            "{text}"
        );
    }

    #[test]
    fn a_cache_that_a_device_cannot_keep_is_refused() {
        let text = refusal(Device::Candle { bf16: true }, KvFormat::Q8_0);
        assert!(
            text.contains("8 bits") && text.contains("candle-bf16"),
            "{text}"
        );
    }
}
