//! Adapters of random values, for benchmarks and load tests.

use ids::AdapterDigest;
use model::lora::{LoraAdapter, LoraConfig, PeftValues};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::NativeEngine;
use crate::api::{AdapterPackage, EngineError};

/// Bound of B's values: large enough to count, small enough to leave words.
const B_MAX: f32 = 0.01;

impl NativeEngine {
    /// An adapter for the served base on all seven projections, its values
    /// random by `seed`. It is made, not loaded.
    ///
    /// # Errors
    /// [`EngineError::AdapterRejected`] for a rank out of range.
    pub fn synthetic_adapter(&self, rank: usize, seed: u64) -> Result<AdapterPackage, EngineError> {
        self.synthetic(rank, seed, PeftValues::F32)
    }

    /// The same in half precision: half the size on disk, and when it is served
    /// nothing else.
    ///
    /// # Errors
    /// As for [`Self::synthetic_adapter`].
    pub fn synthetic_adapter_f16(
        &self,
        rank: usize,
        seed: u64,
    ) -> Result<AdapterPackage, EngineError> {
        self.synthetic(rank, seed, PeftValues::F16)
    }

    fn synthetic(
        &self,
        rank: usize,
        seed: u64,
        values: PeftValues,
    ) -> Result<AdapterPackage, EngineError> {
        let config = &self.model().config;
        let rejected = |error: model::ModelError| EngineError::AdapterRejected(error.to_string());
        let alpha = 2.0 * rank as f32;
        let mut adapter = LoraAdapter::new_random(config, &LoraConfig::uniform(rank, alpha), seed)
            .map_err(rejected)?;
        let mut random = ChaCha8Rng::seed_from_u64(!seed);
        for pair in adapter.modules.values_mut() {
            pair.b
                .iter_mut()
                .for_each(|value| *value = random.random_range(-B_MAX..B_MAX));
        }
        let files = adapter.to_peft_as(config, values).map_err(rejected)?;
        Ok(AdapterPackage {
            digest: AdapterDigest::of_files(&files.config_json, &files.safetensors),
            config_json: files.config_json.into(),
            safetensors: files.safetensors.into(),
        })
    }
}
