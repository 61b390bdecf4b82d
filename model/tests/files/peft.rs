//! Adapters that PEFT made, and the same ones written by us.
//!
//! `make_peft_golden.py` wrote the first; with `--check` it loads the second in
//! PEFT and compares logits. That what it loaded is what we write today, byte
//! for byte, is what the last test holds. `UPDATE_GOLDEN=1` writes them anew.

use std::collections::BTreeMap;
use std::fs;

use half::bf16;
use model::Projection;
use model::lora::{LoraAdapter, LoraConfig, ModuleId};
use safetensors::{Dtype, SafeTensors};

use crate::{golden, tiny_model};

const ADAPTERS: [&str; 3] = ["adapter", "adapter_patterns", "adapter_layer_bf16"];

fn read(folder: &str) -> (Vec<u8>, Vec<u8>) {
    let folder = golden("tiny_llama").join(folder);
    let file = |name| fs::read(folder.join(name)).unwrap();
    (
        file("adapter_config.json"),
        file("adapter_model.safetensors"),
    )
}

fn import(folder: &str) -> LoraAdapter {
    let (config, weights) = read(folder);
    LoraAdapter::from_peft(&config, &weights, &tiny_model().config).unwrap()
}

/// Names, shapes and values of a file's tensors.
fn tensors(file: &[u8]) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let parsed = SafeTensors::deserialize(file).unwrap();
    let tensors = parsed.tensors().into_iter().map(|(name, view)| {
        let bytes = view.data();
        let values = match view.dtype() {
            Dtype::F32 => bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
            Dtype::BF16 => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| bf16::from_le_bytes(*b).to_f32())
                .collect(),
            other => panic!("{other:?}"),
        };
        (name, (view.shape().to_vec(), values))
    });
    tensors.collect()
}

fn id(layer: usize, projection: Projection) -> ModuleId {
    ModuleId { layer, projection }
}

#[test]
fn ranks_and_scales_are_pefts() {
    let plain = import("adapter");
    assert_eq!(plain.modules.len(), 14);
    assert!(
        plain
            .modules
            .values()
            .all(|pair| pair.rank == 4 && pair.scale == 2.0)
    );

    // r 3, alpha 5, rslora; k_proj has rank 2 (the first pattern that matches),
    // the rest of layer 1 rank 6, layer 0's down_proj alpha 7.
    let patterns = import("adapter_patterns");
    let found: Vec<_> = patterns
        .modules
        .iter()
        .map(|(id, pair)| (*id, pair.rank, pair.scale))
        .collect();
    let scale = |alpha: f32, rank: f32| alpha / rank.sqrt();
    let expected = [
        (id(0, Projection::Q), 3, scale(5.0, 3.0)),
        (id(0, Projection::K), 2, scale(5.0, 2.0)),
        (id(0, Projection::Down), 3, scale(7.0, 3.0)),
        (id(1, Projection::Q), 6, scale(5.0, 6.0)),
        (id(1, Projection::K), 2, scale(5.0, 2.0)),
        (id(1, Projection::Down), 6, scale(5.0, 6.0)),
    ];
    assert_eq!(found, expected);
    assert_eq!(patterns.max_rank(), 6);

    let layer: Vec<_> = import("adapter_layer_bf16").modules.into_keys().collect();
    assert_eq!(layer, [id(1, Projection::Q), id(1, Projection::V)]);
}

#[test]
fn rows_of_q_and_k_are_permuted_and_no_others() {
    let (_, file) = read("adapter");
    let (theirs, ours) = (tensors(&file), import("adapter"));
    for projection in Projection::ALL {
        let pair = &ours.modules[&id(0, projection)];
        let name = format!("base_model.model.model.layers.0.{}", projection.peft_name());
        let (shape, b) = &theirs[&format!("{name}.lora_B.weight")];
        assert_eq!(pair.a, theirs[&format!("{name}.lora_A.weight")].1);
        let permuted = matches!(projection, Projection::Q | Projection::K);
        assert_eq!(pair.b != *b, permuted, "{projection}");
        // Within the first head of 8 rows, PEFT's row 4 becomes row 1.
        let (rank, from, to) = (shape[1], 4, if permuted { 1 } else { 4 });
        assert_eq!(pair.b[to * rank..][..rank], b[from * rank..][..rank]);
    }
}

#[test]
fn an_adapter_written_again_has_pefts_tensors_and_reads_back_equal() {
    for name in ADAPTERS {
        let adapter = import(name);
        let files = adapter.to_peft(&tiny_model().config).unwrap();
        assert_eq!(
            tensors(&files.safetensors),
            tensors(&read(name).1),
            "{name}"
        );
        let again =
            LoraAdapter::from_peft(&files.config_json, &files.safetensors, &tiny_model().config);
        assert_eq!(again.unwrap(), adapter, "{name}");
    }
}

#[test]
fn written_files_are_those_that_peft_has_loaded() {
    for name in ADAPTERS {
        let files = import(name).to_peft(&tiny_model().config).unwrap();
        let folder = format!("exported/{name}");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let folder = golden("tiny_llama").join(&folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("adapter_config.json"), &files.config_json).unwrap();
            fs::write(folder.join("adapter_model.safetensors"), &files.safetensors).unwrap();
        }
        let stored = read(&folder);
        assert!(
            (files.config_json, files.safetensors) == stored,
            "{name} is written differently"
        );
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_depends_on_its_seed() {
    let model = &tiny_model().config;
    let config = LoraConfig {
        target: vec![Projection::Q, Projection::Down],
        ..LoraConfig::uniform(4, 8.0)
    };
    let fresh = LoraAdapter::new_random(model, &config, 7).unwrap();
    assert_eq!(fresh.modules.len(), 4);
    assert!(
        fresh
            .modules
            .values()
            .all(|pair| pair.b.iter().all(|b| *b == 0.0))
    );
    for (id, pair) in &fresh.modules {
        #[allow(clippy::cast_precision_loss)]
        let bound = 1.0 / (model.projection_shape(id.projection).1 as f32).sqrt();
        assert!(pair.a.iter().all(|a| a.abs() <= bound));
        assert!(
            pair.a.iter().any(|a| *a > 0.9 * bound) && pair.a.iter().any(|a| *a < -0.9 * bound)
        );
    }
    assert_eq!(fresh, LoraAdapter::new_random(model, &config, 7).unwrap());
    assert_ne!(fresh, LoraAdapter::new_random(model, &config, 8).unwrap());
    assert_eq!(fresh.byte_len(), 4 * fresh.parameter_count());
    // A module's values do not depend on which others there are.
    let seven = LoraAdapter::new_random(model, &LoraConfig::uniform(4, 8.0), 7).unwrap();
    let down = id(1, Projection::Down);
    assert_eq!(seven.modules[&down], fresh.modules[&down]);
}

#[test]
fn smollm2_at_rank_16_has_as_many_parameters_as_in_peft() {
    let adapter = LoraAdapter::new_random(
        &crate::real_model().config,
        &LoraConfig::uniform(16, 32.0),
        0,
    );
    assert_eq!(adapter.unwrap().parameter_count(), 4_884_480);
}
