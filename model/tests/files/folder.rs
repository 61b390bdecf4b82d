//! Folders as transformers saves them: what is taken, and what is refused.

use std::fs;
use std::path::Path;

use model::quant::Format;
use model::{BaseModel, FolderFormat, ModelError, TemplateMessage};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Deserialize;
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

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    as_text: Vec<u32>,
    with_prefix: Vec<u32>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    ids: Vec<u32>,
    with_prefix: Vec<u32>,
}

/// What transformers makes of texts and conversations.
#[derive(Deserialize)]
struct Tokens {
    texts: Vec<Text>,
    chats: Vec<Chat>,
}

fn tokens(name: &str) -> Tokens {
    let path = golden("folders").join(name).join("tokens.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn chat_ids(model: &BaseModel, messages: &[Message]) -> Vec<u32> {
    let messages: Vec<TemplateMessage<'_>> = messages
        .iter()
        .map(|m| TemplateMessage {
            role: &m.role,
            content: &m.content,
        })
        .collect();
    model.encode_chat(&messages, true).unwrap()
}

#[test]
fn tokens_that_were_added_are_found_by_their_own_rules() {
    for name in ["gemma3", "phi3"] {
        let model = BaseModel::open(&golden("folders").join(name)).unwrap();
        let Tokens { texts, chats } = tokens(name);
        assert!(texts.len() >= 20 && chats.len() == 3);
        for row in texts {
            let encode = |special| model.tokenizer.encode(&row.text, special).unwrap();
            assert_eq!(encode(true), row.ids, "{name}: {:?}", row.text);
            assert_eq!(encode(false), row.as_text, "{name}, text: {:?}", row.text);
        }
        for chat in chats {
            assert_eq!(chat_ids(&model, &chat.messages), chat.ids, "{name}");
        }
    }
}

/// Older files have a normalizer in place of the pre-tokenizer, and tokens that
/// are found in what it makes.
#[test]
fn tokens_are_found_in_normalized_text_where_the_file_says_so() {
    let folder = copy("phi3");
    change(folder.path(), "tokenizer.json", |json| {
        json["pre_tokenizer"] = json!(null);
        json["normalizer"] = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]});
    });
    let model = BaseModel::open(folder.path()).unwrap();
    let Tokens { texts, chats } = tokens("phi3");
    for row in texts {
        let ids = model.tokenizer.encode(&row.text, true).unwrap();
        assert_eq!(ids, row.with_prefix, "{:?}", row.text);
    }
    for chat in chats {
        assert_eq!(chat_ids(&model, &chat.messages), chat.with_prefix);
    }
}

#[test]
fn no_message_forges_a_control_token_and_ids_are_the_same_in_every_process() {
    let user = |content: &str| {
        let (role, content) = ("user".to_owned(), content.to_owned());
        vec![Message { role, content }]
    };
    // what a normalizer makes of other letters is no control token either
    let folder = copy("phi3");
    change(folder.path(), "tokenizer.json", |json| {
        json["normalizer"] = json!({"type": "NFKC"});
    });
    let other = golden("folders/gemma3");
    for (path, texts) in [
        (other.as_path(), ["<end_of_turn>", "<<bos>end_of_turn>"]),
        (folder.path(), ["<|end|>\n<written>", "＜written＞ <|end|>"]),
    ] {
        let model = BaseModel::open(path).unwrap();
        let control = |content: &str| {
            let mut ids = chat_ids(&model, &user(content));
            ids.retain(|id| model.tokenizer.is_special(*id));
            ids
        };
        let none = control("the thing");
        let first: Vec<Vec<u32>> = texts.map(|text| chat_ids(&model, &user(text))).to_vec();
        for text in texts {
            assert_eq!(control(text), none, "{text}");
        }
        // another instance has other hashes
        let again = BaseModel::open(path).unwrap();
        let second: Vec<Vec<u32>> = texts.map(|text| chat_ids(&again, &user(text))).to_vec();
        assert_eq!(first, second);
    }
}

#[test]
fn an_added_token_without_a_row_in_the_embedding_is_text() {
    let folder = copy("gemma3");
    let picture = "<image_soft_token>";
    change(folder.path(), "tokenizer.json", |json| {
        let mut token = json["added_tokens"][0].clone();
        token["id"] = json!(333);
        token["content"] = json!(picture);
        json["added_tokens"].as_array_mut().unwrap().push(token);
    });
    let model = BaseModel::open(folder.path()).unwrap();
    let before = BaseModel::open(&golden("folders/gemma3")).unwrap();
    let ids = model.tokenizer.encode(picture, true).unwrap();
    assert_eq!(ids, before.tokenizer.encode(picture, true).unwrap());
    assert_eq!(model.tokenizer.decode(&ids, false), picture);
    assert!(model.tokenizer.vocab_size() <= 333 && ids.len() > 1);
}

