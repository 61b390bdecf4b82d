//! Many registered adapters of which few fit in memory, under Zipf traffic,
//! beside a gateway that holds all of those which the traffic names.
//!
//! Two gateways in processes of their own read one adapter store; they get the
//! same requests, in turns. The versions have the same weights and another alpha
//! each: what is stored, read and laid out is each one's own.

use std::path::Path;
use std::time::Instant;

use adapter_store::AdapterStore;
use control::{AuditEntry, Expected};
use engine::AdapterPackage;
use futures::StreamExt as _;
use ids::{AdapterDigest, AliasName, Clock as _, SystemClock};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use store::{Backend, StoreOptions, StoreUrl};

use super::server::{Server, Setup};
use super::{Stage, loads};
use crate::cli::CliError;
use crate::cli::bench::failed;
use crate::cli::bench::figure::{Figure, Target};

/// Requests at the same time.
const AT_ONCE: usize = 8;
/// Tokens of each answer.
const TOKENS: u32 = 64;
/// Turns of each gateway.
const TURNS: usize = 4;
/// Tokens of the key-value cache, so that it has its size soon.
const KV_TOKENS: u32 = 4096;
/// What one load may hold beside the memory of adapters: the file, its copy for the
/// engine, its values in single precision and the laid out factors, in file sizes.
const LOAD_FILES: u64 = 8;
/// What the system may count beside what was allocated.
const SLACK_BYTES: u64 = 64 << 20;

/// What a gateway did with the requests.
#[derive(Default)]
struct Served {
    tokens: u64,
    seconds: f64,
    failed: u64,
}

