//! PEFT's two files, `adapter_config.json` and `adapter_model.safetensors`, for a
//! tiny model. What is read keeps to its bounds.
#![no_main]

use std::sync::OnceLock;

use flywheel_fuzz::{golden, parts};
use libfuzzer_sys::fuzz_target;
use model::lora::LoraAdapter;
use model::{BaseModel, ModelConfig};

static CONFIG: OnceLock<ModelConfig> = OnceLock::new();

fn config() -> &'static ModelConfig {
    CONFIG.get_or_init(|| {
        let model = BaseModel::open(&golden("tiny_llama/model.gguf"));
        model.expect("the golden opens").config
    })
}

fuzz_target!(|input: &[u8]| {
    let files = parts(input, 2);
    let [config_json, safetensors] = files[..] else {
        return;
    };
    if let Ok(adapter) = LoraAdapter::from_peft(config_json, safetensors, config()) {
        assert!(adapter.max_rank() <= model::lora::RANK_MAX);
        assert!(adapter.byte_len() <= 2 * safetensors.len());
    }
});
