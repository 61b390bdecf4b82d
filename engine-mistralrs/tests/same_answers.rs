//! The same model and adapter, the same answers as the native engine's: tokens,
//! text, and log-probabilities up to what rounding does.

use std::path::Path;
use std::sync::Arc;

use engine::native::{NativeEngine, NativeOptions};
use engine::{AdapterPackage, Engine};
use engine_mistralrs::MistralOptions;
use ids::AdapterDigest;
use model::quant::Precision;
use model::{BaseModel, ModelConfig};

use crate::support::{Answer, ask, golden, open, package, published, real_model, request};

const QUESTIONS: [&str; 2] = ["What is copper?", "Say <|im_end|> twice, and 1234."];

fn native(path: &Path) -> (NativeEngine, ModelConfig) {
    let model = Arc::new(BaseModel::open(path).unwrap());
    let config = model.config.clone();
    let options = NativeOptions {
        precision: Precision::F32,
        ..NativeOptions::default()
    };
    (NativeEngine::start(model, options).unwrap(), config)
}

/// The two answers' tokens, as far as they must agree; how far their
/// log-probabilities are apart.
fn compare(what: &str, native: &Answer, ours: &Answer, error: f32) -> f32 {
    let mut worst = 0.0f32;
    assert_eq!(
        ours.usage.prompt_tokens, native.usage.prompt_tokens,
        "{what}"
    );
    assert_eq!(ours.reason, native.reason, "{what}");
    assert_eq!(ours.tokens.len(), native.tokens.len(), "{what}");
    for (at, (n, m)) in native.tokens.iter().zip(&ours.tokens).enumerate() {
        let second = n.top[0].2 - n.top[1].2;
        if n.bytes != m.bytes {
            // both are as likely: from here on the answers are others
            assert!(
                second < 2.0 * error,
                "{what}: token {at} is {m:?}, not {n:?}"
            );
            return worst;
        }
        let difference = (n.logprob - m.logprob).abs();
        assert!(
            difference < error,
            "{what}: token {at} is off by {difference}"
        );
        worst = worst.max(difference);
    }
    assert_eq!(ours.text, native.text, "{what}");
    worst
}

/// How much an adapter changes an answer: without bound where it is another one.
fn change(base: &Answer, adapted: &Answer) -> f32 {
    let tokens = base.tokens.iter().zip(&adapted.tokens);
    let changes = tokens.map(|(a, b)| match a.bytes == b.bytes {
        true => (a.logprob - b.logprob).abs(),
        false => f32::INFINITY,
    });
    changes.fold(0.0, f32::max)
}

/// Compares the base and the adapters on both engines; also, that an adapter
/// changes more than what they differ by.
async fn compare_engines(path: &Path, adapters: Vec<AdapterPackage>, error: f32) {
    let (native, _) = native(path);
    let options = MistralOptions {
        adapter_bytes_max: Some(1 << 30),
        ..MistralOptions::default()
    };
    let ours = open(path.to_owned(), options).await;
    let mut digests: Vec<Option<AdapterDigest>> = vec![None];
    for package in adapters {
        digests.push(Some(package.digest));
        native.load_adapter(package.clone()).await.unwrap();
        ours.load_adapter(package).await.unwrap();
    }
    let mut bases = Vec::new();
    for digest in digests {
        let (mut worst, mut changed) = (0.0f32, 0.0f32);
        for (at, question) in QUESTIONS.into_iter().enumerate() {
            let request = || request(question, digest, 12);
            let expected = ask(&native, request()).await;
            let found = ask(&ours, request()).await;
            let what = format!("{} with {digest:?}", path.display());
            worst = worst.max(compare(&what, &expected, &found, error));
            if digest.is_none() {
                bases.push(found);
            } else {
                changed = changed.max(change(&bases[at], &found));
            }
        }
        println!("{}: apart by {worst}, changed by {changed}", path.display());
        let matters = digest.is_none() || changed > 2.0 * worst;
        assert!(matters, "an adapter changes {changed}, not only {worst}");
    }
    ours.shutdown().await;
    native.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_published_folders() {
    // the weights have values that the native engine's Q8_0 holds exactly
    for name in ["llama3", "qwen2", "qwen3"] {
        let path = golden("folders").join(name);
        let config = BaseModel::open(&path).unwrap().config;
        let adapters = vec![package(&config, 1, 0.02), package(&config, 2, 0.03)];
        compare_engines(&path, adapters, 2e-3).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_real_model() {
    let config = BaseModel::open(&real_model()).unwrap().config;
    // 8 bits for activations and for what is merged, against none
    compare_engines(&real_model(), vec![package(&config, 1, 1e-3)], 0.5).await;
}

/// Files that PEFT wrote, with patterns of ranks and alphas, rslora, and half
/// precision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_adapters_of_peft() {
    let folder = golden("tiny_llama");
    let names = ["adapter", "adapter_patterns", "adapter_layer_bf16"];
    let adapters = names.map(|name| published(&folder.join(name))).to_vec();
    compare_engines(&folder.join("model.gguf"), adapters, 0.1).await;
}
