//! Where the models are, adapters for them, and how engines are asked.

use std::path::{Path, PathBuf};

use engine::{
    AdapterPackage, ChatEvent, ChatMessage, ChatRequest, Engine, FinishReason, Role, TokenLogprob,
    Usage,
};
use engine_mistralrs::{MistralEngine, MistralOptions};
use ids::AdapterDigest;
use model::ModelConfig;
use model::lora::{LoraAdapter, LoraConfig};

/// Where the real model is, as `make model` puts it.
pub(crate) fn real_model() -> PathBuf {
    if let Some(path) = std::env::var_os("FLYWHEEL_TEST_MODEL") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
        PathBuf::from,
    );
    let path = cache.join("flywheel/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(
        path.exists(),
        "{} is missing: run `make model`",
        path.display()
    );
    path
}

/// A golden file or folder of the main workspace.
pub(crate) fn golden(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("../tests/golden").join(name)
}

/// Opens a model outside of the async threads.
pub(crate) async fn open(path: PathBuf, options: MistralOptions) -> MistralEngine {
    let open = move || MistralEngine::open(&path, options).unwrap();
    tokio::task::spawn_blocking(open).await.unwrap()
}

/// An adapter of every module whose B is not zero.
pub(crate) fn package(config: &ModelConfig, seed: u64, size: f32) -> AdapterPackage {
    let rank = 4 + 2 * usize::try_from(seed % 3).unwrap();
    let mut adapter =
        LoraAdapter::new_random(config, &LoraConfig::uniform(rank, 8.0), seed).unwrap();
    for (i, pair) in adapter.modules.values_mut().enumerate() {
        for (j, value) in pair.b.iter_mut().enumerate() {
            let step = (i * 31 + j * 17 + usize::try_from(seed).unwrap() * 7) % 23;
            *value = (step as f32 - 11.0) * size;
        }
    }
    let files = adapter.to_peft(config).unwrap();
    AdapterPackage {
        digest: AdapterDigest::of_files(&files.config_json, &files.safetensors),
        config_json: files.config_json.into(),
        safetensors: files.safetensors.into(),
    }
}

/// An adapter that PEFT wrote.
pub(crate) fn published(folder: &Path) -> AdapterPackage {
    let config_json = std::fs::read(folder.join("adapter_config.json")).unwrap();
    let safetensors = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    AdapterPackage {
        digest: AdapterDigest::of_files(&config_json, &safetensors),
        config_json: config_json.into(),
        safetensors: safetensors.into(),
    }
}

/// A greedy request with log-probabilities that goes on to its limit.
pub(crate) fn request(text: &str, adapter: Option<AdapterDigest>, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        adapter,
        top_logprobs: Some(5),
        ignore_eos: true,
        ..ChatRequest::greedy(vec![ChatMessage::new(Role::User, text)], max_tokens)
    }
}

/// What a request with one choice gave.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenLogprob>,
    pub(crate) reason: FinishReason,
    pub(crate) usage: Usage,
}

/// Asks and gathers.
pub(crate) async fn ask(engine: &dyn Engine, request: ChatRequest) -> Answer {
    let mut stream = engine.chat(request).await.unwrap();
    let (mut text, mut tokens, mut reason) = (String::new(), Vec::new(), None);
    while let Some(event) = stream.events.recv().await {
        match event.unwrap() {
            ChatEvent::Delta {
                text: more,
                logprobs,
                ..
            } => {
                text.push_str(&more);
                tokens.extend(logprobs);
            }
            ChatEvent::Finished { reason: why, .. } => reason = Some(why),
            ChatEvent::Done { usage } => {
                return Answer {
                    text,
                    tokens,
                    reason: reason.unwrap(),
                    usage,
                };
            }
        }
    }
    panic!("a stream ended without Done");
}
