//! A model's weights on a device.

use candle_core::{DType, Device, Tensor};
use model::quant::{Format, QuantMatrix};
use model::{BaseModel, DeviceMatrix, LayerWeights, Projection};

use super::{Place, Result};

/// A matrix, `[rows, cols]`; blocks are computed with as they are. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Matrix(DeviceMatrix);

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
        let plain = [Format::F32, Format::F16, Format::Bf16].contains(&matrix.format());
        if place.dequantizes && !plain {
            let mut values = vec![0.0; matrix.rows() * matrix.cols()];
            matrix.dequantize_rows(0..matrix.rows(), &mut values);
            let shape = (matrix.rows(), matrix.cols());
            let values = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(place.dtype)?;
            let values = values.to_device(&place.device)?;
            return Ok(Self(DeviceMatrix::Plain(values)));
        }
        DeviceMatrix::load(matrix, &place.device, place.dtype).map(Self)
    }

    /// `x · Wᵀ`, `[n, rows]`, for a contiguous `x`, `[n, cols]`; in x's type.
    pub(super) fn multiply(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            DeviceMatrix::Blocks(blocks) => x.apply_op1_no_bwd(blocks.as_ref()),
            DeviceMatrix::Plain(weights) => x.matmul(&weights.t()?),
        }
    }

    /// Some rows, in f32.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match &self.0 {
            DeviceMatrix::Blocks(blocks) => blocks.embedding(ids),
            DeviceMatrix::Plain(weights) => weights.index_select(ids, 0)?.to_dtype(DType::F32),
        }
    }
}

fn vector(place: &Place, values: &[f32]) -> Result<Tensor> {
    Tensor::from_slice(values, values.len(), &place.device)
}
