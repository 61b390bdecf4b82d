//! A request while its choices run: where its events go and what it has cost.

use std::sync::Arc;
use std::time::Instant;

use either::Either;
use engine::parts::{Lease, Read};
use engine::{ChatEvent, EngineError, FinishReason, TokenLogprob, Usage};
use indexmap::IndexMap;
use mistralrs::core::{Constraint, NormalRequest, RequestMessage};
use mistralrs::{CustomLogitsProcessor, Response, SamplingParams, StopTokens};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::admission::{Admission, Place};
use crate::choice::{Choice, ChoiceParts};
use crate::fair::Tenant;
use crate::instance::Instance;
use crate::loading::Version;
use crate::pictures::Pictures;
use crate::prompt::Prompt;

/// Responses of one sequence that may wait to be read: it is read as they come.
const RESPONSES_MAX: usize = 16;

/// The sending end of a request's events. Its channel has a place for every
/// event that the request can make, so sending never waits.
pub(crate) type EventSender = mpsc::Sender<Result<ChatEvent, EngineError>>;

/// What a request's choices share.
pub(crate) struct RequestState {
    events: EventSender,
    arrived: Instant,
    tenant: Tenant,
    admission: Arc<Admission>,
    progress: Mutex<Progress>,
}

struct Progress {
    choices_left: u32,
    usage: Usage,
    has_failed: bool,
}

impl RequestState {
    pub(crate) fn new(
        events: EventSender,
        arrived: Instant,
        admission: Arc<Admission>,
        tenant: Tenant,
        choices: u32,
        prompt_tokens: u32,
    ) -> Self {
        let usage = Usage {
            prompt_tokens,
            ..Usage::default()
        };
        Self {
            events,
            arrived,
            tenant,
            admission,
            progress: Mutex::new(Progress {
                choices_left: choices,
                usage,
                has_failed: false,
            }),
        }
    }

    /// The tokens that mistralrs made of a prompt with images: as many as were
    /// admitted, or there is no room for them.
    pub(crate) fn prompt(&self, tokens: usize) -> Result<(), EngineError> {
        let mut progress = self.progress.lock();
        let usage = &mut progress.usage;
        let (tokens, admitted) = (
            u32::try_from(tokens).unwrap_or(u32::MAX),
            usage.prompt_tokens,
        );
        if tokens > admitted {
            return Err(EngineError::Failed(format!(
                "the prompt has {tokens} tokens, and {admitted} were admitted"
            )));
        }
        usage.prompt_tokens = tokens;
        Ok(())
    }

    /// Whether nobody listens any more, or another choice has failed.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.events.is_closed() || self.progress.lock().has_failed
    }

    /// A token of a choice, and what became visible with it.
    pub(crate) fn token(&self, choice: u32, read: Read, logprobs: Vec<TokenLogprob>) {
        self.admission.generated(&self.tenant);
        let mut progress = self.progress.lock();
        if progress.usage.completion_tokens == 0 {
            progress.usage.time_to_first_token = self.arrived.elapsed();
        }
        progress.usage.completion_tokens += 1;
        drop(progress);
        let (text, tool_calls) = (read.text, read.calls);
        if !text.is_empty() || !tool_calls.is_empty() || !logprobs.is_empty() {
            self.send(Ok(ChatEvent::Delta {
                choice,
                text,
                tool_calls,
                logprobs,
            }));
        }
    }

    /// Ends a choice, and with the last one the request.
    pub(crate) fn finish(&self, choice: u32, reason: FinishReason) {
        self.send(Ok(ChatEvent::Finished { choice, reason }));
        let mut progress = self.progress.lock();
        progress.choices_left = progress.choices_left.saturating_sub(1);
        if progress.choices_left == 0 && !progress.has_failed {
            let usage = progress.usage;
            drop(progress);
            self.send(Ok(ChatEvent::Done { usage }));
        }
    }

    /// Ends the request with an error; only the first is told.
    pub(crate) fn fail(&self, error: EngineError) {
        let is_first = !std::mem::replace(&mut self.progress.lock().has_failed, true);
        if is_first {
            self.send(Err(error));
        }
    }

    fn send(&self, event: Result<ChatEvent, EngineError>) {
        // a closed channel is a cancelled request
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            tracing::error!("a request made more events than it can");
        }
    }
}

