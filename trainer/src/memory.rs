//! How much memory a stage will take, term by term, before it begins, and what
//! is done about it: recompute layers, then smaller packs, then refuse.
//!
//! A pack is what is alive at a time; the loss, its gradient and the effective
//! batch do not depend on how a micro-batch is cut into packs. What is already
//! resident when the plan is made (weights, stores, the program) is measured,
//! not guessed. Knows no tensor.

use model::ModelConfig;
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::ops::head::CHUNK_ROWS;
use crate::pack::{Sequence, plan};
use crate::train::{Examples, Recompute, TrainConfig};

/// The share of what may be used that a plan may fill, in percent.
const SHARE_MAX_PERCENT: u64 = 90;
/// Bytes of a number.
const F32: u64 = 4;

/// What a plan is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Demand<'a> {
    pub(crate) model: &'a ModelConfig,
    /// Numbers that are trained.
    pub(crate) parameters: usize,
    /// What the process has resident now.
    pub(crate) resident_bytes: u64,
    /// What it may have resident.
    pub(crate) limit_bytes: u64,
}

/// One part of the sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// What it is for.
    pub name: String,
    /// How much.
    pub bytes: u64,
}

/// A plan that fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Whether layers are computed again.
    pub recompute: Recompute,
    /// Rows of a pack.
    pub pack_rows_max: usize,
    /// The predicted peak of the process.
    pub peak_bytes: u64,
    /// What may be used.
    pub limit_bytes: u64,
    /// The peak's parts.
    pub terms: Vec<Term>,
}

/// The largest pack of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Largest {
    rows: usize,
    targets: usize,
}

/// Finds the first plan that fits: as the recipe says, with recomputed layers,
/// with packs of half as many rows, and so on.
///
/// # Errors
/// [`TrainerError::Config`] with the sum when nothing fits.
pub(crate) fn plan_memory(
    demand: &Demand<'_>,
    examples: &Examples,
    config: &TrainConfig,
) -> Result<MemoryPlan, TrainerError> {
    let groups = groups(examples);
    let longest = largest(&groups, 0, 1).rows;
    let batch = config.micro_batch_pairs + config.retention.per_micro_batch;
    let modes: &[Recompute] = match config.recompute {
        Recompute::Auto => &[Recompute::Never, Recompute::Always],
        Recompute::Always => &[Recompute::Always],
        Recompute::Never => &[Recompute::Never],
    };
    let allowed = demand.limit_bytes / 100 * SHARE_MAX_PERCENT;
    let mut rows = config.pack_rows_max;
    loop {
        let pack = largest(&groups, rows, batch);
        for &recompute in modes {
            let terms = terms(demand, pack, recompute);
            let peak_bytes = terms.iter().map(|term| term.bytes).sum();
            let plan = MemoryPlan {
                recompute,
                pack_rows_max: rows,
                peak_bytes,
                limit_bytes: demand.limit_bytes,
                terms,
            };
            if peak_bytes <= allowed {
                return Ok(plan);
            }
            if rows <= longest && Some(&recompute) == modes.last() {
                return Err(TrainerError::Config {
                    key: "training",
                    problem: format!("the memory does not suffice: {}", plan.text()),
                });
            }
        }
        rows = (rows / 2).max(longest).max(1);
    }
}

impl MemoryPlan {
    /// The recipe with what was planned in it.
    pub(crate) fn apply(&self, config: &TrainConfig) -> TrainConfig {
        TrainConfig {
            recompute: self.recompute,
            pack_rows_max: self.pack_rows_max,
            ..config.clone()
        }
    }

    /// The sum in words.
    #[must_use]
    pub fn text(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let terms: Vec<String> = self
            .terms
            .iter()
            .map(|term| format!("{} {}", term.name, mib(term.bytes)))
            .collect();
        format!(
            "{} = {} MiB of {} ({SHARE_MAX_PERCENT}% may be used), packs of {} rows, recompute {:?}",
            terms.join(" + "),
            mib(self.peak_bytes),
            mib(self.limit_bytes),
            self.pack_rows_max,
            self.recompute
        )
    }
}

fn terms(demand: &Demand<'_>, pack: Largest, recompute: Recompute) -> Vec<Term> {
    let c = demand.model;
    let (h, f) = (c.hidden_size, c.ffn_size);
    let (q, kv) = (c.head_count * c.head_dim, c.kv_head_count * c.head_dim);
    // what one layer's graph keeps of a row: its input, two norms, the queries,
    // keys and values, the attended, two results, the sum, gate, up and product
    let layer = 7 * h + 2 * q + 2 * kv + 3 * f;
    // its largest gradients that are alive together
    let frontier = 2 * h + 4 * f;
    let by_rows = |floats: usize| (pack.rows * floats) as u64 * F32;
    let kept = match recompute {
        Recompute::Always => c.layer_count * h + layer,
        _ => c.layer_count * layer,
    };
    let parameters = demand.parameters as u64 * F32;
    let term = |name: &str, bytes: u64| Term {
        name: name.to_owned(),
        bytes,
    };
    vec![
        term("resident", demand.resident_bytes),
        // policy, start, sums of gradients and one pass's
        term("factors and gradients", 4 * parameters),
        term("optimizer", 2 * parameters),
        // the best epoch, and copies of factors, moments and best to be written
        term("best epoch and checkpoint", 5 * parameters),
        term("activations", by_rows(kept)),
        term("gradients of activations", by_rows(frontier)),
        term(
            "head",
            ((CHUNK_ROWS.min(pack.rows) * c.vocab_size + pack.targets * h + 3 * pack.rows * h)
                as u64)
                * F32,
        ),
    ]
}

