//! A model's weights: quantized matrices, and the norms' and biases' vectors in
//! f32, taken by their names from wherever they lie.

use std::collections::HashSet;
use std::ops::Range;

use crate::ModelError;
use crate::config::ModelConfig;
use crate::kernels::Arena;
use crate::projection::Projection;
use crate::quant::QuantMatrix;

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

/// Where weights come from, by their names in GGUF files.
pub(crate) trait TensorSource {
    /// Whether there is a tensor with this name.
    fn has(&self, name: &str) -> bool;

    /// The names of all tensors.
    fn names(&self) -> Vec<&str>;

    /// Some rows of a matrix, which has `shape` rows and columns in all.
    fn rows_of_matrix(
        &self,
        name: &str,
        shape: (usize, usize),
        rows: Range<usize>,
    ) -> Result<QuantMatrix, ModelError>;

    /// A vector of this length.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError>;
}

impl Weights {
    /// Takes the weights out of a model's files, and checks each one's shape.
    ///
    /// # Errors
    /// For a tensor that is missing, that no part of the architecture uses, of
    /// another shape than `config` says, or of a format that no kernel here
    /// computes.
    pub(crate) fn read(
        source: &dyn TensorSource,
        config: &ModelConfig,
    ) -> Result<Self, ModelError> {
        let mut tensors = Tensors {
            source,
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

/// What the products of one token with all matrices take; attention is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenCost {
    /// Bytes of weights that are read, in the form that products use.
    pub weight_bytes: usize,
    /// Multiplications in the layers.
    pub layer_macs: usize,
    /// Multiplications for the logits.
    pub head_macs: usize,
}

impl Weights {
    /// Interleaves all matrices for products with 8-bit activations, in the
    /// order in which they are read and in one block of memory; what is so already stays.
    pub fn pack(&self) {
        let mut arena = Arena::with_capacity(self.matrices().map(QuantMatrix::bytes_to_pack).sum());
        self.matrices()
            .for_each(|matrix| matrix.pack_in(&mut arena));
    }

    /// What one token costs.
    #[must_use]
    pub fn token_cost(&self) -> TokenCost {
        let read = |matrix: &QuantMatrix| match matrix.packed_byte_len() {
            0 => matrix.byte_len(),
            packed => packed,
        };
        let macs = |matrix: &QuantMatrix| matrix.rows() * matrix.cols();
        let head = macs(self.head());
        TokenCost {
            weight_bytes: self.matrices().map(read).sum(),
            layer_macs: self.matrices().map(macs).sum::<usize>() - head,
            head_macs: head,
        }
    }

    fn matrices(&self) -> impl Iterator<Item = &QuantMatrix> {
        let layers = self.layers.iter();
        let in_layers = layers.flat_map(|layer| Projection::ALL.map(|p| layer.projection(p)));
        in_layers.chain([self.head()])
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

/// A source of tensors, and which of them were taken.
struct Tensors<'a> {
    source: &'a dyn TensorSource,
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
        self.source.has(name)
    }

    fn check_all_used(&self) -> Result<(), ModelError> {
        let is_left = |name: &&str| {
            !self.used.contains(*name) && !UNUSED.iter().any(|end| name.ends_with(end))
        };
        match self.source.names().into_iter().find(is_left) {
            None => Ok(()),
            Some(name) => Err(ModelError::TensorUnexpected(name.to_owned())),
        }
    }

    fn matrix(&mut self, name: &str, shape: (usize, usize)) -> Result<QuantMatrix, ModelError> {
        self.rows_of_matrix(name, shape, 0..shape.0)
    }

    fn rows_of_matrix(
        &mut self,
        name: &str,
        shape: (usize, usize),
        rows: Range<usize>,
    ) -> Result<QuantMatrix, ModelError> {
        self.used.insert(name.to_owned());
        self.source.rows_of_matrix(name, shape, rows)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        self.used.insert(name.to_owned());
        self.source.vector(name, len)
    }
}
