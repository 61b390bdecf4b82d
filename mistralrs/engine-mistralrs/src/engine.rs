//! The engine as its callers see it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use async_trait::async_trait;
use engine::parts::{CLAIM_GRACE, Grammars, Lease, Residents, Sampler, TextStream, Vocabulary};
use engine::{
    AdapterInfo, AdapterPackage, BaseInfo, Capacity, ChatMessage, ChatRequest, ChatStream, Engine,
    EngineError,
};
use ids::AdapterDigest;
use model::ModelError;
use tokio::sync::mpsc;

use crate::admission::Admission;
use crate::base::Base;
use crate::choice::{Choice, ChoiceState};
use crate::instance::{Instance, Plan};
use crate::loading::{Loader, Version, run_blocking};
use crate::options::MistralOptions;
use crate::prompt::Prompts;
use crate::request::{RequestState, Run, events_max};

/// Versions that the default budget has room for: the stable one and a candidate.
const VERSIONS_DEFAULT: u64 = 2;

/// Serves one base model by `mistralrs`.
pub struct MistralEngine {
    info: BaseInfo,
    base: Arc<Instance>,
    vocabulary: Arc<dyn Vocabulary>,
    prompts: Arc<Prompts>,
    grammars: Grammars,
    admission: Arc<Admission>,
    loader: Arc<Loader>,
}

/// Why a model could not be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or folder is no model that can be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// mistralrs did not load it.
    #[error("mistralrs cannot serve it: {0}")]
    Load(String),
}

impl MistralEngine {
    /// Loads the GGUF file or the published folder at `path`. Takes long; not to
    /// be called from an async task.
    ///
    /// # Errors
    /// What is wrong with the files, or what mistralrs says of them.
    pub fn open(path: &Path, options: MistralOptions) -> Result<Self, OpenError> {
        let isq = options.isq.clone();
        let base = Arc::new(Base::open(path, isq.as_deref())?);
        let plan = Arc::new(Plan {
            base: Arc::clone(&base),
            options,
        });
        let opened = plan.open().map_err(OpenError::Load)?;
        let options = &plan.options;
        let model_max = u32::try_from(opened.instance.context_length).unwrap_or(u32::MAX);
        let budget = match options.adapter_bytes_max {
            Some(bytes) => bytes,
            None => base
                .instance_bytes(&base.all_merged(), isq.as_deref())?
                .saturating_mul(VERSIONS_DEFAULT),
        };
        Ok(Self {
            info: BaseInfo {
                name: base.name.clone(),
                digest: base.digest,
                context_length: options
                    .context_length_max
                    .map_or(model_max, |max| max.min(model_max)),
            },
            base: Arc::new(opened.instance),
            grammars: Grammars::new(Arc::clone(&opened.vocabulary)),
            vocabulary: opened.vocabulary,
            prompts: Arc::new(opened.prompts),
            admission: Admission::new(
                options.running_max,
                options.waiting_max,
                options.queue_wait_max,
            ),
            loader: Arc::new(Loader {
                versions: Residents::new(budget, CLAIM_GRACE),
                turn: tokio::sync::Mutex::default(),
                plan,
            }),
        })
    }

    fn versions(&self) -> &Arc<Residents<Version>> {
        &self.loader.versions
    }