/// The groups of sequences that packs are made of.
fn groups(examples: &Examples) -> Vec<Vec<&Sequence>> {
    let trained = (0..examples.train.len()).map(|i| examples.train.sequences(i));
    let validated = (0..examples.validation.len()).map(|i| examples.validation.sequences(i));
    let retained = examples.retained.iter().map(|plain| vec![&plain.sequence]);
    trained.chain(validated).chain(retained).collect()
}

/// An upper bound of what a pack of at most `rows_max` rows, or of one group,
/// holds: the largest `batch` groups together, cut at the bound.
fn largest(groups: &[Vec<&Sequence>], rows_max: usize, batch: usize) -> Largest {
    let mut sizes: Vec<(usize, usize)> = groups
        .iter()
        .map(|group| {
            let one = plan(std::slice::from_ref(group), 0);
            let rows = one.iter().map(|pack| pack.tree.tokens.len()).sum();
            let targets = group.iter().map(|sequence| sequence.completion_len()).sum();
            (rows, targets)
        })
        .collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let longest = sizes.first().map_or(0, |size| size.0);
    let together: usize = sizes.iter().take(batch).map(|size| size.0).sum();
    sizes.sort_unstable_by_key(|size| std::cmp::Reverse(size.1));
    let targets: usize = sizes.iter().take(batch).map(|size| size.1).sum();
    let rows = together.min(rows_max.max(longest));
    Largest {
        rows,
        // each row predicts two tokens at most, where chosen and rejected part
        targets: targets.min(2 * rows),
    }
}

/// What this process has resident, and what it may have: the control group's
/// limit or what the machine has left, whichever is less. None where the
/// system does not say.
pub(crate) fn measured() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = kib_of(&status, "VmRSS:")?;
    let machine = std::fs::read_to_string("/proc/meminfo").ok()?;
    let available = kib_of(&machine, "MemAvailable:")? + resident;
    let group = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok());
    Some((resident, group.unwrap_or(u64::MAX).min(available)))
}

/// The line `KEY N kB` of a file of the kernel's, in bytes.
pub(crate) fn kib_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tests::tiny;
    use crate::train::{Items, PlainExample};

    fn examples(lengths: &[usize]) -> Examples {
        let plain = |(i, &n): (usize, &usize)| PlainExample {
            sequence: Sequence {
                tokens: (0..n as u32).map(|t| t + 7 * i as u32).collect(),
                completion_start: 1,
            },
        };
        Examples {
            train: Items::Plain(lengths.iter().enumerate().map(plain).collect()),
            ..Examples::default()
        }
    }

    fn planned(limit_bytes: u64) -> Result<MemoryPlan, TrainerError> {
        let demand = Demand {
            model: &tiny().config,
            parameters: 1000,
            resident_bytes: 1 << 20,
            limit_bytes,
        };
        let config = TrainConfig {
            pack_rows_max: 1024,
            micro_batch_pairs: 8,
            ..TrainConfig::default()
        };
        plan_memory(&demand, &examples(&[100; 16]), &config)
    }

    #[test]
    fn less_memory_recomputes_then_shrinks_then_refuses() {
        let roomy = planned(u64::MAX).unwrap();
        assert_eq!(
            (roomy.recompute, roomy.pack_rows_max),
            (Recompute::Never, 1024)
        );
        let sum: u64 = roomy.terms.iter().map(|term| term.bytes).sum();
        assert_eq!(sum, roomy.peak_bytes);
        let tighter = planned(roomy.peak_bytes).unwrap();
        assert_eq!(tighter.recompute, Recompute::Always);
        assert!(tighter.peak_bytes <= roomy.peak_bytes / 10 * 9);
        let shrunk = planned(tighter.peak_bytes).unwrap();
        assert!(shrunk.pack_rows_max < 1024 && shrunk.peak_bytes < tighter.peak_bytes);
        let error = planned(1 << 20).unwrap_err().to_string();
        assert!(
            error.contains("resident 1") && error.contains("packs of 99 rows"),
            "{error}"
        );
    }

    #[test]
    fn a_pack_is_no_larger_than_the_micro_batch_and_no_smaller_than_a_group() {
        let examples = examples(&[50, 10, 10, 10]);
        let groups = groups(&examples);
        assert_eq!(largest(&groups, 1024, 4).rows, 49 + 3 * 9);
        assert_eq!(largest(&groups, 1024, 2).rows, 49 + 9);
        assert_eq!(largest(&groups, 20, 4).rows, 49);
        assert_eq!(largest(&groups, 60, 4).rows, 60);
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let (resident, limit) = measured().unwrap();
        assert!(resident > 1 << 20 && limit >= resident);
        assert_eq!(kib_of("A: 1 kB\nVmRSS:\t 20 kB\n", "VmRSS:"), Some(20480));
        assert_eq!(kib_of("VmRSS: x kB", "VmRSS:"), None);
    }
}
