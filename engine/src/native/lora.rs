//! An adapter laid out for what computes with it.

use std::ops::Range;

use ids::AdapterDigest;
use model::kernels::{Arena, FactorFormat, LowRankPair, PairShape};
use model::lora::{LoraAdapter, LoraPair, ModuleId, PeftReader};
use model::quant::Precision;
use model::{ModelConfig, ModelError, Projection};

use super::background::Hands;
#[cfg(feature = "candle")]
use super::candle::AdapterTensors;

/// A resident adapter's matrices, immutable.
pub(super) struct DeviceAdapter {
    pub(super) digest: AdapterDigest,
    pub(super) rank: usize,
    factors: Factors,
}

/// Factors for our own kernels, by layer and projection.
type Pairs = Vec<[Option<LowRankPair>; Projection::ALL.len()]>;

enum Factors {
    Cpu {
        pairs: Pairs,
        bytes: u64,
    },
    #[cfg(feature = "candle")]
    Candle(AdapterTensors),
}

/// An adapter on its way into one block of memory.
struct Layout<'a> {
    config: &'a ModelConfig,
    format: FactorFormat,
    arena: Arena,
    /// Reserved for modules, in their order.
    places: Vec<(ModuleId, LowRankPair)>,
}

impl<'a> Layout<'a> {
    /// Reserves memory for modules of those ranks. The factors are kept as finely
    /// as the base's products are computed: in 8 bits beside 8-bit activations, a
    /// quarter of the memory to hold and to read.
    fn new(
        config: &'a ModelConfig,
        precision: Precision,
        ranks: impl Iterator<Item = (ModuleId, usize)>,
    ) -> Self {
        let format = match precision {
            Precision::Int8 => FactorFormat::Int8,
            Precision::Int8Twice => FactorFormat::F16,
            Precision::F32 => FactorFormat::F32,
        };
        let ranks: Vec<_> = ranks.filter(|(_, rank)| *rank > 0).collect();
        let shape = |(id, rank)| shape(config, id, rank);
        let bytes = ranks
            .iter()
            .map(|of| LowRankPair::byte_len_of(shape(*of), format));
        let mut arena = Arena::with_capacity(bytes.sum());
        let place =
            |of: (ModuleId, usize)| (of.0, LowRankPair::reserved(shape(of), format, &mut arena));
        Self {
            config,
            format,
            places: ranks.into_iter().map(place).collect(),
            arena,
        }
    }

    /// Takes the parts of `files`, half of them on another thread if there may be one.
    fn read(mut self, files: &PeftReader<'_>, hands: Hands) -> Result<Self, ModelError> {
        let middle = self.places.len() / 2;
        let (first, second) = self.places.split_at_mut(middle);
        let (first, second) = hands.both(
            || read(first, files, 0..middle),
            || read(second, files, middle..files.module_count()),
        );
        for (id, pair) in first?.into_iter().chain(second?) {
            self.add(id, &pair);
        }
        Ok(self)
    }

    /// Takes a module's factors in memory of their own.
    fn add(&mut self, id: ModuleId, pair: &LoraPair) {
        let shape = shape(self.config, id, pair.rank);
        let factors = [pair.a.as_slice(), pair.b.as_slice()];
        let factors = LowRankPair::new(shape, pair.scale, factors, self.format, &mut self.arena);
        // in the place of what was reserved
        self.places.push((id, factors));
    }

    fn finish(self, digest: AdapterDigest) -> DeviceAdapter {
        let mut pairs: Pairs = (0..self.config.layer_count)
            .map(|_| Default::default())
            .collect();
        let mut rank = 0;
        for (id, pair) in self.places {
            rank = rank.max(pair.rank());
            pairs[id.layer][id.projection as usize] = Some(pair);
        }
        DeviceAdapter {
            digest,
            rank,
            factors: Factors::Cpu {
                bytes: self.arena.held_bytes() as u64,
                pairs,
            },
        }
    }
}

