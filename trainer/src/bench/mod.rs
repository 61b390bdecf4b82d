//! `flywheel-trainer bench`: what a step of DPO costs on this machine, in time
//! and in memory, beside what was planned and what the machine could do.
//!
//! Trains a fresh adapter on pairs of tokens through the same plan, loop and
//! checkpoints as a run. Keeps nothing and knows no store.

mod machine;
mod pairs;
mod work;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use engine::native::Device;
use model::BaseModel;
use model::lora::{LoraAdapter, LoraConfig};
use serde::Serialize;

use crate::checkpoints::CheckpointFile;
use crate::give_way::GiveWayConfig;
use crate::memory::{MemoryPlan, Room, plan_memory};
use crate::pack::{self, Sequence};
use crate::planned::demand;
use crate::priority::behind_serving;
use crate::tensors::{Compute, Place};
use crate::train::{
    EpochMetrics, Examples, Job, Observer, Recompute, StepMetrics, TrainConfig, train_with,
};
use crate::{FrozenModel, TrainerError};

/// What `flywheel-trainer bench` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// The GGUF file to train on.
    #[arg(long, env = "FLYWHEEL_MODEL")]
    model: PathBuf,
    /// JSON lines of `{"prompt_ids", "chosen_ids", "rejected_ids"}`; made up
    /// from the next three where there is none.
    #[arg(long)]
    pairs_file: Option<PathBuf>,
    /// Pairs of a step.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pairs: u16,
    /// Tokens of each of a pair's two sequences, prompt included.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(4..=16384))]
    tokens: u16,
    /// Tokens of their prompt; half of them by default.
    #[arg(long)]
    prompt_tokens: Option<u16>,
    /// Steps, of which the first also computes the reference.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    steps: u16,
    /// What computes: `cpu`, `cuda:0` where the feature `cuda` is built in, or for
    /// comparison `candle`: the CPU by the same code as a GPU.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Products in bf16, on a GPU.
    #[arg(long)]
    bf16: bool,
    /// Threads that compute; 0 takes as many as there are CPUs.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Rank of the adapter, on all linear modules.
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Give way to serving, as a run does.
    #[arg(long)]
    behind_serving: bool,
    /// Plan as if there were so many MiB.
    #[arg(long)]
    memory_mib: Option<u64>,
    /// Prints JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// Pairs of a step.
    pub pairs: usize,
    /// Unpadded policy tokens of a step: prompt and answer, both answers.
    pub tokens: u64,
    /// Rows computed for them: what sequences share is computed once.
    pub rows: u64,
    /// Seconds of each step; the first computes the reference too.
    pub seconds: Vec<f64>,
    /// Tokens a second of the first step.
    pub tokens_per_second_with_reference: f64,
    /// Of the median of the others.
    pub tokens_per_second: f64,
    /// The most that the process had resident.
    pub peak_rss_bytes: u64,
    /// The most that was seen taken of the device's own memory, by whoever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_device_bytes: Option<u64>,
    /// What was predicted for where it trains, term by term.
    pub plan: MemoryPlan,
    /// Products of a step without its reference, in 10⁹ operations.
    pub gflop: f64,
    /// The fastest f32 product seen on as many threads, in 10⁹ operations a second.
    pub gemm_gflops_max: f64,
    /// The share of it that training reached.
    pub gemm_share: f64,
}

/// Keeps the time of every step.
#[derive(Default)]
struct Times {
    ended: Vec<f64>,
    rows: u64,
}

impl Observer for Times {
    fn step(&mut self, metrics: &StepMetrics) {
        self.ended.push(metrics.seconds);
        tracing::info!("step {}: loss {:.4}", metrics.step, metrics.loss);
        self.rows = metrics.packed_rows;
    }

    fn epoch(&mut self, _: &EpochMetrics) {}
}

impl Times {
    fn seconds(&self) -> Vec<f64> {
        let before = std::iter::once(&0.0).chain(&self.ended);
        self.ended.iter().zip(before).map(|(a, b)| a - b).collect()
    }
}

