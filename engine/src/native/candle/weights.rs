//! A model's weights on a device.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Error, Tensor};
use model::quant::{Format, QuantMatrix};
use model::{BaseModel, LayerWeights, Projection};

use super::{Place, Result};

/// The strictest alignment of the formats' values.
const ALIGNMENT: usize = 4;

/// A matrix, `[rows, cols]`. Cloning is cheap.
#[derive(Clone)]
pub(super) enum Matrix {
    /// The file's blocks, computed with as they are.
    Blocks(Arc<QTensor>),
    /// Numbers.
    Plain(Tensor),
}

/// One decoder layer.
pub(super) struct Layer {
    matrices: Vec<Matrix>,
    pub(super) attn_norm: Tensor,
    pub(super) q_bias: Option<Tensor>,
    pub(super) k_bias: Option<Tensor>,
    pub(super) v_bias: Option<Tensor>,
    pub(super) q_norm: Option<Tensor>,
    pub(super) k_norm: Option<Tensor>,
    pub(super) attn_post_norm: Option<Tensor>,
    pub(super) ffn_norm: Tensor,
    pub(super) ffn_post_norm: Option<Tensor>,
}

/// All weights. Vectors are f32.
pub(super) struct Weights {
    pub(super) embedding: Matrix,
    pub(super) head: Matrix,
    pub(super) output_norm: Tensor,
    pub(super) layers: Vec<Layer>,
}

impl Weights {
    pub(super) fn load(place: &Place, model: &BaseModel) -> Result<Self> {
        let weights = &model.weights;
        let embedding = Matrix::load(place, &weights.token_embedding)?;
        let head = match &weights.output {
            Some(output) => Matrix::load(place, output)?,
            None => embedding.clone(),
        };
        Ok(Self {
            embedding,
            head,
            output_norm: vector(place, &weights.output_norm)?,
            layers: weights
                .layers
                .iter()
                .map(|layer| Layer::load(place, layer))
                .collect::<Result<_>>()?,
        })
    }
}

impl Layer {
    fn load(place: &Place, weights: &LayerWeights) -> Result<Self> {
        let optional = |values: &Option<Vec<f32>>| {
            let values = values.as_deref();
            values.map(|values| vector(place, values)).transpose()
        };
        Ok(Self {
            matrices: Projection::ALL
                .iter()
                .map(|projection| Matrix::load(place, weights.projection(*projection)))
                .collect::<Result<_>>()?,
            attn_norm: vector(place, &weights.attn_norm)?,
            q_bias: optional(&weights.q_bias)?,
            k_bias: optional(&weights.k_bias)?,
            v_bias: optional(&weights.v_bias)?,
            q_norm: optional(&weights.q_norm)?,
            k_norm: optional(&weights.k_norm)?,
            attn_post_norm: optional(&weights.attn_post_norm)?,
            ffn_norm: vector(place, &weights.ffn_norm)?,
            ffn_post_norm: optional(&weights.ffn_post_norm)?,
        })
    }

    pub(super) fn matrix(&self, projection: Projection) -> &Matrix {
        &self.matrices[projection as usize]
    }
}

impl Matrix {
    fn load(place: &Place, matrix: &QuantMatrix) -> Result<Self> {
        let shape = (matrix.rows(), matrix.cols());
        let plain = |tensor: Tensor| {
            let tensor = tensor.to_dtype(place.dtype)?;
            tensor.to_device(&place.device).map(Self::Plain)
        };
        let raw = |dtype| {
            let shape = [shape.0, shape.1];
            Tensor::from_raw_buffer(matrix.bytes(), dtype, &shape, &Device::Cpu)
        };
        let blocks = match matrix.format() {
            Format::F32 => return plain(raw(DType::F32)?),
            Format::F16 => return plain(raw(DType::F16)?),
            Format::Bf16 => return plain(raw(DType::BF16)?),
            Format::Q4_0 => GgmlDType::Q4_0,
            Format::Q4_1 => GgmlDType::Q4_1,
            Format::Q5_0 => GgmlDType::Q5_0,
            Format::Q5_1 => GgmlDType::Q5_1,
            Format::Q8_0 => GgmlDType::Q8_0,
            Format::Q2K => GgmlDType::Q2K,
            Format::Q3K => GgmlDType::Q3K,
            Format::Q4K => GgmlDType::Q4K,
            Format::Q5K => GgmlDType::Q5K,
            Format::Q6K => GgmlDType::Q6K,
        };
        if place.dequantizes {
            let mut values = vec![0.0; shape.0 * shape.1];
            matrix.dequantize_rows(0..shape.0, &mut values);
            return plain(Tensor::from_vec(values, shape, &Device::Cpu)?);
        }
        // candle panics where ours would read byte by byte
        let bytes = matrix.bytes();
        if !bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(Error::Msg(format!(
                "a {matrix:?} does not begin at a multiple of {ALIGNMENT} bytes"
            )));
        }
        let storage = QStorage::from_data(bytes.into(), &place.device, blocks)?;
        Ok(Self::Blocks(Arc::new(QTensor::new(storage, shape)?)))
    }

    /// `x · Wᵀ`, `[n, rows]`, for a contiguous `x`, `[n, cols]`; in x's type.
    pub(super) fn multiply(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Blocks(blocks) => x.apply_op1_no_bwd(blocks.as_ref()),
            Self::Plain(weights) => x.matmul(&weights.t()?),
        }
    }

    /// Some rows, in f32.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Blocks(blocks) => blocks.embedding(ids),
            Self::Plain(weights) => weights.index_select(ids, 0)?.to_dtype(DType::F32),
        }
    }
}

fn vector(place: &Place, values: &[f32]) -> Result<Tensor> {
    Tensor::from_slice(values, values.len(), &place.device)
}
