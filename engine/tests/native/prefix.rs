//! The prefix cache and its bounds on a tiny model: what is found, what never
//! is, and that not one bit of an answer changes by it.

use engine::native::{NativeEngine, NativeOptions};
use engine::{ChatRequest, Engine, EngineError};
use ids::AdapterDigest;
use model::kernels::PAGE_TOKENS;

use crate::conformance::package;
use crate::support::{Told, ask, request, tiny, until};

fn start(options: NativeOptions) -> NativeEngine {
    NativeEngine::start(tiny(), options).unwrap()
}

fn options() -> NativeOptions {
    NativeOptions {
        threads: 1,
        prefill_chunk_tokens: 24,
        ..NativeOptions::default()
    }
}

/// A question of several pages, with its log-probabilities.
fn long(start: &str, adapter: Option<AdapterDigest>) -> ChatRequest {
    ChatRequest {
        adapter,
        top_logprobs: Some(2),
        ..request(&format!("{start} {}", "one two three ".repeat(4)), 12)
    }
}

/// What the whole pages before a prompt's last token hold.
fn shareable(told: &Told) -> u32 {
    let page = PAGE_TOKENS as u32;
    (told.usage.prompt_tokens - 1) / page * page
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_is_found_and_changes_no_bit() {
    let (with, without) = (
        start(options()),
        start(NativeOptions {
            prefix_cache: false,
            ..options()
        }),
    );
    let alone = ask(&without, long("a", None)).await.unwrap();
    assert!(shareable(&alone) >= 64, "{:?}", alone.usage);
    let again = ask(&without, long("a", None)).await.unwrap();
    assert_eq!(
        (again.usage.cached_tokens, &again.choices),
        (0, &alone.choices)
    );
    let first = ask(&with, long("a", None)).await.unwrap();
    assert_eq!(
        (first.usage.cached_tokens, &first.choices),
        (0, &alone.choices)
    );
    let second = ask(&with, long("a", None)).await.unwrap();
    assert_eq!(second.usage.cached_tokens, shareable(&second));
    assert_eq!(second.choices, alone.choices);
    let capacity = with.capacity();
    let (prompt, found) = (first.usage.prompt_tokens, second.usage.cached_tokens);
    assert_eq!(capacity.prefix_cache_queries_total, u64::from(2 * prompt));
    assert_eq!(capacity.prefix_cache_hits_total, u64::from(found));
    assert_eq!(capacity.prompt_tokens_total, u64::from(2 * prompt - found));
    assert_eq!(without.capacity().prefix_cache_hits_total, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_version_finds_anothers_prefix_and_the_return_to_one_does() {
    let config = tiny().config.clone();
    let packages = [package(&config, 1), package(&config, 2)];
    let [a, b] = [packages[0].digest, packages[1].digest];
    let fresh = start(NativeOptions {
        prefix_cache: false,
        ..options()
    });
    let engine = start(options());
    for package in &packages {
        fresh.load_adapter(package.clone()).await.unwrap();
        engine.load_adapter(package.clone()).await.unwrap();
    }
    let order = [
        (Some(a), false),
        (Some(b), false),
        (None, false),
        (Some(a), true),
        (None, true),
        (Some(b), true),
    ];
    for (adapter, hits) in order {
        let told = ask(&engine, long("x", adapter)).await.unwrap();
        let expected = if hits { shareable(&told) } else { 0 };
        assert_eq!(told.usage.cached_tokens, expected, "{adapter:?}");
        let alone = ask(&fresh, long("x", adapter)).await.unwrap();
        assert_eq!(told.choices, alone.choices, "{adapter:?}");
    }
    // another version under the first one's name: its digest is another, so
    // nothing is found; the first one's pages are there when it returns
    let reloaded = package(&config, 3);
    engine.replace_adapter(&a, reloaded.clone()).await.unwrap();
    let told = ask(&engine, long("x", Some(reloaded.digest)))
        .await
        .unwrap();
    assert_eq!(told.usage.cached_tokens, 0);
    engine.load_adapter(packages[0].clone()).await.unwrap();
    let told = ask(&engine, long("x", Some(a))).await.unwrap();
    assert_eq!(told.usage.cached_tokens, shareable(&told));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn choices_and_neighbours_compute_a_shared_prompt_once() {
    let engine = start(options());
    let four = ChatRequest {
        n: 4,
        ..long("a", None)
    };
    let told = ask(&engine, four).await.unwrap();
    assert_eq!(
        told.usage.cached_tokens, 0,
        "the first choice found nothing"
    );
    assert!(told.choices.iter().all(|choice| *choice == told.choices[0]));
    let (prompt, shared) = (
        u64::from(told.usage.prompt_tokens),
        u64::from(shareable(&told)),
    );
    let capacity = engine.capacity();
    assert_eq!(capacity.prefix_cache_queries_total, 4 * prompt);
    assert_eq!(capacity.prefix_cache_hits_total, 3 * shared);
    assert_eq!(capacity.prompt_tokens_total, 4 * prompt - 3 * shared);

    let requests = (0..6).map(|_| ask(&engine, long("b", None)));
    let answers = futures::future::try_join_all(requests).await.unwrap();
    assert!(
        answers
            .iter()
            .all(|told| told.choices == answers[0].choices)
    );
    let computed = engine.capacity().prompt_tokens_total - capacity.prompt_tokens_total;
    let prompt = u64::from(answers[0].usage.prompt_tokens);
    assert_eq!(
        computed,
        prompt + 5 * (prompt - u64::from(shareable(&answers[0])))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_pressure_pages_are_evicted_and_sequences_resumed_exactly() {
    let roomy = start(NativeOptions {
        prefix_cache: false,
        ..options()
    });
    let page_bytes = roomy.capacity().kv_bytes_max / (roomy.capacity().kv_tokens_max / 32);
    let tight = start(NativeOptions {
        kv_bytes_max: Some(8 * page_bytes + page_bytes / 2),
        ..options()
    });
    assert_eq!(tight.capacity().kv_tokens_max, 8 * 32);
    assert_eq!(tight.capacity().kv_bytes_max, 8 * page_bytes);
    let questions: Vec<ChatRequest> = (0..9)
        .map(|n| ChatRequest {
            max_tokens: Some(70),
            ..long(["a", "b", "c"][n / 3], None)
        })
        .collect();
    let answers = questions
        .iter()
        .map(|question| ask(&tight, question.clone()));
    let answers = futures::future::try_join_all(answers).await.unwrap();
    for (question, told) in questions.iter().zip(&answers) {
        let alone = ask(&roomy, question.clone()).await.unwrap();
        assert_eq!(told.choices, alone.choices);
    }
    let capacity = tight.capacity();
    assert!(capacity.kv_bytes <= capacity.kv_bytes_max, "{capacity:?}");
    assert!(capacity.preemptions_total > 0, "{capacity:?}");
    assert!(capacity.prefix_cache_hits_total > 0, "{capacity:?}");
    assert!((capacity.kv_cache_usage - 0.0).abs() < 1e-9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_sequence_frees_its_pages_within_a_step_and_they_are_found_again() {
    let engine = start(options());
    let endless = || ChatRequest {
        max_tokens: Some(180),
        ..long("a", None)
    };
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = engine.chat(endless()).await.unwrap();
        stream.events.recv().await.unwrap().unwrap();
        streams.push(stream);
    }
    drop(streams);
    let before = engine.steps();
    until(|| engine.capacity().running == 0).await;
    // the step that was running, and the one that found them gone
    assert!(engine.steps() - before <= 2);
    assert!((engine.capacity().kv_cache_usage - 0.0).abs() < 1e-9);
    let told = ask(&engine, long("a", None)).await.unwrap();
    assert_eq!(told.usage.cached_tokens, shareable(&told));
}

#[test]
fn a_budget_of_less_than_a_page_is_refused() {
    let options = NativeOptions {
        kv_bytes_max: Some(100),
        ..options()
    };
    let found = NativeEngine::start(tiny(), options).err();
    assert!(
        matches!(&found, Some(EngineError::Failed(reason)) if reason.contains("kv_bytes_max is 100")),
        "{found:?}"
    );
}
