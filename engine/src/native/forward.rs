//! The decoder's forward pass over a batch of chunks of sequences.
//!
//! Knows no queue and no sampling. A token's result depends on its own
//! sequence and adapter alone, bit for bit, whatever else is in the batch.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use model::kernels::{self, KvFormat, KvLayout, LowRankTerm, Query, Terms, for_rows};
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
    scratch: Cell<Scratch>,
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

/// The products of a layer, in their order; projections of one input are one product.
const PRODUCTS: [&[Projection]; 4] = [
    &[Projection::Q, Projection::K, Projection::V],
    &[Projection::O],
    &[Projection::Gate, Projection::Up],
    &[Projection::Down],
];

/// The product that comes after one of a layer: its layer, which may be one past the
/// last, and projections.
fn after(layer: usize, projections: &[Projection]) -> (usize, &'static [Projection]) {
    let next = PRODUCTS.iter().position(|product| *product == projections);
    match next.and_then(|at| PRODUCTS.get(at + 1)) {
        Some(product) => (layer, product),
        None => (layer + 1, PRODUCTS[0]),
    }
}

/// A batch on its way through the layers.
struct Batch<'a> {
    n: usize,
    chunks: &'a [Chunk<'a>],
    /// Each row's position in its sequence.
    positions: Vec<usize>,
    groups: Vec<Group<'a>>,
    /// The rows as the tasks that compute with adapters take them.
    row_chunks: Vec<Range<usize>>,
    /// What adapters add to the product that comes next, and to the one after it.
    terms: [Vec<LowRankTerm<'a>>; 2],
    /// Which the next one is: its layer and projections.
    next: (usize, &'static [Projection]),
    /// `[n, hidden]`
    state: Vec<f32>,
}

/// Makes `terms` what the adapters of some rows add to projections of one input.
fn find_terms<'a>(
    terms: &mut Vec<LowRankTerm<'a>>,
    groups: &[Group<'a>],
    layer: usize,
    projections: &[Projection],
) {
    terms.clear();
    for (output, projection) in projections.iter().enumerate() {
        terms.extend(groups.iter().filter_map(|group| {
            Some(LowRankTerm {
                output,
                rows: group.rows.clone(),
                pair: group.adapter.pair(layer, *projection)?,
            })
        }));
    }
}

/// What the layers write, kept from one batch to the next. The contents are
/// whatever was there before.
#[derive(Default)]
struct Scratch {
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mixed: Vec<f32>,
    out: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

/// A buffer of that length, contents unspecified.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// The sizes that the cache needs of a model.
pub(super) fn kv_layout(model: &BaseModel, format: KvFormat) -> KvLayout {
    KvLayout {
        layers: model.config.layer_count,
        kv_heads: model.config.kv_head_count,
        heads: model.config.head_count,
        head_dim: model.config.head_dim,
        format,
    }
}

impl Forward {
    /// A model for sequences of at most `context_length` tokens.
    pub(super) fn new(model: Arc<BaseModel>, context_length: usize, precision: Precision) -> Self {
        Self {
            rope: RopeTables::new(&model, context_length),
            model,
            precision,
            scratch: Cell::default(),
        }
    }

    /// Runs a batch, and returns the logits asked for, `[rows, vocab]`, in the
    /// order of the chunks.
    pub(super) fn run(&self, cache: &mut KvCache, chunks: &[Chunk<'_>]) -> Vec<f32> {
        let mut batch = self.embed(chunks);
        for chunk in chunks {
            cache.touch(chunk.pages);
        }
        let mut scratch = self.scratch.take();
        for (layer, weights) in self.model.weights.layers.iter().enumerate() {
            self.attention(layer, weights, cache, &mut batch, &mut scratch);
            self.feed_forward(layer, weights, &mut batch, &mut scratch);
        }
        self.scratch.set(scratch);
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
        let groups = groups(chunks);
        let mut terms = [Vec::new(), Vec::new()];
        find_terms(&mut terms[0], &groups, 0, PRODUCTS[0]);
        Batch {
            n,
            chunks,
            positions,
            row_chunks: kernels::row_chunks(n, groups.iter().map(|group| group.rows.clone())),
            terms,
            next: (0, PRODUCTS[0]),
            groups,
            state,
        }
    }

    fn attention(
        &self,
        layer: usize,
        weights: &LayerWeights,
        cache: &mut KvCache,
        batch: &mut Batch<'_>,
        scratch: &mut Scratch,
    ) {
        let config = &self.model.config;
        let (n, q_size, kv_size) = (batch.n, config.q_size(), config.kv_size());
        let normed = sized(&mut scratch.normed, batch.state.len()); // [n, hidden]
        self.norm(&batch.state, &weights.attn_norm, normed);
        let (q, k, v) = (
            sized(&mut scratch.q, n * q_size),
            sized(&mut scratch.k, n * kv_size),
            sized(&mut scratch.v, n * kv_size),
        );
        let projections = [Projection::Q, Projection::K, Projection::V];
        let outputs = [&mut *q, &mut *k, &mut *v];
        self.project(layer, weights, projections, normed, outputs, batch);
        add_to_rows(q, weights.q_bias.as_deref());
        add_to_rows(k, weights.k_bias.as_deref());
        add_to_rows(v, weights.v_bias.as_deref());
        self.norm_if(q, weights.q_norm.as_deref());
        self.norm_if(k, weights.k_norm.as_deref());
        let (rope, scale) = (self.rope.of(config, layer), config.attention_scale);
        for_rows(q, q_size, |i, row| {
            rope.turn(row, batch.positions[i], scale)
        });
        for_rows(k, kv_size, |i, row| rope.turn(row, batch.positions[i], 1.0));
        write_cache(layer, cache, batch.chunks, k, v);
        let mixed = sized(&mut scratch.mixed, n * q_size); // [n, heads · head_dim]
        let window = config.window_of(layer).map_or(usize::MAX, |w| w.tokens);
        let queries = queries(cache, batch.chunks, window);
        kernels::attend(cache.layout(), layer, &queries, q, mixed);
        let out = sized(&mut scratch.out, batch.state.len());
        self.project(layer, weights, [Projection::O], mixed, [&mut *out], batch);
        self.norm_if(out, weights.attn_post_norm.as_deref());
        kernels::add(&mut batch.state, out);
    }

    fn feed_forward(
        &self,
        layer: usize,
        weights: &LayerWeights,
        batch: &mut Batch<'_>,
        scratch: &mut Scratch,
    ) {
        let ffn = self.model.config.ffn_size;
        let normed = sized(&mut scratch.normed, batch.state.len()); // [n, hidden]
        self.norm(&batch.state, &weights.ffn_norm, normed);
        let (gate, up) = (
            sized(&mut scratch.gate, batch.n * ffn),
            sized(&mut scratch.up, batch.n * ffn),
        );
        let both = [Projection::Gate, Projection::Up];
        let outputs = [&mut *gate, &mut *up]; // [n, ffn]
        self.project(layer, weights, both, normed, outputs, batch);
        let activate = match self.model.config.architecture.activation {
            Activation::Silu => kernels::silu_mul,
            Activation::GeluTanh => kernels::gelu_mul,
        };
        for_rows(gate, ffn, |i, row| {
            activate(row, &up[i * ffn..(i + 1) * ffn])
        });
        let down = sized(&mut scratch.out, batch.state.len());
        let outputs = [&mut *down];
        self.project(layer, weights, [Projection::Down], gate, outputs, batch);
        self.norm_if(down, weights.ffn_post_norm.as_deref());
        kernels::add(&mut batch.state, down);
    }

    /// Projections of the same input, each with the adapters of its rows.
    fn project<const N: usize>(
        &self,
        layer: usize,
        weights: &LayerWeights,
        projections: [Projection; N],
        x: &[f32],
        mut outputs: [&mut [f32]; N],
        batch: &mut Batch<'_>,
    ) {
        let [of_this, of_next] = &mut batch.terms;
        if batch.next != (layer, &projections[..]) {
            find_terms(of_this, &batch.groups, layer, &projections);
        }
        let (next_layer, next) = after(layer, &projections);
        find_terms(of_next, &batch.groups, next_layer, next);
        batch.next = (next_layer, next);
        let next: Vec<_> = match self.model.weights.layers.get(next_layer) {
            Some(weights) => next.iter().map(|next| weights.projection(*next)).collect(),
            None => vec![self.model.weights.head()],
        };
        matmul_many(
            &projections.map(|projection| weights.projection(projection)),
            (x, batch.n),
            &mut outputs,
            self.precision_of(projections[0]),
            Terms {
                of_this,
                of_next,
                next: &next,
                chunks: &batch.row_chunks,
            },
        );
        batch.terms.swap(0, 1);
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

    fn norm(&self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        let (width, epsilon) = (weight.len(), self.model.config.rms_eps);
        for_rows(out, width, |i, row| {
            let x = &x[i * width..(i + 1) * width];
            kernels::rms_norm(x, weight, epsilon, row);
        });
    }

    /// Norms each row, or each head where the norm is as wide as one, if the
    /// model has the norm.
    fn norm_if(&self, x: &mut [f32], weight: Option<&[f32]>) {
        if let Some(weight) = weight {
            let before = x.to_vec();
            self.norm(&before, weight, x);
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
        let mut normed = vec![0.0; wanted.len()];
        self.norm(&wanted, &self.model.weights.output_norm, &mut normed);
        let mut logits = vec![0.0; n * self.model.config.vocab_size]; // [n, vocab]
        self.model
            .weights
            .head()
            .matmul(&normed, n, &mut logits, self.precision);
        logits
    }
}

/// Stores the new keys and values of every chunk.
fn write_cache(layer: usize, cache: &mut KvCache, chunks: &[Chunk<'_>], k: &[f32], v: &[f32]) {
    let count = chunks.iter().map(|chunk| chunk.tokens.len()).sum::<usize>();
    let width = k.len() / count.max(1);
    let mut start = 0;
    for chunk in chunks {
        let rows = start..start + chunk.tokens.len() * width;
        start = rows.end;
        let (k, v) = (&k[rows.clone()], &v[rows]);
        cache.write(layer, chunk.pages, chunk.first_position, k, v);
    }
}

/// The chunks as attention takes them.
fn queries<'c>(cache: &'c KvCache, chunks: &[Chunk<'_>], window: usize) -> Vec<Query<'c>> {
    let mut end = 0;
    let query = |chunk: &Chunk<'_>| {
        end += chunk.tokens.len();
        Query {
            first_row: end - chunk.tokens.len(),
            count: chunk.tokens.len(),
            first_position: chunk.first_position,
            window,
            pages: chunk.pages.iter().map(|&page| cache.page(page)).collect(),
        }
    };
    chunks.iter().map(query).collect()
}

/// Adds a bias, if there is one, to each row.
fn add_to_rows(x: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        for_rows(x, bias.len(), |_, row| kernels::add(row, bias));
    }
}
