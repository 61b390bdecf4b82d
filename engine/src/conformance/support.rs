//! Requests of the suite, and gathering what comes back.

use std::time::Duration;

use ids::AdapterDigest;

use super::{Violation, expect};
use crate::api::{
    ChatEvent, ChatMessage, ChatRequest, ChatStream, Engine, FinishReason, Role, TokenLogprob,
    Usage,
};
use crate::tools::ToolCallDelta;

const POLL: Duration = Duration::from_millis(5);
const POLLS_MAX: u32 = 4000;

/// A greedy request with log-probabilities.
pub(super) fn request(text: &str, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        top_logprobs: Some(3),
        ..ChatRequest::greedy(vec![ChatMessage::new(Role::User, text)], max_tokens)
    }
}

/// One finished choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Choice {
    pub(super) text: String,
    /// Names and arguments.
    pub(super) calls: Vec<(String, String)>,
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) reason: Option<FinishReason>,
}

/// Everything that a stream said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) choices: Vec<Choice>,
    pub(super) usage: Usage,
    pub(super) adapter: Option<AdapterDigest>,
}

/// Asks and gathers.
pub(super) async fn ask(engine: &dyn Engine, request: ChatRequest) -> Result<Answer, Violation> {
    let n = request.n;
    let stream = engine.chat(request).await?;
    gather(stream, n).await
}

/// Gathers a stream's events and checks their order.
pub(super) async fn gather(mut stream: ChatStream, n: u32) -> Result<Answer, Violation> {
    let mut choices = vec![Choice::default(); n as usize];
    while let Some(event) = stream.events.recv().await {
        match event? {
            ChatEvent::Delta {
                choice,
                text,
                tool_calls,
                logprobs,
            } => {
                let choice = choice_mut(&mut choices, choice)?;
                expect(
                    choice.reason.is_none(),
                    "no delta after a choice's end",
                    &text,
                )?;
                expect(
                    !text.is_empty() || !tool_calls.is_empty() || !logprobs.is_empty(),
                    "a delta says something",
                    "",
                )?;
                for call in tool_calls {
                    add_call(&mut choice.calls, call)?;
                }
                choice.text.push_str(&text);
                choice.logprobs.extend(logprobs);
            }
            ChatEvent::Finished { choice, reason } => {
                let choice = choice_mut(&mut choices, choice)?;
                expect(choice.reason.is_none(), "a choice ends once", reason)?;
                choice.reason = Some(reason);
            }
            ChatEvent::Done { usage } => {
                let open = choices.iter().filter(|c| c.reason.is_none()).count();
                expect(open == 0, "every choice ends before Done", open)?;
                expect(
                    usage.prompt_tokens == stream.prompt_tokens,
                    "one prompt length",
                    usage,
                )?;
                let next = stream.events.recv().await;
                expect(next.is_none(), "nothing follows Done", next)?;
                return Ok(Answer {
                    choices,
                    usage,
                    adapter: stream.adapter,
                });
            }
        }
    }
    Err(Violation::CutOff)
}

/// A name begins a call; what follows are its arguments.
fn add_call(calls: &mut Vec<(String, String)>, more: ToolCallDelta) -> Result<(), Violation> {
    if let Some(name) = more.name.clone() {
        calls.push((name, String::new()));
    }
    let is_last = more.index as usize + 1 == calls.len();
    expect(is_last, "calls come one after another", &more)?;
    if let Some((_, arguments)) = calls.last_mut() {
        arguments.push_str(&more.arguments);
    }
    Ok(())
}

fn choice_mut(choices: &mut [Choice], choice: u32) -> Result<&mut Choice, Violation> {
    let check = "choices are numbered below n";
    let found = choice.to_string();
    choices
        .get_mut(choice as usize)
        .ok_or(Violation::Expectation { check, found })
}

/// Waits until something holds.
pub(super) async fn until(what: &'static str, holds: impl Fn() -> bool) -> Result<(), Violation> {
    for _ in 0..POLLS_MAX {
        if holds() {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    Err(Violation::Timeout(what))
}