/// Measures.
///
/// # Errors
/// When the model or the pairs cannot be read or used, or training fails.
pub fn run(args: &BenchArgs) -> Result<BenchReport, TrainerError> {
    if args.behind_serving {
        behind_serving(None);
    }
    let base = BaseModel::open(&args.model)?;
    let examples = Examples {
        train: pairs::read_or_make(args, base.config.vocab_size)?.into(),
        ..Examples::default()
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build()
        .map_err(|error| TrainerError::Config {
            key: "threads",
            problem: error.to_string(),
        })?;
    let folder = Scratch::new()?;
    pool.install(|| measure(args, &base, &examples, &folder.0))
}

fn measure(
    args: &BenchArgs,
    base: &BaseModel,
    examples: &Examples,
    folder: &Path,
) -> Result<BenchReport, TrainerError> {
    let groups: Vec<Vec<&Sequence>> = (0..examples.train.len())
        .map(|index| examples.train.sequences(index))
        .collect();
    let lengths = || groups.iter().flatten().map(|s| s.tokens.len());
    let mut config = TrainConfig {
        epochs: usize::from(args.steps),
        micro_batch_pairs: groups.len(),
        micro_batches: 1,
        sequence_tokens_max: lengths().max().unwrap_or(1),
        sft_weight: 0.0,
        patience_epochs: 0,
        ..TrainConfig::default()
    };
    config.lora.rank = args.rank;
    let lora = LoraConfig::uniform(config.lora.rank, config.lora.alpha);
    let start = LoraAdapter::new_random(&base.config, &lora, config.seed)?;
    let compute = match args.bf16 {
        true => Compute::Bf16,
        false => Compute::F32,
    };
    let place = Place::open(args.device, compute)?;
    let positions_max = config.sequence_tokens_max;
    let model = FrozenModel::on(&place, &base.weights, &base.config, positions_max)?;
    let model = match args.behind_serving {
        true => model.giving_way(GiveWayConfig::default()),
        false => model,
    };
    let plan = planned(args, &place, base, &start, examples, &config)?;
    let config = plan.apply(&config);
    let job = Job {
        model: &model,
        base: base.digest,
        start: &start,
        examples,
        config: &config,
    };
    let mut times = Times::default();
    let mut checkpoints = CheckpointFile::new(folder, 0);
    let watch = machine::DeviceWatch::start(&place);
    train_with(job, &mut checkpoints, &mut times, &AtomicBool::new(false))?;
    let peak_device_bytes = watch.most();
    let peak_rss_bytes = machine::peak_rss_bytes();
    let gemm_gflops_max = machine::gemm_gflops_max();
    let packs = pack::plan(&groups, config.pack_rows_max);
    let recompute = config.recompute == Recompute::Always;
    let gflop = work::step_gflop(&base.config, &packs, args.rank, recompute);
    let seconds = times.seconds();
    let tokens = lengths().sum::<usize>() as u64;
    let first = seconds.first().copied().unwrap_or(f64::NAN);
    let median = median(seconds.get(1..).unwrap_or_default()).unwrap_or(first);
    Ok(BenchReport {
        pairs: groups.len(),
        tokens,
        rows: times.rows,
        tokens_per_second_with_reference: tokens as f64 / first,
        tokens_per_second: tokens as f64 / median,
        seconds,
        peak_rss_bytes,
        peak_device_bytes,
        plan,
        gflop,
        gemm_gflops_max,
        gemm_share: gflop / median / gemm_gflops_max,
    })
}

fn planned(
    args: &BenchArgs,
    place: &Place,
    base: &BaseModel,
    start: &LoraAdapter,
    examples: &Examples,
    config: &TrainConfig,
) -> Result<MemoryPlan, TrainerError> {
    let room = place.room(None).unwrap_or(Room::new(0, u64::MAX, None));
    let asked = args.memory_mib.map_or(u64::MAX, |mib| mib << 20);
    let room = Room::new(room.taken_bytes, room.limit_bytes.min(asked), None);
    let demand = demand(place, base, start, room);
    plan_memory(&demand, examples, config)
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 2] + sorted[sorted.len() / 2]) / 2.0)
}

impl BenchReport {
    /// The report in words.
    #[must_use]
    pub fn text(&self) -> String {
        let seconds: Vec<String> = self.seconds.iter().map(|s| format!("{s:.2}")).collect();
        let mib = |bytes: u64| bytes >> 20;
        format!(
            "{} pairs, {} tokens, {} rows a step; seconds {}\n\
             {:.1} tokens/s, {:.1} with the reference\n\
             peak {} MiB, predicted {}: {}\n\
             {:.0} GFLOP a step, {:.0}% of the {:.0} GFLOP/s of a plain product\n",
            self.pairs,
            self.tokens,
            self.rows,
            seconds.join(" "),
            self.tokens_per_second,
            self.tokens_per_second_with_reference,
            mib(self.peak_device_bytes.unwrap_or(self.peak_rss_bytes)),
            mib(self.plan.peak_bytes),
            self.plan.text(),
            self.gflop,
            100.0 * self.gemm_share,
            self.gemm_gflops_max,
        )
    }
}

/// A folder for checkpoints, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, TrainerError> {
        let name = format!("flywheel-trainer-bench-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(TrainerError::file(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_differences_and_their_middle() {
        let times = Times {
            ended: vec![5.0, 7.0, 10.0],
            rows: 1,
        };
        let seconds = times.seconds();
        assert_eq!(seconds, [5.0, 2.0, 3.0]);
        assert_eq!(median(&seconds[1..]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
