//! LoRA adapters, read from and written to PEFT's files; written to llama.cpp's.
//!
//! In memory the rows of an adapter lie in the order of the model's GGUF file,
//! in PEFT's files in the order of the published weights; `permute` is the one
//! place that knows the difference. Where several projections are one module of
//! the published model, PEFT's file has one pair for all of them, and memory one
//! for each, with the same A. Knows no files' places and no digests.

mod config;
mod error;
mod export;
mod gguf;
mod import;
mod pattern;
mod peft_config;
mod permute;

use std::collections::BTreeMap;
use std::fmt;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::ModelError;
use crate::architecture::Architecture;
use crate::config::ModelConfig;
use crate::projection::Projection;

pub use config::LoraConfig;
pub use error::LoraError;
pub use export::{PeftFiles, PeftValues};
pub use import::{ADAPTER_BYTES_MAX, CONFIG_BYTES_MAX, PeftReader};

pub(crate) use gguf::{check_pair, tensor_name};
pub(crate) use permute::to_gguf as interleave_heads;

/// The highest rank of an adapter.
pub const RANK_MAX: usize = 256;

/// One projection of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId {
    /// The layer, from 0.
    pub layer: usize,
    /// The projection in it.
    pub projection: Projection,
}

impl ModuleId {
    /// All modules of a model that an adapter can have a part for.
    pub fn all(config: &ModelConfig) -> impl Iterator<Item = Self> {
        (0..config.layer_count).flat_map(|layer| {
            Projection::ALL
                .into_iter()
                .map(move |projection| Self { layer, projection })
        })
    }

    /// Its path in the published model, for example `model.layers.3.mlp.up_proj`.
    /// Projections that are one module there have one path.
    #[must_use]
    pub fn peft_path(self, architecture: &Architecture) -> String {
        format!(
            "model.layers.{}.{}",
            self.layer,
            architecture.peft_name(self.projection)
        )
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layers.{}.{}", self.layer, self.projection.peft_name())
    }
}

/// What an adapter adds to one projection: `y += scale · B · A · x`.
#[derive(Clone, PartialEq)]
pub struct LoraPair {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// What the product is multiplied with.
    pub scale: f32,
    /// `[rank, in]`.
    pub a: Vec<f32>,
    /// `[out, rank]`, rows in the order of the GGUF file.
    pub b: Vec<f32>,
}

impl fmt::Debug for LoraPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoraPair(rank {}, scale {})", self.rank, self.scale)
    }
}

/// A LoRA adapter for a model of a certain shape.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraAdapter {
    /// How it was configured.
    pub config: LoraConfig,
    /// Its parts.
    pub modules: BTreeMap<ModuleId, LoraPair>,
}

impl LoraAdapter {
    /// A fresh adapter that changes nothing yet: A uniform within ±1/√in as PEFT
    /// has it, B zero. Each module's values depend on the seed and on the module
    /// alone.
    ///
    /// # Errors
    /// [`LoraError`] for a configuration that gives no rank in range, or names
    /// no projection.
    pub fn new_random(
        model: &ModelConfig,
        config: &LoraConfig,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let resolver = config.resolver(model.architecture)?;
        let mut modules = BTreeMap::new();
        for (index, id) in ModuleId::all(model).enumerate() {
            if !config.target.contains(&id.projection) {
                continue;
            }
            let (rank, scale) = resolver.rank_and_scale(id)?;
            let (rows, cols) = model.projection_shape(id.projection);
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            // parts of one published module have one A
            let parts = model.architecture.fused_with(id.projection);
            let part = parts.and_then(|f| f.parts.iter().position(|p| *p == id.projection));
            random.set_stream((index - part.unwrap_or(0)) as u64);
            #[expect(clippy::cast_precision_loss, reason = "a size below 2^24")]
            let bound = 1.0 / (cols as f32).sqrt();
            let a = (0..rank * cols)
                .map(|_| uniform(&mut random, bound))
                .collect();
            modules.insert(
                id,
                LoraPair {
                    rank,
                    scale,
                    a,
                    b: vec![0.0; rows * rank],
                },
            );
        }
        if modules.is_empty() {
            return Err(LoraError::NoModule.into());
        }
        Ok(Self {
            config: config.clone(),
            modules,
        })
    }

    /// B of a module with its rows in the order of published files, if it has one.
    #[must_use]
    pub fn published_b(&self, id: ModuleId, model: &ModelConfig) -> Option<Vec<f32>> {
        let pair = self.modules.get(&id)?;
        Some(if permute::is_permuted(model, id.projection) {
            permute::to_peft(&pair.b, pair.rank, model.head_dim)
        } else {
            pair.b.clone()
        })
    }

    /// The bytes of its values.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.parameter_count() * size_of::<f32>()
    }

    /// How many values it has.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.modules
            .values()
            .map(|pair| pair.a.len() + pair.b.len())
            .sum()
    }

    /// The highest rank of its parts.
    #[must_use]
    pub fn max_rank(&self) -> usize {
        self.modules
            .values()
            .map(|pair| pair.rank)
            .max()
            .unwrap_or(0)
    }
}

/// A value in `-bound..bound`, from the 24 bits that an f32 holds exactly.
#[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
fn uniform(random: &mut ChaCha8Rng, bound: f32) -> f32 {
    let unit = (random.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
    (2.0 * unit - 1.0) * bound
}