/// The shape of a module's factors.
fn shape(config: &ModelConfig, id: ModuleId, rank: usize) -> PairShape {
    let (out, cols) = config.projection_shape(id.projection);
    PairShape { out, rank, cols }
}

/// Modules whose factors are not as what was reserved for them.
type Misfits = Vec<(ModuleId, LoraPair)>;

/// Reads some of the modules, by their number, into what was reserved for them.
fn read(
    places: &mut [(ModuleId, LowRankPair)],
    files: &PeftReader<'_>,
    numbers: Range<usize>,
) -> Result<Misfits, ModelError> {
    let mut places = places.iter_mut();
    let mut misfits = Vec::new();
    files.for_each_of(numbers, |id, pair| {
        let place = places.next().filter(|(reserved, _)| *reserved == id);
        if !place.is_some_and(|(_, factors)| fill(factors, &pair)) {
            misfits.push((id, pair));
        }
    })?;
    Ok(misfits)
}

/// Lays out a module's factors in their place, if they are as it is.
fn fill(place: &mut LowRankPair, pair: &LoraPair) -> bool {
    place.fill(pair.scale, [&pair.a, &pair.b]).is_ok()
}

impl DeviceAdapter {
    /// Lays out the parts of an adapter for our own kernels, as they are read.
    pub(super) fn read(
        digest: AdapterDigest,
        files: &PeftReader<'_>,
        config: &ModelConfig,
        precision: Precision,
        hands: Hands,
    ) -> Result<Self, ModelError> {
        let layout = Layout::new(config, precision, files.ranks());
        Ok(layout.read(files, hands)?.finish(digest))
    }

    /// Lays out an adapter that was checked against `config` for our own kernels.
    pub(super) fn new(
        digest: AdapterDigest,
        adapter: &LoraAdapter,
        config: &ModelConfig,
        precision: Precision,
    ) -> Self {
        let ranks = adapter.modules.iter().map(|(id, pair)| (*id, pair.rank));
        let mut layout = Layout::new(config, precision, ranks);
        let places = layout.places.iter_mut().zip(&adapter.modules);
        let misfits: Vec<_> = places
            .filter_map(|((reserved, place), (id, pair))| {
                let is_laid_out = reserved == id && fill(place, pair);
                (!is_laid_out).then_some((id, pair))
            })
            .collect();
        for (id, pair) in misfits {
            layout.add(*id, pair);
        }
        layout.finish(digest)
    }

    /// An adapter whose factors are tensors.
    #[cfg(feature = "candle")]
    pub(super) fn in_candle(digest: AdapterDigest, tensors: AdapterTensors) -> Self {
        Self {
            digest,
            rank: tensors.rank(),
            factors: Factors::Candle(tensors),
        }
    }

    /// Bytes of memory.
    pub(super) fn byte_len(&self) -> u64 {
        match &self.factors {
            Factors::Cpu { bytes, .. } => *bytes,
            #[cfg(feature = "candle")]
            Factors::Candle(tensors) => tensors.byte_len(),
        }
    }

    /// The factors of a module for our own kernels, if there is one and it is adapted.
    pub(super) fn pair(&self, layer: usize, projection: Projection) -> Option<&LowRankPair> {
        match &self.factors {
            Factors::Cpu { pairs, .. } => pairs.get(layer)?[projection as usize].as_ref(),
            #[cfg(feature = "candle")]
            Factors::Candle(_) => None,
        }
    }

