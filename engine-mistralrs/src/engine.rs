//! The engine as its callers see it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use engine::parts::{
    Beginning, CLAIM_GRACE, Completion, Encoders, GrammarState, Grammars, Lease, Residents,
    Vocabulary, events_max,
};
use engine::{
    AdapterInfo, AdapterPackage, BaseInfo, Capacity, ChatMessage, ChatRequest, ChatStream, Engine,
    EngineError, Image, ToolUse,
};
use ids::AdapterDigest;
use model::ModelError;
use tokio::sync::mpsc;

use crate::admission::{Admission, Demand, Limits};
use crate::base::Base;
use crate::choice::ChoiceParts;
use crate::instance::{Instance, Plan};
use crate::loading::{Loader, Version};
use crate::options::MistralOptions;
use crate::pictures::{PICTURES_BYTES_MAX, PictureMemory, Pictures};
use crate::prompt::{Prompt, Prompts};
use crate::request::{RequestState, Run};

/// Versions that the default budget has room for: the stable one and a candidate.
const VERSIONS_DEFAULT: u64 = 2;

/// The bias of a token that is never chosen.
const NEVER: f32 = -1e9;

/// Serves one base model by `mistralrs`.
pub struct MistralEngine {
    info: BaseInfo,
    base: Arc<Instance>,
    vocabulary: Arc<dyn Vocabulary>,
    prompts: Arc<Prompts>,
    encoders: Encoders,
    /// Where images are decoded: prompts do not wait for those.
    lookers: Encoders,
    pictures: Arc<PictureMemory>,
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
        let base = Arc::new(Base::open(path, &options)?);
        if let Some(reason) = base.unserved() {
            return Err(OpenError::Load(reason));
        }
        let plan = Arc::new(Plan {
            base: Arc::clone(&base),
            options,
        });
        let opened = plan.open().map_err(OpenError::Load)?;
        let options = &plan.options;
        let sequences_max = opened.instance.sequences_max;
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
                takes_images: opened.prompts.sight().is_some(),
            },
            base: Arc::new(opened.instance),
            grammars: Grammars::new(Arc::clone(&opened.vocabulary)),
            vocabulary: opened.vocabulary,
            prompts: Arc::new(opened.prompts),
            encoders: Encoders::default(),
            lookers: Encoders::default(),
            pictures: PictureMemory::new(PICTURES_BYTES_MAX),
            admission: Admission::new(Limits {
                running_max: sequences_max,
                waiting_max: options.waiting_max,
                waiting_per_tenant_max: options
                    .waiting_per_tenant_max
                    .unwrap_or(options.waiting_max),
                wait_max: options.queue_wait_max,
            }),
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

    async fn encode(
        &self,
        messages: &[ChatMessage],
        tools: Option<&ToolUse>,
    ) -> Result<Prompt, EngineError> {
        self.info.check_images(messages)?;
        let (prompts, messages) = (Arc::clone(&self.prompts), messages.to_vec());
        let tools = tools.cloned();
        let encode = move || prompts.encode(&messages, tools.as_ref());
        self.encoders.run(encode).await?
    }

    /// The images of a conversation as the model takes them, in so many bytes. Here
    /// ends what cannot be decoded, before anything is queued.
    async fn look(
        &self,
        request: &ChatRequest,
        bytes: u64,
    ) -> Result<Option<Arc<Pictures>>, EngineError> {
        let messages = request.messages.iter();
        let images: Vec<Image> = messages.flat_map(|m| m.images.clone()).collect();
        let Some(sight) = self.prompts.sight().filter(|_| !images.is_empty()) else {
            return Ok(None);
        };
        // what would be refused then is not worth the work
        self.admission.check(&request.tenant, request.n)?;
        let reserved = self.pictures.reserve(&request.tenant, bytes)?;
        let sight = Arc::clone(sight);
        let see = move || images.iter().map(|image| sight.see(image)).collect();
        let images: Result<_, EngineError> = self.lookers.run(see).await?;
        Ok(Some(Arc::new(Pictures {
            images: images?,
            _reserved: reserved,
        })))
    }

    /// Starts the choices of an accepted request.
    fn start(&self, accepted: Accepted) -> Result<ChatStream, EngineError> {
        let Accepted {
            request,
            prompt,
            pictures,
            demand,
            lease,
            grammar,
            arrived,
        } = accepted;
        let places = self.admission.queue(&request.tenant, request.n, demand)?;
        let (events, receiver) = mpsc::channel(events_max(request.n, demand.max_tokens));
        let state = Arc::new(RequestState::new(
            events,
            arrived,
            Arc::clone(&self.admission),
            request.tenant.clone(),
            request.n,
            demand.prompt_tokens,
        ));
        let instance = lease
            .as_ref()
            .map_or(&self.base, |lease| &lease.adapter().instance);
        for (number, place) in (0..).zip(places) {
            let completion = Completion::new(Beginning {
                request: &request,
                choice: number,
                prompt: &prompt.tokens,
                max_tokens: demand.max_tokens,
                grammar: grammar.clone(),
                tool_markup: self.prompts.tool_markup(),
            });
            let choice = ChoiceParts {
                request: Arc::clone(&state),
                number,
                vocabulary: Arc::clone(&self.vocabulary),
                stop_token: instance.stop_token,
                has_images: pictures.is_some(),
                completion,
            };
            let run = Run {
                instance: Arc::clone(instance),
                lease: lease.clone(),
                prompt: prompt.clone(),
                pictures: pictures.clone(),
                max_tokens: demand.max_tokens,
                ignore_eos: request.ignore_eos,
                request: Arc::clone(&state),
            };
            tokio::spawn(run.run(place, choice));
        }
        Ok(ChatStream {
            adapter: request.adapter,
            prompt_tokens: demand.prompt_tokens,
            events: receiver,
        })
    }
}

