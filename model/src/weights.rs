//! A model's weights: quantized matrices that lie in the mapped file, and the
//! norms' vectors in f32.

use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use crate::ModelError;
use crate::config::ModelConfig;
use crate::gguf::{Gguf, TensorInfo};
use crate::projection::Projection;
use crate::quant::{Bytes, Format, QuantMatrix};

/// All weights of a model.
#[derive(Clone)]
pub struct Weights {
    /// One row for each token, `[vocab, hidden]`.
    pub token_embedding: QuantMatrix,
    /// The head, `[vocab, hidden]`; none when it is the embedding.
    pub output: Option<QuantMatrix>,
    /// The norm before the head, `[hidden]`.
    pub output_norm: Vec<f32>,
    /// The decoder layers, first to last.
    pub layers: Vec<LayerWeights>,
}

/// The weights of one decoder layer.
#[derive(Clone)]
pub struct LayerWeights {
    /// The norm before attention, `[hidden]`.
    pub attn_norm: Vec<f32>,
    /// Queries, `[heads · head_dim, hidden]`.
    pub q: QuantMatrix,
    /// Keys, `[kv_heads · head_dim, hidden]`.
    pub k: QuantMatrix,
    /// Values, `[kv_heads · head_dim, hidden]`.
    pub v: QuantMatrix,
    /// Attention output, `[hidden, heads · head_dim]`.
    pub o: QuantMatrix,
    /// The norm before the feed-forward block, `[hidden]`.
    pub ffn_norm: Vec<f32>,
    /// Gate, `[ffn, hidden]`.
    pub gate: QuantMatrix,
    /// Up projection, `[ffn, hidden]`.
    pub up: QuantMatrix,
    /// Down projection, `[hidden, ffn]`.
    pub down: QuantMatrix,
}

impl Weights {
    /// Takes the weights out of a file, and checks each one's shape.
    ///
    /// # Errors
    /// For a tensor that is missing, or of another shape than `config` says, or
    /// of a format that no kernel here computes.
    pub fn read(gguf: &Gguf, config: &ModelConfig, file: &Arc<Mmap>) -> Result<Self, ModelError> {
        let tensors = Tensors { gguf, file };
        let vocab_shape = (config.vocab_size, config.hidden_size);
        let output = gguf
            .has_tensor("output.weight")
            .then(|| tensors.matrix("output.weight", vocab_shape))
            .transpose()?;
        let layers = (0..config.layer_count).map(|layer| tensors.layer(config, layer));
        Ok(Self {
            token_embedding: tensors.matrix("token_embd.weight", vocab_shape)?,
            output,
            output_norm: tensors.vector("output_norm.weight", config.hidden_size)?,
            layers: layers.collect::<Result<_, _>>()?,
        })
    }

    /// The matrix that makes logits, `[vocab, hidden]`.
    #[must_use]
    pub fn head(&self) -> &QuantMatrix {
        self.output.as_ref().unwrap_or(&self.token_embedding)
    }
}

impl LayerWeights {
    /// The matrix of a projection, `[out, in]`.
    #[must_use]
    pub fn projection(&self, projection: Projection) -> &QuantMatrix {
        match projection {
            Projection::Q => &self.q,
            Projection::K => &self.k,
            Projection::V => &self.v,
            Projection::O => &self.o,
            Projection::Gate => &self.gate,
            Projection::Up => &self.up,
            Projection::Down => &self.down,
        }
    }
}

/// The tensors of a file with their bytes.
struct Tensors<'a> {
    gguf: &'a Gguf,
    file: &'a Arc<Mmap>,
}

impl Tensors<'_> {
    fn layer(&self, config: &ModelConfig, layer: usize) -> Result<LayerWeights, ModelError> {
        let projection = |p: Projection| {
            let name = format!("blk.{layer}.{}.weight", p.gguf_name());
            self.matrix(&name, config.projection_shape(p))
        };
        let norm =
            |name: &str| self.vector(&format!("blk.{layer}.{name}.weight"), config.hidden_size);
        Ok(LayerWeights {
            attn_norm: norm("attn_norm")?,
            q: projection(Projection::Q)?,
            k: projection(Projection::K)?,
            v: projection(Projection::V)?,
            o: projection(Projection::O)?,
            ffn_norm: norm("ffn_norm")?,
            gate: projection(Projection::Gate)?,
            up: projection(Projection::Up)?,
            down: projection(Projection::Down)?,
        })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo, ModelError> {
        let tensor = self.gguf.tensor(name)?;
        if tensor.shape != shape {
            return Err(ModelError::TensorShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        Ok(tensor)
    }

    fn matrix(&self, name: &str, (rows, cols): (usize, usize)) -> Result<QuantMatrix, ModelError> {
        let tensor = self.tensor(name, &[rows, cols])?;
        let format = Format::from_ggml(tensor.kind.id).ok_or_else(|| unsupported(tensor))?;
        let bytes = Bytes::mapped(Arc::clone(self.file), tensor.range.clone())
            .ok_or_else(|| ModelError::TensorMissing(name.to_owned()))?;
        QuantMatrix::new(format, rows, cols, bytes)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let tensor = self.tensor(name, &[len])?;
        let bytes = &self.file[tensor.range.clone()];
        let pairs = bytes.as_chunks::<2>().0.iter();
        match tensor.kind.name {
            "F32" => Ok(bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect()),
            "F16" => Ok(pairs.map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
            "BF16" => Ok(pairs.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
            _ => Err(unsupported(tensor)),
        }
    }
}

fn unsupported(tensor: &TensorInfo) -> ModelError {
    let format = tensor.kind.name.to_owned();
    ModelError::UnsupportedFormat {
        tensor: tensor.name.clone(),
        format,
    }
}