    /// The factors as tensors, if they are.
    #[cfg(feature = "candle")]
    pub(super) fn tensors(&self) -> Option<&AdapterTensors> {
        match &self.factors {
            Factors::Cpu { .. } => None,
            Factors::Candle(tensors) => Some(tensors),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use ids::Sha256Digest;
    use model::BaseModel;
    use model::kernels::{KvFormat, PAGE_TOKENS};
    use model::lora::LoraConfig;
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::native::blocks::{BlockManager, PageTable};
    use crate::native::cache::KvCache;
    use crate::native::forward::{Chunk, Forward, kv_layout};

    const TEXT: &str = "The lighthouse keeper wrote down the weather every evening: wind from \
        the north, a low grey sky, two ships far out. In the morning he read it aloud, and \
        asked himself what 17 + 25 is, how to say \"good night\" in French, and why the sea \
        is salty. Water carries minerals from rocks into the sea, where they stay.";

    fn model() -> Arc<BaseModel> {
        let path = std::env::var_os("FLYWHEEL_TEST_MODEL").map(PathBuf::from);
        let path = path.unwrap_or_else(|| {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            cache
                .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"))
                .join("flywheel/models/SmolLM2-135M-Instruct.Q4_1.gguf")
        });
        Arc::new(BaseModel::open(&path).unwrap())
    }

    /// Log-probabilities at every position, the base's products in f32: rounded
    /// activations turn any difference into one of 0.002 nats.
    fn logprobs(
        model: &Arc<BaseModel>,
        adapter: Option<&DeviceAdapter>,
        tokens: &[u32],
    ) -> Vec<Vec<f64>> {
        logprobs_in(Precision::F32, model, adapter, tokens)
    }

    /// The same with the base's products in another precision.
    fn logprobs_in(
        precision: Precision,
        model: &Arc<BaseModel>,
        adapter: Option<&DeviceAdapter>,
        tokens: &[u32],
    ) -> Vec<Vec<f64>> {
        let forward = Forward::new(Arc::clone(model), tokens.len(), precision);
        let mut cache = KvCache::new(kv_layout(model, KvFormat::F32));
        let mut table = PageTable::new(None);
        BlockManager::new(tokens.len().div_ceil(PAGE_TOKENS), false).grow(&mut table, tokens.len());
        let chunk = Chunk {
            tokens,
            first_position: 0,
            pages: table.pages(),
            adapter,
            logits: tokens.len(),
        };
        let logits = forward.run(&mut cache, &[chunk]);
        let rows = logits.chunks_exact(model.config.vocab_size);
        rows.map(|row| {
            let total = model::kernels::log_sum_exp(row);
            row.iter().map(|logit| f64::from(logit - total)).collect()
        })
        .collect()
    }

    fn divergence(p: &[f64], q: &[f64]) -> f64 {
        p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
    }

    fn top(row: &[f64]) -> usize {
        (0..row.len())
            .max_by(|&a, &b| row[a].total_cmp(&row[b]))
            .unwrap()
    }

    #[test]
    fn what_is_read_on_one_thread_or_two_is_the_adapter() {
        let model = model();
        let tokens = &model.tokenizer.encode(TEXT, false).unwrap()[..12];
        let digest = AdapterDigest(Sha256Digest::from_bytes([0; 32]));
        let uniform = LoraConfig::uniform(16, 32.0);
        let mixed = LoraConfig {
            rank_pattern: vec![("q_proj".to_owned(), 5), ("down_proj".to_owned(), 33)],
            ..uniform.clone()
        };
        let one = LoraConfig {
            target: vec![Projection::Up],
            ..uniform.clone()
        };
        for config in [uniform, mixed, one] {
            let mut adapter = LoraAdapter::new_random(&model.config, &config, 3).unwrap();
            let mut random = ChaCha8Rng::seed_from_u64(3);
            for pair in adapter.modules.values_mut() {
                pair.b.fill_with(|| random.random_range(-0.05..0.05));
            }
            // too large for half precision, in the first half and the last
            for at in [adapter.modules.len() / 3, adapter.modules.len() - 1] {
                let pair = adapter.modules.values_mut().nth(at).unwrap();
                (pair.a[1], pair.b[1]) = (1e5, 1e-5);
            }
            let files = adapter.to_peft(&model.config).unwrap();
            let files = PeftReader::open(&files.config_json, &files.safetensors, &model.config);
            let files = files.unwrap();
            for precision in [Precision::Int8, Precision::Int8Twice, Precision::F32] {
                let whole = DeviceAdapter::new(digest, &adapter, &model.config, precision);
                let said = logprobs(&model, Some(&whole), tokens);
                for hands in [Hands::One, Hands::Several] {
                    let read = DeviceAdapter::read(digest, &files, &model.config, precision, hands);
                    let read = read.unwrap();
                    assert_eq!(read.rank, whole.rank);
                    assert!(read.byte_len() >= whole.byte_len());
                    let read = logprobs(&model, Some(&read), tokens);
                    assert_eq!(read, said, "{precision:?}, {hands:?}");
                }
            }
        }
    }

    fn mean_divergence(p: &[Vec<f64>], q: &[Vec<f64>]) -> f64 {
        let all = p.iter().zip(q).map(|(p, q)| divergence(p, q));
        all.sum::<f64>() / p.len() as f64
    }

    /// An adapter that changes much, as it is and as it is kept beside 8-bit products.
    fn exact_and_rounded(model: &BaseModel, seed: u64) -> [DeviceAdapter; 2] {
        let config = LoraConfig::uniform(16, 32.0);
        let mut adapter = LoraAdapter::new_random(&model.config, &config, seed).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let values = adapter.modules.values_mut();
        let values = values.flat_map(|pair| pair.b.iter_mut());
        values.for_each(|value| *value = random.random_range(-0.01..0.01));
        [Precision::F32, Precision::Int8].map(|precision| {
            let digest = AdapterDigest(Sha256Digest::from_bytes([0; 32]));
            DeviceAdapter::new(digest, &adapter, &model.config, precision)
        })
    }

    #[test]
    fn factors_in_8_bits_say_what_those_in_f32_say() {
        let model = model();
        let tokens = model.tokenizer.encode(TEXT, false).unwrap();
        let base = logprobs(&model, None, &tokens);
        let (mut differing, mut positions) = (0, 0);
        for seed in 0..2 {
            let [exact, rounded] = exact_and_rounded(&model, seed)
                .map(|adapter| logprobs(&model, Some(&adapter), &tokens));
            let (error, effect) = (
                mean_divergence(&exact, &rounded),
                mean_divergence(&exact, &base),
            );
            // a twentieth of what 8-bit activations cost
            assert!(error < 1e-4 && error < effect / 20.0, "{error} of {effect}");
            for (exact, rounded) in exact.iter().zip(&rounded) {
                positions += 1;
                if top(exact) != top(rounded) {
                    differing += 1;
                    let gap = exact[top(exact)] - exact[top(rounded)];
                    assert!(gap < 0.05, "a near tie: {gap}");
                }
            }
        }
        assert!(
            differing * 50 <= positions,
            "{differing} of {positions} differ"
        );
    }

    /// Factors that are multiplied with the base's 8-bit activations cost hardly more
    /// than those activations cost the base.
    #[test]
    fn an_adapter_beside_8_bit_products_is_as_exact_as_they_are() {
        let model = model();
        let tokens = model.tokenizer.encode(TEXT, false).unwrap();
        let of_base = |precision| logprobs_in(precision, &model, None, &tokens);
        let of_base = mean_divergence(&of_base(Precision::F32), &of_base(Precision::Int8));
        for seed in 0..2 {
            let [exact, rounded] = exact_and_rounded(&model, seed);
            let said = logprobs(&model, Some(&exact), &tokens);
            let error = |adapter| {
                let found = logprobs_in(Precision::Int8, &model, Some(adapter), &tokens);
                mean_divergence(&said, &found)
            };
            let (of_floats, of_codes) = (error(&exact), error(&rounded));
            // 0.0023, and with these adapters 0.0022 either way
            assert!(of_codes < 1.15 * of_floats, "{of_codes}, {of_floats}");
            assert!(of_codes < 1.5 * of_base, "{of_codes}, {of_base}");
        }
    }
}
