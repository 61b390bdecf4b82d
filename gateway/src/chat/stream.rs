//! An answer as server-sent events.
//!
//! The record is durable before `[DONE]` is sent, so that a vote right after
//! the stream finds its answer. A client that goes away ends the sequence. No
//! `id:` and no `retry:` lines are ever sent, so that the keep-alive comment is
//! safe.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};
use engine::{ChatEvent, ChatStream, EngineError};
use futures::StreamExt as _;
use openapi::ChatChunkChoice;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::answer::{Answer, End};
use super::events::{delta, finish_delta, role_delta, usage};
use crate::errors::ApiError;

/// Events that wait for a slow client; beyond that the engine waits.
const EVENTS_WAITING_MAX: usize = 64;
/// Silence after which a comment keeps the connection alive.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING: &[u8] = b": ping\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

pub(super) fn reply(
    mut response: HttpResponseBuilder,
    answer: Answer,
    stream: ChatStream,
    include_usage: bool,
) -> HttpResponse {
    let (send, receive) = mpsc::channel(EVENTS_WAITING_MAX);
    let tasks = answer.app.tasks.clone();
    tasks.spawn(
        Pump {
            answer,
            send,
            include_usage,
        }
        .run(stream),
    );
    response
        .content_type("text/event-stream")
        .insert_header(("cache-control", "no-cache"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(ReceiverStream::new(receive).map(Ok::<Bytes, Infallible>))
}

/// The client has gone.
struct Gone;

/// Moves events from the engine to the client.
struct Pump {
    answer: Answer,
    send: mpsc::Sender<Bytes>,
    include_usage: bool,
}

/// How the stream of events ended.
enum Ended {
    Complete(engine::Usage),
    Failed(EngineError),
}

impl Pump {
    async fn run(mut self, mut stream: ChatStream) {
        match self.pump(&mut stream).await {
            Ok(Ended::Complete(used)) => {
                self.answer.end(End::Complete(used)).await;
                // A client that has gone by now misses nothing that is kept.
                let _ = self.finish(&used).await;
            }
            Ok(Ended::Failed(error)) => {
                tracing::error!(id = %self.answer.id, %error, "a stream failed");
                self.answer.end(End::of_error(&error)).await;
                let _ = self.send_json(&ApiError::Engine(error).body()).await;
            }
            Err(Gone) => {
                // Frees the sequence before the record is written.
                drop(stream);
                tracing::info!(id = %self.answer.id, "the client went away");
                self.answer.end(End::Cancelled).await;
            }
        }
    }

    async fn pump(&mut self, stream: &mut ChatStream) -> Result<Ended, Gone> {
        for index in 0..self.answer.choices.len() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            self.send_choice(role_delta(index)).await?;
        }
        loop {
            let event = tokio::select! {
                event = stream.events.recv() => event,
                () = self.send.closed() => return Err(Gone),
                () = tokio::time::sleep(PING_INTERVAL) => {
                    self.send_bytes(Bytes::from_static(PING)).await?;
                    continue;
                }
            };
            match event {
                Some(Ok(event)) => {
                    if let Some(used) = self.answer.take(&event) {
                        return Ok(Ended::Complete(used));
                    }
                    self.send_event(&event).await?;
                }
                Some(Err(error)) => return Ok(Ended::Failed(error)),
                None => {
                    let what = "the engine ended a stream without saying so".to_owned();
                    return Ok(Ended::Failed(EngineError::Failed(what)));
                }
            }
        }
    }

    /// The end of a choice is told with the end of the answer, after the
    /// record: a client may vote as soon as it sees it.
    async fn send_event(&self, event: &ChatEvent) -> Result<(), Gone> {
        let ChatEvent::Delta {
            choice,
            text,
            tool_calls,
            logprobs,
        } = event
        else {
            return Ok(());
        };
        if text.is_empty() && tool_calls.is_empty() && logprobs.is_empty() {
            return Ok(());
        }
        let logprobs = self.answer.wants_logprobs.then_some(logprobs.as_slice());
        let calls = self.answer.call_deltas(*choice, tool_calls);
        self.send_choice(delta(*choice, text, calls, logprobs))
            .await
    }

    async fn finish(&self, used: &engine::Usage) -> Result<(), Gone> {
        for (index, choice) in self.answer.choices.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let reason = choice.reason.unwrap_or(engine::FinishReason::Stop);
            self.send_choice(finish_delta(index, reason)).await?;
        }
        if self.include_usage {
            let mut chunk = self.answer.chunk(Vec::new(), true);
            chunk.usage = Some(Some(usage(used)));
            self.send_json(&chunk).await?;
        }
        self.send_bytes(Bytes::from_static(DONE)).await
    }

    async fn send_choice(&self, choice: ChatChunkChoice) -> Result<(), Gone> {
        self.send_json(&self.answer.chunk(vec![choice], self.include_usage))
            .await
    }

    async fn send_json(&self, value: &impl Serialize) -> Result<(), Gone> {
        let mut event = b"data: ".to_vec();
        if let Err(error) = serde_json::to_writer(&mut event, value) {
            tracing::error!(%error, "an event could not be written");
            return Err(Gone);
        }
        event.extend_from_slice(b"\n\n");
        self.send_bytes(Bytes::from(event)).await
    }

    async fn send_bytes(&self, bytes: Bytes) -> Result<(), Gone> {
        self.send.send(bytes).await.map_err(|_| Gone)
    }
}
