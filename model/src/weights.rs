//! A model's weights: quantized matrices that lie in the mapped file, and the
//! norms' vectors in f32.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use crate::ModelError;
use crate::config::ModelConfig;
use crate::gguf::{GgufFiles, TensorInfo};
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
    /// What RoPE's frequencies are divided by, `[rope dims / 2]` (Llama 3).
    pub rope_factors: Option<Vec<f32>>,
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
    /// The bias of queries, `[heads · head_dim]`.
    pub q_bias: Option<Vec<f32>>,
    /// The bias of keys, `[kv_heads · head_dim]`.
    pub k_bias: Option<Vec<f32>>,
    /// The bias of values, `[kv_heads · head_dim]`.
    pub v_bias: Option<Vec<f32>>,
    /// The norm of each query head, `[head_dim]`.
    pub q_norm: Option<Vec<f32>>,
    /// The norm of each key head, `[head_dim]`.
    pub k_norm: Option<Vec<f32>>,
    /// Attention output, `[hidden, heads · head_dim]`.
    pub o: QuantMatrix,
    /// The norm of attention's output, `[hidden]`.
    pub attn_post_norm: Option<Vec<f32>>,
    /// The norm before the feed-forward block, `[hidden]`.
    pub ffn_norm: Vec<f32>,
    /// Gate, `[ffn, hidden]`.
    pub gate: QuantMatrix,
    /// Up projection, `[ffn, hidden]`.
    pub up: QuantMatrix,
    /// Down projection, `[hidden, ffn]`.
    pub down: QuantMatrix,
    /// The norm of the feed-forward block's output, `[hidden]`.
    pub ffn_post_norm: Option<Vec<f32>>,
}

impl Weights {
    /// Takes the weights out of a model's files, and checks each one's shape.
    ///
    /// # Errors
    /// For a tensor that is missing, that no part of the architecture uses, of
    /// another shape than `config` says, or of a format that no kernel here
    /// computes.
    pub fn read(files: &GgufFiles, config: &ModelConfig) -> Result<Self, ModelError> {
        let mut tensors = Tensors {
            files,
            used: HashSet::new(),
        };
        let vocab_shape = (config.vocab_size, config.hidden_size);
        let weights = Self {
            token_embedding: tensors.matrix("token_embd.weight", vocab_shape)?,
            output: tensors
                .has("output.weight")
                .then(|| tensors.matrix("output.weight", vocab_shape))
                .transpose()?,
            output_norm: tensors.vector("output_norm.weight", config.hidden_size)?,
            rope_factors: tensors
                .has(ROPE_FACTORS)
                .then(|| tensors.rope_factors(config))
                .transpose()?,
            layers: (0..config.layer_count)
                .map(|layer| tensors.layer(config, layer))
                .collect::<Result<_, _>>()?,
        };
        tensors.check_all_used()?;
        Ok(weights)
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

/// What RoPE's frequencies are divided by, in files that scale them so.
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Ends of names of tensors that some files have and nothing computes with.
const UNUSED: [&str; 2] = [".attn_rot_embd", ".attn_rot_embd.weight"];

/// The tensors of a model's files with their bytes.
struct Tensors<'a> {
    files: &'a GgufFiles,
    /// The names of those that were taken.
    used: HashSet<String>,
}

impl Tensors<'_> {
    fn layer(&mut self, config: &ModelConfig, layer: usize) -> Result<LayerWeights, ModelError> {
        let architecture = config.architecture;
        let (bias, heads, post) = (
            architecture.qkv_bias,
            architecture.head_norms,
            architecture.post_norms,
        );
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let (q_size, kv_size) = (config.q_size(), config.kv_size());
        let mut vector = |needed: bool, name: &str, len| {
            let name = format!("blk.{layer}.{name}");
            needed.then(|| self.vector(&name, len)).transpose()
        };
        let (q_bias, k_bias, v_bias) = (
            vector(bias, "attn_q.bias", q_size)?,
            vector(bias, "attn_k.bias", kv_size)?,
            vector(bias, "attn_v.bias", kv_size)?,
        );
        let (q_norm, k_norm) = (
            vector(heads, "attn_q_norm.weight", head_dim)?,
            vector(heads, "attn_k_norm.weight", head_dim)?,
        );
        let attn_post_norm = vector(post, "post_attention_norm.weight", hidden)?;
        let ffn_post_norm = vector(post, "post_ffw_norm.weight", hidden)?;
        let mut norm = |name: &str| self.vector(&format!("blk.{layer}.{name}.weight"), hidden);
        let (attn_norm, ffn_norm) = (norm("attn_norm")?, norm("ffn_norm")?);
        let mut projection = |p: Projection| self.projection(config, layer, p);
        Ok(LayerWeights {
            attn_norm,
            q: projection(Projection::Q)?,
            k: projection(Projection::K)?,
            v: projection(Projection::V)?,
            q_bias,
            k_bias,
            v_bias,
            q_norm,
            k_norm,
            o: projection(Projection::O)?,
            attn_post_norm,
            ffn_norm,
            gate: projection(Projection::Gate)?,
            up: projection(Projection::Up)?,
            down: projection(Projection::Down)?,
            ffn_post_norm,
        })
    }

