//! What the native engine does beyond the suite: memory limits, preemption,
//! shutdown, and streams that a load does not stall.

use engine::native::{NativeEngine, NativeOptions};
use engine::{ChatEvent, ChatRequest, Engine, EngineError, SamplingParams};

use crate::conformance::package;
use crate::support::{model, request};

async fn text(engine: &NativeEngine, request: ChatRequest) -> Result<String, EngineError> {
    let mut stream = engine.chat(request).await?;
    let mut text = String::new();
    while let Some(event) = stream.events.recv().await {
        match event? {
            ChatEvent::Delta { text: more, .. } => text.push_str(&more),
            ChatEvent::Done { .. } => return Ok(text),
            ChatEvent::Finished { .. } => {}
        }
    }
    Err(EngineError::Stopped)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_that_lose_their_cache_still_give_their_answers() {
    let roomy = NativeEngine::start(model(), NativeOptions::default()).unwrap();
    // four sequences of about 110 tokens need 16 pages of 32; there are 6
    let tight = NativeOptions {
        kv_tokens_max: 192,
        ..NativeOptions::default()
    };
    let tight = NativeEngine::start(model(), tight).unwrap();
    let questions = [
        "What is copper?",
        "Say hello.",
        "Name a river.",
        "What is rain?",
    ];
    let sampled = |question: &str| ChatRequest {
        sampling: SamplingParams {
            seed: 3,
            ..SamplingParams::default()
        },
        ..request(question, 70)
    };
    let answers = questions.map(|question| text(&tight, sampled(question)));
    let answers = futures::future::join_all(answers).await;
    for (question, answer) in questions.iter().zip(answers) {
        assert_eq!(
            answer.unwrap(),
            text(&roomy, sampled(question)).await.unwrap()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adapter_memory_is_bounded_and_given_back() {
    let model = model();
    let [first, second] = [package(&model.config, 1), package(&model.config, 2)];
    let size = second.safetensors.len() as u64;
    let options = NativeOptions {
        adapter_bytes_max: 4 * size,
        ..NativeOptions::default()
    };
    let engine = NativeEngine::start(model, options).unwrap();
    let info = engine.load_adapter(first.clone()).await.unwrap();
    let options = NativeOptions {
        adapter_bytes_max: info.bytes,
        ..NativeOptions::default()
    };
    let small = NativeEngine::start(crate::support::model(), options).unwrap();
    small.load_adapter(first.clone()).await.unwrap();
    small.pin_adapters(&[first.digest]);
    let found = small.load_adapter(second.clone()).await.unwrap_err();
    assert!(
        matches!(found, EngineError::AdapterMemory { free: 0, budget, .. } if budget == info.bytes)
    );
    assert_eq!(small.adapters(), std::slice::from_ref(&info));
    small.unload_adapter(&first.digest).await.unwrap();
    assert_eq!(small.capacity().adapter_bytes, 0);
    small.load_adapter(first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_finishes_what_runs_and_refuses_the_rest() {
    let engine = NativeEngine::start(model(), NativeOptions::default()).unwrap();
    let mut stream = engine.chat(request("Count.", 40)).await.unwrap();
    engine.shutdown().await;
    assert_eq!(
        engine.chat(request("Hello", 2)).await.unwrap_err(),
        EngineError::Stopped
    );
    let mut done = None;
    while let Some(event) = stream.events.recv().await {
        if let ChatEvent::Done { usage } = event.unwrap() {
            done = Some(usage.completion_tokens);
        }
    }
    assert_eq!(done, Some(40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_dropped_tells_its_streams() {
    let engine = NativeEngine::start(model(), NativeOptions::default()).unwrap();
    let mut stream = engine.chat(request("Count.", 4000)).await.unwrap();
    stream.events.recv().await.unwrap().unwrap();
    drop(engine);
    let mut last = None;
    while let Some(event) = stream.events.recv().await {
        last = Some(event);
    }
    assert_eq!(last, Some(Err(EngineError::Stopped)));
}
