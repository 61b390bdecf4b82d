//! Versions are swapped without a pause under running streams, and loads queue
//! up: no request fails, no answer changes, and memory stays bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::native::{NativeEngine, NativeOptions};
use engine::{ChatRequest, Engine, EngineError};
use ids::AdapterDigest;

use crate::support::{Told, adapters, ask, one_thread, request, tiny};

/// Streams at the same time, each with a name of its own.
const STREAMS: usize = 8;
const VERSIONS: u64 = 20;
const SWAPS: usize = 1000;
/// Loads that are asked for at once.
const LOADS: u64 = 24;

fn with(adapter: AdapterDigest, place: usize) -> ChatRequest {
    ChatRequest {
        adapter: Some(adapter),
        top_logprobs: Some(1),
        ..request(["hello there", "what is rain"][place % 2], 24)
    }
}

/// What a name leads to.
struct Name(Mutex<AdapterDigest>);

impl Name {
    fn get(&self) -> AdapterDigest {
        *self.0.lock().unwrap()
    }

    fn set(&self, version: AdapterDigest) {
        *self.0.lock().unwrap() = version;
    }
}

/// Asks for what the name leads to until `stop`, as a gateway does: anew where the
/// version has just gone.
async fn stream(
    engine: Arc<NativeEngine>,
    name: Arc<Name>,
    place: usize,
    stop: Arc<AtomicBool>,
) -> Vec<(AdapterDigest, Told)> {
    let mut all = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let version = name.get();
        match ask(engine.as_ref(), with(version, place)).await {
            Err(EngineError::AdapterNotLoaded(gone)) => assert_eq!(gone, version),
            told => all.push((version, told.unwrap())),
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_notices_a_thousand_swaps() {
    let packages = adapters(VERSIONS);
    let engine = Arc::new(NativeEngine::start(tiny(), one_thread()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let mut names = Vec::new();
    let mut streams = Vec::new();
    for (place, package) in packages[..STREAMS].iter().enumerate() {
        engine.load_adapter(package.clone()).await.unwrap();
        let name = Arc::new(Name(Mutex::new(package.digest)));
        let (engine, stop) = (Arc::clone(&engine), Arc::clone(&stop));
        streams.push(tokio::spawn(stream(engine, name.clone(), place, stop)));
        names.push(name);
    }
    for swap in 0..SWAPS {
        let new = &packages[(swap + STREAMS) % packages.len()];
        let name = &names[swap % STREAMS];
        let old = name.get();
        if (swap / STREAMS).is_multiple_of(2) {
            engine.load_adapter(new.clone()).await.unwrap();
            name.set(new.digest);
            engine.unload_adapter(&old).await.unwrap();
        } else {
            engine.replace_adapter(&old, new.clone()).await.unwrap();
            name.set(new.digest);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut told = Vec::new();
    for (place, stream) in streams.into_iter().enumerate() {
        let heard = stream.await.unwrap();
        assert!(!heard.is_empty(), "place {place} was never answered");
        told.extend(
            heard
                .into_iter()
                .map(|(version, told)| (version, place % 2, told)),
        );
    }
    let alone = NativeEngine::start(tiny(), one_thread()).unwrap();
    let mut known = BTreeMap::new();
    for package in &packages {
        alone.load_adapter(package.clone()).await.unwrap();
        for place in 0..2 {
            let told = ask(&alone, with(package.digest, place)).await.unwrap();
            known.insert((package.digest, place), told.choices);
        }
    }
    for (version, place, told) in &told {
        assert_eq!(told.choices, known[&(*version, *place)], "{version}");
    }
    let mut resident: Vec<_> = engine.adapters().iter().map(|info| info.digest).collect();
    resident.sort_unstable();
    let mut named: Vec<_> = names.iter().map(|name| name.get()).collect();
    named.sort_unstable();
    assert_eq!(resident, named, "what was withdrawn is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_loads_is_served_within_the_memory_of_three() {
    let packages = adapters(LOADS);
    let roomy = NativeEngine::start(tiny(), one_thread()).unwrap();
    let info = roomy.load_adapter(packages[0].clone()).await.unwrap();
    let options = NativeOptions {
        adapter_bytes_max: 3 * info.bytes,
        adapter_wait_max: Duration::from_secs(60),
        ..one_thread()
    };
    let engine = Arc::new(NativeEngine::start(tiny(), options).unwrap());
    let answered = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for package in packages {
        let (engine, answered) = (Arc::clone(&engine), Arc::clone(&answered));
        tasks.push(tokio::spawn(async move {
            loop {
                match ask(engine.as_ref(), with(package.digest, 0)).await {
                    Err(EngineError::AdapterNotLoaded(_)) => {
                        engine.load_adapter(package.clone()).await.unwrap();
                    }
                    told => {
                        told.unwrap();
                        break;
                    }
                }
            }
            answered.fetch_add(1, Ordering::Relaxed)
        }));
    }
    let mut most = 0;
    while answered.load(Ordering::Relaxed) < tasks.len() {
        let capacity = engine.capacity();
        assert!(capacity.adapter_bytes <= capacity.adapter_bytes_max);
        most = most.max(engine.adapters().len());
        tokio::time::sleep(Duration::from_millis(1)).await;
        if tasks.iter().all(tokio::task::JoinHandle::is_finished) {
            break;
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!((1..=3).contains(&most), "{most} were resident");
    let evictions = engine.capacity().adapter_evictions_total;
    assert!(evictions >= LOADS - 3, "{evictions}");
}
