//! Tenants share one engine: places in the queue, and who is next.

use std::time::Duration;

use engine::native::{NativeEngine, NativeOptions};
use engine::{ChatRequest, Engine as _, EngineError};
use ids::TenantId;

use crate::conformance::package;
use crate::support::{ask, request, tiny, until};

fn of(tenant: &str, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        tenant: Some(TenantId::new(tenant).unwrap()),
        ..request("hello there", max_tokens)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_cannot_fill_the_queue() {
    let options = NativeOptions {
        threads: 1,
        running_max: 1,
        waiting_max: 6,
        waiting_per_tenant_max: Some(4),
        ..NativeOptions::default()
    };
    let engine = NativeEngine::start(tiny(), options).unwrap();
    let running = engine.chat(of("a", 230)).await.unwrap();
    until(|| engine.capacity().running == 1 && engine.capacity().waiting == 0).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(engine.chat(of("a", 230)).await.unwrap());
    }
    let found = engine.chat(of("a", 230)).await.err();
    let full = EngineError::TenantQueueFull {
        waiting: 4,
        waiting_max: 4,
    };
    assert_eq!(found, Some(full));
    // several completions are all queued or none
    let two = ChatRequest {
        n: 2,
        ..of("b", 230)
    };
    let others = engine.chat(two.clone()).await.unwrap();
    let found = engine.chat(of("c", 230)).await.err();
    let full = EngineError::QueueFull {
        waiting: 6,
        waiting_max: 6,
    };
    assert_eq!(found, Some(full));
    let capacity = engine.capacity();
    assert_eq!((capacity.waiting, capacity.waiting_tenants), (6, 2));
    assert_eq!(capacity.waiting_per_tenant_max, 4);
    // what is dropped gives its places back
    drop((running, streams, others));
    until(|| engine.capacity().running == 0 && engine.capacity().waiting == 0).await;
    assert_eq!(engine.capacity().waiting_tenants, 0);
    ask(&engine, of("a", 2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_gets_its_room_however_many_ask_for_what_is_resident() {
    let packages = [package(&tiny().config, 0), package(&tiny().config, 3)];
    let options = NativeOptions {
        threads: 1,
        ..NativeOptions::default()
    };
    let roomy = NativeEngine::start(tiny(), options.clone()).unwrap();
    let bytes = roomy.load_adapter(packages[0].clone()).await.unwrap().bytes;
    let options = NativeOptions {
        adapter_bytes_max: bytes,
        adapter_wait_max: Duration::from_secs(60),
        ..options
    };
    let engine = NativeEngine::start(tiny(), options).unwrap();
    engine.load_adapter(packages[0].clone()).await.unwrap();
    // always one that runs and one that follows, so that nothing is ever unused
    let resident = ChatRequest {
        adapter: Some(packages[0].digest),
        ..of("busy", 30)
    };
    let busy = async {
        let mut last = engine.chat(resident.clone()).await.unwrap();
        let mut asked = 0;
        loop {
            asked += 1;
            let next = match engine.chat(resident.clone()).await {
                Err(EngineError::AdapterNotLoaded(_)) => return asked,
                next => next.unwrap(),
            };
            while let Some(event) = last.events.recv().await {
                event.unwrap();
            }
            last = next;
        }
    };
    let (asked, loaded) = tokio::join!(busy, engine.load_adapter(packages[1].clone()));
    assert_eq!(loaded.unwrap().digest, packages[1].digest);
    // 64 pass by, after those that were asked before the load waited for room
    assert!((64..1000).contains(&asked), "{asked}");
}
