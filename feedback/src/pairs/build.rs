//! From cases to a dataset, in six steps: split, leave out what had images,
//! pair, clean, check the training rows against the held-out prompts, order.

use std::collections::{BTreeMap, HashMap, HashSet};

use ids::{DatasetDigest, FeedbackId, InferenceId, RaterId, Sha256Digest, UnixMillis};

use super::hygiene::{Overlap, normal, prompt_hash};
use super::{
    Case, Dataset, Example, LEFT_OUT_LISTED_MAX, LeftOut, PairOptions, PreferencePair, Provenance,
    Reason, Report, Source, Split, split,
};
use crate::{FeedbackError, Message, Value, VoteRecord};

/// A pair, and when its preference was told.
struct Candidate {
    pair: PreferencePair,
    told: UnixMillis,
}

/// What was left out, counted and listed.
#[derive(Default)]
struct Notes {
    report: Report,
    left_out: Vec<LeftOut>,
}

impl Notes {
    fn leave_out(&mut self, provenance: &Provenance, reason: Reason) {
        self.list(&provenance.inferences, provenance.votes.clone(), reason);
    }

    fn list(&mut self, inferences: &[InferenceId], votes: Vec<FeedbackId>, reason: Reason) {
        let report = &mut self.report;
        *match reason {
            Reason::Empty => &mut report.empty,
            Reason::Equal => &mut report.equal,
            Reason::Duplicate => &mut report.duplicates,
            Reason::Contaminated => &mut report.contaminated,
            Reason::OverRaterCap => &mut report.over_rater_cap,
            Reason::HasImage => &mut report.with_images,
        } += 1;
        if self.left_out.len() < LEFT_OUT_LISTED_MAX {
            self.left_out.push(LeftOut {
                inferences: inferences.to_vec(),
                votes,
                reason,
            });
        }
    }
}

/// A case with what the votes on it come to.
struct Judged<'a> {
    case: &'a Case,
    split: Split,
    prompt: Sha256Digest,
    ups: Vec<&'a VoteRecord>,
    downs: Vec<&'a VoteRecord>,
    corrections: Vec<(&'a VoteRecord, &'a str)>,
}

/// Makes the dataset of these cases.
///
/// # Errors
/// [`FeedbackError::Corrupt`] where a row has no JSON form.
pub fn build(cases: &[Case], options: &PairOptions) -> Result<Dataset, FeedbackError> {
    let mut notes = Notes::default();
    let mut judged: Vec<Judged<'_>> = cases
        .iter()
        .map(|case| Judged::new(case, options))
        .collect();
    judged.sort_by(|a, b| a.case.inference.id.cmp(&b.case.inference.id));
    leave_out_images(&mut judged, &mut notes);
    let mut candidates = pair_up(&judged, &mut notes.report);
    clean(&mut candidates, &mut notes);
    let mut upvoted = praised(&judged, &mut notes);
    keep_apart(&judged, &mut candidates, &mut upvoted, &mut notes);
    cap_raters(&mut candidates, options.rater_pairs_max, &mut notes);
    let mut pairs: Vec<PreferencePair> = candidates
        .into_iter()
        .map(|candidate| candidate.pair)
        .collect();
    notes.report.length_ratio_mean = length_ratio_mean(&pairs);
    pairs.sort_by(|a, b| order(a).cmp(&order(b)));
    upvoted.sort_by(|a, b| (&a.prompt, &a.answer).cmp(&(&b.prompt, &b.answer)));
    let (train, held_out): (Vec<_>, Vec<_>) = pairs
        .into_iter()
        .partition(|pair| pair.split == Split::Train);
    let digest = digest(&train, &held_out, &upvoted)?;
    let Notes { report, left_out } = notes;
    Ok(Dataset {
        train,
        held_out,
        upvoted,
        report,
        left_out,
        digest,
    })
}

impl<'a> Judged<'a> {
    fn new(case: &'a Case, options: &PairOptions) -> Self {
        let mut judged = Self {
            case,
            split: split::of(&case.inference, options),
            prompt: prompt_hash(&case.inference.messages),
            ups: Vec::new(),
            downs: Vec::new(),
            corrections: Vec::new(),
        };
        for vote in case.votes.iter().filter(|vote| vote.is_current()) {
            match &vote.value {
                Value::Thumbs(true) => judged.ups.push(vote),
                Value::Thumbs(false) => judged.downs.push(vote),
                Value::Demonstration(text) => judged.corrections.push((vote, text)),
                Value::Rating(_) | Value::Comment(_) => {}
            }
        }
        judged
    }