    async fn encode(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, EngineError> {
        let (prompts, messages) = (Arc::clone(&self.prompts), messages.to_vec());
        run_blocking(move || prompts.encode(&messages)).await?
    }

    /// How many tokens a completion may have, or why there is no room.
    fn resolve_max_tokens(
        &self,
        prompt_tokens: u32,
        asked: Option<u32>,
    ) -> Result<u32, EngineError> {
        let context_length = self.info.context_length;
        let room = context_length.saturating_sub(prompt_tokens);
        let max_tokens = asked.unwrap_or(room.max(1));
        if max_tokens > room {
            return Err(EngineError::ContextOverflow {
                prompt_tokens,
                max_tokens,
                context_length,
            });
        }
        Ok(max_tokens)
    }

    fn check_biases(&self, request: &ChatRequest) -> Result<(), EngineError> {
        let vocab = self.vocabulary.len();
        let mut tokens = request.sampling.logit_bias.keys();
        match tokens.find(|&&token| token as usize >= vocab) {
            None => Ok(()),
            Some(token) => Err(EngineError::InvalidRequest {
                param: "logit_bias",
                reason: format!("token {token} is not in the vocabulary of {vocab}"),
            }),
        }
    }

    /// Starts the choices of an accepted request.
    async fn start(
        &self,
        request: ChatRequest,
        prompt: Vec<u32>,
        lease: Option<Lease<Version>>,
        arrived: Instant,
    ) -> Result<ChatStream, EngineError> {
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let max_tokens = self.resolve_max_tokens(prompt_tokens, request.max_tokens)?;
        let grammar = match request.constraint.clone() {
            Some(constraint) => Some(self.grammars.compile(constraint).await?),
            None => None,
        };
        let tokens = u64::from(prompt_tokens) + u64::from(max_tokens);
        let places = self.admission.queue(request.n, tokens)?;
        let (events, receiver) = mpsc::channel(events_max(request.n, max_tokens));
        let state = Arc::new(RequestState::new(
            events,
            arrived,
            Arc::clone(&self.admission),
            request.n,
            prompt_tokens,
        ));
        let instance = lease
            .as_ref()
            .map_or(&self.base, |lease| &lease.adapter().instance);
        for (choice, place) in (0..).zip(places) {
            let choice_state = ChoiceState {
                choice,
                sampler: Sampler::new(&request.sampling, choice, &prompt),
                grammar: grammar.as_ref().map(|grammar| grammar.fork()),
                text: TextStream::new(&request.stop),
                tokens_left: max_tokens,
                top_logprobs: request.top_logprobs,
                ignore_eos: request.ignore_eos,
                has_ended: false,
            };
            let choice = Choice::new(
                Arc::clone(&state),
                Arc::clone(&self.vocabulary),
                instance.stop_token,
                choice_state,
            );
            let run = Run {
                instance: Arc::clone(instance),
                lease: lease.clone(),
                place,
                prompt: prompt.clone(),
                max_tokens,
                ignore_eos: request.ignore_eos,
                choice: Arc::new(choice),
                request: Arc::clone(&state),
            };
            tokio::spawn(run.run());
        }
        self.admission
            .prompt_tokens
            .fetch_add(u64::from(prompt_tokens), Ordering::Relaxed);
        Ok(ChatStream {
            adapter: request.adapter,
            prompt_tokens,
            events: receiver,
        })
    }
}

#[async_trait]
impl Engine for MistralEngine {
    fn base(&self) -> &BaseInfo {
        &self.info
    }

    async fn count_prompt_tokens(&self, messages: &[ChatMessage]) -> Result<u32, EngineError> {
        Ok(u32::try_from(self.encode(messages).await?.len()).unwrap_or(u32::MAX))
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream, EngineError> {
        let arrived = Instant::now();
        request.check()?;
        self.check_biases(&request)?;
        // leased first: what is asked for now answers, whatever is unloaded meanwhile
        let lease = request
            .adapter
            .as_ref()
            .map(|digest| self.versions().lease(digest))
            .transpose()?;
        let prompt = self.encode(&request.messages).await?;
        self.start(request, prompt, lease, arrived).await
    }

    async fn load_adapter(&self, package: AdapterPackage) -> Result<AdapterInfo, EngineError> {
        let loader = Arc::clone(&self.loader);
        // a task of its own: what was begun ends, with its memory counted, even
        // if nobody waits for it any more
        let load = tokio::spawn(async move { loader.load(package).await });
        load.await
            .map_err(|error| EngineError::Failed(error.to_string()))?
    }

    fn pin_adapters(&self, digests: &[AdapterDigest]) {
        self.versions().pin(digests);
    }

    async fn unload_adapter(&self, digest: &AdapterDigest) -> Result<(), EngineError> {
        self.versions().withdraw(digest)
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.versions().list()
    }

    fn capacity(&self) -> Capacity {
        let (running, waiting, tokens) = self.admission.load();
        let running_max = self.admission.running_max();
        let tokens_max = u64::from(running_max) * u64::from(self.info.context_length);
        Capacity {
            running,
            waiting,
            waiting_max: self.admission.waiting_max(),
            running_max,
            // what running sequences may come to hold: the crate does not tell
            kv_cache_usage: tokens as f64 / tokens_max.max(1) as f64,
            kv_tokens_max: tokens_max,
            adapter_bytes: self.versions().bytes(),
            adapter_bytes_max: self.versions().budget(),
            adapter_evictions_total: self.versions().evictions(),
            prompt_tokens_total: self.admission.prompt_tokens.load(Ordering::Relaxed),
            generation_tokens_total: self.admission.generation_tokens.load(Ordering::Relaxed),
            ..Capacity::default()
        }
    }

    async fn shutdown(&self) {
        self.admission.drain().await;
    }
}
