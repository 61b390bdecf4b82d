//! The native engine as its callers see it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use async_trait::async_trait;
use ids::AdapterDigest;
use model::kernels::{PAGE_TOKENS, Team};
use model::{BaseModel, ModelError, TokenCost};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::adapters::{AdapterRegistry, CLAIM_GRACE};
use super::backend::Placement;
use super::background::Background;
use super::blocks::BlockManager;
use super::completion::events_max;
use super::constraint::Grammars;
use super::encoders::Encoders;
use super::inbox::{Inbox, Mode};
use super::loading::Loader;
use super::options::NativeOptions;
use super::prompt;
use super::request::Submission;
use super::scheduler::Scheduler;
use super::worker::{Gauges, Worker};
use crate::api::{
    AdapterInfo, AdapterPackage, BaseInfo, Capacity, ChatMessage, ChatRequest, ChatStream, Engine,
    EngineError,
};
use crate::tools::ToolUse;
use crate::vocabulary::Vocabulary;

/// Stack of the engine's thread; grammars recurse on it.
const STACK_BYTES: usize = 8 << 20;

/// Serves one base model on one device.
pub struct NativeEngine {
    model: Arc<BaseModel>,
    encoders: Encoders,
    info: BaseInfo,
    running_max: u32,
    kv_tokens_max: u64,
    kv_bytes_max: u64,
    inbox: Arc<Inbox>,
    gauges: Arc<Gauges>,
    adapters: Arc<AdapterRegistry>,
    loader: Loader,
    grammars: Grammars,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl NativeEngine {
    /// Starts the engine's thread.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if there is no such device, the cache has no room,
    /// or threads are too many or cannot be started.
    pub fn start(model: Arc<BaseModel>, options: NativeOptions) -> Result<Self, EngineError> {
        let placement = Placement::open(options.device, options.precision, options.kv_cache)?;
        let page_bytes = placement.page_bytes(&model);
        let pages = options.kv_pages(page_bytes)?;
        let cache_tokens = pages.saturating_mul(PAGE_TOKENS);
        let context_length = options
            .context_length_max
            .map_or(model.config.context_length, |max| max as usize)
            .min(model.config.context_length)
            .min(cache_tokens);
        let inbox = Arc::new(Inbox::new(options.queue_limits()));
        let gauges = Arc::new(Gauges::default());
        let worker = Worker {
            model: Arc::clone(&model),
            inbox: Arc::clone(&inbox),
            gauges: Arc::clone(&gauges),
            backend: placement.backend(&model, context_length, pages)?,
            scheduler: Scheduler::new(
                BlockManager::new(pages, options.prefix_cache),
                options.running_max as usize,
                options.prefill_chunk_tokens as usize,
            ),
            requests: BTreeMap::new(),
            next_request: 0,
            queue_wait_max: options.queue_wait_max,
        };
        let thread = spawn(worker, options.threads()?)?;
        let info = BaseInfo {
            name: model.name.clone(),
            digest: model.digest,
            context_length: u32::try_from(context_length).unwrap_or(u32::MAX),
            takes_images: false,
        };
        let adapters = AdapterRegistry::new(options.adapter_bytes_max, CLAIM_GRACE);
        let background = Background::start("engine-loader")
            .map_err(|error| EngineError::Failed(error.to_string()))?;
        let loader = Loader {
            model: Arc::clone(&model),
            adapters: Arc::clone(&adapters),
            placement,
            wait_max: options.adapter_wait_max,
            background,
            gauges: Arc::clone(&gauges),
            turn: tokio::sync::Mutex::default(),
        };
        Ok(Self {
            grammars: Grammars::new(Arc::clone(&model) as Arc<dyn Vocabulary>),
            model,
            encoders: Encoders::default(),
            info,
            running_max: options.running_max.max(1),
            kv_tokens_max: cache_tokens as u64,
            kv_bytes_max: (pages as u64).saturating_mul(page_bytes),
            inbox,
            gauges,
            adapters,
            loader,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Accepts no more requests, finishes those accepted, and ends the thread.
    pub async fn shutdown(&self) {
        self.inbox.close(Mode::Draining);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // the thread catches its panics, and the runtime's end ends the wait
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    pub(super) fn model(&self) -> &BaseModel {
        &self.model
    }

    /// What one token costs, to hold against a machine's limits.
    #[must_use]
    pub fn token_cost(&self) -> TokenCost {
        self.model.weights.token_cost()
    }

    /// Steps of the engine's thread since the start.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.gauges.steps.load(Ordering::Relaxed)
    }

    async fn encode(
        &self,
        messages: &[ChatMessage],
        tools: Option<&ToolUse>,
    ) -> Result<Vec<u32>, EngineError> {
        self.info.check_images(messages)?;
        let model = Arc::clone(&self.model);
        let (messages, tools) = (messages.to_vec(), tools.cloned());
        let encode = move || prompt::encode_chat(&model, &messages, tools.as_ref());
        let encoded = self.encoders.run(encode).await?;
        let tokens = encoded.map_err(|error| invalid_messages(&error))?;
        Ok(tokens)
    }
}

fn invalid_messages(error: &ModelError) -> EngineError {
    EngineError::InvalidRequest {
        param: "messages",
        reason: error.to_string(),
    }
}

fn spawn(mut worker: Worker, threads: usize) -> Result<JoinHandle<()>, EngineError> {
    let failed = |error: &dyn std::fmt::Display| EngineError::Failed(error.to_string());
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let body = move || {
        let team = Team::new(threads, "engine");
        let started = team.as_ref().map(|_| ()).map_err(ToString::to_string);
        if ready.send(started).is_err() {
            return;
        }
        let Ok(mut team) = team else { return };
        if catch_unwind(AssertUnwindSafe(|| team.lead(|| worker.run()))).is_err() {
            tracing::error!("the engine's thread panicked; the engine has stopped");
        }
        worker.stop();
    };
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(body)
        .map_err(|error| failed(&error))?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(reason)) => Err(EngineError::Failed(reason)),
        Err(error) => Err(failed(&error)),
    }
}

#[async_trait]
impl Engine for NativeEngine {
    fn base(&self) -> &BaseInfo {
        &self.info
    }

    async fn count_prompt_tokens(
        &self,
        messages: &[ChatMessage],
        tools: Option<&ToolUse>,
    ) -> Result<u32, EngineError> {
        Ok(u32::try_from(self.encode(messages, tools).await?.len()).unwrap_or(u32::MAX))
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream, EngineError> {
        let arrived = Instant::now();
        request.check()?;
        self.info.check_images(&request.messages)?;
        request.check_biases(self.model.config.vocab_size)?;
        // leased first: what is asked for now answers, whatever is unloaded meanwhile
        let lease = request
            .adapter
            .as_ref()
            .map(|d| self.adapters.lease(d))
            .transpose()?;
        let prompt = self
            .encode(&request.messages, request.tools.as_ref())
            .await?;
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let max_tokens = self.info.max_tokens(prompt_tokens, request.max_tokens)?;
        let tool_markup = prompt::tool_markup(&self.model.template);
        let grammar = self.grammars.of_request(&request, tool_markup).await?;
        let (events, receiver) = mpsc::channel(events_max(request.n, max_tokens));
        let adapter = request.adapter;
        let submission = Submission {
            request,
            prompt,
            max_tokens,
            lease,
            grammar,
            tool_markup,
            events,
            arrived,
        };
        self.inbox.submit(submission)?;
        Ok(ChatStream {
            adapter,
            prompt_tokens,
            events: receiver,
        })
    }

    async fn load_adapter(&self, package: AdapterPackage) -> Result<AdapterInfo, EngineError> {
        self.loader.load(package).await
    }

    fn pin_adapters(&self, digests: &[AdapterDigest]) {
        self.adapters.pin(digests);
    }

    async fn unload_adapter(&self, digest: &AdapterDigest) -> Result<(), EngineError> {
        self.adapters.withdraw(digest)
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.adapters.list()
    }

    async fn shutdown(&self) {
        Self::shutdown(self).await;
    }

    fn capacity(&self) -> Capacity {
        let gauge = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
        Capacity {
            running: u32::try_from(gauge(&self.gauges.running)).unwrap_or(u32::MAX),
            waiting: self.inbox.waiting(),
            waiting_max: self.inbox.limits().waiting_max,
            waiting_per_tenant_max: self.inbox.limits().waiting_per_tenant_max,
            waiting_tenants: u32::try_from(self.inbox.waiting_tenants()).unwrap_or(u32::MAX),
            running_max: self.running_max,
            kv_cache_usage: f64::from_bits(gauge(&self.gauges.kv_cache_usage)),
            kv_tokens_max: self.kv_tokens_max,
            kv_bytes: gauge(&self.gauges.kv_bytes),
            kv_bytes_max: self.kv_bytes_max,
            prefix_cache_queries_total: gauge(&self.gauges.prefix_queries),
            prefix_cache_hits_total: gauge(&self.gauges.prefix_hits),
            preemptions_total: gauge(&self.gauges.preemptions),
            adapter_bytes: self.adapters.bytes(),
            adapter_bytes_max: self.adapters.budget(),
            adapter_evictions_total: self.adapters.evictions(),
            prompt_tokens_total: gauge(&self.gauges.prompt_tokens),
            generation_tokens_total: gauge(&self.gauges.generation_tokens),
        }
    }
}

impl Drop for NativeEngine {
    fn drop(&mut self) {
        self.inbox.close(Mode::Stopped);
        if let Some(thread) = self.thread.lock().take() {
            // it ends after the step that it is in, and catches its panics
            let _ = thread.join();
        }
    }
}
