//! The decoder's forward pass over a batch of chunks of sequences.
//!
//! Knows no queue and no sampling. A token's result depends on its own
//! sequence and adapter alone, bit for bit, whatever else is in the batch.

use std::ops::Range;
use std::sync::Arc;

use model::kernels::{self, KvLayout, LowRankTerm, Query, for_rows};
use model::quant::{Precision, matmul_many};
use model::{Activation, BaseModel, LayerWeights, Projection};

use super::blocks::PageId;
use super::cache::KvCache;
use super::lora::DeviceAdapter;
use super::rope::RopeTables;

/// Consecutive new tokens of one sequence.
pub(super) struct Chunk<'a> {
    pub(super) tokens: &'a [u32],
    /// The first token's position in its sequence.
    pub(super) first_position: usize,
    /// Pages for all positions up to the last token's.
    pub(super) pages: &'a [PageId],
    pub(super) adapter: Option<&'a DeviceAdapter>,
    /// How many of the last tokens need logits.
    pub(super) logits: usize,
}

/// A model ready to run.
pub(super) struct Forward {
    model: Arc<BaseModel>,
    rope: RopeTables,
    precision: Precision,
}

/// The rows of a batch that use one adapter.
pub(super) struct Group<'a> {
    pub(super) rows: Range<usize>,
    pub(super) adapter: &'a DeviceAdapter,
}

/// The rows of chunks by adapter; neighbours with the same one are together.
pub(super) fn groups<'a>(chunks: &[Chunk<'a>]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut end = 0;
    for chunk in chunks {
        let rows = end..end + chunk.tokens.len();
        end = rows.end;
        let Some(adapter) = chunk.adapter else {
            continue;
        };
        match groups.last_mut() {
            Some(last) if last.rows.end == rows.start && std::ptr::eq(last.adapter, adapter) => {
                last.rows.end = rows.end;
            }
            _ => groups.push(Group { rows, adapter }),
        }
    }
    groups
}

/// A batch on its way through the layers.
struct Batch<'a> {
    n: usize,
    chunks: &'a [Chunk<'a>],
    /// Each row's position in its sequence.
    positions: Vec<usize>,
    groups: Vec<Group<'a>>,
    /// `[n, hidden]`
    state: Vec<f32>,
}

impl Batch<'_> {
    /// What the adapters of the batch's rows add to a projection of shape
    /// `[out, in]`.
    fn add_terms<'t>(
        &'t self,
        layer: usize,
        projection: Projection,
        (out, cols): (usize, usize),
        x: &'t [f32],
        y: &'t mut [f32],
        terms: &mut Vec<LowRankTerm<'t>>,
    ) {
        let (mut rest, mut end) = (y, 0);
        for group in &self.groups {
            let rows = &group.rows;
            let (_, from) = rest.split_at_mut((rows.start - end) * out);
            let (y, after) = from.split_at_mut(rows.len() * out);
            (rest, end) = (after, rows.end);
            if let Some(pair) = group.adapter.pair(layer, projection) {
                terms.push(LowRankTerm {
                    pair,
                    x: &x[rows.start * cols..rows.end * cols],
                    n: rows.len(),
                    y,
                });
            }
        }
    }
}

/// The sizes that the cache needs of a model.
pub(super) fn kv_layout(model: &BaseModel) -> KvLayout {
    KvLayout {
        layers: model.config.layer_count,
        kv_heads: model.config.kv_head_count,
        heads: model.config.head_count,
        head_dim: model.config.head_dim,
    }
}

impl Forward {
    /// A model for sequences of at most `context_length` tokens.
    pub(super) fn new(model: Arc<BaseModel>, context_length: usize, precision: Precision) -> Self {
        Self {
            rope: RopeTables::new(&model, context_length),
            model,
            precision,
        }
    }

