//! Everything at once, from a seed: loads, replacements, withdrawals,
//! evictions, pins, cancellations, several choices, shared beginnings and
//! preemptions, on a tiny model with too little memory for any of it. Every
//! greedy answer must be, to the last bit of its log-probabilities, what its
//! version says alone.
//!
//! `FLYWHEEL_FUZZ_STEPS` and `FLYWHEEL_FUZZ_SEED` say how long and which.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ids::{AdapterDigest, Sha256Digest, TenantId};
use model::kernels::{KvFormat, Team};
use model::lora::{LoraAdapter, LoraConfig};
use model::quant::Precision;
use model::{BaseModel, ToolMarkup};
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;

use super::adapters::{AdapterRegistry, NoRoom};
use super::backend::Placement;
use super::blocks::BlockManager;
use super::completion::events_max;
use super::inbox::{Inbox, QueueLimits};
use super::lora::DeviceAdapter;
use super::request::Submission;
use super::scheduler::Scheduler;
use super::worker::{Gauges, Worker};
use crate::api::{ChatEvent, ChatRequest, EngineError, TokenLogprob};

const STEPS: u64 = 500;
const VERSIONS: u64 = 7;
/// How many of them fit, about.
const RESIDENT: u64 = 3;
const PAGES: usize = 14;
const LIMITS: QueueLimits = QueueLimits {
    waiting_max: 12,
    waiting_per_tenant_max: 8,
};
const TENANTS: usize = 3;
const STEMS: usize = 4;

type Events = mpsc::Receiver<Result<ChatEvent, EngineError>>;
/// The tokens of one choice.
type Answer = Vec<TokenLogprob>;

/// What a greedy answer depends on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    version: Option<usize>,
    prompt: Vec<u32>,
    max_tokens: u32,
}

/// A request under way.
struct Open {
    question: Question,
    events: Events,
    answers: Vec<Answer>,
}

struct Version {
    digest: AdapterDigest,
    adapter: LoraAdapter,
}

/// An engine whose thread is this one.
struct Machine {
    worker: Worker,
    inbox: Arc<Inbox>,
    adapters: Arc<AdapterRegistry>,
}

struct Fuzz {
    random: ChaCha8Rng,
    model: Arc<BaseModel>,
    versions: Vec<Version>,
    machine: Machine,
    alone: Machine,
    known: BTreeMap<Question, Answer>,
    open: Vec<Open>,
    stems: Vec<Vec<u32>>,
    kv_cache: KvFormat,
    seen: Seen,
}

/// What happened, so that a run in which too little did can be told.
#[derive(Debug, Default)]
struct Seen {
    answers: u64,
    loads: u64,
    replaced: u64,
    waits_for_room: u64,
    unloads_in_use: u64,
    cancelled: u64,
    refused: u64,
    refused_to_tenant: u64,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

pub(super) fn tiny() -> Arc<BaseModel> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny_llama/model.gguf");
    Arc::new(BaseModel::open(&path).unwrap())
}

fn version(model: &BaseModel, seed: u64) -> Version {
    let rank = 2 + usize::try_from(seed).unwrap();
    let config = LoraConfig::uniform(rank, 16.0);
    let mut adapter = LoraAdapter::new_random(&model.config, &config, seed).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for pair in adapter.modules.values_mut() {
        pair.b
            .iter_mut()
            .for_each(|value| *value = random.random_range(-0.2..0.2));
    }
    let digest = AdapterDigest(Sha256Digest::of(&seed.to_le_bytes()));
    Version { digest, adapter }
}

fn placement(kv_cache: KvFormat) -> Placement {
    Placement::Cpu {
        precision: Precision::Int8,
        kv_cache,
    }
}

fn laid_out(model: &BaseModel, version: &Version) -> DeviceAdapter {
    let Version { digest, adapter } = version;
    let placement = placement(KvFormat::default());
    placement.lay_out(*digest, adapter, &model.config).unwrap()
}

