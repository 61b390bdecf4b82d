//! An adapter's factors as tensors.

use candle_core::Tensor;
use model::lora::{LoraAdapter, LoraPair, ModuleId};
use model::{ModelConfig, Projection};

use super::{Place, Result, failed};
use crate::api::EngineError;

/// The factors of one module.
struct Pair {
    /// `[rank, in]`
    a: Tensor,
    /// `[out, rank]`, with what the product is multiplied by in it.
    b: Tensor,
}

/// All factors of an adapter, immutable.
pub(in crate::native) struct AdapterTensors {
    /// By layer and projection.
    pairs: Vec<[Option<Pair>; Projection::ALL.len()]>,
}

impl AdapterTensors {
    /// Copies an adapter that was checked against `config` to a device.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if there is no room.
    pub(in crate::native) fn new(
        place: &Place,
        adapter: &LoraAdapter,
        config: &ModelConfig,
    ) -> std::result::Result<Self, EngineError> {
        let mut pairs = Vec::with_capacity(config.layer_count);
        for layer in 0..config.layer_count {
            let mut of_layer = [const { None }; Projection::ALL.len()];
            for projection in Projection::ALL {
                if let Some(pair) = adapter.modules.get(&ModuleId { layer, projection }) {
                    let shape = config.projection_shape(projection);
                    let pair = Pair::new(place, pair, shape).map_err(|error| failed(&error))?;
                    of_layer[projection as usize] = Some(pair);
                }
            }
            pairs.push(of_layer);
        }
        Ok(Self { pairs })
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
