//! `flywheel bench` by itself: how fast the engine computes, alone and in batches.

use std::process::ExitCode;

use engine::Engine as _;
use engine::bench::{Bench, Case, Mix};
use engine::native::{Device, KvFormat, MachineLimits, NativeEngine, NativeOptions, TokenCost};
use ids::AdapterDigest;
use serde::Serialize;

use super::Common;
use crate::cli::CliError;
use crate::cli::output::Output;

/// The most adapters that a mix can have.
const ADAPTERS_MAX: u32 = 64;

/// Which cases, and how often.
#[derive(Debug, clap::Args)]
pub(super) struct SpeedArgs {
    /// How often each case is measured; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Random adapters that are loaded.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=i64::from(ADAPTERS_MAX)))]
    adapters: u32,
    /// Only the case of this name, for example `prefill 512`, or those whose
    /// names have the text.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// How keys and values are kept: `f32` or `q8_0`.
    #[arg(long, default_value = "f32", value_parser = kv_format)]
    kv_cache: KvFormat,
    /// What computes: `cpu`, or `cuda:0` where the feature `cuda` is built in.
    #[arg(long, default_value = "cpu")]
    device: Device,
}

fn kv_format(text: &str) -> Result<KvFormat, String> {
    match text {
        "f32" => Ok(KvFormat::F32),
        "q8_0" => Ok(KvFormat::Q8_0),
        _ => Err("it is f32 or q8_0".to_owned()),
    }
}

/// One case after all rounds, in tokens a second.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    bench: Bench,
    median: f64,
    min: f64,
    max: f64,
    rounds: usize,
    /// None on another device than the CPU.
    #[serde(flatten)]
    shares: Option<Shares>,
}

/// Which part of the machine's limits a rate takes, base weights and their products
/// alone: attention and adapters come on top.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Shares {
    /// Of the bytes that can be read from memory; how often a prompt's pieces read the
    /// weights is the scheduler's matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_share: Option<f64>,
    /// Of the products of 8-bit numbers.
    int8_share: f64,
}

impl Shares {
    fn new(case: Case, rate: f64, (cost, limits): (TokenCost, MachineLimits)) -> Self {
        let (bytes, head_macs) = match case {
            Case::Prefill { tokens } => (None, cost.head_macs as f64 / f64::from(tokens)),
            Case::Decode { batch, .. } => (
                Some(cost.weight_bytes as f64 / f64::from(batch)),
                cost.head_macs as f64,
            ),
        };
        let macs = cost.layer_macs as f64 + head_macs;
        Self {
            memory_share: bytes.map(|bytes| rate * bytes / limits.read_bytes_per_second),
            int8_share: rate * macs / limits.int8_macs_per_second,
        }
    }
}

