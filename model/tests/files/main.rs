//! The crate against files that others made: goldens of transformers and PEFT,
//! the real model, and the same files damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chat;
mod damaged;
mod folder;
mod gguf;
mod k_quants;
mod peft;
mod refusals;
mod split;
mod tokenizer;
mod tools;

use std::path::PathBuf;
use std::sync::LazyLock;

use model::BaseModel;

/// A path below `tests/golden`, where the scripts in `tests/scripts` write.
fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

/// The served model.
fn real_model() -> &'static BaseModel {
    static MODEL: LazyLock<BaseModel> = LazyLock::new(|| {
        let path = std::env::var_os("FLYWHEEL_TEST_MODEL").map_or_else(cached_model, PathBuf::from);
        assert!(
            path.exists(),
            "{} is missing: run `make model`",
            path.display()
        );
        BaseModel::open(&path).unwrap()
    });
    &MODEL
}

fn cached_model() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
        PathBuf::from,
    );
    cache.join("flywheel/models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// A random llama of two layers, made by `make_peft_golden.py`.
fn tiny_model() -> &'static BaseModel {
    static MODEL: LazyLock<BaseModel> =
        LazyLock::new(|| BaseModel::open(&golden("tiny_llama/model.gguf")).unwrap());
    &MODEL
}

#[test]
fn the_real_model_is_what_its_metadata_says() {
    let model = real_model();
    let config = &model.config;
    assert_eq!(model.name, "SmolLM2-135M-Instruct.Q4_1");
    assert_eq!(
        (config.layer_count, config.hidden_size, config.ffn_size),
        (30, 576, 1536)
    );
    assert_eq!(
        (config.head_count, config.kv_head_count, config.head_dim),
        (9, 3, 64)
    );
    assert_eq!((config.vocab_size, config.context_length), (49152, 8192));
    assert_eq!((config.rope.theta, config.rms_eps), (100_000.0, 1e-5));
    assert!(model.weights.output.is_none(), "the head is the embedding");
    assert_eq!(model.weights.layers.len(), 30);
    assert_eq!(model.weights.layers[29].down.cols(), 1536);
    assert!(model.tokenizer.is_end_of_generation(2) && model.tokenizer.is_end_of_generation(0));
    assert!(!model.tokenizer.is_end_of_generation(1));
}
