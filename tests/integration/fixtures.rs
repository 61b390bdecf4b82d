//! The real model and adapters made for it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ids::AdapterDigest;
use model::lora::{LoraAdapter, LoraConfig};
use model::{BaseModel, ModelConfig};
use rand::{RngExt as _, SeedableRng as _};

const MODEL_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The model that `make model` fetches.
pub fn model_path() -> PathBuf {
    if let Some(path) = std::env::var_os("FLYWHEEL_TEST_MODEL") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let path = cache.join("flywheel/models").join(MODEL_FILE);
    assert!(
        path.is_file(),
        "{} is missing: run `make model`",
        path.display()
    );
    path
}

pub fn model_config() -> &'static ModelConfig {
    static CONFIG: OnceLock<ModelConfig> = OnceLock::new();
    CONFIG.get_or_init(|| BaseModel::open(&model_path()).unwrap().config)
}

/// How far the values of B are from zero: the answers differ a little.
const SCALE: f32 = 0.003;

/// Writes a PEFT folder; the same seed gives the same version.
pub fn write_adapter(folder: &Path, seed: u64) -> AdapterDigest {
    let config = LoraConfig::uniform(4, 8.0);
    let mut adapter = LoraAdapter::new_random(model_config(), &config, seed).unwrap();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    for pair in adapter.modules.values_mut() {
        for value in &mut pair.b {
            *value = random.random_range(-SCALE..SCALE);
        }
    }
    let files = adapter.to_peft(model_config()).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("adapter_config.json"), &files.config_json).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), &files.safetensors).unwrap();
    AdapterDigest::of_files(&files.config_json, &files.safetensors)
}
