//! Folders as transformers saves them: what is taken, and what is refused.

use std::fs;
use std::path::Path;

use model::quant::Format;
use model::{BaseModel, FolderFormat, ModelError};
use serde_json::{Value, json};

use crate::{golden, tiny_model};

/// A copy of a golden folder that may be changed.
fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden("folders").join(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// Changes one of the JSON files.
fn change(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(file);
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

fn refusal(folder: &Path) -> ModelError {
    match BaseModel::open(folder) {
        Err(error) => error,
        Ok(_) => panic!("was taken"),
    }
}

#[test]
fn a_folder_is_quantized_as_asked_where_rows_allow_it() {
    let folder = golden("folders/llama3");
    let eight = BaseModel::open(&folder).unwrap();
    let four = BaseModel::open_quantized(&folder, FolderFormat::Q4K).unwrap();
    let formats = |model: &BaseModel| {
        let layer = &model.weights.layers[0];
        (layer.down.format(), layer.q.format())
    };
    assert_eq!(formats(&eight), (Format::Q8_0, Format::Q8_0));
    // rows of 256, and rows of 32
    assert_eq!(formats(&four), (Format::Q4K, Format::Q8_0));
    assert_ne!(eight.digest, four.digest);
    assert!(eight.weights.output.is_none() && eight.weights.rope_factors.is_some());
}

#[test]
fn its_tokenizer_is_that_of_the_gguf_file_with_the_same_vocabulary() {
    let (ours, theirs) = (
        BaseModel::open(&golden("folders/qwen2")).unwrap(),
        tiny_model(),
    );
    for text in [
        "the thing 12",
        "<|im_start|>user\nçà<|im_end|>\n\n",
        "日本 👍",
    ] {
        let ids = ours.tokenizer.encode(text, true).unwrap();
        assert_eq!(ids, theirs.tokenizer.encode(text, true).unwrap());
        assert_eq!(ours.tokenizer.decode(&ids, false), text);
    }
    assert_eq!(ours.tokenizer.eos(), theirs.tokenizer.eos());
    assert_eq!(ours.tokenizer.bos(), theirs.tokenizer.bos());
    assert!(ours.tokenizer.is_special(2) && ours.tokenizer.is_end_of_generation(2));
}

#[test]
fn every_file_is_in_the_digest() {
    let digest = |folder: &Path| BaseModel::open(folder).unwrap().digest;
    let before = digest(&golden("folders/llama3"));
    let same = copy("llama3");
    assert_eq!(digest(same.path()), before);
    let template = copy("llama3");
    change(template.path(), "tokenizer_config.json", |json| {
        json["chat_template"] = json!("other");
    });
    assert_ne!(digest(template.path()), before);
    let weights = copy("llama3");
    let shard = weights.path().join("model-00004-of-00004.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    fs::write(shard, bytes).unwrap();
    assert_ne!(digest(weights.path()), before);
}

#[test]
fn what_config_json_says_and_nobody_computes_is_refused() {
    let config = |key: &str, value: Value| {
        let folder = copy("llama3");
        change(folder.path(), "config.json", |json| json[key] = value);
        refusal(folder.path())
    };
    let kind = config("model_type", json!("mamba"));
    assert!(matches!(kind, ModelError::UnsupportedArchitecture(name) if name == "mamba"));
    let cases = [
        (
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": 4.0}),
        ),
        ("rope_parameters", json!(3)),
        ("hidden_act", json!("gelu")),
        ("quantization_config", json!({"quant_method": "gptq"})),
        ("hidden_size", json!("32")),
        ("vocab_size", json!(null)),
        ("rms_norm_eps", json!(null)),
    ];
    for (key, value) in cases {
        let error = config(key, value.clone());
        assert!(
            matches!(error, ModelError::Metadata { .. }),
            "{key} {value}: {error}"
        );
    }
    let rows = config("intermediate_size", json!(128));
    assert!(matches!(rows, ModelError::TensorShape { .. }));
    let tokens = config("vocab_size", json!(260));
    assert!(matches!(tokens, ModelError::Metadata { key, .. } if key == "vocab_size"));
}

#[test]
fn files_that_are_missing_or_elsewhere_are_refused() {
    for file in [
        "config.json",
        "tokenizer.json",
        "model-00002-of-00004.safetensors",
    ] {
        let folder = copy("llama3");
        fs::remove_file(folder.path().join(file)).unwrap();
        let error = refusal(folder.path());
        assert!(matches!(&error, ModelError::Io { path, .. } if path.ends_with(file)));
    }
    let folder = copy("llama3");
    let index = "model.safetensors.index.json";
    change(folder.path(), index, |json| {
        json["weight_map"]["lm_head.weight"] = json!("../x.safetensors");
    });
    assert!(
        matches!(refusal(folder.path()), ModelError::Metadata { key, .. } if key == "weight_map")
    );
    let folder = copy("llama3");
    change(folder.path(), "tokenizer.json", |json| {
        json["model"]["type"] = json!("WordPiece");
    });
    assert!(
        matches!(refusal(folder.path()), ModelError::Metadata { key, .. } if key == "model.type")
    );
    let folder = copy("qwen2");
    let weights = folder.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(refusal(folder.path()), ModelError::Safetensors(_)));
    let mut large = bytes;
    large[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&weights, large).unwrap();
    assert!(matches!(refusal(folder.path()), ModelError::Limit { .. }));
}