    fn is_bad(&self) -> bool {
        !self.corrections.is_empty() || self.downs.len() > self.ups.len()
    }

    fn is_praised(&self) -> bool {
        self.corrections.is_empty() && self.ups.len() > self.downs.len()
    }

    /// The votes' tags; where two votes differ, the later one's.
    fn tags(&self) -> BTreeMap<String, String> {
        let mut votes: Vec<&VoteRecord> = self
            .case
            .votes
            .iter()
            .filter(|vote| vote.is_current())
            .collect();
        votes.sort_by_key(|vote| (vote.created, &vote.id));
        votes
            .into_iter()
            .flat_map(|vote| vote.tags.clone())
            .collect()
    }

    fn pair(
        &self,
        chosen: &str,
        preferred_by: &VoteRecord,
        source: Source,
        from: Option<&Self>,
    ) -> Candidate {
        let inference = &self.case.inference;
        let mut inferences = vec![inference.id.clone()];
        inferences.extend(from.map(|from| from.case.inference.id.clone()));
        let mut votes = vec![preferred_by.id.clone()];
        votes.extend(self.downs.iter().map(|vote| vote.id.clone()));
        let pair = PreferencePair {
            prompt: inference.messages.clone(),
            chosen: chosen.trim().to_owned(),
            rejected: inference.answer.trim().to_owned(),
            split: self.split,
            tags: self.tags(),
            provenance: Provenance {
                inferences,
                votes,
                rater: preferred_by.rater.clone(),
                source,
                adapter: inference.adapter,
                weight: 1.0,
            },
        };
        Candidate {
            pair,
            told: preferred_by.created,
        }
    }
}

/// Drops answers to prompts with images: what they answer is not kept. Before
/// anything is paired, since their prompts' texts alone name another question.
fn leave_out_images(judged: &mut Vec<Judged<'_>>, notes: &mut Notes) {
    judged.retain(|one| {
        let has_images = one.case.inference.has_images();
        if has_images && (one.is_bad() || one.is_praised()) {
            let corrections = one.corrections.iter().map(|(vote, _)| *vote);
            let votes = one.ups.iter().chain(&one.downs).copied().chain(corrections);
            let votes = votes.map(|vote| vote.id.clone()).collect();
            let inferences = [one.case.inference.id.clone()];
            notes.list(&inferences, votes, Reason::HasImage);
        }
        !has_images
    });
}

