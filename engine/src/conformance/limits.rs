//! Bounded queues, cancellation, and answers that do not depend on the batch.

use futures::future::try_join_all;

use super::support::{ask, request, until};
use super::{Violation, WAITING_MAX, expect};
use crate::api::{ChatRequest, Engine, EngineError};

pub(super) async fn run(engine: &dyn Engine) -> Result<(), Violation> {
    batched_equals_alone(engine).await?;
    full_queue(engine).await?;
    cancellation(engine).await
}

/// A request that does not end by itself for long.
fn endless(engine: &dyn Engine) -> ChatRequest {
    let max_tokens = engine.base().context_length / 2;
    ChatRequest {
        ignore_eos: true,
        top_logprobs: None,
        ..request("Count for ever.", max_tokens)
    }
}

async fn batched_equals_alone(engine: &dyn Engine) -> Result<(), Violation> {
    let long = format!("Repeat this: {}", "one two three four five ".repeat(30));
    let questions = [
        "What is copper?",
        "Say hello.",
        &long,
        "Name a river in France.",
    ];
    let mut alone = Vec::new();
    for question in questions {
        alone.push(ask(engine, request(question, 12)).await?.choices);
    }
    let together = questions.map(|question| ask(engine, request(question, 12)));
    for (together, alone) in try_join_all(together).await?.iter().zip(&alone) {
        expect(
            &together.choices == alone,
            "a batched row equals it alone",
            &together.choices,
        )?;
    }
    Ok(())
}

async fn full_queue(engine: &dyn Engine) -> Result<(), Violation> {
    let capacity = engine.capacity();
    let limits = (capacity.running_max, capacity.waiting_max);
    expect(
        capacity.waiting_max <= WAITING_MAX,
        "an engine with a short queue",
        limits,
    )?;
    let mut streams = Vec::new();
    let mut refused = None;
    for _ in 0..=capacity.running_max + capacity.waiting_max {
        match engine.chat(endless(engine)).await {
            Ok(stream) => streams.push(stream),
            Err(error) => refused = Some(error),
        }
    }
    let full = matches!(refused, Some(EngineError::QueueFull { waiting_max, .. }) if waiting_max == limits.1);
    expect(full, "a full queue refuses", refused)?;
    expect(
        streams.len() as u32 >= limits.1,
        "the queue has all its places",
        streams.len(),
    )?;
    drop(streams);
    until("dropping streams emptying the engine", || {
        let capacity = engine.capacity();
        capacity.running == 0 && capacity.waiting == 0
    })
    .await?;
    ask(engine, request("Hello", 2)).await.map(|_| ())
}

async fn cancellation(engine: &dyn Engine) -> Result<(), Violation> {
    let mut stream = engine.chat(endless(engine)).await?;
    stream.events.recv().await.ok_or(Violation::CutOff)??;
    until("a stream running", || engine.capacity().running == 1).await?;
    expect(
        engine.capacity().kv_cache_usage > 0.0,
        "a running stream uses cache",
        (),
    )?;
    drop(stream);
    until("a dropped stream's end", || engine.capacity().running == 0).await?;
    let usage = engine.capacity().kv_cache_usage;
    expect(usage == 0.0, "a dropped stream frees its cache", usage)
}
