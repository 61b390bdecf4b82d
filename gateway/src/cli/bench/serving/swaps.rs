//! Versions are loaded, named and withdrawn without a pause while streams run.
//!
//! As many names as streams; each stream takes the version that its name leads to
//! when it begins. Without swaps the names stay where they are, so that a batch
//! has as many versions in both cases.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::bench::request;
use engine::bench::streams::{Heard, Next, Running, Told, hear_all};
use engine::native::{NativeEngine, NativeOptions};
use engine::{AdapterPackage, ChatMessage, Engine};
use ids::AdapterDigest;

use super::{STREAMS, Stage, compare, pauses};
use crate::cli::CliError;
use crate::cli::bench::failed;
use crate::cli::bench::figure::{Figure, Target, milliseconds, quantile};

/// Versions that take turns. A stream has ended before its version comes again.
const VERSIONS: usize = 40;
/// Tokens of a stream.
const TOKENS: u32 = 48;
/// Spans with swaps, each followed by one without.
const PHASES: u32 = 4;
/// Different prompts; each is told alone with every version that told it.
const PROMPTS: u32 = 2;
/// Pieces of text before a span begins.
const WARM_UP: u64 = 16;

/// Where the names lead.
type Names = Mutex<Vec<AdapterDigest>>;

fn locked(names: &Names) -> std::sync::MutexGuard<'_, Vec<AdapterDigest>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the swaps themselves took.
#[derive(Default)]
struct Swapped {
    milliseconds: Vec<f64>,
    /// Versions that were not resident any more when they came again.
    loaded: u32,
}

