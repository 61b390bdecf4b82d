//! An adapter laid out for what computes with it.

use ids::AdapterDigest;
use model::kernels::{Factor, FactorFormat, LowRankPair};
use model::lora::{LoraAdapter, ModuleId};
use model::quant::Precision;
use model::{ModelConfig, Projection};

#[cfg(feature = "candle")]
use super::candle::AdapterTensors;

/// A resident adapter's matrices, immutable.
pub(super) struct DeviceAdapter {
    pub(super) digest: AdapterDigest,
    pub(super) rank: usize,
    factors: Factors,
}

enum Factors {
    /// For our own kernels, by layer and projection.
    Cpu(Vec<[Option<LowRankPair>; Projection::ALL.len()]>),
    #[cfg(feature = "candle")]
    Candle(AdapterTensors),
}

impl DeviceAdapter {
    /// Lays out an adapter that was checked against `config`. Where the base's
    /// products are rounded to 8 bits, the factors are kept in half precision:
    /// half the memory to hold and to read, and next to no further error.
    pub(super) fn new(
        digest: AdapterDigest,
        adapter: &LoraAdapter,
        config: &ModelConfig,
        precision: Precision,
    ) -> Self {
        let format = match precision {
            Precision::Int8 | Precision::Int8Twice => FactorFormat::F16,
            Precision::F32 => FactorFormat::F32,
        };
        let pair = |layer: usize, projection: Projection| {
            let pair = adapter.modules.get(&ModuleId { layer, projection })?;
            let (rows, cols) = config.projection_shape(projection);
            Some(LowRankPair {
                scale: pair.scale,
                a: Factor::new(pair.rank, cols, &pair.a, format),
                b: Factor::new(rows, pair.rank, &pair.b, format),
            })
        };
        let pairs = (0..config.layer_count)
            .map(|layer| Projection::ALL.map(|projection| pair(layer, projection)))
            .collect();
        Self {
            digest,
            rank: adapter.max_rank(),
            factors: Factors::Cpu(pairs),
        }
    }

    /// An adapter whose factors are tensors.
    #[cfg(feature = "candle")]
    pub(super) fn in_candle(
        digest: AdapterDigest,
        adapter: &LoraAdapter,
        tensors: AdapterTensors,
    ) -> Self {
        Self {
            digest,
            rank: adapter.max_rank(),
            factors: Factors::Candle(tensors),
        }
    }

    /// Bytes of memory.
    pub(super) fn byte_len(&self) -> u64 {
        match &self.factors {
            Factors::Cpu(pairs) => pairs
                .iter()
                .flatten()
                .flatten()
                .map(|pair| (pair.a.byte_len() + pair.b.byte_len()) as u64)
                .sum(),
            #[cfg(feature = "candle")]
            Factors::Candle(tensors) => tensors.byte_len(),
        }
    }

    /// The factors of a module for our own kernels, if it is adapted.
    pub(super) fn pair(&self, layer: usize, projection: Projection) -> Option<&LowRankPair> {
        match &self.factors {
            Factors::Cpu(pairs) => pairs[layer][projection as usize].as_ref(),
            #[cfg(feature = "candle")]
            Factors::Candle(_) => None,
        }
    }

    /// The factors as tensors, if they are.
    #[cfg(feature = "candle")]
    pub(super) fn tensors(&self) -> Option<&AdapterTensors> {
        match &self.factors {
            Factors::Cpu(_) => None,
            Factors::Candle(tensors) => Some(tensors),
        }
    }
}
