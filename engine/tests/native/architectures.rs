//! Logits of a tiny random model of each architecture, and with adapters,
//! against transformers and PEFT (`make_architecture_golden.py`).

use std::path::PathBuf;
use std::sync::Arc;

use engine::native;
use model::BaseModel;
use model::lora::LoraAdapter;
use model::quant::Precision;
use safetensors::SafeTensors;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/architectures")
        .join(name)
}

pub(crate) fn open(name: &str) -> Arc<BaseModel> {
    Arc::new(BaseModel::open(&folder(name).join("model.gguf")).unwrap())
}

pub(crate) fn adapter(name: &str, model: &BaseModel) -> LoraAdapter {
    let read = |file: &str| std::fs::read(folder(name).join("adapter").join(file)).unwrap();
    let (config, tensors) = (
        read("adapter_config.json"),
        read("adapter_model.safetensors"),
    );
    LoraAdapter::from_peft(&config, &tensors, &model.config).unwrap()
}

/// The tokens, and the logits called `key`.
pub(crate) fn expected(name: &str, key: &str) -> (Vec<u32>, Vec<f32>) {
    let file = std::fs::read(folder(name).join("logits.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let words = |name: &str| {
        tensors
            .tensor(name)
            .unwrap()
            .data()
            .as_chunks::<4>()
            .0
            .to_vec()
    };
    (
        words("tokens")
            .into_iter()
            .map(u32::from_le_bytes)
            .collect(),
        words(key).into_iter().map(f32::from_le_bytes).collect(),
    )
}

pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

fn check(name: &str) {
    let model = open(name);
    let (tokens, base) = expected(name, "base");
    let found = native::logits(&model, None, &tokens, Precision::F32);
    let difference = largest_difference(&found, &base);
    assert!(difference < 1e-3, "{name}: off by {difference}");
    let int8 = native::logits(&model, None, &tokens, Precision::Int8);
    let difference = largest_difference(&int8, &base);
    assert!(difference < 0.5, "{name} with int8: off by {difference}");
    if folder(name).join("adapter").exists() {
        let adapter = adapter(name, &model);
        let (_, adapted) = expected(name, "adapter");
        let found = native::logits(&model, Some(&adapter), &tokens, Precision::F32);
        let difference = largest_difference(&found, &adapted);
        assert!(
            difference < 1e-3,
            "{name} with its adapter: off by {difference}"
        );
        assert!(largest_difference(&adapted, &base) > 1.0);
    }
}

#[test]
fn llama_with_linearly_scaled_rope() {
    check("llama_linear");
}

#[test]
fn llama_3_with_scaled_frequencies() {
    check("llama3");
}

#[test]
fn qwen2_has_biases_and_unpermuted_heads() {
    check("qwen2");
}

#[test]
fn qwen3_norms_its_heads() {
    check("qwen3");
}

#[test]
fn phi3_has_fused_modules_partial_rope_and_a_window() {
    check("phi3");
}

#[test]
fn gemma3_is_itself_beyond_its_window() {
    check("gemma3");
}

#[test]
fn an_adapter_over_fused_modules_is_written_as_it_was_read() {
    for name in ["qwen2", "phi3"] {
        let model = open(name);
        let first = adapter(name, &model);
        let files = first.to_peft(&model.config).unwrap();
        let again =
            LoraAdapter::from_peft(&files.config_json, &files.safetensors, &model.config).unwrap();
        assert_eq!(first, again, "{name}");
        let stored = std::fs::read(folder(name).join("adapter/adapter_model.safetensors")).unwrap();
        let (ours, theirs) = (
            SafeTensors::deserialize(&files.safetensors).unwrap(),
            SafeTensors::deserialize(&stored).unwrap(),
        );
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (tensor, view) in theirs.tensors() {
            let ours = ours.tensor(&tensor).unwrap();
            assert_eq!(
                (ours.shape(), ours.data()),
                (view.shape(), view.data()),
                "{tensor}"
            );
        }
    }
}