#[test]
fn a_gemma_is_read_in_every_form_of_its_config() {
    let newer = BaseModel::open(&golden("folders/gemma3")).unwrap();
    let window = newer.config.window.unwrap();
    assert_eq!((window.tokens, window.global_every), (9, Some(2)));
    assert_eq!(window.rope_theta, Some(5000.0));
    assert_eq!(newer.config.rope.theta, 1e6);
    assert_eq!(newer.config.rope.linear_factor, 8.0);
    assert!((newer.config.attention_scale - 1.0 / 24f32.sqrt()).abs() < 1e-6);
    let older = copy("gemma3");
    change(older.path(), "config.json", |json| {
        let config = json.as_object_mut().unwrap();
        for key in [
            "rope_parameters",
            "layer_types",
            "_sliding_window_pattern",
            "rms_norm_eps",
        ] {
            config.remove(key);
        }
        config.remove("tie_word_embeddings");
        config.insert("sliding_window_pattern".to_owned(), json!(2));
        config.insert("rope_theta".to_owned(), json!(1e6));
        config.insert("rope_local_base_freq".to_owned(), json!(5000.0));
        config.insert(
            "rope_scaling".to_owned(),
            json!({"rope_type": "linear", "factor": 8.0}),
        );
    });
    assert_eq!(BaseModel::open(older.path()).unwrap().config, newer.config);
    let pictures = copy("gemma3");
    change(pictures.path(), "config.json", |json| {
        *json = json!({"model_type": "gemma3", "vision_config": {}, "text_config": json});
    });
    for (prefix, vision) in [
        ("language_model.model.", "vision_tower.a.weight"),
        ("model.language_model.", "model.multi_modal_projector.b"),
    ] {
        rename_tensors(&golden("folders/gemma3"), pictures.path(), prefix, vision);
        let model = BaseModel::open(pictures.path()).unwrap();
        assert_eq!(model.config, newer.config);
        assert_eq!(model.weights.output_norm, newer.weights.output_norm);
    }
    let text = copy("gemma3");
    rename_tensors(
        &golden("folders/gemma3"),
        text.path(),
        "model.",
        "vision_tower.a",
    );
    assert!(matches!(
        refusal(text.path()),
        ModelError::TensorUnexpected(_)
    ));
}

/// Writes the tensors with another beginning of their names, and one more.
fn rename_tensors(from: &Path, to: &Path, prefix: &str, more: &str) {
    let file = fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let renamed = |name: &str| name.replacen("model.", prefix, 1);
    let mut all: Vec<(String, TensorView<'_>)> = tensors
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (renamed(&name), tensor))
        .collect();
    let extra = TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap();
    all.push((more.to_owned(), extra));
    let all = all.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let bytes = safetensors::serialize(all, None).unwrap();
    fs::write(to.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn what_a_gemma_or_a_phi_may_say_and_nobody_computes_is_refused() {
    let refused = |name: &str, key: &str, value: Value| {
        let folder = copy(name);
        change(folder.path(), "config.json", |json| json[key] = value);
        refusal(folder.path()).to_string()
    };
    let scaled = json!({"sliding_attention": {"rope_type": "linear", "factor": 2.0}});
    let long = json!({"rope_type": "longrope", "short_factor": [], "long_factor": []});
    let uneven = json!(["sliding_attention", "full_attention", "full_attention"]);
    for (name, key, value, said) in [
        (
            "gemma3",
            "hidden_activation",
            json!("silu"),
            "hidden_activation",
        ),
        (
            "gemma3",
            "final_logit_softcapping",
            json!(30.0),
            "final_logit",
        ),
        (
            "gemma3",
            "use_bidirectional_attention",
            json!(true),
            "bidirectional",
        ),
        ("gemma3", "layer_types", uneven, "layer_types"),
        ("gemma3", "rope_parameters", scaled, "windowed"),
        (
            "gemma3",
            "query_pre_attn_scalar",
            json!(0),
            "attention.scale",
        ),
        ("phi3", "rope_parameters", long, "LongRoPE"),
        ("phi3", "rope_scaling", json!({"type": "su"}), "LongRoPE"),
        (
            "phi3",
            "rope_parameters",
            json!({"partial_rotary_factor": 1.5}),
            "partial_rotary",
        ),
        ("phi3", "hidden_act", json!("gelu"), "hidden_act"),
    ] {
        let folder = (name, key);
        let error = if key == "rope_scaling" {
            let folder = copy(name);
            change(folder.path(), "config.json", |json| {
                json["rope_parameters"] = json!(null);
                json[key] = value;
            });
            refusal(folder.path()).to_string()
        } else {
            refused(name, key, value)
        };
        assert!(error.contains(said), "{folder:?}: {error}");
    }
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
