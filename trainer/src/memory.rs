//! How much memory a stage will take, term by term, before it begins, and what
//! is done about it: recompute layers, then smaller packs, then refuse.
//!
//! A pack is what is alive at a time; the loss, its gradient and the effective
//! batch do not depend on how a micro-batch is cut into packs. What is already
//! resident when the plan is made (weights, stores, the program; on a GPU also what
//! others have there) is measured, not guessed. Knows no tensor.

mod control_groups;
mod terms;

use std::path::Path;

use model::ModelConfig;
use serde::{Deserialize, Serialize};

use self::terms::terms;
use crate::TrainerError;
use crate::pack::{Sequence, plan};
use crate::train::{Examples, Recompute, TrainConfig, epoch, mismatched};

/// The share of what may be used that a plan may fill, in percent.
const SHARE_MAX_PERCENT: u64 = 90;
/// Epochs whose packs are looked at.
const EPOCHS_PLANNED: usize = 2;

/// What a plan is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Demand<'a> {
    pub(crate) model: &'a ModelConfig,
    /// Numbers that are trained.
    pub(crate) parameters: usize,
    /// What the weights' interleaved copy will take that is not made yet.
    pub(crate) to_interleave_bytes: u64,
    /// What computes.
    pub(crate) computed: Computed,
    /// The memory that it is in.
    pub(crate) room: Room,
}

/// What computes the network, and so what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Computed {
    /// `ops`, with backward passes of their own.
    Fused,
    /// `tensors`, whose every step candle keeps.
    Tensors {
        /// Bytes of a number in products.
        number_bytes: u64,
        /// Whether the memory is a device's own, handed out from a pool.
        pooled: bool,
    },
}

/// A memory, when the plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// What is taken: by the process, and on a GPU by everybody.
    pub(crate) taken_bytes: u64,
    /// What there is for them.
    pub(crate) limit_bytes: u64,
    /// What the plan may fill of it.
    pub(crate) allowed_bytes: u64,
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
    /// The predicted peak of the process; on a GPU, of all that is on it.
    pub peak_bytes: u64,
    /// What there is.
    pub limit_bytes: u64,
    /// What may be filled of it.
    #[serde(default)]
    pub allowed_bytes: u64,
    /// The peak's parts.
    pub terms: Vec<Term>,
}

/// The largest packs of a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Packs {
    /// Of which gradients are taken.
    trained: Largest,
    /// Of which only log-probabilities are.
    validated: Largest,
}

/// What a pack holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Largest {
    rows: usize,
    targets: usize,
    /// Pairs of a row and one that it may see, those behind it in its segment too.
    seen: usize,
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
    let longest = of_packs(&groups, 0).rows;
    let modes: &[Recompute] = match config.recompute {
        Recompute::Auto => &[Recompute::Never, Recompute::Always],
        Recompute::Always => &[Recompute::Always],
        Recompute::Never => &[Recompute::Never],
    };
    let mut rows = config.pack_rows_max;
    loop {
        let packs = largest(examples, &groups, rows, config);
        for &recompute in modes {
            let terms = terms(demand, &packs, recompute);
            let peak_bytes = terms.iter().map(|term| term.bytes).sum();
            let plan = MemoryPlan {
                recompute,
                pack_rows_max: rows,
                peak_bytes,
                limit_bytes: demand.room.limit_bytes,
                allowed_bytes: demand.room.allowed_bytes,
                terms,
            };
            if peak_bytes <= plan.allowed_bytes {
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
            "{} = {} MiB of {} ({} may be used), packs of {} rows, recompute {:?}",
            terms.join(" + "),
            mib(self.peak_bytes),
            mib(self.limit_bytes),
            mib(self.allowed_bytes),
            self.pack_rows_max,
            self.recompute
        )
    }
}

/// The groups of sequences that packs are made of.
fn groups(examples: &Examples) -> Vec<Vec<&Sequence>> {
    let trained = (0..examples.train.len()).map(|i| examples.train.sequences(i));
    let validated = (0..examples.validation.len()).map(|i| examples.validation.sequences(i));
    let retained = examples.retained.iter().map(|plain| vec![&plain.sequence]);
    trained.chain(validated).chain(retained).collect()
}

/// What the largest packs hold of all that a stage will make of its examples in
/// packs of at most `rows_max` rows, or of one group.
fn largest(
    examples: &Examples,
    groups: &[Vec<&Sequence>],
    rows_max: usize,
    config: &TrainConfig,
) -> Packs {
    let (items, retained) = (examples.train.len(), examples.retained.len());
    let validated = &groups[items..groups.len() - retained];
    let mut trained = Largest::default();
    let mut scored = of_packs(validated, rows_max);
    // epochs differ in their order alone, so a few tell
    for number in 0..config.epochs.min(EPOCHS_PLANNED) {
        for micro in epoch(items, retained, number, config) {
            let plain = micro.retained.iter().map(|i| groups.len() - retained + i);
            let together = micro.items.iter().copied().chain(plain);
            let together: Vec<Vec<&Sequence>> = together.map(|i| groups[i].clone()).collect();
            trained = trained.or(of_packs(&together, rows_max));
            // KTO's estimate, without a gradient
            let estimated = mismatched(&examples.train, &micro.items, config.sequence_tokens_max);
            let estimated: Vec<Vec<&Sequence>> = estimated.iter().map(|s| vec![s]).collect();
            scored = scored.or(of_packs(&estimated, rows_max));
        }
    }
    Packs {
        trained,
        validated: scored,
    }
}

