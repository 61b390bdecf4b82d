//! Log-probabilities of the starting adapter, computed once for each sequence.

use std::collections::BTreeMap;

use ids::{BaseDigest, Sha256Digest};

use crate::TrainerError;
use crate::forward::FrozenModel;
use crate::pack::{Pack, Sequence};
use crate::parameters::ParameterView;

/// Sequences whose log-probability is kept at most.
const ENTRIES_MAX: usize = 1_000_000;

/// Sums of completion log-probabilities under (base, starting adapter), by a
/// hash of those two and the tokens.
pub struct ReferenceCache {
    /// Names base and starting adapter in each key.
    start: Sha256Digest,
    sums: BTreeMap<Sha256Digest, f64>,
}

impl ReferenceCache {
    /// An empty cache for a run that starts at `adapter` over `base`.
    #[must_use]
    pub fn new(base: BaseDigest, adapter: Sha256Digest) -> Self {
        let parts = [
            ("base", &base.0.as_bytes()[..]),
            ("adapter", adapter.as_bytes()),
        ];
        Self {
            start: Sha256Digest::of_parts(&parts),
            sums: BTreeMap::new(),
        }
    }

    /// All that is known, in the order of the keys.
    pub(crate) fn entries(&self) -> Vec<(Sha256Digest, f64)> {
        self.sums.iter().map(|(key, sum)| (*key, *sum)).collect()
    }

    /// Takes what was known before an interruption. The keys name base and
    /// starting adapter, so entries of anything else would never be found.
    pub(crate) fn restore(&mut self, entries: Vec<(Sha256Digest, f64)>) {
        self.sums = entries.into_iter().collect();
    }

    fn key(&self, sequence: &Sequence) -> Sha256Digest {
        let mut bytes = Vec::with_capacity(sequence.tokens.len() * 4 + 8);
        bytes.extend_from_slice(&(sequence.completion_start as u64).to_le_bytes());
        sequence
            .tokens
            .iter()
            .for_each(|token| bytes.extend_from_slice(&token.to_le_bytes()));
        Sha256Digest::of_parts(&[("start", self.start.as_bytes()), ("tokens", &bytes)])
    }

    /// The reference sums of every sequence of the pack's groups; those that
    /// are missing are computed by one pass over the whole pack.
    pub(crate) fn sums(
        &mut self,
        model: &FrozenModel,
        start: &ParameterView,
        pack: &Pack,
        groups: &[Vec<&Sequence>],
    ) -> Result<Vec<Vec<f64>>, TrainerError> {
        let keys: Vec<Vec<Sha256Digest>> = pack
            .groups
            .iter()
            .map(|group| groups[group.index].iter().map(|s| self.key(s)).collect())
            .collect();
        if keys
            .iter()
            .flatten()
            .any(|key| !self.sums.contains_key(key))
        {
            let log_probs = model.log_probs(pack, start, false)?.to_vec1::<f32>()?;
            if self.sums.len() > ENTRIES_MAX {
                self.sums.clear();
            }
            for (group, keys) in pack.groups.iter().zip(&keys) {
                for (range, key) in group.targets.iter().zip(keys) {
                    self.sums.insert(*key, sum(&log_probs[range.clone()]));
                }
            }
        }
        let known = |key| self.sums.get(key).copied().unwrap_or(f64::NAN);
        Ok(keys
            .iter()
            .map(|keys| keys.iter().map(known).collect())
            .collect())
    }
}

/// A sum in f64.
pub(crate) fn sum(log_probs: &[f32]) -> f64 {
    log_probs.iter().map(|&p| f64::from(p)).sum()
}