impl Row {
    fn new(bench: Bench, mut rates: Vec<f64>, machine: Option<(TokenCost, MachineLimits)>) -> Self {
        rates.sort_by(f64::total_cmp);
        let at = |index: usize| rates.get(index).copied().unwrap_or_default();
        let last = rates.len().saturating_sub(1);
        let median = (at(last / 2) + at(rates.len() / 2)) / 2.0;
        Self {
            name: bench.name(),
            bench,
            median,
            shares: machine.map(|machine| Shares::new(bench.case, median, machine)),
            min: at(0),
            max: at(last),
            rounds: rates.len(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let adapters = match self.bench.adapters {
            Mix::Base => "none",
            Mix::One => "one",
            Mix::Mixed => "one each",
        };
        let rate = |rate: f64| format!("{rate:.1}");
        let rates = [self.median, self.min, self.max].map(rate);
        let share = |share: f64| format!("{:.0}%", 100.0 * share);
        let shares = [
            self.shares
                .and_then(|shares| shares.memory_share)
                .map(share),
            self.shares.map(|shares| share(shares.int8_share)),
        ];
        [self.name.clone(), adapters.to_owned()]
            .into_iter()
            .chain(rates)
            .chain(shares.map(Option::unwrap_or_default))
            .collect()
    }
}

pub(super) async fn run(common: Common, args: SpeedArgs) -> Result<ExitCode, CliError> {
    let options = NativeOptions {
        threads: common.threads,
        // room for all of them, whatever their rank
        adapter_bytes_max: u64::MAX,
        // what is measured is computing, and cases begin with the same words
        prefix_cache: false,
        kv_cache: args.kv_cache,
        device: args.device,
        ..NativeOptions::default()
    };
    let failed = |error: &dyn std::error::Error| CliError::Bench(error.to_string());
    let threads = options.threads().map_err(|error| failed(&error))?;
    let engine = NativeEngine::open(&common.model()?, options).map_err(|error| failed(&error))?;
    // they are the CPU's
    let limits = (args.device == Device::Cpu).then(|| MachineLimits::measure(threads));
    let limits = limits.transpose().map_err(|error| failed(&error))?;
    let machine = limits.map(|limits| (engine.token_cost(), limits));
    let rows = measure(&engine, common.rank, &args, machine)
        .await
        .map_err(|error| failed(&error))?;
    engine.shutdown().await;
    if rows.is_empty() {
        let only = args.only.unwrap_or_default();
        return Err(CliError::Argument(format!(
            "no case has {only:?} in its name"
        )));
    }
    let head = [
        "case",
        "adapters",
        "tokens/s (median)",
        "least",
        "most",
        "of memory",
        "of int8",
    ];
    let output = Output::new(common.json);
    output.rows(&rows, &head, Row::cells)?;
    if let (false, Some(limits)) = (common.json, limits) {
        output.done(&format!(
            "{threads} threads of this machine read {:.1} GB/s, and multiply {:.0} G 8-bit \
             numbers/s: the last two columns are the shares of it that the base's weights take",
            limits.read_bytes_per_second / 1e9,
            limits.int8_macs_per_second / 1e9,
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The cases of that name, or else those with the text in their names.
fn selected(only: Option<&str>) -> Vec<Bench> {
    let (all, only) = (Bench::all(), only.unwrap_or_default());
    let exact = all.iter().any(|bench| bench.name() == only);
    all.into_iter()
        .filter(|bench| match exact {
            true => bench.name() == only,
            false => bench.name().contains(only),
        })
        .collect()
}

/// Round by round over all cases, so that other load meets them alike.
async fn measure(
    engine: &NativeEngine,
    rank: usize,
    args: &SpeedArgs,
    machine: Option<(TokenCost, MachineLimits)>,
) -> Result<Vec<Row>, engine::EngineError> {
    let mut cases: Vec<(Bench, Vec<f64>)> = selected(args.only.as_deref())
        .into_iter()
        .map(|bench| (bench, Vec::new()))
        .collect();
    let mut adapters: Vec<AdapterDigest> = Vec::new();
    for seed in 0..u64::from(args.adapters) {
        let package = engine.synthetic_adapter(rank, seed)?;
        adapters.push(engine.load_adapter(package).await?.digest);
    }
    // the first round only warms up
    for round in 0..=args.rounds {
        for (bench, rates) in &mut cases {
            let rate = bench.measure(engine, &adapters, round).await?;
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    Ok(cases
        .into_iter()
        .map(|(bench, rates)| Row::new(bench, rates, machine))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_name_selects_its_case_alone() {
        assert_eq!(selected(Some("decode 128 × 1")).len(), 2);
        assert_eq!(selected(Some("decode")).len(), 11);
        assert_eq!(selected(None), Bench::all());
        assert!(selected(Some("nothing")).is_empty());
    }

    const MACHINE: (TokenCost, MachineLimits) = (
        TokenCost {
            weight_bytes: 100,
            layer_macs: 1000,
            head_macs: 320,
        },
        MachineLimits {
            read_bytes_per_second: 1e4,
            int8_macs_per_second: 1e6,
        },
    );

    #[test]
    fn shares_are_of_what_a_token_costs() {
        let decode = |batch| Case::Decode { batch, tokens: 128 };
        let alone = Shares::new(decode(1), 50.0, MACHINE);
        assert_eq!((alone.memory_share, alone.int8_share), (Some(0.5), 0.066));
        let eight = Shares::new(decode(8), 200.0, MACHINE);
        assert_eq!((eight.memory_share, eight.int8_share), (Some(0.25), 0.264));
        let prompt = Shares::new(Case::Prefill { tokens: 32 }, 500.0, MACHINE);
        assert_eq!((prompt.memory_share, prompt.int8_share), (None, 0.505));
    }

    #[test]
    fn a_row_has_the_median_of_its_rounds() {
        let row = |rates: &[f64]| Row::new(Bench::all()[0], rates.to_vec(), Some(MACHINE));
        assert!((row(&[3.0, 1.0, 2.0]).median - 2.0).abs() < 1e-9);
        assert!((row(&[4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < 1e-9);
        let one = row(&[7.0]);
        assert_eq!(
            (one.median, one.min, one.max, one.rounds),
            (7.0, 7.0, 7.0, 1)
        );
    }
}
