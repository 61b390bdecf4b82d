//! The native engine keeps what every engine must.

use engine::AdapterPackage;
use engine::conformance::{self, Fixture};
use engine::native::{NativeEngine, NativeOptions};
use ids::AdapterDigest;
use model::ModelConfig;
use model::lora::{LoraAdapter, LoraConfig};

use crate::support::model;

/// An adapter whose B is not zero.
pub(crate) fn adapter(config: &ModelConfig, seed: u64) -> LoraAdapter {
    let rank = 4 + 2 * usize::try_from(seed % 3).unwrap();
    let mut adapter =
        LoraAdapter::new_random(config, &LoraConfig::uniform(rank, 8.0), seed).unwrap();
    for (i, pair) in adapter.modules.values_mut().enumerate() {
        for (j, value) in pair.b.iter_mut().enumerate() {
            *value =
                ((i * 31 + j * 17 + usize::try_from(seed).unwrap() * 7) % 23) as f32 * 1e-3 - 0.011;
        }
    }
    adapter
}

pub(crate) fn package(config: &ModelConfig, seed: u64) -> AdapterPackage {
    let files = adapter(config, seed).to_peft(config).unwrap();
    AdapterPackage {
        digest: AdapterDigest::of_files(&files.config_json, &files.safetensors),
        config_json: files.config_json.into(),
        safetensors: files.safetensors.into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite() {
    let model = model();
    let options = NativeOptions {
        running_max: 8,
        waiting_max: 16,
        kv_tokens_max: 4096,
        context_length_max: Some(1024),
        prefill_chunk_tokens: 50,
        ..NativeOptions::default()
    };
    let wider = ModelConfig {
        hidden_size: model.config.hidden_size + 32,
        ..model.config.clone()
    };
    let fixture = Fixture {
        adapters: [package(&model.config, 1), package(&model.config, 2)],
        misfit: package(&wider, 3),
    };
    let engine = NativeEngine::start(model, options).unwrap();
    conformance::run(&engine, &fixture).await.unwrap();
    engine.shutdown().await;
}
