//! Adapters written for llama.cpp, and merged into their base.

use model::gguf::Gguf;
use model::lora::{LoraAdapter, ModuleId};
use model::{BaseModel, MergedFormat, ModelError, merge};

use crate::{golden, tiny_model};

fn adapter(name: &str) -> LoraAdapter {
    let read = |file: &str| std::fs::read(golden("tiny_llama").join(name).join(file)).unwrap();
    let (config, weights) = (
        read("adapter_config.json"),
        read("adapter_model.safetensors"),
    );
    LoraAdapter::from_peft(&config, &weights, &tiny_model().config).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let values = bytes.as_chunks::<4>().0.iter();
    values.map(|b| f32::from_le_bytes(*b)).collect()
}

/// Each tensor of a LoRA file times what llama.cpp makes of it: `alpha / rank`
/// goes into B.
fn products(bytes: &[u8]) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let gguf = Gguf::parse(bytes).unwrap();
    let alpha = gguf
        .required("adapter.lora.alpha", |value| value.as_f64())
        .unwrap();
    let mut tensors: Vec<_> = gguf
        .tensors()
        .map(|tensor| {
            let mut values = floats(&bytes[tensor.range.clone()]);
            if tensor.name.ends_with("lora_b") {
                let scale = (alpha / tensor.shape[1] as f64) as f32;
                values.iter_mut().for_each(|value| *value *= scale);
            }
            (tensor.name.clone(), tensor.shape.clone(), values)
        })
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

#[test]
fn the_lora_file_is_what_gguf_py_writes() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter", "adapter_patterns", "adapter_layer_bf16"] {
        let to = folder.path().join(name);
        adapter(name).write_gguf(&tiny_model().config, &to).unwrap();
        let (ours, theirs) = (
            std::fs::read(&to).unwrap(),
            std::fs::read(golden(&format!("tiny_llama/{name}.gguf"))).unwrap(),
        );
        for key in ["general.type", "general.architecture", "adapter.type"] {
            let text = |file: &[u8]| Gguf::parse(file).unwrap().value(key).unwrap().clone();
            assert_eq!(text(&ours), text(&theirs), "{key}");
        }
        let (ours, theirs) = (products(&ours), products(&theirs));
        assert_eq!(ours.len(), theirs.len());
        assert!(!ours.is_empty());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!((&ours.0, &ours.1), (&theirs.0, &theirs.1));
            for (a, b) in ours.2.iter().zip(&theirs.2) {
                assert!((a - b).abs() < 1e-6, "{}: {a} against {b}", ours.0);
            }
        }
    }
}

#[test]
fn a_merged_model_is_the_base_with_the_products_added() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny_model();
    for name in ["adapter", "adapter_patterns"] {
        let adapter = adapter(name);
        let to = folder.path().join(format!("{name}.gguf"));
        let from = golden("tiny_llama/model.gguf");
        merge(&from, Some(&adapter), MergedFormat::F32, &to).unwrap();
        let merged = BaseModel::open(&to).unwrap();
        assert_eq!(merged.config, base.config);
        let text = "the quick brown fox";
        let tokens = |model: &BaseModel| model.tokenizer.encode(text, false).unwrap();
        assert_eq!(tokens(&merged), tokens(base));
        for id in ModuleId::all(&base.config) {
            let of = |model: &BaseModel| {
                let matrix = model.weights.layers[id.layer].projection(id.projection);
                let mut values = vec![0.0; matrix.rows() * matrix.cols()];
                matrix.dequantize_rows(0..matrix.rows(), &mut values);
                (values, matrix.cols())
            };
            let ((found, cols), (mut expected, _)) = (of(&merged), of(base));
            if let Some(pair) = adapter.modules.get(&id) {
                for (i, weight) in expected.iter_mut().enumerate() {
                    let (row, col) = (i / cols, i % cols);
                    let product: f32 = (0..pair.rank)
                        .map(|k| pair.b[row * pair.rank + k] * pair.a[k * cols + col])
                        .sum();
                    *weight += pair.scale * product;
                }
            }
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5, "{id}: {a} against {b}");
            }
        }
    }
}

#[test]
fn the_base_alone_keeps_its_weights_and_smaller_formats_are_near() {
    let folder = tempfile::tempdir().unwrap();
    let from = golden("tiny_llama/model.gguf");
    let first = |path: &std::path::Path| {
        let model = BaseModel::open(path).unwrap();
        let matrix = &model.weights.layers[0].down;
        let mut values = vec![0.0; matrix.rows() * matrix.cols()];
        matrix.dequantize_rows(0..matrix.rows(), &mut values);
        values
    };
    let expected = first(&from);
    for (format, tolerance) in [
        (MergedFormat::F32, 0.0),
        (MergedFormat::F16, 1e-3),
        (MergedFormat::Q8_0, 1e-2),
    ] {
        let to = folder.path().join(format!("{format:?}.gguf"));
        merge(&from, None, format, &to).unwrap();
        for (a, b) in first(&to).iter().zip(&expected) {
            assert!((a - b).abs() <= tolerance, "{format:?}: {a} against {b}");
        }
    }
}

#[test]
fn an_adapter_that_does_not_fit_or_is_not_finite_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("x.gguf");
    let mut short = adapter("adapter");
    short.modules.values_mut().for_each(|pair| {
        pair.b.pop();
    });
    let mut infinite = adapter("adapter");
    infinite
        .modules
        .values_mut()
        .for_each(|pair| pair.a[0] = f32::INFINITY);
    let mut deep = adapter("adapter");
    let (id, pair) = deep.modules.pop_last().unwrap();
    let id = ModuleId { layer: 9, ..id };
    deep.modules.insert(id, pair);
    let from = golden("tiny_llama/model.gguf");
    for bad in [&short, &infinite, &deep] {
        assert!(merge(&from, Some(bad), MergedFormat::F32, &to).is_err());
    }
    for bad in [&short, &infinite] {
        let refused = bad.write_gguf(&tiny_model().config, &to);
        assert!(matches!(refused, Err(ModelError::Adapter(_))));
    }
    assert!(!to.exists());
}