struct Swaps<'a> {
    engine: &'a Arc<dyn Engine>,
    versions: Vec<AdapterPackage>,
    names: Arc<Names>,
    done: usize,
    swapped: Swapped,
}

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<(), CliError> {
    let mut versions = Vec::new();
    for seed in 0..VERSIONS as u64 {
        let version = stage.native.synthetic_adapter(stage.common.rank, seed);
        versions.push(version.map_err(failed)?);
    }
    for version in &versions[..STREAMS] {
        let loaded = stage.engine.load_adapter(version.clone()).await;
        loaded.map_err(failed)?;
    }
    let first: Vec<AdapterDigest> = versions[..STREAMS].iter().map(|v| v.digest).collect();
    let engine = Arc::clone(&stage.engine);
    let mut swaps = Swaps {
        engine: &engine,
        versions,
        names: Arc::new(Mutex::new(first)),
        done: 0,
        swapped: Swapped::default(),
    };
    let prompts = stage.prompts(0, PROMPTS).await?;
    let next = swaps.streams(&prompts);
    let (mut with, mut without, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PHASES {
        let running = Running::start(&engine, STREAMS, &next);
        running.warmed_up(WARM_UP).await;
        let span = swaps.go_on(stage.args.swaps / PHASES).await?;
        let heard = running.stop().await;
        with.extend(pauses(&heard, &[span]));
        told.push(heard);
        let running = Running::start(&engine, STREAMS, &next);
        running.warmed_up(WARM_UP).await;
        let from = Instant::now();
        tokio::time::sleep(span.1 - span.0).await;
        let span = (from, Instant::now());
        let heard = running.stop().await;
        without.extend(pauses(&heard, &[span]));
        told.push(heard);
    }
    // another engine, which shares no cache with the streams
    let options = NativeOptions {
        threads: stage.common.threads,
        prefix_cache: false,
        adapter_bytes_max: u64::MAX,
        ..NativeOptions::default()
    };
    let apart = NativeEngine::open(&stage.common.model()?, options).map_err(failed)?;
    let (compared, changed) = swaps.changed(&apart, &told, &prompts).await?;
    apart.shutdown().await;
    stage.unload_all().await?;
    report(stage, &mut swaps.swapped, &told, (compared, changed));
    let found = compare("swaps", with, without, Target::AtMost(1.25));
    stage.figures.extend(found);
    Ok(())
}

fn report(
    stage: &mut Stage<'_>,
    swapped: &mut Swapped,
    told: &[Told],
    (compared, changed): (usize, usize),
) {
    let failures: u64 = told.iter().map(|told| told.failed).sum();
    let count = |name: &str, value: f64| Figure::new(format!("swaps: {name}"), value, "");
    let none = Target::AtMost(0.0);
    stage.figures.extend([
        count("done", swapped.milliseconds.len() as f64),
        count("of which were loads", f64::from(swapped.loaded)),
        count("requests failed", failures as f64).should(none),
        count("streams compared with the version alone", compared as f64),
        count("streams that said anything else", changed as f64).should(none),
        Figure::new(
            "swaps: one, p50",
            quantile(&mut swapped.milliseconds, 0.5),
            "ms",
        ),
        Figure::new(
            "swaps: one, p99",
            quantile(&mut swapped.milliseconds, 0.99),
            "ms",
        ),
    ]);
}

impl Swaps<'_> {
    fn streams(&self, prompts: &[Vec<ChatMessage>]) -> Next {
        let (names, prompts) = (Arc::clone(&self.names), prompts.to_vec());
        Arc::new(move |place| {
            let version = locked(&names).get(place).copied();
            request(prompts[place % prompts.len()].clone(), version, TOKENS)
        })
    }

    /// So many swaps one after the other; from when to when.
    async fn go_on(&mut self, count: u32) -> Result<(Instant, Instant), CliError> {
        let from = Instant::now();
        for _ in 0..count {
            self.swap().await.map_err(failed)?;
        }
        Ok((from, Instant::now()))
    }

    /// Gives a name the next version: one time loaded, named and the old one
    /// withdrawn, the other time replaced and then named.
    async fn swap(&mut self) -> Result<(), engine::EngineError> {
        let (place, way) = (self.done % STREAMS, self.done / STREAMS % 2);
        let new = self.versions[(self.done + STREAMS) % self.versions.len()].clone();
        let (digest, engine) = (new.digest, self.engine);
        let old = locked(&self.names)[place];
        let is_new = !engine.adapters().iter().any(|info| info.digest == digest);
        self.swapped.loaded += u32::from(is_new);
        let from = Instant::now();
        if way == 0 {
            engine.load_adapter(new).await?;
            locked(&self.names)[place] = digest;
            engine.unload_adapter(&old).await?;
        } else {
            engine.replace_adapter(&old, new).await?;
            locked(&self.names)[place] = digest;
        }
        let took: Duration = from.elapsed();
        self.swapped.milliseconds.push(milliseconds(took));
        self.done += 1;
        Ok(())
    }

    /// How many streams were compared with what their versions say alone, and how
    /// many are not the beginning of that.
    async fn changed(
        &self,
        apart: &NativeEngine,
        told: &[Told],
        prompts: &[Vec<ChatMessage>],
    ) -> Result<(usize, usize), CliError> {
        let all = told.iter().flat_map(|told| &told.heard);
        let mut by_version: BTreeMap<AdapterDigest, Vec<&Heard>> = BTreeMap::new();
        for heard in all {
            if let Some(version) = heard.adapter {
                by_version.entry(version).or_default().push(heard);
            }
        }
        let (mut compared, mut changed) = (0, 0);
        for version in &self.versions {
            let Some(heard) = by_version.get(&version.digest) else {
                continue;
            };
            let loaded = apart.load_adapter(version.clone()).await;
            loaded.map_err(failed)?;
            let mut alone = Vec::new();
            for prompt in prompts {
                let question = request(prompt.clone(), Some(version.digest), TOKENS);
                alone.push(hear_all(apart, question).await);
            }
            let unloaded = apart.unload_adapter(&version.digest).await;
            unloaded.map_err(failed)?;
            let alone: Vec<Heard> = alone
                .into_iter()
                .collect::<Result<_, _>>()
                .map_err(failed)?;
            for heard in heard {
                compared += 1;
                let alone = &alone[heard.place % alone.len()];
                changed += usize::from(!heard.agrees_with(alone));
            }
        }
        Ok((compared, changed))
    }
}
