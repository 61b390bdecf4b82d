//! The demo as a business system: it talks to the gateway over HTTP alone, as
//! any client would, and counts what it sends and what fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use serde_json::{Value, json};

use super::DemoError;

/// Requests sent and failed, by all tasks of the demo.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sent: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// An answer as a client sees it.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) id: String,
    pub(super) text: String,
    /// Whether the model ended it, rather than the token limit.
    pub(super) ended: bool,
    /// Which adapter version made it; `None` is the bare base.
    pub(super) adapter: Option<String>,
}

/// One chat request of the demo.
#[derive(Debug, Clone)]
pub(super) struct Ask<'a> {
    pub(super) model: &'a str,
    pub(super) user: &'a str,
    pub(super) prompt: &'a str,
    pub(super) max_tokens: u32,
    pub(super) stream: bool,
    /// Kept with the inference record.
    pub(super) metadata: Value,
}

/// A client of one gateway. Clones share the connection pool and the tally.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    admin_key: String,
    pub(super) tally: Arc<Tally>,
}

impl Client {
    pub(super) fn new(base: String, admin_key: String) -> Result<Self, DemoError> {
        let http = reqwest::Client::builder().build()?;
        Ok(Self {
            http,
            base,
            admin_key,
            tally: Arc::default(),
        })
    }

    /// Asks and waits for the whole answer.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, DemoError> {
        self.tally.sent.fetch_add(1, Ordering::Relaxed);
        let answer = self.try_ask(ask).await;
        if answer.is_err() {
            self.tally.failed.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    async fn try_ask(&self, ask: &Ask<'_>) -> Result<Answer, DemoError> {
        let body = json!({
            "model": ask.model,
            "user": ask.user,
            "messages": [{"role": "user", "content": ask.prompt}],
            "max_completion_tokens": ask.max_tokens,
            "temperature": 0,
            "stream": ask.stream,
            "metadata": ask.metadata,
        });
        let url = format!("{}/v1/chat/completions", self.base);
        let response = accepted(self.http.post(url).json(&body).send().await?).await?;
        if ask.stream {
            read_stream(response).await
        } else {
            read_whole(response).await
        }
    }

    /// Sends a vote; returns once the gateway says that it is durable.
    pub(super) async fn vote(
        &self,
        inference_id: &str,
        rater: &str,
        metric_name: &str,
        value: Value,
        tags: Value,
    ) -> Result<(), DemoError> {
        let body = json!({
            "inference_id": inference_id,
            "rater": rater,
            "metric_name": metric_name,
            "value": value,
            "tags": tags,
        });
        let url = format!("{}/v1/feedback", self.base);
        accepted(self.http.post(url).json(&body).send().await?).await?;
        Ok(())
    }

    /// Whether the gateway answers requests.
    pub(super) async fn is_ready(&self) -> bool {
        let url = format!("{}/health/ready", self.base);
        matches!(self.http.get(url).send().await, Ok(response) if response.status().is_success())
    }

    /// Reads an admin resource.
    pub(super) async fn admin_get(&self, path: &str) -> Result<Value, DemoError> {
        let request = self
            .http
            .get(format!("{}{path}", self.base))
            .bearer_auth(&self.admin_key);
        Ok(accepted(request.send().await?).await?.json().await?)
    }
}

async fn accepted(response: reqwest::Response) -> Result<reqwest::Response, DemoError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let url = response.url().path().to_owned();
    let body = response.text().await.unwrap_or_default();
    Err(DemoError::Refused {
        url,
        status: status.as_u16(),
        body,
    })
}

async fn read_whole(response: reqwest::Response) -> Result<Answer, DemoError> {
    let body: Value = response.json().await?;
    let text = body["choices"][0]["message"]["content"].as_str();
    match (body["id"].as_str(), text) {
        (Some(id), Some(text)) => Ok(Answer {
            id: id.to_owned(),
            text: text.to_owned(),
            ended: body["choices"][0]["finish_reason"] == "stop",
            adapter: body["adapter_digest"].as_str().map(str::to_owned),
        }),
        _ => Err(DemoError::Protocol(format!(
            "an answer without id or content: {body}"
        ))),
    }
}

async fn read_stream(response: reqwest::Response) -> Result<Answer, DemoError> {
    let mut answer = Answer {
        id: String::new(),
        text: String::new(),
        ended: false,
        adapter: None,
    };
    let mut pending = Vec::new();
    let mut bytes = response.bytes_stream();
    while let Some(piece) = bytes.next().await {
        pending.extend_from_slice(&piece?);
        while let Some(end) = pending.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = pending.drain(..end + 2).collect();
            let event = String::from_utf8_lossy(&event);
            let Some(data) = event.trim_end().strip_prefix("data: ") else {
                continue;
            };
            if data == "[DONE]" {
                return Ok(answer);
            }
            take_chunk(data, &mut answer)?;
        }
    }
    Err(DemoError::Protocol(
        "a stream ended without [DONE]".to_owned(),
    ))
}

/// Adds one chunk to the answer; a chunk from another adapter than the first
/// chunk's is an error, since no token may come from a version not named.
fn take_chunk(data: &str, answer: &mut Answer) -> Result<(), DemoError> {
    let chunk: Value = serde_json::from_str(data)
        .map_err(|error| DemoError::Protocol(format!("a chunk that is no JSON: {error}")))?;
    if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
        return Err(DemoError::Protocol(format!("the stream failed: {error}")));
    }
    let adapter = chunk["adapter_digest"].as_str().map(str::to_owned);
    if answer.id.is_empty() {
        answer.id = chunk["id"].as_str().unwrap_or_default().to_owned();
        answer.adapter = adapter;
    } else if answer.adapter != adapter {
        return Err(DemoError::Protocol(
            "the adapter changed within a stream".to_owned(),
        ));
    }
    if chunk["choices"][0]["finish_reason"] == "stop" {
        answer.ended = true;
    }
    if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
        answer.text.push_str(text);
    }
    Ok(())
}