/// The largest of the packs that these groups make.
fn of_packs(groups: &[Vec<&Sequence>], rows_max: usize) -> Largest {
    let packs = plan(groups, rows_max);
    let sizes = packs.iter().map(|pack| Largest {
        rows: pack.tree.tokens.len(),
        targets: pack.targets.len(),
        seen: pack
            .tree
            .segments
            .iter()
            .map(|s| s.rows.len() * s.path_len())
            .sum(),
    });
    sizes.fold(Largest::default(), Largest::or)
}

impl Largest {
    fn or(self, other: Self) -> Self {
        Self {
            rows: self.rows.max(other.rows),
            targets: self.targets.max(other.targets),
            seen: self.seen.max(other.seen),
        }
    }
}

impl Room {
    /// Of a memory where `taken_bytes` are taken. Where training has a share of its own,
    /// it may fill that beside what others have.
    pub(crate) fn new(taken_bytes: u64, limit_bytes: u64, own: Option<Own>) -> Self {
        let share = limit_bytes / 100 * SHARE_MAX_PERCENT;
        let allowed = own.map_or(share, |own| {
            let others = taken_bytes.saturating_sub(own.taken_bytes);
            share.min(others.saturating_add(own.bytes_max))
        });
        Self {
            taken_bytes,
            limit_bytes,
            allowed_bytes: allowed,
        }
    }

    /// This process's, in the machine's memory: what its control groups leave it or
    /// what the machine has left, whichever is less. None where the system does not say.
    pub(crate) fn of_process() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let resident = kib_of(&status, "VmRSS:")?;
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group = control_groups::limit(&groups, Path::new("/sys/fs/cgroup"), resident);
        let limit = group
            .unwrap_or(u64::MAX)
            .min(control_groups::of_machine(resident)?);
        Some(Self::new(resident, limit, None))
    }
}

/// Training's share of a memory that others use too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    /// What it has taken already.
    pub(crate) taken_bytes: u64,
    /// The most that it may take.
    pub(crate) bytes_max: u64,
}

/// The most that this process had resident so far.
pub(crate) fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kib_of(&status, "VmHWM:")
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
    use crate::train::{Items, PlainExample, RatedExample};

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
            to_interleave_bytes: 0,
            computed: Computed::Fused,
            room: Room::new(1 << 20, limit_bytes, None),
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
            error.contains("taken 1") && error.contains("packs of 99 rows"),
            "{error}"
        );
    }

    #[test]
    fn the_largest_pack_is_one_that_is_made() {
        let examples = examples(&[50, 10, 10, 10]);
        let groups = groups(&examples);
        let of = |rows, batch| {
            let config = TrainConfig {
                micro_batch_pairs: batch,
                ..TrainConfig::default()
            };
            largest(&examples, &groups, rows, &config).trained.rows
        };
        assert_eq!(of(1024, 4), 49 + 3 * 9);
        assert_eq!(of(1024, 1), 49);
        assert_eq!(of(20, 4), 49);
        // a group is whole or in another pack
        assert!((49..=60).contains(&of(60, 4)));
        assert_eq!(of(57, 4), 49);
    }

    #[test]
    fn a_prompt_with_anothers_answer_is_planned_and_no_longer_than_any() {
        let rated = |prompt: usize, answer: usize| RatedExample {
            sequence: Sequence {
                tokens: (0..(prompt + answer) as u32).collect(),
                completion_start: prompt,
            },
            is_good: true,
        };
        let examples = Examples {
            train: Items::Rated(vec![rated(70, 10), rated(10, 60)]),
            ..Examples::default()
        };
        let lengths = |tokens_max| -> Vec<usize> {
            let made = mismatched(&examples.train, &[0, 1], tokens_max);
            made.iter().map(|s| s.tokens.len()).collect()
        };
        assert_eq!(lengths(1024), [130, 20]);
        assert_eq!(lengths(100), [100, 20]);
        let config = TrainConfig {
            sequence_tokens_max: 100,
            ..TrainConfig::default()
        };
        let packs = largest(&examples, &groups(&examples), 1, &config);
        assert_eq!((packs.trained.rows, packs.validated.rows), (79, 99));
    }

    #[test]
    fn others_keep_what_they_have_and_training_its_share() {
        let of = |own| Room::new(600, 1000, own).allowed_bytes;
        assert_eq!(of(None), 900);
        let own = |taken_bytes, bytes_max| {
            Some(Own {
                taken_bytes,
                bytes_max,
            })
        };
        // 500 are the others'
        assert_eq!(of(own(100, 250)), 750);
        assert_eq!(of(own(100, 700)), 900);
        assert_eq!(of(own(100, u64::MAX)), 900);
        assert_eq!(of(own(700, 50)), 50);
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let room = Room::of_process().unwrap();
        assert!(room.taken_bytes > 1 << 20 && room.limit_bytes >= room.taken_bytes);
        assert!(room.allowed_bytes < room.limit_bytes);
        assert_eq!(kib_of("A: 1 kB\nVmRSS:\t 20 kB\n", "VmRSS:"), Some(20480));
        assert_eq!(kib_of("VmRSS: x kB", "VmRSS:"), None);
    }
}
