//! Adapters and models that are refused, and by which error.

use std::collections::HashMap;

use model::lora::{LoraAdapter, LoraError};
use model::{BaseModel, ModelError};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::{golden, real_model, tiny_model};

fn files() -> (Value, Vec<u8>) {
    let folder = golden("tiny_llama/adapter");
    let config = std::fs::read(folder.join("adapter_config.json")).unwrap();
    let weights = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    (serde_json::from_slice(&config).unwrap(), weights)
}

fn import(config: &Value, weights: &[u8]) -> Result<LoraAdapter, LoraError> {
    let config = serde_json::to_vec(config).unwrap();
    match LoraAdapter::from_peft(&config, weights, &tiny_model().config) {
        Ok(adapter) => Ok(adapter),
        Err(ModelError::Adapter(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

/// The refusal of the golden adapter with one key of its configuration changed.
fn with(key: &str, value: Value) -> LoraError {
    let (mut config, weights) = files();
    config[key] = value;
    match import(&config, &weights) {
        Ok(_) => panic!("{key} {} was taken", config[key]),
        Err(error) => error,
    }
}

#[test]
fn parts_of_peft_that_are_not_computed_are_refused_by_name() {
    let cases = [
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("use_qalora", json!(true)),
        ("layer_replication", json!([[0, 1]])),
        ("target_parameters", json!(["a.b"])),
        ("exclude_modules", json!("q_proj")),
        ("init_lora_weights", json!("pissa")),
        ("peft_type", json!("LOHA")),
        ("task_type", json!("SEQ_CLS")),
    ];
    for (key, value) in cases {
        match with(key, value) {
            LoraError::Unsupported { feature } => assert!(feature.starts_with(key), "{feature}"),
            other => panic!("{key}: {other:?}"),
        }
    }
}

#[test]
fn values_out_of_range_are_refused() {
    assert!(matches!(
        with("r", json!(0)),
        LoraError::Rank { found: 0, .. }
    ));
    assert!(matches!(
        with("r", json!(257)),
        LoraError::Rank {
            found: 257,
            max: 256
        }
    ));
    let patterned = with("rank_pattern", json!({"q_proj": 0}));
    assert!(matches!(patterned, LoraError::Rank { found: 0, .. }));
    let cases = [
        ("r", json!("4")),
        ("lora_alpha", json!(null)),
        ("lora_alpha", json!(1e300)),
        ("lora_dropout", json!(1.0)),
        ("use_rslora", json!("yes")),
        ("target_modules", json!(3)),
        ("target_modules", json!("(")),
        ("rank_pattern", json!([1])),
        ("rank_pattern", json!({"(": 4})),
        ("rank_pattern", json!({"x".repeat(300): 4})),
        ("layers_to_transform", json!("all")),
        ("layers_pattern", json!(["h"])),
    ];
    for (key, value) in cases {
        let error = with(key, value.clone());
        assert!(
            matches!(error, LoraError::ConfigValue { .. }),
            "{key} {value}: {error:?}"
        );
    }
}

#[test]
fn patterns_that_take_for_ever_are_stopped() {
    let slow = json!({r"(?:[a-z_.0-9]+(?<!!))+!": 4});
    assert!(matches!(
        with("rank_pattern", slow),
        LoraError::ConfigValue { .. }
    ));
}

#[test]
fn tensors_and_targets_must_match() {
    assert_eq!(
        with("target_modules", json!(["c_attn"])),
        LoraError::NoModule
    );
    assert_eq!(with("target_modules", json!(null)), LoraError::NoModule);
    assert_eq!(with("layers_to_transform", json!([2])), LoraError::NoModule);
    let fewer = with("target_modules", json!(["q_proj", "k_proj"]));
    assert!(
        matches!(fewer, LoraError::TensorUnexpected(name) if name.contains("layers.0.mlp.down"))
    );
    let one_layer = with("layers_to_transform", json!(1));
    assert!(matches!(one_layer, LoraError::TensorUnexpected(name) if name.contains("layers.0")));
    assert!(matches!(
        with("r", json!(5)),
        LoraError::TensorShape {
            expected: [5, 32],
            ..
        }
    ));
    let (config, weights) = files();
    let config = serde_json::to_vec(&config).unwrap();
    let other_base = LoraAdapter::from_peft(&config, &weights, &real_model().config);
    assert!(matches!(
        other_base,
        Err(ModelError::Adapter(
            LoraError::TensorMissing(_) | LoraError::TensorShape { .. }
        ))
    ));
}

#[test]
fn targets_can_be_named_in_all_of_pefts_ways() {
    let (mut config, weights) = files();
    let expected = import(&config, &weights).unwrap();
    let paths: Vec<String> = expected
        .modules
        .keys()
        .map(|id| id.peft_path(tiny_model().config.architecture))
        .collect();
    for targets in [
        json!("all-linear"),
        json!(r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"),
        json!(paths),
    ] {
        config["target_modules"] = targets;
        assert_eq!(import(&config, &weights).unwrap(), expected);
    }
}

/// The golden weights with one tensor changed by `change`.
fn reworked(
    change: impl Fn(&mut HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>),
) -> Result<LoraAdapter, LoraError> {
    let (config, weights) = files();
    let parsed = SafeTensors::deserialize(&weights).unwrap();
    let mut tensors = parsed
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            (
                name,
                (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
            )
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (
            name.as_str(),
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    import(&config, &safetensors::serialize(views, None).unwrap())
}

#[test]
fn tensors_are_checked_one_by_one() {
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
    assert!(reworked(|_| ()).is_ok());
    let missing = reworked(|tensors| drop(tensors.remove(name)));
    assert_eq!(missing, Err(LoraError::TensorMissing(name.to_owned())));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let found = reworked(|tensors| {
            tensors.get_mut(name).unwrap().2[..4].copy_from_slice(&bad.to_le_bytes());
        });
        assert_eq!(found, Err(LoraError::NotFinite(name.to_owned())));
    }
    let shape = reworked(|tensors| tensors.get_mut(name).unwrap().1 = vec![4, 32]);
    assert!(matches!(shape, Err(LoraError::TensorShape { .. })));
    let flat = reworked(|tensors| tensors.get_mut(name).unwrap().1 = vec![128]);
    assert!(matches!(flat, Err(LoraError::TensorShape { .. })));
    let dtype = reworked(|tensors| tensors.get_mut(name).unwrap().0 = Dtype::I32);
    assert!(matches!(dtype, Err(LoraError::TensorType { .. })));
    let unknown = reworked(|tensors| {
        let tensor = tensors[name].clone();
        tensors.insert("base_model.model.lm_head.lora_A.weight".to_owned(), tensor);
    });
    assert!(matches!(unknown, Err(LoraError::TensorUnexpected(name)) if name.contains("lm_head")));
}

#[test]
fn an_adapter_that_would_not_read_back_is_not_written() {
    let (config, weights) = files();
    let model = &tiny_model().config;
    let good = import(&config, &weights).unwrap();
    let broken = |change: fn(&mut LoraAdapter)| {
        let mut adapter = good.clone();
        change(&mut adapter);
        adapter.to_peft(model).expect_err("was written").to_string()
    };
    assert!(broken(|a| a.config.rank = 8).contains("rank"));
    assert!(broken(|a| a.modules.first_entry().unwrap().get_mut().scale = 1.0).contains("scale"));
    assert!(
        broken(|a| a.modules.first_entry().unwrap().get_mut().b[0] = f32::NAN).contains("finite")
    );
    assert!(broken(|a| a.modules.first_entry().unwrap().get_mut().a.truncate(1)).contains("shape"));
    assert!(broken(|a| a.modules.clear()).contains("no module"));
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    let missing = BaseModel::open(&golden("tiny_llama/none.gguf"));
    assert!(matches!(missing, Err(ModelError::Io { .. })));
    let other = BaseModel::open(&golden("tiny_llama/logits.json"));
    assert!(matches!(other, Err(ModelError::Gguf { offset: 0, .. })));
}