    /// Runs a batch, and returns the logits asked for, `[rows, vocab]`, in the
    /// order of the chunks.
    pub(super) fn run(&self, cache: &mut KvCache, chunks: &[Chunk<'_>]) -> Vec<f32> {
        let mut batch = self.embed(chunks);
        for chunk in chunks {
            cache.touch(chunk.pages);
        }
        for (layer, weights) in self.model.weights.layers.iter().enumerate() {
            self.attention(layer, weights, cache, &mut batch);
            self.feed_forward(layer, weights, &mut batch);
        }
        self.head(&batch)
    }

    fn embed<'a>(&self, chunks: &'a [Chunk<'a>]) -> Batch<'a> {
        let n = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let hidden = self.model.config.hidden_size;
        let mut state = vec![0.0; n * hidden];
        let tokens = chunks.iter().flat_map(|chunk| chunk.tokens);
        for (row, &token) in state.chunks_exact_mut(hidden).zip(tokens) {
            let token = token as usize;
            self.model
                .weights
                .token_embedding
                .dequantize_rows(token..token + 1, row);
        }
        let scale = self.model.config.embedding_scale;
        if scale != 1.0 {
            state.iter_mut().for_each(|v| *v *= scale);
        }
        let positions = chunks
            .iter()
            .flat_map(|chunk| (chunk.first_position..).take(chunk.tokens.len()))
            .collect();
        Batch {
            n,
            chunks,
            positions,
            groups: groups(chunks),
            state,
        }
    }

    fn attention(
        &self,
        layer: usize,
        weights: &LayerWeights,
        cache: &mut KvCache,
        batch: &mut Batch<'_>,
    ) {
        let config = &self.model.config;
        let (q_size, kv_size) = (config.q_size(), config.kv_size());
        let normed = self.norm(&batch.state, &weights.attn_norm); // [n, hidden]
        let [mut q, mut k, mut v] = self.project(
            layer,
            weights,
            [Projection::Q, Projection::K, Projection::V],
            &normed,
            batch,
        );
        add_to_rows(&mut q, weights.q_bias.as_deref());
        add_to_rows(&mut k, weights.k_bias.as_deref());
        add_to_rows(&mut v, weights.v_bias.as_deref());
        q = self.norm_if(q, weights.q_norm.as_deref());
        k = self.norm_if(k, weights.k_norm.as_deref());
        let (rope, scale) = (self.rope.of(config, layer), config.attention_scale);
        for_rows(&mut q, q_size, |i, row| {
            rope.turn(row, batch.positions[i], scale)
        });
        for_rows(&mut k, kv_size, |i, row| {
            rope.turn(row, batch.positions[i], 1.0)
        });

        let mut queries = Vec::with_capacity(batch.chunks.len());
        let mut first_row = 0;
        for chunk in batch.chunks {
            let rows = first_row * kv_size..(first_row + chunk.tokens.len()) * kv_size;
            cache.write(
                layer,
                chunk.pages,
                chunk.first_position,
                &k[rows.clone()],
                &v[rows],
            );
            first_row += chunk.tokens.len();
        }
        first_row = 0;
        let window = config.window_of(layer).map_or(usize::MAX, |w| w.tokens);
        for chunk in batch.chunks {
            queries.push(Query {
                first_row,
                count: chunk.tokens.len(),
                first_position: chunk.first_position,
                window,
                pages: chunk.pages.iter().map(|&page| cache.page(page)).collect(),
            });
            first_row += chunk.tokens.len();
        }
        let mut mixed = vec![0.0; batch.n * q_size]; // [n, heads · head_dim]
        kernels::attend(cache.layout(), layer, &queries, &q, &mut mixed);
        let [out] = self.project(layer, weights, [Projection::O], &mixed, batch);
        let out = self.norm_if(out, weights.attn_post_norm.as_deref());
        kernels::add(&mut batch.state, &out);
    }

    fn feed_forward(&self, layer: usize, weights: &LayerWeights, batch: &mut Batch<'_>) {
        let normed = self.norm(&batch.state, &weights.ffn_norm); // [n, hidden]
        let both = [Projection::Gate, Projection::Up];
        let [mut gate, up] = self.project(layer, weights, both, &normed, batch); // [n, ffn]
        let ffn = self.model.config.ffn_size;
        let activate = match self.model.config.architecture.activation {
            Activation::Silu => kernels::silu_mul,
            Activation::GeluTanh => kernels::gelu_mul,
        };
        for_rows(&mut gate, ffn, |i, row| {
            activate(row, &up[i * ffn..(i + 1) * ffn])
        });
        let [down] = self.project(layer, weights, [Projection::Down], &gate, batch);
        let down = self.norm_if(down, weights.ffn_post_norm.as_deref());
        kernels::add(&mut batch.state, &down);
    }

    /// Projections of the same input, each with the adapters of its rows.
    fn project<const N: usize>(
        &self,
        layer: usize,
        weights: &LayerWeights,
        projections: [Projection; N],
        x: &[f32],
        batch: &Batch<'_>,
    ) -> [Vec<f32>; N] {
        let matrices = projections.map(|projection| weights.projection(projection));
        let mut outputs = matrices.map(|matrix| vec![0.0; batch.n * matrix.rows()]);
        let mut slices = outputs.each_mut().map(Vec::as_mut_slice);
        matmul_many(
            &matrices,
            x,
            batch.n,
            &mut slices,
            self.precision_of(projections[0]),
        );
        let mut terms = Vec::new();
        for ((projection, matrix), y) in projections.iter().zip(&matrices).zip(&mut outputs) {
            let shape = (matrix.rows(), matrix.cols());
            batch.add_terms(layer, *projection, shape, x, y, &mut terms);
        }
        kernels::add_low_rank(&mut terms);
        outputs
    }

    /// Rounding what enters queries, keys and values costs most: done finer, it
    /// takes the divergence from f32 from 0.0035 to 0.0020 nats for a sixth more
    /// work (llama.cpp: 0.0032; `tests/golden/kl_transformers.json`).
    fn precision_of(&self, projection: Projection) -> Precision {
        match (self.precision, projection) {
            (Precision::Int8, Projection::Q | Projection::K | Projection::V) => {
                Precision::Int8Twice
            }
            (precision, _) => precision,
        }
    }

    fn norm(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let width = weight.len();
        let mut out = vec![0.0; x.len()];
        for_rows(&mut out, width, |i, row| {
            kernels::rms_norm(
                &x[i * width..(i + 1) * width],
                weight,
                self.model.config.rms_eps,
                row,
            );
        });
        out
    }

    /// Each row, or each head where the norm is as wide as one, normed if the
    /// model has the norm.
    fn norm_if(&self, x: Vec<f32>, weight: Option<&[f32]>) -> Vec<f32> {
        match weight {
            Some(weight) => self.norm(&x, weight),
            None => x,
        }
    }

    fn head(&self, batch: &Batch<'_>) -> Vec<f32> {
        let hidden = self.model.config.hidden_size;
        let mut wanted = Vec::new();
        let mut end = 0;
        for chunk in batch.chunks {
            end += chunk.tokens.len();
            wanted.extend_from_slice(&batch.state[(end - chunk.logits) * hidden..end * hidden]);
        }
        let n = wanted.len() / hidden;
        let normed = self.norm(&wanted, &self.model.weights.output_norm);
        let mut logits = vec![0.0; n * self.model.config.vocab_size]; // [n, vocab]
        self.model
            .weights
            .head()
            .matmul(&normed, n, &mut logits, self.precision);
        logits
    }
}

/// Adds a bias, if there is one, to each row.
fn add_to_rows(x: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        for_rows(x, bias.len(), |_, row| kernels::add(row, bias));
    }
}
