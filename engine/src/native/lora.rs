//! An adapter laid out for the kernels.

use ids::AdapterDigest;
use model::kernels::{Factor, FactorFormat, LowRankPair};
use model::lora::{LoraAdapter, ModuleId};
use model::quant::Precision;
use model::{ModelConfig, Projection};

/// A resident adapter's matrices, immutable.
pub(super) struct DeviceAdapter {
    pub(super) digest: AdapterDigest,
    pub(super) rank: usize,
    pairs: Vec<[Option<LowRankPair>; Projection::ALL.len()]>,
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
            pairs,
        }
    }

    /// Bytes of memory.
    pub(super) fn byte_len(&self) -> u64 {
        let pairs = self.pairs.iter().flatten().flatten();
        pairs
            .map(|pair| (pair.a.byte_len() + pair.b.byte_len()) as u64)
            .sum()
    }

    /// The factors of a module, if it is adapted.
    pub(super) fn pair(&self, layer: usize, projection: Projection) -> Option<&LowRankPair> {
        self.pairs[layer][projection as usize].as_ref()
    }
}