/// Each bad case with its corrections, else with a praised answer to the same
/// prompt and of the same split.
fn pair_up(judged: &[Judged<'_>], report: &mut Report) -> Vec<Candidate> {
    let mut praised: HashMap<(Sha256Digest, Split), (&Judged<'_>, &VoteRecord)> = HashMap::new();
    for good in judged.iter().filter(|one| one.is_praised()) {
        if let Some(vote) = good.ups.first() {
            praised
                .entry((good.prompt, good.split))
                .or_insert((good, vote));
        }
    }
    let mut candidates = Vec::new();
    for bad in judged.iter().filter(|one| one.is_bad()) {
        report.bad_cases += 1;
        if !bad.corrections.is_empty() {
            let pairs = bad
                .corrections
                .iter()
                .map(|(vote, text)| bad.pair(text, vote, Source::Demonstration, None));
            candidates.extend(pairs);
        } else if let Some((good, vote)) = praised.get(&(bad.prompt, bad.split)) {
            candidates.push(bad.pair(
                &good.case.inference.answer,
                vote,
                Source::ThumbsUp,
                Some(good),
            ));
        } else {
            report.unpaired += 1;
        }
    }
    candidates
}

/// Drops pairs that say nothing, or that another pair says already.
fn clean(candidates: &mut Vec<Candidate>, notes: &mut Notes) {
    let mut seen = HashSet::new();
    candidates.retain(|Candidate { pair, .. }| {
        let (chosen, rejected) = (normal(&pair.chosen), normal(&pair.rejected));
        let reason = if chosen.is_empty() || rejected.is_empty() {
            Reason::Empty
        } else if chosen == rejected {
            Reason::Equal
        } else if !seen.insert((pair.split, prompt_hash(&pair.prompt), chosen, rejected)) {
            Reason::Duplicate
        } else {
            return true;
        };
        notes.leave_out(&pair.provenance, reason);
        false
    });
}

fn praised(judged: &[Judged<'_>], notes: &mut Notes) -> Vec<Example> {
    let mut seen = HashSet::new();
    let mut examples = Vec::new();
    for good in judged.iter().filter(|one| one.is_praised()) {
        let inference = &good.case.inference;
        let Some(vote) = good
            .ups
            .first()
            .filter(|_| !normal(&inference.answer).is_empty())
        else {
            continue;
        };
        let provenance = Provenance {
            inferences: vec![inference.id.clone()],
            votes: good.ups.iter().map(|vote| vote.id.clone()).collect(),
            rater: vote.rater.clone(),
            source: Source::ThumbsUp,
            adapter: inference.adapter,
            weight: 1.0,
        };
        if !seen.insert((good.split, good.prompt, normal(&inference.answer))) {
            notes.leave_out(&provenance, Reason::Duplicate);
            continue;
        }
        examples.push(Example {
            prompt: inference.messages.clone(),
            answer: inference.answer.trim().to_owned(),
            split: good.split,
            tags: good.tags(),
            provenance,
        });
    }
    examples
}

/// Drops training rows whose prompt is, or overlaps, a held-out one.
fn keep_apart(
    judged: &[Judged<'_>],
    candidates: &mut Vec<Candidate>,
    upvoted: &mut Vec<Example>,
    notes: &mut Notes,
) {
    let mut overlap = Overlap::default();
    for held_out in judged.iter().filter(|one| one.split == Split::HeldOut) {
        overlap.add(&held_out.case.inference.messages);
    }
    let mut is_apart = |split: Split, prompt: &[Message], provenance: &Provenance| {
        let apart = split == Split::HeldOut || !overlap.holds(prompt);
        if !apart {
            notes.leave_out(provenance, Reason::Contaminated);
        }
        apart
    };
    candidates
        .retain(|Candidate { pair, .. }| is_apart(pair.split, &pair.prompt, &pair.provenance));
    upvoted.retain(|one| is_apart(one.split, &one.prompt, &one.provenance));
}

/// Keeps the first training pairs that each rater told.
fn cap_raters(candidates: &mut Vec<Candidate>, rater_pairs_max: usize, notes: &mut Notes) {
    candidates.sort_by(|a, b| {
        (a.told, &a.pair.provenance.votes).cmp(&(b.told, &b.pair.provenance.votes))
    });
    let mut told: HashMap<RaterId, usize> = HashMap::new();
    candidates.retain(|Candidate { pair, .. }| {
        if pair.split == Split::HeldOut {
            return true;
        }
        let count = told.entry(pair.provenance.rater.clone()).or_default();
        *count += 1;
        let kept = *count <= rater_pairs_max;
        if !kept {
            notes.leave_out(&pair.provenance, Reason::OverRaterCap);
        }
        kept
    });
}

#[expect(
    clippy::cast_precision_loss,
    reason = "lengths of texts are far below 2^52"
)]
fn length_ratio_mean(pairs: &[PreferencePair]) -> f64 {
    let ratio = |pair: &PreferencePair| {
        pair.chosen.chars().count() as f64 / pair.rejected.chars().count().max(1) as f64
    };
    let sum: f64 = pairs.iter().map(ratio).sum();
    sum / pairs.len().max(1) as f64
}

/// By content first, so that ids drawn anew do not change the order.
fn order(pair: &PreferencePair) -> impl Ord + '_ {
    (
        &pair.prompt,
        &pair.chosen,
        &pair.rejected,
        &pair.provenance.inferences,
    )
}

/// Names exactly these rows; the order of pairs does not count.
///
/// # Errors
/// [`FeedbackError::Corrupt`] where a row has no JSON form.
pub fn digest(
    train: &[PreferencePair],
    held_out: &[PreferencePair],
    upvoted: &[Example],
) -> Result<DatasetDigest, FeedbackError> {
    let corrupt = |_| FeedbackError::Corrupt {
        what: "dataset",
        id: String::new(),
    };
    let mut pairs: Vec<&PreferencePair> = train.iter().chain(held_out).collect();
    pairs.sort_by(|a, b| order(a).cmp(&order(b)));
    let pairs = serde_json::to_vec(&pairs).map_err(corrupt)?;
    let upvoted = serde_json::to_vec(upvoted).map_err(corrupt)?;
    Ok(DatasetDigest(Sha256Digest::of_parts(&[
        ("pairs", &pairs),
        ("upvoted", &upvoted),
    ])))
}
