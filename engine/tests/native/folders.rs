//! Logits of tiny models that lie in folders, as transformers saves them
//! (`make_architecture_golden.py`).

use std::path::PathBuf;
use std::sync::Arc;

use engine::native;
use model::quant::Precision;
use model::{BaseModel, FolderFormat};
use safetensors::SafeTensors;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden/folders")
        .join(name)
}

/// The largest difference from the logits of transformers.
fn difference(name: &str, quantize: FolderFormat) -> f32 {
    let model = Arc::new(BaseModel::open_quantized(&folder(name), quantize).unwrap());
    assert_eq!(model.name, name);
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
    let tokens: Vec<u32> = words("tokens")
        .into_iter()
        .map(u32::from_le_bytes)
        .collect();
    let found = native::logits(&model, None, &tokens, Precision::F32);
    let expected = words("base").into_iter().map(f32::from_le_bytes);
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

/// The weights have values that Q8_0 holds exactly, so that nothing is lost.
#[test]
fn logits_of_a_folder_are_those_of_transformers() {
    for name in ["llama3", "qwen2", "qwen3", "phi3", "gemma3"] {
        let difference = difference(name, FolderFormat::Q8_0);
        assert!(difference < 1e-3, "{name}: off by {difference}");
    }
}

#[test]
fn a_folder_in_q4_k_is_a_coarser_form_of_the_same_model() {
    let difference = difference("llama3", FolderFormat::Q4K);
    assert!(difference > 1e-3 && difference < 1.0, "off by {difference}");
}