/// A request that was checked.
struct Accepted {
    request: ChatRequest,
    prompt: Prompt,
    pictures: Option<Arc<Pictures>>,
    demand: Demand,
    lease: Option<Lease<Version>>,
    grammar: Option<Arc<GrammarState>>,
    arrived: Instant,
}

#[async_trait]
impl Engine for MistralEngine {
    fn base(&self) -> &BaseInfo {
        &self.info
    }

    async fn count_prompt_tokens(
        &self,
        messages: &[ChatMessage],
        tools: Option<&ToolUse>,
    ) -> Result<u32, EngineError> {
        let prompt = self.encode(messages, tools).await?;
        Ok(u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX))
    }

    async fn chat(&self, mut request: ChatRequest) -> Result<ChatStream, EngineError> {
        let arrived = Instant::now();
        request.check()?;
        self.info.check_images(&request.messages)?;
        request.check_biases(self.vocabulary.len())?;
        // leased first: what is asked for now answers, whatever is unloaded meanwhile
        let lease = request
            .adapter
            .as_ref()
            .map(|digest| self.versions().lease(digest))
            .transpose()?;
        let prompt = self
            .encode(&request.messages, request.tools.as_ref())
            .await?;
        let prompt_tokens = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
        let demand = Demand {
            prompt_tokens,
            max_tokens: self.info.max_tokens(prompt_tokens, request.max_tokens)?,
        };
        let pictures = self.look(&request, prompt.pictures_bytes).await?;
        let sight = self.prompts.sight().filter(|_| pictures.is_some());
        if let Some(unsaid) = sight.and_then(|sight| sight.unsaid()) {
            request.sampling.logit_bias.insert(unsaid, NEVER);
        }
        let markup = self.prompts.tool_markup();
        let grammar = self.grammars.of_request(&request, markup).await?;
        self.start(Accepted {
            request,
            prompt,
            pictures,
            demand,
            lease,
            grammar,
            arrived,
        })
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
        let (load, limits) = (self.admission.load(), self.admission.limits());
        let tokens_max = u64::from(limits.running_max) * u64::from(self.info.context_length);
        Capacity {
            running: load.running,
            waiting: load.waiting,
            waiting_max: limits.waiting_max,
            waiting_per_tenant_max: limits.waiting_per_tenant_max,
            waiting_tenants: load.waiting_tenants,
            running_max: limits.running_max,
            // what running sequences may come to hold: the crate does not tell
            kv_cache_usage: load.tokens as f64 / tokens_max.max(1) as f64,
            kv_tokens_max: tokens_max,
            adapter_bytes: self.versions().bytes(),
            adapter_bytes_max: self.versions().budget(),
            adapter_evictions_total: self.versions().evictions(),
            prompt_tokens_total: load.prompt_tokens,
            generation_tokens_total: load.generation_tokens,
            ..Capacity::default()
        }
    }

    async fn shutdown(&self) {
        self.admission.drain().await;
    }
}
