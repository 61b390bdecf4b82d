//! The models, opened once, and how an engine on them is asked.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use engine::native::NativeOptions;
use engine::{
    AdapterPackage, ChatEvent, ChatMessage, ChatRequest, Engine, EngineError, Role, TokenLogprob,
    Usage,
};
use model::BaseModel;

use crate::conformance::package;

/// Where the model is, as `make model` puts it.
pub(crate) fn path() -> PathBuf {
    if let Some(path) = std::env::var_os("FLYWHEEL_TEST_MODEL") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
        PathBuf::from,
    );
    cache.join("flywheel/models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// The model.
pub(crate) fn model() -> Arc<BaseModel> {
    static MODEL: LazyLock<Arc<BaseModel>> = LazyLock::new(|| {
        let path = path();
        assert!(
            path.exists(),
            "{} is missing: run `make model`",
            path.display()
        );
        Arc::new(BaseModel::open(&path).unwrap())
    });
    Arc::clone(&MODEL)
}

/// A golden file of the workspace.
pub(crate) fn golden(name: &str) -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A random model of a few thousand weights.
pub(crate) fn tiny() -> Arc<BaseModel> {
    static MODEL: LazyLock<Arc<BaseModel>> = LazyLock::new(|| {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny_llama/model.gguf");
        Arc::new(BaseModel::open(&path).unwrap())
    });
    Arc::clone(&MODEL)
}

/// An engine of one thread, to leave the other to the test.
pub(crate) fn one_thread() -> NativeOptions {
    NativeOptions {
        threads: 1,
        ..NativeOptions::default()
    }
}

/// So many adapters of the same size for the tiny model.
pub(crate) fn adapters(count: u64) -> Vec<AdapterPackage> {
    // the fixture's rank is 4 for every third seed
    (0..count).map(|i| package(&tiny().config, 3 * i)).collect()
}

/// A greedy request that goes on to its limit.
pub(crate) fn request(text: &str, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        ignore_eos: true,
        ..ChatRequest::greedy(vec![ChatMessage::new(Role::User, text)], max_tokens)
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Told {
    /// Text and log-probabilities of each choice.
    pub(crate) choices: Vec<(String, Vec<TokenLogprob>)>,
    pub(crate) usage: Usage,
}

/// Asks, and waits for the end.
pub(crate) async fn ask(engine: &dyn Engine, request: ChatRequest) -> Result<Told, EngineError> {
    let n = request.n as usize;
    let mut stream = engine.chat(request).await?;
    let mut choices = vec![Default::default(); n];
    while let Some(event) = stream.events.recv().await {
        match event? {
            ChatEvent::Delta {
                choice,
                text,
                logprobs,
                ..
            } => {
                let told: &mut (String, Vec<TokenLogprob>) = &mut choices[choice as usize];
                told.0.push_str(&text);
                told.1.extend(logprobs);
            }
            ChatEvent::Done { usage } => return Ok(Told { choices, usage }),
            ChatEvent::Finished { .. } => {}
        }
    }
    Err(EngineError::Stopped)
}

/// Waits for something, at most ten seconds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("waited in vain");
}
