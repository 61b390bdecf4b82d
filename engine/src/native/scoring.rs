//! Teacher-forced evaluation without an engine thread: logits and
//! log-probabilities of given tokens.

use std::convert::Infallible;
use std::sync::Arc;

use ids::{AdapterDigest, Sha256Digest};
use model::BaseModel;
use model::kernels::{self, KvFormat, PAGE_TOKENS};
use model::lora::LoraAdapter;
use model::quant::Precision;

use super::backend::Placement;
use super::blocks::{BlockManager, PageTable};
use super::cache::KvCache;
use super::device::Device;
use super::forward::{Chunk, Forward, kv_layout};
use super::lora::DeviceAdapter;
use crate::api::EngineError;

/// Tokens whose logits are held at once while scoring.
const SCORED_AT_ONCE: usize = 128;
/// The digest of an adapter that is not looked up by it.
const NAME: AdapterDigest = AdapterDigest(Sha256Digest::from_bytes([0; 32]));

/// What the model says of one given token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of the token's probability.
    pub logprob: f32,
    /// Whether it is the most likely one (of equals, the lowest id).
    pub is_top: bool,
}

/// Logits after each token of a sequence, `[tokens, vocab]`; on rayon's
/// current pool.
#[must_use]
pub fn logits(
    model: &Arc<BaseModel>,
    adapter: Option<&LoraAdapter>,
    tokens: &[u32],
    precision: Precision,
) -> Vec<f32> {
    logits_with_cache(model, adapter, tokens, precision, KvFormat::default())
}

/// Like [`logits`], with keys and values kept as given.
#[must_use]
pub fn logits_with_cache(
    model: &Arc<BaseModel>,
    adapter: Option<&LoraAdapter>,
    tokens: &[u32],
    precision: Precision,
    kv_cache: KvFormat,
) -> Vec<f32> {
    let mut all = Vec::with_capacity(tokens.len() * model.config.vocab_size);
    let computed = (precision, kv_cache);
    run(model, adapter, tokens, 0, computed, |_, logits| {
        all.extend_from_slice(logits);
    });
    all
}

/// The same on a device of choice.
///
/// # Errors
/// [`EngineError::Failed`] if there is no such device, or it fails.
pub fn logits_on(
    device: Device,
    model: &Arc<BaseModel>,
    adapter: Option<&LoraAdapter>,
    tokens: &[u32],
    precision: Precision,
) -> Result<Vec<f32>, EngineError> {
    let placement = Placement::open(device, precision, KvFormat::default())?;
    let adapter = adapter
        .map(|adapter| placement.lay_out(NAME, adapter, &model.config))
        .transpose()?;
    let pages = tokens.len().div_ceil(PAGE_TOKENS);
    let mut backend = placement.backend(model, tokens.len(), pages)?;
    let mut all = Vec::with_capacity(tokens.len() * model.config.vocab_size);
    run_chunks(
        tokens,
        0,
        adapter.as_ref(),
        |chunk| backend.run(&[chunk]),
        |_, logits| all.extend_from_slice(logits),
    )?;
    Ok(all)
}

/// Scores each token from `first` (at least 1) on, given those before it; on
/// rayon's current pool.
#[must_use]
pub fn score(
    model: &Arc<BaseModel>,
    adapter: Option<&LoraAdapter>,
    tokens: &[u32],
    first: usize,
    precision: Precision,
) -> Vec<TokenScore> {
    let first = first.max(1);
    let mut scores = Vec::new();
    let Some(context) = tokens.split_last().map(|(_, context)| context) else {
        return scores;
    };
    run(
        model,
        adapter,
        context,
        first - 1,
        (precision, KvFormat::default()),
        |position, logits| {
            let token = tokens[position + 1] as usize;
            let logprob = logits[token] - kernels::log_sum_exp(logits);
            let is_top = super::sampler::argmax(logits) == Some(token);
            scores.push(TokenScore { logprob, is_top });
        },
    );
    scores
}

/// Runs a sequence alone by our own kernels, and hands over the logits of each
/// position from `first` on.
fn run(
    model: &Arc<BaseModel>,
    adapter: Option<&LoraAdapter>,
    tokens: &[u32],
    first: usize,
    (precision, kv_cache): (Precision, KvFormat),
    mut each: impl FnMut(usize, &[f32]),
) {
    let adapter =
        adapter.map(|adapter| DeviceAdapter::new(NAME, adapter, &model.config, precision));
    let forward = Forward::new(Arc::clone(model), tokens.len(), precision);
    let mut cache = KvCache::new(kv_layout(model, kv_cache));
    let Ok(()) = run_chunks(
        tokens,
        first,
        adapter.as_ref(),
        |chunk| Ok::<_, Infallible>(forward.run(&mut cache, &[chunk])),
        |start, logits| {
            let rows = logits.chunks_exact(model.config.vocab_size);
            (start..)
                .zip(rows)
                .for_each(|(position, row)| each(position, row));
        },
    );
}

/// Cuts a sequence into chunks; `each` is given the logits of a chunk's last
/// positions, and the first of those.
fn run_chunks<E>(
    tokens: &[u32],
    first: usize,
    adapter: Option<&DeviceAdapter>,
    mut forward: impl FnMut(Chunk<'_>) -> Result<Vec<f32>, E>,
    mut each: impl FnMut(usize, &[f32]),
) -> Result<(), E> {
    let mut table = PageTable::new(None);
    let pages_max = tokens.len().div_ceil(PAGE_TOKENS);
    BlockManager::new(pages_max, false).grow(&mut table, tokens.len());
    for (i, tokens) in tokens.chunks(SCORED_AT_ONCE).enumerate() {
        let start = i * SCORED_AT_ONCE;
        let end = start + tokens.len();
        let wanted = end.saturating_sub(first.max(start));
        let logits = forward(Chunk {
            tokens,
            first_position: start,
            pages: table.pages(),
            adapter,
            logits: wanted,
        })?;
        each(end - wanted, &logits);
    }
    Ok(())
}