/// One choice on its way through an instance.
pub(crate) struct Run {
    pub(crate) instance: Arc<Instance>,
    #[expect(dead_code, reason = "held until the last event")]
    pub(crate) lease: Option<Lease<Version>>,
    pub(crate) prompt: Prompt,
    pub(crate) pictures: Option<Arc<Pictures>>,
    pub(crate) max_tokens: u32,
    pub(crate) ignore_eos: bool,
    pub(crate) request: Arc<RequestState>,
}

impl Run {
    /// Runs the choice to its end, or until nobody listens.
    pub(crate) async fn run(self, place: Place, choice: ChoiceParts) {
        let events = self.request.events.clone();
        tokio::select! {
            ended = self.compute(place, choice) => {
                if let Err(error) = ended {
                    self.request.fail(error);
                }
            }
            () = events.closed() => {}
        }
    }

    async fn compute(&self, mut place: Place, choice: ChoiceParts) -> Result<(), EngineError> {
        place.start().await?;
        let choice = Arc::new(Choice::new(choice, place));
        let (sender, mut responses) = mpsc::channel(RESPONSES_MAX);
        let request = self.normal_request(Arc::clone(&choice), sender);
        self.instance.submit(request).await?;
        while !choice.has_ended() {
            let failed = |error: &dyn std::fmt::Display| EngineError::Failed(error.to_string());
            match responses.recv().await {
                None if choice.has_ended() => break,
                None => return Err(failed(&"mistralrs ended a completion early")),
                Some(Response::InternalError(error) | Response::ValidationError(error)) => {
                    return Err(failed(&error));
                }
                Some(Response::CompletionModelError(error, _) | Response::ModelError(error, _)) => {
                    return Err(failed(&error));
                }
                // tokens come through the choice
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The prompt as mistralrs takes it: tokens, or with images the text of its one
    /// message, which its template writes as it is.
    fn messages(&self) -> RequestMessage {
        let (Some(text), Some(pictures)) = (&self.prompt.text, &self.pictures) else {
            return RequestMessage::CompletionTokens(self.prompt.tokens.clone());
        };
        let content = Either::Left(text.clone());
        RequestMessage::MultimodalChat {
            images: pictures.images.clone(),
            audios: Vec::new(),
            videos: Vec::new(),
            messages: vec![IndexMap::from([("content".to_owned(), content)])],
            enable_thinking: None,
            reasoning_effort: None,
        }
    }

    /// The sequence as mistralrs takes it: tokens in, and whatever the choice
    /// says.
    fn normal_request(
        &self,
        choice: Arc<Choice>,
        response: mpsc::Sender<Response>,
    ) -> NormalRequest {
        let stop = self.instance.stop_token.filter(|_| !self.ignore_eos);
        let sampling = SamplingParams {
            // the choice leaves one token, and so does this
            temperature: Some(0.0),
            stop_toks: stop.map(|id| StopTokens::Ids(vec![id])),
            max_len: Some(self.max_tokens as usize),
            ..SamplingParams::neutral()
        };
        let processor: Arc<dyn CustomLogitsProcessor> = choice;
        NormalRequest {
            messages: self.messages(),
            sampling_params: sampling,
            response,
            return_logprobs: false,
            // else a dropped response is only seen at the end
            is_streaming: true,
            id: 0,
            constraint: Constraint::None,
            suffix: None,
            tools: None,
            tool_choice: None,
            logits_processors: Some(vec![processor]),
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        }
    }
}
