//! An adapter's configuration, and which rank and scale it gives each module.

use super::pattern::{PATTERNS_MAX, Pattern};
use super::{LoraError, ModuleId, RANK_MAX};
use crate::architecture::Architecture;
use crate::projection::Projection;

/// How an adapter was configured.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// The rank of modules that no pattern names.
    pub rank: usize,
    /// The numerator of the scale of modules that no pattern names.
    pub alpha: f32,
    /// The share of A's inputs that training drops.
    pub dropout: f32,
    /// Whether the scale is α/√r in place of α/r.
    pub use_rslora: bool,
    /// Ranks of modules, by regular expressions over the ends of their paths;
    /// the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// The same for alpha.
    pub alpha_pattern: Vec<(String, f32)>,
    /// The projections that have a part in any layer.
    pub target: Vec<Projection>,
    /// What the adapter was made for, in its author's words.
    pub base_model_name_or_path: Option<String>,
}

impl LoraConfig {
    /// All seven projections with one rank and alpha, no dropout.
    #[must_use]
    pub fn uniform(rank: usize, alpha: f32) -> Self {
        Self {
            rank,
            alpha,
            dropout: 0.0,
            use_rslora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            target: Projection::ALL.to_vec(),
            base_model_name_or_path: None,
        }
    }

    pub(super) fn resolver(
        &self,
        architecture: &'static Architecture,
    ) -> Result<Resolver<'_>, LoraError> {
        for (key, len) in [
            ("rank_pattern", self.rank_pattern.len()),
            ("alpha_pattern", self.alpha_pattern.len()),
        ] {
            if len > PATTERNS_MAX {
                return Err(LoraError::ConfigValue {
                    key,
                    problem: "has too many entries",
                });
            }
        }
        let ranks = self.rank_pattern.iter();
        let alphas = self.alpha_pattern.iter();
        Ok(Resolver {
            config: self,
            architecture,
            ranks: ranks
                .map(|(p, rank)| Ok((Pattern::suffix("rank_pattern", p)?, *rank)))
                .collect::<Result<_, LoraError>>()?,
            alphas: alphas
                .map(|(p, alpha)| Ok((Pattern::suffix("alpha_pattern", p)?, *alpha)))
                .collect::<Result<_, LoraError>>()?,
        })
    }
}

/// A configuration with its patterns compiled.
pub(super) struct Resolver<'a> {
    config: &'a LoraConfig,
    architecture: &'static Architecture,
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f32)>,
}

impl Resolver<'_> {
    /// The rank of a module, and what its product is multiplied with.
    pub(super) fn rank_and_scale(&self, id: ModuleId) -> Result<(usize, f32), LoraError> {
        let path = id.peft_path(self.architecture);
        let rank = first(&self.ranks, &path)?.unwrap_or(self.config.rank);
        let alpha = first(&self.alphas, &path)?.unwrap_or(self.config.alpha);
        if rank == 0 || rank > RANK_MAX {
            return Err(LoraError::Rank {
                found: rank as u64,
                max: RANK_MAX,
            });
        }
        #[expect(clippy::cast_precision_loss, reason = "at most RANK_MAX")]
        let r = rank as f32;
        let scale = if self.config.use_rslora {
            alpha / r.sqrt()
        } else {
            alpha / r
        };
        if !scale.is_finite() {
            return Err(LoraError::ConfigValue {
                key: "lora_alpha",
                problem: "is not finite",
            });
        }
        Ok((rank, scale))
    }
}

fn first<T: Copy>(patterns: &[(Pattern, T)], path: &str) -> Result<Option<T>, LoraError> {
    for (pattern, value) in patterns {
        if pattern.matches(path)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}