impl Machine {
    fn new(
        model: &Arc<BaseModel>,
        kv_cache: KvFormat,
        blocks: BlockManager,
        adapter_bytes: u64,
    ) -> Self {
        let inbox = Arc::new(Inbox::new(LIMITS));
        let context_length = model.config.context_length;
        let worker = Worker {
            model: Arc::clone(model),
            inbox: Arc::clone(&inbox),
            gauges: Arc::new(Gauges::default()),
            backend: placement(kv_cache)
                .backend(model, context_length, PAGES)
                .unwrap(),
            scheduler: Scheduler::new(blocks, 6, 40),
            requests: BTreeMap::new(),
            next_request: 0,
            queue_wait_max: Duration::MAX,
        };
        Self {
            worker,
            inbox,
            adapters: AdapterRegistry::new(adapter_bytes, Duration::ZERO),
        }
    }

    fn load(&self, model: &BaseModel, version: &Version) -> Result<(), NoRoom> {
        if self.adapters.revive(&version.digest).is_some() {
            return Ok(());
        }
        let adapter = laid_out(model, version);
        let reservation = self.adapters.reserve(adapter.byte_len())?;
        reservation.complete(adapter);
        Ok(())
    }

    fn ask(
        &self,
        question: &Question,
        (n, tenant): (u32, usize),
        digest: Option<AdapterDigest>,
    ) -> Result<Events, EngineError> {
        let lease = digest.map(|d| self.adapters.lease(&d)).transpose()?;
        let (events, receiver) = mpsc::channel(events_max(n, question.max_tokens));
        self.inbox.submit(Submission {
            grammar: None,
            tool_markup: ToolMarkup::Tagged,
            request: ChatRequest {
                tenant: TenantId::new(&tenant.to_string()).ok(),
                adapter: digest,
                n,
                top_logprobs: Some(1),
                ignore_eos: true,
                ..ChatRequest::greedy(Vec::new(), question.max_tokens)
            },
            prompt: question.prompt.clone(),
            max_tokens: question.max_tokens,
            lease,
            events,
            arrived: Instant::now(),
        })?;
        Ok(receiver)
    }

    fn is_idle(&self) -> bool {
        self.worker.scheduler.is_idle() && self.inbox.waiting() == 0
    }

    fn step(&mut self) {
        if !self.is_idle() {
            self.worker.take_submissions();
            self.worker.step();
        }
    }
}

impl Open {
    /// Takes what has come; true at the end.
    fn drain(&mut self) -> bool {
        while let Ok(event) = self.events.try_recv() {
            match event.unwrap() {
                ChatEvent::Delta {
                    choice, logprobs, ..
                } => self.answers[choice as usize].extend(logprobs),
                ChatEvent::Finished { .. } => {}
                ChatEvent::Done { .. } => return true,
            }
        }
        false
    }
}

