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
        waiting_max: 16,
        waiting_per_tenant_max: Some(8),
        ..NativeOptions::default()
    };
    let engine = NativeEngine::start(tiny(), options).unwrap();
    // one completion after the other: more than a thousand steps for each request
    let eight = |tenant| ChatRequest {
        n: 8,
        ..of(tenant, 230)
    };
    let first = engine.chat(eight("a")).await.unwrap();
    let found = engine.chat(eight("a")).await.err();
    let is_full = matches!(
        found,
        Some(EngineError::TenantQueueFull { waiting, waiting_max: 8 }) if waiting > 0
    );
    assert!(is_full, "{found:?}");
    let others = engine.chat(eight("b")).await.unwrap();
    assert_eq!(engine.capacity().waiting_per_tenant_max, 8);
    // what is dropped gives its places back
    drop((first, others));
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
    // 64 pass it by at most, and those that were asked before it waited
    assert!(asked < 1000, "{asked}");
}
