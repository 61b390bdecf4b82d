//! An adapter laid out for the kernels.

use ids::AdapterDigest;
use model::kernels::{Factor, FactorFormat, LowRankPair};
use model::lora::{LoraAdapter, LoraPair, ModuleId, PeftReader};
use model::quant::Precision;
use model::{ModelConfig, ModelError, Projection};

/// A resident adapter's matrices, immutable.
pub(super) struct DeviceAdapter {
    pub(super) digest: AdapterDigest,
    pub(super) rank: usize,
    pairs: Vec<[Option<LowRankPair>; Projection::ALL.len()]>,
}

impl DeviceAdapter {
    /// Lays out the parts of an adapter as they are read.
    pub(super) fn read(
        digest: AdapterDigest,
        files: &PeftReader<'_>,
        config: &ModelConfig,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let mut adapter = Self::empty(digest, config);
        files.for_each(|id, pair| adapter.lay_out(id, &pair, config, precision))?;
        Ok(adapter)
    }

    /// Lays out an adapter that was checked against `config`.
    pub(super) fn new(
        digest: AdapterDigest,
        adapter: &LoraAdapter,
        config: &ModelConfig,
        precision: Precision,
    ) -> Self {
        let mut laid_out = Self::empty(digest, config);
        for (id, pair) in &adapter.modules {
            laid_out.lay_out(*id, pair, config, precision);
        }
        laid_out
    }

    fn empty(digest: AdapterDigest, config: &ModelConfig) -> Self {
        let layers = 0..config.layer_count;
        Self {
            digest,
            rank: 0,
            pairs: layers.map(|_| Default::default()).collect(),
        }
    }

    /// Where the base's products are rounded to 8 bits, the factors are kept in
    /// half precision: half the memory to hold and to read, and next to no
    /// further error.
    fn lay_out(
        &mut self,
        id: ModuleId,
        pair: &LoraPair,
        config: &ModelConfig,
        precision: Precision,
    ) {
        let format = match precision {
            Precision::Int8 | Precision::Int8Twice => FactorFormat::F16,
            Precision::F32 => FactorFormat::F32,
        };
        let (rows, cols) = config.projection_shape(id.projection);
        self.rank = self.rank.max(pair.rank);
        self.pairs[id.layer][id.projection as usize] = Some(LowRankPair {
            scale: pair.scale,
            a: Factor::new(pair.rank, cols, &pair.a, format),
            b: Factor::new(rows, pair.rank, &pair.b, format),
        });
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