impl Fuzz {
    fn new(seed: u64, kv_cache: KvFormat) -> Self {
        let model = tiny();
        let versions: Vec<Version> = (0..VERSIONS).map(|seed| version(&model, seed)).collect();
        let size = |version: &Version| laid_out(&model, version).byte_len();
        let largest = versions.iter().map(size).max().unwrap();
        let alone = Machine::new(&model, kv_cache, BlockManager::new(PAGES, false), u64::MAX);
        for version in &versions {
            alone.load(&model, version).unwrap();
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let vocab = u32::try_from(model.config.vocab_size).unwrap();
        let stems = (0..STEMS).map(|_| {
            let length = random.random_range(0..100);
            (0..length).map(|_| random.random_range(0..vocab)).collect()
        });
        let stems = stems.collect();
        Self {
            machine: Machine::new(
                &model,
                kv_cache,
                BlockManager::new(PAGES, true),
                RESIDENT * largest,
            ),
            alone,
            random,
            model,
            versions,
            known: BTreeMap::new(),
            open: Vec::new(),
            stems,
            kv_cache,
            seen: Seen::default(),
        }
    }

    fn pick(&mut self, count: usize) -> usize {
        self.random.random_range(0..count)
    }

    /// A version that takes requests, or the bare base.
    fn some_resident(&mut self) -> Option<usize> {
        let infos = self.machine.adapters.list();
        let digests: Vec<AdapterDigest> = infos
            .iter()
            .filter(|info| info.accepts_requests)
            .map(|info| info.digest)
            .collect();
        let digest = *digests.get(self.pick(digests.len() + 1))?;
        self.versions.iter().position(|v| v.digest == digest)
    }

    fn submit(&mut self) {
        let version = self.some_resident();
        let stem = self.pick(STEMS);
        let mut prompt = self.stems[stem].clone();
        let vocab = u32::try_from(self.model.config.vocab_size).unwrap();
        for _ in 0..=self.pick(3) * 7 {
            prompt.push(self.random.next_u32() % 3 % vocab);
        }
        let question = Question {
            version,
            prompt,
            max_tokens: 1 + u32::try_from(self.pick(40)).unwrap(),
        };
        let n = 1 + u32::try_from(self.pick(3)).unwrap();
        let digest = version.map(|version| self.versions[version].digest);
        let tenant = self.pick(TENANTS);
        match self.machine.ask(&question, (n, tenant), digest) {
            Ok(events) => self.open.push(Open {
                question,
                events,
                answers: vec![Answer::new(); n as usize],
            }),
            Err(EngineError::QueueFull { .. }) => self.seen.refused += 1,
            Err(EngineError::TenantQueueFull { .. }) => self.seen.refused_to_tenant += 1,
            Err(error) => panic!("{error}"),
        }
    }

    fn load(&mut self) -> bool {
        let version = self.pick(self.versions.len());
        let loaded = self.machine.load(&self.model, &self.versions[version]);
        match loaded {
            Ok(()) => self.seen.loads += 1,
            Err(NoRoom::Now) => self.seen.waits_for_room += 1,
            // what is pinned leaves too little
            Err(NoRoom::Ever(EngineError::AdapterMemory { .. })) => {}
            Err(NoRoom::Ever(error)) => panic!("{error}"),
        }
        loaded.is_ok()
    }

    fn unload(&mut self) {
        if let Some(version) = self.some_resident() {
            let digest = self.versions[version].digest;
            self.machine.adapters.withdraw(&digest).unwrap();
            let infos = self.machine.adapters.list();
            let in_use = infos.iter().any(|info| info.digest == digest);
            self.seen.unloads_in_use += u64::from(in_use);
        }
    }

    fn cancel(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let victim = self.pick(self.open.len());
        let mut open = self.open.swap_remove(victim);
        if !open.drain() {
            self.seen.cancelled += 1;
        }
        self.check(&open, false);
    }

    fn pin(&mut self) {
        let pinned = self.some_resident();
        let pinned: Vec<AdapterDigest> = pinned
            .map(|v| self.versions[v].digest)
            .into_iter()
            .collect();
        self.machine.adapters.pin(&pinned);
    }

    /// What is said alone, without any sharing.
    fn alone(&mut self, question: &Question) -> Answer {
        if let Some(answer) = self.known.get(question) {
            return answer.clone();
        }
        let digest = question
            .version
            .map(|version| self.versions[version].digest);
        let mut open = Open {
            question: question.clone(),
            events: self.alone.ask(question, (1, 0), digest).unwrap(),
            answers: vec![Answer::new()],
        };
        while !open.drain() {
            self.alone.step();
        }
        let answer = open.answers.remove(0);
        assert_eq!(answer.len(), question.max_tokens as usize);
        self.known.insert(question.clone(), answer.clone());
        answer
    }

    fn check(&mut self, open: &Open, is_whole: bool) {
        let alone = self.alone(&open.question);
        for answer in &open.answers {
            assert!(!is_whole || answer.len() == alone.len());
            assert_eq!(answer[..], alone[..answer.len()]);
        }
    }

    fn act(&mut self) {
        match self.pick(100) {
            0..30 => self.submit(),
            30..37 => self.cancel(),
            37..47 => {
                self.load();
            }
            47..52 if self.load() => {
                self.seen.replaced += 1;
                self.unload();
            }
            52..56 => self.unload(),
            56..59 => self.pin(),
            _ => {}
        }
    }

    fn step(&mut self) {
        self.machine.step();
        let mut ended = Vec::new();
        for index in (0..self.open.len()).rev() {
            if self.open[index].drain() {
                ended.push(self.open.swap_remove(index));
            }
        }
        for open in &ended {
            self.check(open, true);
            self.seen.answers += 1;
        }
        let worker = &self.machine.worker;
        // what was cancelled before the step is gone after it
        assert_eq!(worker.requests.len(), self.open.len());
        assert!(worker.scheduler.kv_cache_usage() <= 1.0);
        let kv_bytes_max = PAGES as u64 * placement(self.kv_cache).page_bytes(&self.model);
        assert!(worker.backend.kv_byte_len() <= kv_bytes_max);
        let adapters = &self.machine.adapters;
        assert!(adapters.bytes() <= adapters.budget());
        let mut leases = self
            .open
            .iter()
            .filter(|open| open.question.version.is_some());
        if leases.next().is_none() {
            assert!(adapters.list().iter().all(|info| info.leases == 0));
        }
        if self.open.is_empty() {
            assert!(worker.scheduler.is_idle() && worker.scheduler.kv_cache_usage() == 0.0);
        }
    }
}

#[test]
fn every_answer_is_its_versions_alone() {
    // so small a model is computed fastest by one thread, this one
    Team::new(1, "fuzz").unwrap().lead(|| run(KvFormat::F32));
}

#[test]
fn every_answer_is_its_versions_alone_with_keys_and_values_in_eight_bits() {
    Team::new(1, "fuzz").unwrap().lead(|| run(KvFormat::Q8_0));
}

fn run(kv_cache: KvFormat) {
    let (steps, seed) = (
        number("FLYWHEEL_FUZZ_STEPS", STEPS),
        number("FLYWHEEL_FUZZ_SEED", 1),
    );
    let started = Instant::now();
    let mut fuzz = Fuzz::new(seed, kv_cache);
    let different: Vec<Answer> = (0..fuzz.versions.len())
        .map(Some)
        .chain([None])
        .map(|version| {
            fuzz.alone(&Question {
                version,
                prompt: vec![5; 40],
                max_tokens: 3,
            })
        })
        .collect();
    for (i, answer) in different.iter().enumerate() {
        assert!(
            !different[..i].contains(answer),
            "two versions say the same"
        );
    }
    for _ in 0..steps {
        fuzz.act();
        fuzz.step();
    }
    while !fuzz.machine.is_idle() {
        fuzz.step();
    }
    fuzz.step();
    let counters = fuzz.machine.worker.scheduler.counters;
    let evictions = fuzz.machine.adapters.evictions();
    println!(
        "{steps} steps from seed {seed} with {kv_cache:?} in {:.1} s: {:?}, {counters:?}, {evictions} evictions",
        started.elapsed().as_secs_f64(),
        fuzz.seen
    );
    assert!(fuzz.open.is_empty(), "an answer never ended");
    let seen = &fuzz.seen;
    for count in [
        seen.answers,
        seen.loads,
        seen.replaced,
        seen.unloads_in_use,
        seen.cancelled,
        seen.refused_to_tenant,
        evictions,
        counters.preemptions,
        counters.prefix_hits,
    ] {
        assert!(count > 0, "something never happened");
    }
}
