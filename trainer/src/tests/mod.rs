//! Tests of the whole forward and backward pass: against finite differences,
//! against torch, against the serving engine, and packed against separate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod adamw;
mod evaluation_sets;
mod jobs;
mod killed;
mod real_model;
mod recipe_files;
mod recompute;
mod resume;
mod retention;
mod run;
mod stages;
mod tensors;
mod tiny_model;
mod trial;
mod trl;
mod unattended;
pub(crate) mod votes;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use model::BaseModel;
use model::lora::LoraAdapter;
use tokio::task::JoinHandle;

use crate::{Config, FrozenModel, GiveWayConfig, Sequence, Services};

pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(name)
}

/// A random llama of two layers.
pub(crate) fn tiny() -> &'static BaseModel {
    static MODEL: LazyLock<BaseModel> =
        LazyLock::new(|| BaseModel::open(&golden("tiny_llama/model.gguf")).unwrap());
    &MODEL
}

/// A PEFT adapter for it with both factors random.
fn tiny_adapter() -> LoraAdapter {
    let read = |name: &str| std::fs::read(golden("tiny_llama/adapter").join(name)).unwrap();
    let (config, weights) = (
        read("adapter_config.json"),
        read("adapter_model.safetensors"),
    );
    LoraAdapter::from_peft(&config, &weights, &tiny().config).unwrap()
}

fn frozen(base: &BaseModel) -> FrozenModel {
    FrozenModel::new(&base.weights, &base.config, 256).unwrap()
}

fn sequence(tokens: &[u32], completion_start: usize) -> Sequence {
    Sequence {
        tokens: tokens.to_vec(),
        completion_start,
    }
}

/// SmolLM2-135M-Instruct as it is served.
pub(crate) fn real() -> Arc<BaseModel> {
    static MODEL: LazyLock<Arc<BaseModel>> = LazyLock::new(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
            PathBuf::from,
        );
        let default = cache.join("flywheel/models/SmolLM2-135M-Instruct.Q4_1.gguf");
        let path = std::env::var_os("FLYWHEEL_TEST_MODEL").map_or(default, PathBuf::from);
        assert!(
            path.exists(),
            "{} is missing: run `make model`",
            path.display()
        );
        Arc::new(BaseModel::open(&path).unwrap())
    });
    Arc::clone(&MODEL)
}

/// Everything that a run works with, over the tiny model.
pub(crate) async fn services(data: &Path, config: &str) -> Services {
    services_of("tiny_llama/model.gguf", data, config).await
}

/// The same over another of the goldens.
async fn services_of(model: &str, data: &Path, config: &str) -> Services {
    let config = Config {
        model: Some(golden(model)),
        data: Some(data.to_owned()),
        threads: 2,
        // tests are never in anybody's way
        give_way: GiveWayConfig {
            seconds_max: 0.0,
            ..GiveWayConfig::default()
        },
        ..Config::parse(config).unwrap()
    };
    Services::open(config).await.unwrap()
}

/// Runs what is made on a thread of its own, which need not be sendable.
fn beside<T: Send + 'static, F: Future<Output = T>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<T> {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(work()))
}

/// So many made-up words; those of two numbers are nothing alike.
pub(crate) fn words(number: u64, count: usize) -> String {
    use rand::{RngExt as _, SeedableRng as _};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(number);
    let mut word = || -> String {
        (0..random.random_range(3..8))
            .map(|_| random.random_range('a'..='z'))
            .collect()
    };
    (0..count).map(|_| word()).collect::<Vec<_>>().join(" ")
}