    /// A projection's matrix, or its rows of the tensor that has several.
    fn projection(
        &mut self,
        config: &ModelConfig,
        layer: usize,
        projection: Projection,
    ) -> Result<QuantMatrix, ModelError> {
        let fused = config.architecture.fused_with(projection);
        let name = fused.map_or(projection.gguf_name(), |fused| fused.gguf_name);
        let cols = config.projection_shape(projection).1;
        let (all, rows) = config.rows_in_module(projection);
        self.rows_of_matrix(&format!("blk.{layer}.{name}.weight"), (all, cols), rows)
    }

    fn rope_factors(&mut self, config: &ModelConfig) -> Result<Vec<f32>, ModelError> {
        let factors = self.vector(ROPE_FACTORS, config.rope.dims / 2)?;
        if factors.iter().all(|f| f.is_finite() && *f > 0.0) {
            return Ok(factors);
        }
        Err(ModelError::Metadata {
            key: ROPE_FACTORS.to_owned(),
            problem: "has a factor that is not above zero",
        })
    }

    fn has(&self, name: &str) -> bool {
        self.files.tensor(name).is_ok()
    }

    fn check_all_used(&self) -> Result<(), ModelError> {
        let left = self.files.tensors().find(|tensor| {
            !self.used.contains(&tensor.name)
                && !UNUSED.iter().any(|end| tensor.name.ends_with(end))
        });
        match left {
            None => Ok(()),
            Some(tensor) => Err(ModelError::TensorUnexpected(tensor.name.clone())),
        }
    }

    fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
    ) -> Result<(&TensorInfo, &Arc<Mmap>), ModelError> {
        let (tensor, file) = self.files.tensor(name)?;
        self.used.insert(name.to_owned());
        if tensor.shape != shape {
            return Err(ModelError::TensorShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        Ok((tensor, file))
    }

    fn matrix(
        &mut self,
        name: &str,
        (rows, cols): (usize, usize),
    ) -> Result<QuantMatrix, ModelError> {
        self.rows_of_matrix(name, (rows, cols), 0..rows)
    }

    /// Some rows of a matrix of `shape`.
    fn rows_of_matrix(
        &mut self,
        name: &str,
        (all, cols): (usize, usize),
        rows: Range<usize>,
    ) -> Result<QuantMatrix, ModelError> {
        let (tensor, file) = self.tensor(name, &[all, cols])?;
        let format = Format::from_ggml(tensor.kind.id).ok_or_else(|| unsupported(tensor))?;
        let row_bytes = tensor.range.len() / all;
        let start = tensor.range.start + rows.start * row_bytes;
        let bytes = Bytes::mapped(Arc::clone(file), start..start + rows.len() * row_bytes)
            .ok_or_else(|| ModelError::TensorMissing(name.to_owned()))?;
        QuantMatrix::new(format, rows.len(), cols, bytes)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let (tensor, file) = self.tensor(name, &[len])?;
        let bytes = &file[tensor.range.clone()];
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
