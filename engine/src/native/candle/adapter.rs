//! An adapter's factors as tensors.

use candle_core::Tensor;
use model::lora::{LoraPair, ModuleId};
use model::{ModelConfig, Projection};

use super::{Place, Result};

/// The factors of one module.
struct Pair {
    /// `[rank, in]`
    a: Tensor,
    /// `[out, rank]`, with what the product is multiplied by in it.
    b: Tensor,
}

/// All factors of an adapter, immutable once they are all there.
pub(in crate::native) struct AdapterTensors {
    rank: usize,
    /// By layer and projection.
    pairs: Vec<[Option<Pair>; Projection::ALL.len()]>,
}

impl AdapterTensors {
    /// An adapter without any module yet.
    pub(in crate::native) fn new(config: &ModelConfig) -> Self {
        let layers = 0..config.layer_count;
        Self {
            rank: 0,
            pairs: layers.map(|_| Default::default()).collect(),
        }
    }

    /// Copies a module that was checked against `config` to a device.
    ///
    /// # Errors
    /// The device's, which may have no room.
    pub(in crate::native) fn add(
        &mut self,
        place: &Place,
        config: &ModelConfig,
        id: ModuleId,
        pair: &LoraPair,
    ) -> Result<()> {
        let shape = config.projection_shape(id.projection);
        self.rank = self.rank.max(pair.rank);
        self.pairs[id.layer][id.projection as usize] = Some(Pair::new(place, pair, shape)?);
        Ok(())
    }

    /// The largest rank.
    pub(in crate::native) fn rank(&self) -> usize {
        self.rank
    }

    /// Bytes of the device's memory.
    pub(in crate::native) fn byte_len(&self) -> u64 {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let pairs = self.pairs.iter().flatten().flatten();
        pairs
            .map(|pair| (bytes(&pair.a) + bytes(&pair.b)) as u64)
            .sum()
    }

    /// What a module adds for `x`, `[n, in]`, if it is adapted.
    pub(super) fn delta(
        &self,
        layer: usize,
        projection: Projection,
        x: &Tensor,
    ) -> Result<Option<Tensor>> {
        let Some(pair) = &self.pairs[layer][projection as usize] else {
            return Ok(None);
        };
        let inner = x.matmul(&pair.a.t()?)?; // [n, rank]
        inner.matmul(&pair.b.t()?).map(Some)
    }
}

impl Pair {
    fn new(place: &Place, pair: &LoraPair, (rows, cols): (usize, usize)) -> Result<Self> {
        let b: Vec<f32> = pair.b.iter().map(|value| value * pair.scale).collect();
        let tensor = |values: &[f32], shape: (usize, usize)| {
            Tensor::from_slice(values, shape, &candle_core::Device::Cpu)?
                .to_dtype(place.dtype)?
                .to_device(&place.device)
        };
        Ok(Self {
            a: tensor(&pair.a, (pair.rank, cols))?,
            b: tensor(&b, (rows, pair.rank))?,
        })
    }
}
