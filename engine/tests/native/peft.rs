//! Logits of a tiny model with adapters, against transformers and PEFT.

use std::path::PathBuf;
use std::sync::Arc;

use engine::native;
use model::BaseModel;
use model::lora::LoraAdapter;
use model::quant::Precision;

use crate::support::golden;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny_llama")
}

#[test]
fn logits_with_an_adapter_are_those_of_peft() {
    let model = Arc::new(BaseModel::open(&folder().join("model.gguf")).unwrap());
    let golden = golden("tiny_llama/logits.json");
    let tokens: Vec<u32> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let mut seen = Vec::new();
    for name in ["base", "adapter", "adapter_patterns", "adapter_layer_bf16"] {
        let adapter = (name != "base").then(|| {
            let read = |file: &str| std::fs::read(folder().join(name).join(file)).unwrap();
            let (config, tensors) = (
                read("adapter_config.json"),
                read("adapter_model.safetensors"),
            );
            LoraAdapter::from_peft(&config, &tensors, &model.config).unwrap()
        });
        let expected: Vec<Vec<f32>> = serde_json::from_value(golden[name].clone()).unwrap();
        let expected = expected.concat();
        let found = native::logits(&model, adapter.as_ref(), &tokens, Precision::F32);
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-3, "{name}: {a} against {b}");
        }
        seen.push(expected);
    }
    assert!(seen[1..].iter().all(|logits| *logits != seen[0]));
}

#[test]
fn logits_of_a_merged_model_are_those_of_peft() {
    let (from, scratch) = (folder().join("model.gguf"), tempfile::tempdir().unwrap());
    let config = BaseModel::open(&from).unwrap().config;
    let golden = golden("tiny_llama/logits.json");
    let tokens: Vec<u32> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    for name in ["adapter", "adapter_patterns", "adapter_layer_bf16"] {
        let read = |file: &str| std::fs::read(folder().join(name).join(file)).unwrap();
        let (json, tensors) = (
            read("adapter_config.json"),
            read("adapter_model.safetensors"),
        );
        let adapter = LoraAdapter::from_peft(&json, &tensors, &config).unwrap();
        let to = scratch.path().join(name);
        model::merge(&from, Some(&adapter), model::MergedFormat::F32, &to).unwrap();
        let merged = Arc::new(BaseModel::open(&to).unwrap());
        let expected: Vec<Vec<f32>> = serde_json::from_value(golden[name].clone()).unwrap();
        let found = native::logits(&merged, None, &tokens, Precision::F32);
        for (a, b) in found.iter().zip(&expected.concat()) {
            assert!((a - b).abs() < 1e-3, "{name}: {a} against {b}");
        }
    }
}
