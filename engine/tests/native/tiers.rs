//! More adapters than fit: who goes, who waits, and that no answer changes.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::native::{NativeEngine, NativeOptions};
use engine::{AdapterPackage, ChatRequest, Engine, EngineError, Wait};
use ids::AdapterDigest;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::{Told, adapters, ask, one_thread, request, tiny, until};

/// Adapters that exist.
const REGISTERED: u64 = 40;
/// Requests of the traffic, and how many of them at the same time.
const REQUESTS: usize = 400;
const AT_ONCE: usize = 12;

/// An engine with room for `count` of them, and for the file of a load.
async fn room_for(count: u64, package: &AdapterPackage, wait: Duration) -> NativeEngine {
    let roomy = NativeEngine::start(tiny(), one_thread()).unwrap();
    let bytes = roomy.load_adapter(package.clone()).await.unwrap().bytes;
    let options = NativeOptions {
        adapter_bytes_max: count * bytes,
        adapter_wait_max: wait,
        running_max: 8,
        ..one_thread()
    };
    NativeEngine::start(tiny(), options).unwrap()
}

fn with(adapter: AdapterDigest, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        adapter: Some(adapter),
        top_logprobs: Some(1),
        ..request("hello there", max_tokens)
    }
}

fn resident(engine: &NativeEngine) -> Vec<AdapterDigest> {
    engine.adapters().iter().map(|info| info.digest).collect()
}

/// As a gateway does: loads what is not resident, and asks again.
async fn ask_registered(engine: &NativeEngine, package: &AdapterPackage) -> Told {
    loop {
        match ask(engine, with(package.digest, 8)).await {
            Err(EngineError::AdapterNotLoaded(_)) => {
                engine.load_adapter(package.clone()).await.unwrap();
            }
            told => return told.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_zipf_traffic_nobody_is_refused_and_no_answer_changes() {
    use futures::StreamExt as _;
    let packages = adapters(REGISTERED);
    let engine = room_for(5, &packages[0], Duration::from_secs(60)).await;
    let roomy = NativeEngine::start(tiny(), one_thread()).unwrap();
    let mut alone = BTreeMap::new();
    for package in &packages {
        roomy.load_adapter(package.clone()).await.unwrap();
        let told = ask(&roomy, with(package.digest, 8)).await.unwrap();
        alone.insert(package.digest, told.choices);
    }
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let weights: Vec<f64> = (1..=packages.len()).map(|rank| 1.0 / rank as f64).collect();
    let total: f64 = weights.iter().sum();
    let mut zipf = || {
        let mut left = random.random_range(0.0..total);
        weights
            .iter()
            .position(|weight| {
                left -= weight;
                left < 0.0
            })
            .unwrap_or(0)
    };
    let order: Vec<&AdapterPackage> = (0..REQUESTS).map(|_| &packages[zipf()]).collect();
    let mut answers = futures::stream::iter(order)
        .map(|package| async { (package.digest, ask_registered(&engine, package).await) })
        .buffer_unordered(AT_ONCE);
    let mut answered = 0;
    while let Some((digest, told)) = answers.next().await {
        assert_eq!(told.choices, alone[&digest]);
        let capacity = engine.capacity();
        assert!(
            capacity.adapter_bytes <= capacity.adapter_bytes_max,
            "{capacity:?}"
        );
        answered += 1;
    }
    assert_eq!(answered, REQUESTS);
    assert!(engine.capacity().adapter_evictions_total > 20);
    // a lease ends with the step that told of the answer's end, not before it
    let in_use = || engine.adapters().iter().any(|info| info.leases > 0);
    let unused = async {
        while in_use() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), unused)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_unused_goes_and_what_is_pinned_or_in_use_stays() {
    let packages = adapters(5);
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|i: usize| packages[i].digest);
    let engine = room_for(3, &packages[0], Duration::from_secs(60)).await;
    engine.pin_adapters(&[a]);
    for package in &packages[..3] {
        engine.load_adapter(package.clone()).await.unwrap();
        ask(&engine, with(package.digest, 1)).await.unwrap();
    }
    ask(&engine, with(b, 1)).await.unwrap();
    engine.load_adapter(packages[3].clone()).await.unwrap();
    let mut expected = vec![a, b, d];
    expected.sort_unstable();
    assert_eq!(
        resident(&engine),
        expected,
        "c was unused for longest: a is pinned"
    );
    let found = ask(&engine, with(c, 1)).await.err();
    assert_eq!(found, Some(EngineError::AdapterNotLoaded(c)));
    ask(&engine, with(d, 1)).await.unwrap();
    let stream = engine.chat(with(b, 200)).await.unwrap();
    engine.load_adapter(packages[4].clone()).await.unwrap();
    let mut expected = vec![a, b, e];
    expected.sort_unstable();
    assert_eq!(resident(&engine), expected, "b was in use");
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_waits_for_what_is_in_use_and_not_for_ever() {
    let packages = adapters(2);
    let limit = Duration::from_millis(50);
    let engine = room_for(1, &packages[0], limit).await;
    engine.load_adapter(packages[0].clone()).await.unwrap();
    // one after the other these make 50,000 tokens, which takes far longer
    let mut streams = Vec::new();
    for _ in 0..28 {
        let request = ChatRequest {
            n: 8,
            ..with(packages[0].digest, 230)
        };
        streams.push(engine.chat(request).await.unwrap());
    }
    let wait = Wait::AdapterMemory;
    let found = engine.load_adapter(packages[1].clone()).await;
    assert_eq!(found, Err(EngineError::TimedOut { wait, limit }));
    assert_eq!(resident(&engine), [packages[0].digest]);
    let load = engine.load_adapter(packages[1].clone());
    let free = async {
        tokio::time::sleep(limit / 5).await;
        drop(streams);
    };
    let (loaded, ()) = tokio::join!(load, free);
    assert_eq!(loaded.unwrap().digest, packages[1].digest);
    assert_eq!(resident(&engine), [packages[1].digest]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_the_batch_and_not_for_ever() {
    let limit = Duration::from_millis(50);
    let options = NativeOptions {
        running_max: 1,
        queue_wait_max: limit,
        ..one_thread()
    };
    let engine = NativeEngine::start(tiny(), options).unwrap();
    let mut streams = Vec::new();
    for _ in 0..28 {
        let request = ChatRequest {
            n: 8,
            ..request("hello there", 230)
        };
        streams.push(engine.chat(request).await.unwrap());
    }
    let found = ask(&engine, request("hello", 4)).await.err();
    let wait = Wait::Batch;
    assert_eq!(found, Some(EngineError::TimedOut { wait, limit }));
    // who has started is not cut short, and who has not is gone
    until(|| engine.capacity().waiting < 8).await;
    let first = streams.remove(0);
    drop(streams);
    drop(first);
    until(|| engine.capacity().running == 0).await;
    ask(&engine, request("hello", 4)).await.unwrap();
}
