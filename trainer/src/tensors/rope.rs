//! Rotary position embedding in candle's tensors.

use candle_core::{D, Result, Tensor};
use model::{ModelConfig, RopeOrder};

use super::Tensors;
use crate::ops::rope::RopeTable;

/// How far each position turns, `[positions, dim / 2]` each.
pub(super) struct Rotation {
    order: RopeOrder,
    cos: Tensor,
    sin: Tensor,
}

/// The same for the rows of a tree, `[rows, 1, dim / 2]` each.
pub(super) struct Turn {
    order: RopeOrder,
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    pub(super) fn new(on: &Tensors, config: &ModelConfig, positions_max: usize) -> Result<Self> {
        let half = config.head_dim / 2;
        let table = RopeTable::of(config, positions_max);
        let (cos, sin): (Vec<f32>, Vec<f32>) = table.angles().iter().copied().unzip();
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, (positions_max, half), &on.device);
        Ok(Self {
            order: config.architecture.rope_order,
            cos: tensor(cos)?,
            sin: tensor(sin)?,
        })
    }

    pub(super) fn at(&self, positions: &Tensor) -> Result<Turn> {
        let rows = |table: &Tensor| table.index_select(positions, 0)?.unsqueeze(1);
        Ok(Turn {
            order: self.order,
            cos: rows(&self.cos)?,
            sin: rows(&self.sin)?,
        })
    }
}

impl Turn {
    /// Turns all heads, `[rows, heads, dim]`.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, heads, dim) = x.dims3()?;
        let half = dim / 2;
        let (first, second) = match self.order {
            RopeOrder::Halves => (x.narrow(2, 0, half)?, x.narrow(2, half, half)?),
            RopeOrder::Interleaved => {
                let pairs = x.reshape((rows, heads, half, 2))?;
                let side = |i| pairs.narrow(3, i, 1)?.squeeze(3);
                (side(0)?, side(1)?)
            }
        };
        let turned = |by: &Tensor, x: &Tensor| x.broadcast_mul(by);
        let a = (turned(&self.cos, &first)? - turned(&self.sin, &second)?)?;
        let b = (turned(&self.sin, &first)? + turned(&self.cos, &second)?)?;
        match self.order {
            RopeOrder::Halves => Tensor::cat(&[a, b], 2),
            RopeOrder::Interleaved => {
                Tensor::stack(&[a, b], D::Minus1)?.reshape((rows, heads, dim))
            }
        }
    }
}
