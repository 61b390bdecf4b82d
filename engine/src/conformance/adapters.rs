//! Adapter versions: load, use, replace, unload, and their leases.

use futures::future::try_join_all;
use ids::{AdapterDigest, Sha256Digest};

use super::support::{ask, gather, request, until};
use super::{Fixture, Violation, expect, is_resident};
use crate::api::{AdapterPackage, ChatRequest, Engine, EngineError};

const QUESTION: &str = "Write one sentence about the sea.";

pub(super) async fn run(engine: &dyn Engine, fixture: &Fixture) -> Result<(), Violation> {
    let [first, second] = &fixture.adapters;
    load_twice(engine, first).await?;
    refusals(engine, fixture).await?;
    engine.load_adapter(second.clone()).await?;
    mixed_batch(engine, [first.digest, second.digest]).await?;
    engine.unload_adapter(&second.digest).await?;
    unload_in_use(engine, first).await?;
    replace(engine, fixture).await
}

fn with(digest: Option<AdapterDigest>, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        adapter: digest,
        ..request(QUESTION, max_tokens)
    }
}

async fn load_twice(engine: &dyn Engine, package: &AdapterPackage) -> Result<(), Violation> {
    let before = engine.capacity().adapter_bytes;
    let info = engine.load_adapter(package.clone()).await?;
    expect(
        info.digest == package.digest && info.accepts_requests,
        "a loaded adapter",
        &info,
    )?;
    let bytes = engine.capacity().adapter_bytes;
    expect(bytes == before + info.bytes, "its bytes are counted", bytes)?;
    let again = engine.load_adapter(package.clone()).await?;
    expect(
        again == info && engine.adapters() == [info],
        "a second load changes nothing",
        again,
    )?;
    let found = engine.capacity().adapter_bytes;
    expect(found == bytes, "nor is it counted twice", found)
}

/// Loads that fail leave what was there.
async fn refusals(engine: &dyn Engine, fixture: &Fixture) -> Result<(), Violation> {
    let before = (engine.adapters(), engine.capacity().adapter_bytes);
    let mut renamed = fixture.adapters[1].clone();
    renamed.digest = AdapterDigest(Sha256Digest::of(b"another"));
    for package in [renamed, fixture.misfit.clone()] {
        let digest = package.digest;
        let found = engine.load_adapter(package).await.err();
        let rejected = matches!(found, Some(EngineError::AdapterRejected(_)));
        expect(rejected, "a bad adapter is rejected", found)?;
        expect(!is_resident(engine, digest), "and is not resident", digest)?;
    }
    let after = (engine.adapters(), engine.capacity().adapter_bytes);
    expect(before == after, "a failed load changes nothing", after)
}

/// Rows with different adapters, or none, in one batch.
async fn mixed_batch(engine: &dyn Engine, digests: [AdapterDigest; 2]) -> Result<(), Violation> {
    let kinds = [None, Some(digests[0]), Some(digests[1])];
    let mut alone = Vec::new();
    for digest in kinds {
        let answer = ask(engine, with(digest, 12)).await?;
        expect(
            answer.adapter == digest,
            "the stream names its adapter",
            answer.adapter,
        )?;
        alone.push(answer.choices);
    }
    let different = alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2];
    expect(different, "adapters change answers", &alone)?;
    let order = [1, 0, 2, 1, 2, 0, 0];
    let together = order.map(|kind| ask(engine, with(kinds[kind], 12)));
    for (kind, together) in order.iter().zip(try_join_all(together).await?) {
        let equal = together.choices == alone[*kind];
        expect(
            equal,
            "a row of a mixed batch equals it alone",
            &together.choices,
        )?;
    }
    Ok(())
}

/// A running stream keeps its version; new requests do not get it.
async fn unload_in_use(engine: &dyn Engine, package: &AdapterPackage) -> Result<(), Violation> {
    let digest = package.digest;
    let long = || ChatRequest {
        ignore_eos: true,
        ..with(Some(digest), 48)
    };
    let expected = ask(engine, long()).await?.choices;
    let stream = engine.chat(long()).await?;
    engine.unload_adapter(&digest).await?;
    let info = engine.adapters();
    let leased = info
        .iter()
        .any(|i| i.digest == digest && i.leases > 0 && !i.accepts_requests);
    expect(
        leased,
        "an unloaded adapter in use stays for its lease",
        &info,
    )?;
    let found = engine.chat(with(Some(digest), 4)).await.err();
    expect(
        found == Some(EngineError::AdapterNotLoaded(digest)),
        "but is not for new ones",
        found,
    )?;
    let found = engine.unload_adapter(&digest).await.err();
    expect(
        found == Some(EngineError::AdapterNotLoaded(digest)),
        "unloading twice",
        found,
    )?;
    let answer = gather(stream, 1).await?;
    expect(
        answer.choices == expected,
        "a running stream keeps its version",
        &answer.choices,
    )?;
    until("the memory of an unloaded adapter being freed", || {
        !is_resident(engine, digest) && engine.capacity().adapter_bytes == 0
    })
    .await
}

async fn replace(engine: &dyn Engine, fixture: &Fixture) -> Result<(), Violation> {
    let [first, second] = &fixture.adapters;
    engine.load_adapter(first.clone()).await?;
    let failed = engine
        .replace_adapter(&first.digest, fixture.misfit.clone())
        .await;
    expect(failed.is_err(), "a misfit does not replace", &failed)?;
    ask(engine, with(Some(first.digest), 2)).await?;
    engine
        .replace_adapter(&first.digest, second.clone())
        .await?;
    ask(engine, with(Some(second.digest), 2)).await?;
    let digest = first.digest;
    until("a replaced adapter's end", || !is_resident(engine, digest)).await?;
    engine.unload_adapter(&second.digest).await?;
    until("the last adapter's end", || engine.adapters().is_empty()).await
}