impl Served {
    fn rate(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<(), CliError> {
    let stored = stage.scratch.join("registered");
    let package = stage
        .native
        .synthetic_adapter_f16(stage.common.rank, 0)
        .map_err(failed)?;
    let bytes = resident_bytes(stage, &package).await?;
    let digests = register(stage, &stored, &package).await?;
    let traffic = traffic(stage.args.registered, stage.args.requests);
    let mut named: Vec<usize> = traffic.clone();
    named.sort_unstable();
    named.dedup();
    let few = start(stage, "few", &stored, &digests, stage.args.resident * bytes).await?;
    let all_bytes = (named.len() as u64 + 1) * bytes;
    let all = start(stage, "all", &stored, &digests, all_bytes).await?;
    let base = few_without_adapters(stage, &few).await?;
    // so that nothing is loaded any more by the one that holds them all
    serve(&all, &named, 1, &mut Served::default()).await;
    let (mut few_served, mut all_served) = (Served::default(), Served::default());
    for requests in traffic.chunks(traffic.len().div_ceil(TURNS)) {
        serve(&few, requests, TOKENS, &mut few_served).await;
        serve(&all, requests, TOKENS, &mut all_served).await;
    }
    let file = package.safetensors.len() as u64;
    report(
        stage,
        (&few, few_served),
        all_served,
        named.len(),
        (base, bytes, file),
    )
    .await
}

/// Bytes that a version takes in memory.
async fn resident_bytes(stage: &Stage<'_>, package: &AdapterPackage) -> Result<u64, CliError> {
    let info = stage.engine.load_adapter(package.clone()).await;
    stage.unload_all().await?;
    Ok(info.map_err(failed)?.bytes)
}

/// Stores the versions, each with another alpha.
async fn register(
    stage: &Stage<'_>,
    folder: &Path,
    package: &AdapterPackage,
) -> Result<Vec<AdapterDigest>, CliError> {
    let store = AdapterStore::local(folder).map_err(failed)?;
    let config: Value = serde_json::from_slice(&package.config_json).map_err(failed)?;
    let mut digests = Vec::new();
    for number in 0..stage.args.registered {
        let mut config = config.clone();
        config["lora_alpha"] = json!(16.0 + number as f64 / 64.0);
        let config_json = serde_json::to_vec(&config).map_err(failed)?;
        let package = AdapterPackage {
            digest: AdapterDigest::of_files(&config_json, &package.safetensors),
            config_json: config_json.into(),
            safetensors: package.safetensors.clone(),
        };
        digests.push(loads::put(&store, &package).await?);
    }
    Ok(digests)
}

/// Which version each request names: the first one most often, the n-th 1/n as
/// often. The same every time.
fn traffic(registered: u64, requests: u32) -> Vec<usize> {
    let weights: Vec<f64> = (1..=registered).map(|rank| 1.0 / rank as f64).collect();
    let total: f64 = weights.iter().sum();
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let mut draw = || {
        let mut left = random.random_range(0.0..total);
        let mut found = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        found.take().unwrap_or(0)
    };
    (0..requests).map(|_| draw()).collect()
}

fn alias(number: usize) -> String {
    format!("registered-{number}")
}

/// Starts a gateway that knows all versions by their aliases.
async fn start(
    stage: &Stage<'_>,
    name: &str,
    stored: &Path,
    digests: &[AdapterDigest],
    adapter_bytes_max: u64,
) -> Result<Server, CliError> {
    let data = stage.scratch.join(name);
    std::fs::create_dir_all(&data)?;
    std::os::unix::fs::symlink(stored, data.join("adapters"))?;
    let url = StoreUrl::parse("embedded", &data).map_err(failed)?;
    let backend = Backend::open(&url, &StoreOptions::default()).await;
    let control = control::open(&backend.map_err(failed)?).await;
    let control = control.map_err(failed)?;
    for (number, digest) in digests.iter().enumerate() {
        let audit = AuditEntry {
            actor: "bench".to_owned(),
            action: "alias.set".to_owned(),
            at: SystemClock.now(),
        };
        let name = AliasName::new(alias(number)).map_err(failed)?;
        let set = control::aliases::set(&*control, &name, *digest, Expected::Any, audit);
        set.await.map_err(failed)?;
    }
    Server::start(Setup {
        model: &stage.common.model()?,
        data,
        threads: stage.common.threads,
        adapter_bytes_max,
        kv_tokens_max: KV_TOKENS,
    })
    .await
}

/// The memory of the gateway without its adapters, after traffic that used all of
/// its key-value cache.
async fn few_without_adapters(stage: &Stage<'_>, server: &Server) -> Result<Option<u64>, CliError> {
    let base = &stage.engine.base().name;
    let words = "one two three four ".repeat(KV_TOKENS as usize / AT_ONCE / 5);
    let ask = |number: usize| {
        let question = format!("{number} {words}");
        async move { server.ask(base, &question, 8).await }
    };
    let asked: Vec<_> = futures::stream::iter(0..2 * AT_ONCE)
        .map(ask)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    asked.into_iter().collect::<Result<Vec<_>, _>>()?;
    let held = server.metric("flywheel_adapter_resident_bytes").await? as u64;
    Ok(server.memory().map(|(now, _)| now.saturating_sub(held)))
}

/// Sends requests, [`AT_ONCE`] at the same time.
async fn serve(server: &Server, requests: &[usize], tokens: u32, served: &mut Served) {
    let from = Instant::now();
    let ask = |(number, version): (usize, &usize)| {
        let question = format!("{number}: what comes after one two three four five six seven?");
        let model = alias(*version);
        async move { server.ask(&model, &question, tokens).await }
    };
    let mut answers = futures::stream::iter(requests.iter().enumerate())
        .map(ask)
        .buffer_unordered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(tokens) => served.tokens += tokens,
            Err(error) => {
                tracing::warn!(%error, "a request failed");
                served.failed += 1;
            }
        }
    }
    served.seconds += from.elapsed().as_secs_f64();
}

async fn report(
    stage: &mut Stage<'_>,
    (few, few_served): (&Server, Served),
    all_served: Served,
    named: usize,
    (base, bytes, file): (Option<u64>, u64, u64),
) -> Result<(), CliError> {
    let resident = stage.args.resident;
    let prefix = format!("{} registered, {resident} resident", stage.args.registered);
    let evicted = few.metric("flywheel_adapter_evictions_total").await?;
    let name = |what: &str| format!("{prefix}: {what}");
    stage.figures.extend([
        Figure::new(
            name("throughput, without: all resident"),
            few_served.rate(),
            "tokens/s",
        )
        .beside(all_served.rate())
        .should(Target::AtLeast(0.8)),
        Figure::new(
            name("requests refused or failed"),
            few_served.failed as f64,
            "",
        )
        .should(Target::AtMost(0.0)),
        Figure::new(name("versions that the traffic named"), named as f64, ""),
        Figure::new(name("evictions"), evicted, ""),
    ]);
    if let (Some(base), Some((_, peak))) = (base, few.memory()) {
        let cap = base + resident * bytes + LOAD_FILES * file + SLACK_BYTES;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        stage
            .figures
            .push(Figure::new(name("peak RSS"), mib(peak), "MiB").should(Target::AtMost(mib(cap))));
    }
    Ok(())
}
