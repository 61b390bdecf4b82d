//! Memory that is counted before it is taken, in-situ quantization, and what is
//! refused at the start.

use std::path::Path;

use engine::{Engine as _, EngineError};
use engine_mistralrs::{MistralEngine, MistralOptions};
use model::BaseModel;

use crate::support::{ask, golden, open, package, request};

/// A version that the budget has no room for is refused before it is built, and
/// nothing changes by it; one that is not used makes room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_stay_within_their_bytes() {
    let path = golden("folders").join("llama3");
    let config = BaseModel::open(&path).unwrap().config;
    let bytes = {
        let engine = open(path.clone(), MistralOptions::default()).await;
        let info = engine
            .load_adapter(package(&config, 1, 0.02))
            .await
            .unwrap();
        assert_eq!(engine.capacity().adapter_bytes_max, 2 * info.bytes);
        info.bytes
    };
    let options = |bytes| MistralOptions {
        adapter_bytes_max: Some(bytes),
        ..MistralOptions::default()
    };
    let engine = open(path.clone(), options(bytes - 1)).await;
    let refused = engine.load_adapter(package(&config, 1, 0.02)).await;
    let expected = EngineError::AdapterMemory {
        needed: bytes,
        free: bytes - 1,
        budget: bytes - 1,
    };
    assert_eq!(refused, Err(expected));
    assert!(engine.adapters().is_empty() && engine.capacity().adapter_bytes == 0);
    let engine = open(path, options(bytes)).await;
    let first = engine
        .load_adapter(package(&config, 1, 0.02))
        .await
        .unwrap();
    engine.pin_adapters(&[first.digest]);
    let refused = engine.load_adapter(package(&config, 2, 0.02)).await;
    assert!(
        matches!(refused, Err(EngineError::AdapterMemory { .. })),
        "{refused:?}"
    );
    engine.pin_adapters(&[]);
    let second = engine
        .load_adapter(package(&config, 2, 0.02))
        .await
        .unwrap();
    assert_eq!(engine.adapters(), [second]);
    assert_eq!(engine.capacity().adapter_evictions_total, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_can_be_quantized_as_it_is_loaded() {
    let path = golden("folders").join("llama3");
    let config = BaseModel::open(&path).unwrap().config;
    let options = MistralOptions {
        isq: Some("q8_0".to_owned()),
        ..MistralOptions::default()
    };
    let whole = open(path.clone(), MistralOptions::default()).await;
    let quantized = open(path, options).await;
    assert_ne!(whole.base().digest, quantized.base().digest);
    let package = package(&config, 1, 0.02);
    let (a, b) = tokio::join!(
        whole.load_adapter(package.clone()),
        quantized.load_adapter(package.clone())
    );
    assert!(b.unwrap().bytes < a.unwrap().bytes);
    let base = ask(&quantized, request("What is copper?", None, 4)).await;
    let request = || request("What is copper?", Some(package.digest), 4);
    let (a, b) = (
        ask(&whole, request()).await,
        ask(&quantized, request()).await,
    );
    let logprob = |answer: &crate::support::Answer| answer.tokens[0].logprob;
    assert!((logprob(&a) - logprob(&b)).abs() < 0.05, "{a:?} {b:?}");
    assert!(
        (logprob(&base) - logprob(&b)).abs() > 0.1,
        "merged before it is quantized"
    );
}

#[test]
fn what_cannot_be_served_says_why() {
    let error = |path: &Path, isq: Option<&str>| {
        let options = MistralOptions {
            isq: isq.map(str::to_owned),
            ..MistralOptions::default()
        };
        match MistralEngine::open(path, options) {
            Ok(_) => panic!("it was opened"),
            Err(error) => error.to_string(),
        }
    };
    let folder = tempfile::tempdir().unwrap();
    assert!(error(folder.path(), None).contains("config.json"));
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, b"no model").unwrap();
    assert!(error(&file, None).contains("GGUF"));
    let unknown = error(&golden("folders").join("llama3"), Some("q99"));
    assert!(unknown.contains("q99"), "{unknown}");
    // the crate would compute these files' positions unscaled
    for name in ["llama3", "llama_linear"] {
        let path = golden("architectures").join(name).join("model.gguf");
        let refused = error(&path, None);
        assert!(refused.contains("scaling of positions"), "{refused}");
    }
}
