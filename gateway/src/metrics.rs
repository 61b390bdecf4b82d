//! Metrics for Prometheus: our own, and vLLM's by their names, so that routers
//! which know vLLM can read us.
//!
//! Invariant: the number of time series is bounded; adapter versions beyond
//! [`ADAPTER_LABELS_MAX`] share one label.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use engine::{AdapterInfo, Capacity, Engine, EngineError};
use ids::{AdapterDigest, UnixMillis};
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use store::Durability;

/// How many adapter versions have a label of their own.
pub(crate) const ADAPTER_LABELS_MAX: usize = 64;
/// The label of all other versions.
const OTHER: &str = "other";
/// The aliases of each version.
pub(crate) type AdapterNames = BTreeMap<AdapterDigest, Vec<String>>;

/// The label of requests without a key.
const NO_KEY: &str = "none";
/// The label of the bare base.
const BASE: &str = "base";

const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
const BETWEEN_TOKENS_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];
const REQUEST_SECONDS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// All metrics of one gateway.
pub(crate) struct Metrics {
    registry: Registry,
    labels: Mutex<BTreeSet<AdapterDigest>>,
    pub(crate) http_requests: IntCounterVec,
    pub(crate) adapter_requests: IntCounterVec,
    pub(crate) adapter_tokens: IntCounterVec,
    pub(crate) adapter_first_token: HistogramVec,
    pub(crate) adapter_between_tokens: HistogramVec,
    pub(crate) adapter_votes: IntCounterVec,
    adapter_resident: IntGaugeVec,
    adapter_load_seconds: GaugeVec,
    pub(crate) assignments: IntCounterVec,
    pub(crate) votes: IntCounterVec,
    durability: IntGaugeVec,
    pub(crate) store_up: IntGauge,
    pub(crate) kill_active: IntGauge,
    pub(crate) guard_trips: IntCounterVec,
    pub(crate) records_failed: IntCounter,
    adapter_evictions: IntCounter,
    queue_refused: IntCounterVec,
    tenants_waiting: IntGauge,
    kv_bytes: IntGauge,
    kv_bytes_max: IntGauge,
    vllm: Vllm,
}

/// The metrics that carry vLLM's names.
struct Vllm {
    running: IntGauge,
    waiting: IntGauge,
    cache_usage: Gauge,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    first_token: Histogram,
    between_tokens: Histogram,
    request: Histogram,
    success: IntCounterVec,
    prefix_queries: IntCounter,
    prefix_hits: IntCounter,
    preemptions: IntCounter,
    lora_info: GaugeVec,
}

/// Registers one metric and hands it back.
fn add<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> prometheus::Result<M> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(buckets.to_vec())
}

impl Vllm {
    fn new(r: &Registry) -> prometheus::Result<Self> {
        let lora = &["max_lora", "running_lora_adapters", "waiting_lora_adapters"];
        let h =
            |name: &str, help: &str, buckets| Histogram::with_opts(histogram(name, help, buckets));
        Ok(Self {
            running: add(
                r,
                IntGauge::new("vllm:num_requests_running", "Sequences in the batch"),
            )?,
            waiting: add(
                r,
                IntGauge::new("vllm:num_requests_waiting", "Sequences that wait"),
            )?,
            cache_usage: add(
                r,
                Gauge::new(
                    "vllm:kv_cache_usage_perc",
                    "Used share of the key-value cache, 0 to 1",
                ),
            )?,
            prompt_tokens: add(
                r,
                IntCounter::new("vllm:prompt_tokens_total", "Prompt tokens computed"),
            )?,
            generation_tokens: add(
                r,
                IntCounter::new("vllm:generation_tokens_total", "Tokens generated"),
            )?,
            first_token: add(
                r,
                h(
                    "vllm:time_to_first_token_seconds",
                    "Time to the first token",
                    FIRST_TOKEN_SECONDS,
                ),
            )?,
            between_tokens: add(
                r,
                h(
                    "vllm:inter_token_latency_seconds",
                    "Time between tokens",
                    BETWEEN_TOKENS_SECONDS,
                ),
            )?,
            request: add(
                r,
                h(
                    "vllm:e2e_request_latency_seconds",
                    "Time of a whole request",
                    REQUEST_SECONDS,
                ),
            )?,
            success: add(
                r,
                IntCounterVec::new(
                    Opts::new("vllm:request_success_total", "Requests answered"),
                    &["finished_reason"],
                ),
            )?,
            prefix_queries: add(
                r,
                IntCounter::new(
                    "vllm:prefix_cache_queries_total",
                    "Prompt tokens looked up in the prefix cache",
                ),
            )?,
            prefix_hits: add(
                r,
                IntCounter::new(
                    "vllm:prefix_cache_hits_total",
                    "Prompt tokens found in the prefix cache",
                ),
            )?,
            preemptions: add(
                r,
                IntCounter::new(
                    "vllm:num_preemptions_total",
                    "Sequences that lost their cache to an older one",
                ),
            )?,
            lora_info: add(
                r,
                GaugeVec::new(
                    Opts::new(
                        "vllm:lora_requests_info",
                        "Adapters in use; the value is the time",
                    ),
                    lora,
                ),
            )?,
        })
    }
}

