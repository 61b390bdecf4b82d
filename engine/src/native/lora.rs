//! An adapter laid out for the kernels.

use ids::AdapterDigest;
use model::kernels::{Arena, Factor, FactorFormat, LowRankPair};
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
    /// Lays out an adapter that was checked against `config`. The factors
    /// are kept as finely as the base's products are computed: in 8 bits beside
    /// 8-bit activations, a quarter of the memory to hold and to read.
    pub(super) fn new(
        digest: AdapterDigest,
        adapter: &LoraAdapter,
        config: &ModelConfig,
        precision: Precision,
    ) -> Self {
        let format = match precision {
            Precision::Int8 => FactorFormat::Int8,
            Precision::Int8Twice => FactorFormat::F16,
            Precision::F32 => FactorFormat::F32,
        };
        let shapes = |layer: usize, projection: Projection| {
            let pair = adapter.modules.get(&ModuleId { layer, projection })?;
            let (rows, cols) = config.projection_shape(projection);
            Some([(pair.rank, cols), (rows, pair.rank)])
        };
        let bytes = (0..config.layer_count)
            .flat_map(|layer| Projection::ALL.map(|projection| shapes(layer, projection)))
            .flatten()
            .flatten()
            .map(|shape| Factor::byte_len_of(shape, format))
            .sum();
        let mut arena = Arena::with_capacity(bytes);
        let mut pair = |layer: usize, projection: Projection| {
            let pair = adapter.modules.get(&ModuleId { layer, projection })?;
            let [a, b] = shapes(layer, projection)?;
            Some(LowRankPair {
                scale: pair.scale,
                a: Factor::new(a, &pair.a, format, &mut arena),
                b: Factor::new(b, &pair.b, format, &mut arena),
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
