//! The choice of the next token from its logits.
//!
//! Randomness is a counter: the draw of a choice's i-th token depends on the
//! seed, the choice and i alone, so neither the batch nor a preemption changes
//! what is drawn.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use model::kernels;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::api::SamplingParams;

/// Candidates that are sorted at first when only the most likely count.
const SORTED_FIRST: usize = 256;
/// 32-bit words of randomness of one draw.
const WORDS_PER_DRAW: u128 = 2;

/// Chooses the tokens of one completion.
pub(super) struct Sampler {
    params: SamplingParams,
    rng: ChaCha8Rng,
    /// How often each token occurs in the completion.
    counts: BTreeMap<u32, u32>,
    /// The prompt's tokens, for the repetition penalty; empty when it is off.
    prompt: Vec<u32>,
    drawn: u32,
}

/// A token's log-probability with the most likely alternatives.
pub(super) struct Logprobs {
    pub(super) chosen: f32,
    pub(super) top: Vec<(u32, f32)>,
}

impl Sampler {
    /// The sampler of one choice of a request.
    pub(super) fn new(params: &SamplingParams, choice: u32, prompt: &[u32]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(params.seed);
        rng.set_stream(u64::from(choice));
        let repetition_off = (params.repetition_penalty - 1.0).abs() < f32::EPSILON;
        let mut prompt = if repetition_off {
            Vec::new()
        } else {
            prompt.to_vec()
        };
        prompt.sort_unstable();
        prompt.dedup();
        Self {
            params: params.clone(),
            rng,
            counts: BTreeMap::new(),
            prompt,
            drawn: 0,
        }
    }

    /// The next token, one of `allowed` (ids in order) where that is given;
    /// `None` if no logit is usable (a number is not finite).
    pub(super) fn next(&mut self, logits: &mut [f32], allowed: Option<&[u32]>) -> Option<u32> {
        self.penalize(logits);
        let token = match allowed {
            None => u32::try_from(self.choose(logits)?).ok()?,
            Some(allowed) => {
                // Only those are looked at: with all of them, it is the same
                // choice as without a list.
                let logit = |token: &u32| logits.get(*token as usize).copied();
                let mut few: Vec<f32> = allowed.iter().map_while(logit).collect();
                *allowed.get(self.choose(&mut few)?)?
            }
        };
        self.drawn += 1;
        *self.counts.entry(token).or_default() += 1;
        Some(token)
    }

    fn choose(&mut self, logits: &mut [f32]) -> Option<usize> {
        if self.params.temperature == 0.0 {
            argmax(logits)
        } else {
            self.draw(logits)
        }
    }

    fn penalize(&self, logits: &mut [f32]) {
        let params = &self.params;
        let repeat = |logit: &mut f32| {
            if *logit > 0.0 {
                *logit /= params.repetition_penalty;
            } else {
                *logit *= params.repetition_penalty;
            }
        };
        for (&token, &count) in &self.counts {
            let Some(logit) = logits.get_mut(token as usize) else {
                continue;
            };
            if self.prompt.binary_search(&token).is_err() {
                repeat(logit);
            }
            *logit -= count as f32 * params.frequency_penalty + params.presence_penalty;
        }
        for &token in &self.prompt {
            if let Some(logit) = logits.get_mut(token as usize) {
                repeat(logit);
            }
        }
        for (&token, &bias) in &params.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }

    /// Draws by temperature among the tokens that the cut-offs leave.
    fn draw(&mut self, logits: &mut [f32]) -> Option<usize> {
        let top = argmax(logits)?;
        let max = logits[top];
        let temperature = self.params.temperature;
        logits
            .iter_mut()
            .for_each(|logit| *logit = (*logit - max) / temperature);
        kernels::softmax(logits);
        let probabilities = &*logits;
        let uniform = self.uniform();
        let all = self.params.top_k == 0 && self.params.top_p >= 1.0;
        if all && self.params.min_p <= 0.0 {
            let candidates = probabilities.iter().copied().enumerate();
            return Some(pick(candidates, uniform).unwrap_or(top));
        }
        let kept = self.cut(probabilities, probabilities[top]);
        Some(pick(kept.iter().copied(), uniform).unwrap_or(top))
    }

    /// The tokens that top-k, top-p and min-p leave, the most likely first.
    fn cut(&self, probabilities: &[f32], largest: f32) -> Vec<(usize, f32)> {
        let least = self.params.min_p * largest;
        let mut candidates: Vec<(usize, f32)> = probabilities
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, p)| *p >= least)
            .collect();
        let top_k = match self.params.top_k {
            0 => candidates.len(),
            k => candidates.len().min(k as usize),
        };
        // sort few at first: mostly they hold enough of the mass
        let mut sorted = top_k.min(SORTED_FIRST);
        loop {
            if sorted < candidates.len() {
                candidates.select_nth_unstable_by(sorted, by_probability);
            }
            candidates[..sorted].sort_unstable_by(by_probability);
            let mut mass = 0.0;
            let enough = candidates[..sorted].iter().position(|(_, p)| {
                mass += f64::from(*p);
                mass >= f64::from(self.params.top_p)
            });
            if let Some(last) = enough {
                candidates.truncate(last + 1);
                return candidates;
            }
            if sorted == top_k {
                candidates.truncate(top_k);
                return candidates;
            }
            sorted = (sorted * 8).min(top_k);
        }
    }

    /// A number in [0, 1).
    fn uniform(&mut self) -> f64 {
        self.rng
            .set_word_pos(u128::from(self.drawn) * WORDS_PER_DRAW);
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn by_probability(a: &(usize, f32), b: &(usize, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// The candidate that `uniform`, in [0, 1), falls on, by their shares of their
/// sum: in f32, even those of all tokens do not add up to 1.
fn pick(candidates: impl Iterator<Item = (usize, f32)> + Clone, uniform: f64) -> Option<usize> {
    let total: f64 = candidates.clone().map(|(_, p)| f64::from(p)).sum();
    let mut left = uniform * total;
    let mut last = None;
    for (token, p) in candidates {
        if p > 0.0 {
            last = Some(token);
            left -= f64::from(p);
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

/// The place of the largest value, the first of equals; `None` when a value is
/// not a number or the largest is not finite.
pub(super) fn argmax(values: &[f32]) -> Option<usize> {
    let mut best = (0, f32::NEG_INFINITY);
    let mut sum = 0.0f32;
    for (i, &value) in values.iter().enumerate() {
        sum += value * 0.0; // not a number as soon as one is not finite
        if value > best.1 {
            best = (i, value);
        }
    }
    (best.1.is_finite() && !sum.is_nan()).then_some(best.0)
}

/// Log-probabilities before sampling parameters.
pub(super) fn logprobs(logits: &[f32], chosen: u32, top: u8) -> Logprobs {
    let log_total = kernels::log_sum_exp(logits);
    let mut best: Vec<(usize, f32)> = Vec::with_capacity(usize::from(top) + 1);
    for candidate in logits.iter().copied().enumerate().filter(|_| top > 0) {
        let full = best.len() == usize::from(top);
        if full && best.last().is_some_and(|last| candidate.1 <= last.1) {
            continue;
        }
        let place = best.partition_point(|b| by_probability(b, &candidate) == Ordering::Less);
        best.insert(place, candidate);
        best.truncate(usize::from(top));
    }
    let top = best
        .into_iter()
        .filter_map(|(token, logit)| Some((u32::try_from(token).ok()?, logit - log_total)))
        .collect();
    let chosen = logits
        .get(chosen as usize)
        .map_or(f32::NEG_INFINITY, |l| l - log_total);
    Logprobs { chosen, top }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