impl Metrics {
    /// Registers everything in a registry of its own, so that several gateways
    /// can run in one process.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let counters = |name: &str, help: &str, labels: &[&str]| {
            add(r, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            add(r, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let histograms = |name: &str, help: &str, buckets| {
            add(
                r,
                HistogramVec::new(histogram(name, help, buckets), &["adapter"]),
            )
        };
        Ok(Self {
            labels: Mutex::default(),
            http_requests: counters(
                "flywheel_http_requests_total",
                "Replies by route and status",
                &["route", "status"],
            )?,
            adapter_requests: counters(
                "flywheel_adapter_requests_total",
                "Requests by adapter version and end",
                &["adapter", "outcome"],
            )?,
            adapter_tokens: counters(
                "flywheel_adapter_tokens_total",
                "Tokens by adapter version",
                &["adapter", "kind"],
            )?,
            adapter_first_token: histograms(
                "flywheel_adapter_time_to_first_token_seconds",
                "Time to the first token by adapter version",
                FIRST_TOKEN_SECONDS,
            )?,
            adapter_between_tokens: histograms(
                "flywheel_adapter_inter_token_latency_seconds",
                "Time between tokens by adapter version",
                BETWEEN_TOKENS_SECONDS,
            )?,
            adapter_votes: counters(
                "flywheel_adapter_votes_total",
                "Votes by adapter version",
                &["adapter", "metric", "value"],
            )?,
            adapter_resident: gauges(
                "flywheel_adapter_resident_bytes",
                "Memory of resident adapter versions",
                &["adapter"],
            )?,
            adapter_load_seconds: add(
                r,
                GaugeVec::new(
                    Opts::new(
                        "flywheel_adapter_load_seconds",
                        "How long the last load took",
                    ),
                    &["adapter"],
                ),
            )?,
            assignments: counters(
                "flywheel_rollout_assignments_total",
                "Requests by public model and arm",
                &["model", "arm"],
            )?,
            votes: counters(
                "flywheel_votes_total",
                "Votes by metric and outcome",
                &["metric", "outcome"],
            )?,
            durability: gauges(
                "flywheel_store_durability",
                "1 for what an acknowledged write survives now",
                &["durability"],
            )?,
            store_up: add(
                r,
                IntGauge::new(
                    "flywheel_store_up",
                    "Whether the control state could be read lately",
                ),
            )?,
            kill_active: add(
                r,
                IntGauge::new("flywheel_kill_switch", "Whether the kill switch is thrown"),
            )?,
            guard_trips: counters(
                "flywheel_guard_trips_total",
                "Canaries stopped by a guard",
                &["model"],
            )?,
            records_failed: add(
                r,
                IntCounter::new(
                    "flywheel_inference_records_failed_total",
                    "Answers that could not be recorded",
                ),
            )?,
            adapter_evictions: add(
                r,
                IntCounter::new(
                    "flywheel_adapter_evictions_total",
                    "Adapter versions that made room for others",
                ),
            )?,
            queue_refused: counters(
                "flywheel_queue_refused_total",
                "Requests that found the queue, or their key's share of it, full",
                &["key", "queue"],
            )?,
            tenants_waiting: add(
                r,
                IntGauge::new(
                    "flywheel_tenants_waiting",
                    "API keys that have sequences waiting",
                ),
            )?,
            kv_bytes: add(
                r,
                IntGauge::new(
                    "flywheel_kv_cache_bytes",
                    "Memory that the key-value cache has taken",
                ),
            )?,
            kv_bytes_max: add(
                r,
                IntGauge::new(
                    "flywheel_kv_cache_bytes_max",
                    "The most memory that the key-value cache takes",
                ),
            )?,
            vllm: Vllm::new(r)?,
            registry,
        })
    }

    /// The label of a version: its first 12 digits while there is room.
    pub(crate) fn label(&self, adapter: Option<&AdapterDigest>) -> String {
        let Some(digest) = adapter else {
            return BASE.to_owned();
        };
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if labels.contains(digest) || labels.len() < ADAPTER_LABELS_MAX {
            labels.insert(*digest);
            return digest.short();
        }
        OTHER.to_owned()
    }

    pub(crate) fn adapter_loaded(&self, digest: &AdapterDigest, seconds: f64) {
        let label = self.label(Some(digest));
        self.adapter_load_seconds
            .with_label_values(&[&label])
            .set(seconds);
    }

    /// A request's first token came.
    pub(crate) fn first_token(&self, label: &str, seconds: f64) {
        self.vllm.first_token.observe(seconds);
        self.adapter_first_token
            .with_label_values(&[label])
            .observe(seconds);
    }

    /// More text of a request came.
    pub(crate) fn between_tokens(&self, label: &str, seconds: f64) {
        self.vllm.between_tokens.observe(seconds);
        self.adapter_between_tokens
            .with_label_values(&[label])
            .observe(seconds);
    }

    /// A request was answered.
    pub(crate) fn answered(
        &self,
        label: &str,
        usage: &engine::Usage,
        reasons: &[&str],
        seconds: f64,
    ) {
        self.vllm.request.observe(seconds);
        for reason in reasons {
            self.vllm.success.with_label_values(&[reason]).inc();
        }
        let tokens = |kind: &str| self.adapter_tokens.with_label_values(&[label, kind]);
        tokens("prompt").inc_by(u64::from(usage.prompt_tokens));
        tokens("completion").inc_by(u64::from(usage.completion_tokens));
    }

    /// The engine's queue had no place for a request. Labels are configured
    /// names, so that their number is bounded.
    pub(crate) fn refused(&self, key: Option<&str>, error: &EngineError) {
        let queue = match error {
            EngineError::QueueFull { .. } => "all",
            EngineError::TenantQueueFull { .. } => "key",
            EngineError::ImageMemory { .. } => "images",
            _ => return,
        };
        self.queue_refused
            .with_label_values(&[key.unwrap_or(NO_KEY), queue])
            .inc();
    }

    pub(crate) fn set_durability(&self, durability: Durability) {
        for each in [
            Durability::Unknown,
            Durability::OsBuffered,
            Durability::Fsynced,
        ] {
            self.durability
                .with_label_values(&[each.as_str()])
                .set(i64::from(each == durability));
        }
    }

    /// Reads what the engine says of itself.
    fn observe_engine(&self, engine: &dyn Engine, names: &AdapterNames, now: UnixMillis) {
        let Capacity {
            running,
            waiting,
            waiting_tenants,
            kv_cache_usage,
            prompt_tokens_total,
            generation_tokens_total,
            prefix_cache_queries_total,
            prefix_cache_hits_total,
            preemptions_total,
            adapter_evictions_total,
            kv_bytes,
            kv_bytes_max,
            ..
        } = engine.capacity();
        let vllm = &self.vllm;
        vllm.running.set(i64::from(running));
        vllm.waiting.set(i64::from(waiting));
        vllm.cache_usage.set(kv_cache_usage);
        raise(&vllm.prompt_tokens, prompt_tokens_total);
        raise(&vllm.generation_tokens, generation_tokens_total);
        raise(&vllm.prefix_queries, prefix_cache_queries_total);
        raise(&vllm.prefix_hits, prefix_cache_hits_total);
        raise(&vllm.preemptions, preemptions_total);
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        raise(&self.adapter_evictions, adapter_evictions_total);
        self.tenants_waiting.set(i64::from(waiting_tenants));
        self.kv_bytes.set(signed(kv_bytes));
        self.kv_bytes_max.set(signed(kv_bytes_max));
        let adapters = engine.adapters();
        self.adapter_resident.reset();
        for info in &adapters {
            let label = self.label(Some(&info.digest));
            self.adapter_resident
                .with_label_values(&[&label])
                .add(signed(info.bytes));
        }
        let running = running_adapters(&adapters, names);
        vllm.lora_info.reset();
        let max = adapters.len().to_string();
        #[expect(
            clippy::cast_precision_loss,
            reason = "seconds since 1970 fit in a float"
        )]
        vllm.lora_info
            .with_label_values(&[max.as_str(), &running, ""])
            .set(now.seconds() as f64);
    }

    /// Everything in Prometheus' text form.
    pub(crate) fn render(
        &self,
        engine: Option<&dyn Engine>,
        names: &AdapterNames,
        now: UnixMillis,
    ) -> prometheus::Result<Vec<u8>> {
        if let Some(engine) = engine {
            self.observe_engine(engine, names, now);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Raises a counter to a total that is counted elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// The aliases of versions with a sequence in the engine, joined by commas;
/// these are the names by which a router would send more such requests.
fn running_adapters(adapters: &[AdapterInfo], names: &AdapterNames) -> String {
    let running = adapters.iter().filter(|info| info.leases > 0);
    let names = running.filter_map(|info| names.get(&info.digest)).flatten();
    names
        .take(ADAPTER_LABELS_MAX)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ids::Sha256Digest;

    use super::*;

    #[test]
    fn the_number_of_labels_is_bounded() {
        let metrics = Metrics::new().unwrap();
        let digest = |n: usize| AdapterDigest(Sha256Digest::of(&n.to_be_bytes()));
        for n in 0..1000 {
            let label = metrics.label(Some(&digest(n)));
            metrics.first_token(&label, 0.1);
        }
        assert_eq!(metrics.label(Some(&digest(0))), digest(0).short());
        assert_eq!(metrics.label(Some(&digest(999))), OTHER);
        assert_eq!(metrics.label(None), BASE);
        let text = String::from_utf8(
            metrics
                .render(None, &AdapterNames::new(), UnixMillis(0))
                .unwrap(),
        )
        .unwrap();
        let series = text
            .matches("flywheel_adapter_time_to_first_token_seconds_count")
            .count();
        assert_eq!(series, ADAPTER_LABELS_MAX + 1);
        assert!(
            text.contains("vllm:time_to_first_token_seconds_count 1000"),
            "{text}"
        );
    }
}
