//! Bad cases as preference pairs.
//!
//! `chosen` is the user's correction, else an answer to the same prompt that
//! got a thumbs-up; where there is neither, the case stays unpaired and is
//! counted. Which rows are held out is decided before anything is paired, by
//! session or prompt, or as the answer's metadata says. Pure: the same cases
//! make the same dataset, in the same order and with the same digest. An answer to
//! a prompt with an image becomes no row: the image is not there to learn from.

mod build;
mod collect;
mod hygiene;
mod jsonl;
mod split;

use std::collections::BTreeMap;

use ids::{AdapterDigest, BasisPoints, DatasetDigest, FeedbackId, InferenceId, RaterId};
use serde::{Deserialize, Serialize};

use crate::{Inference, Message, VoteRecord};

pub use build::{build, digest};
pub use collect::{CASES_BYTES_MAX, CASES_MAX, Collected, collect, collect_within};
pub use hygiene::{NGRAM_WORDS, Overlap};
pub use jsonl::to_jsonl;
pub use split::{SESSION_KEY, SPLIT_KEY, of as split_of};

/// One answer with its current votes.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The answer.
    pub inference: Inference,
    /// Its current votes.
    pub votes: Vec<VoteRecord>,
}

/// What a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Training.
    Train,
    /// Evaluation; never trained on.
    HeldOut,
}

/// Where a row's preferred answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A user's correction.
    Demonstration,
    /// A thumbs-up on an answer.
    ThumbsUp,
}

/// How a row came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The answer that was rejected (in a pair) or praised, then the answer
    /// that is preferred to it, where that is another.
    pub inferences: Vec<InferenceId>,
    /// The votes that say so.
    pub votes: Vec<FeedbackId>,
    /// Who preferred.
    pub rater: RaterId,
    /// Where the preferred answer comes from.
    pub source: Source,
    /// The adapter version of the first answer; none is the bare base.
    pub adapter: Option<AdapterDigest>,
    /// How much the row counts.
    pub weight: f32,
}

/// A prompt, the better answer and the worse one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreferencePair {
    /// The conversation up to the answer.
    pub prompt: Vec<Message>,
    /// The better answer.
    pub chosen: String,
    /// The worse one, which was given.
    pub rejected: String,
    /// What the pair is for.
    pub split: Split,
    /// The votes' tags, for example `expect`, a text that a right answer
    /// contains.
    pub tags: BTreeMap<String, String>,
    /// How it came about.
    pub provenance: Provenance,
}

/// A prompt and an answer that got a thumbs-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The conversation up to the answer.
    pub prompt: Vec<Message>,
    /// The answer.
    pub answer: String,
    /// What the example is for.
    pub split: Split,
    /// The votes' tags.
    pub tags: BTreeMap<String, String>,
    /// How it came about.
    pub provenance: Provenance,
}

/// How pairs are made.
#[derive(Debug, Clone, PartialEq)]
pub struct PairOptions {
    /// Salt of the split; another one holds other prompts out.
    pub split_salt: String,
    /// The share of sessions or prompts that is held out, where the answers'
    /// metadata does not say.
    pub held_out: BasisPoints,
    /// The most pairs of one rater that are trained on: few poisoned pairs
    /// suffice to turn a model.
    pub rater_pairs_max: usize,
}

/// A fifth of the prompts is held out by default.
const HELD_OUT_DEFAULT: u32 = 2000;
/// The most pairs of one rater, by default.
const RATER_PAIRS_MAX_DEFAULT: usize = 100;

impl Default for PairOptions {
    fn default() -> Self {
        Self {
            split_salt: "flywheel".to_owned(),
            held_out: BasisPoints::new(HELD_OUT_DEFAULT).unwrap_or_default(),
            rater_pairs_max: RATER_PAIRS_MAX_DEFAULT,
        }
    }
}

/// What was made of the cases, and what was left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Answers that votes speak against.
    pub bad_cases: usize,
    /// Of these, without a better answer.
    pub unpaired: usize,
    /// Pairs left out because one side is empty.
    pub empty: usize,
    /// Pairs left out because both sides say the same.
    pub equal: usize,
    /// Rows left out because they are the same as another.
    pub duplicates: usize,
    /// Training rows left out because their prompt shares 13 words in a row,
    /// or everything, with a held-out prompt.
    pub contaminated: usize,
    /// Training pairs left out because their rater has too many.
    pub over_rater_cap: usize,
    /// Answers left out because an image was in what was asked.
    #[serde(default)]
    pub with_images: usize,
    /// Mean of the length of `chosen` by that of `rejected`, in characters,
    /// over all pairs; 0 where there are none.
    pub length_ratio_mean: f64,
}

/// The most left-out rows that are listed; the rest is counted.
pub const LEFT_OUT_LISTED_MAX: usize = 1000;

/// Why a row was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// One side is empty.
    Empty,
    /// Both sides say the same.
    Equal,
    /// It is the same as another.
    Duplicate,
    /// Its prompt overlaps a held-out one.
    Contaminated,
    /// Its rater has too many.
    OverRaterCap,
    /// An image was in what was asked, and images are not kept.
    HasImage,
}

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The answers that it would have been made of.
    pub inferences: Vec<InferenceId>,
    /// The votes.
    pub votes: Vec<FeedbackId>,
    /// Why it is not there.
    pub reason: Reason,
}

/// Pairs and praised examples, ready for training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// Pairs to train on.
    pub train: Vec<PreferencePair>,
    /// Pairs to evaluate with.
    pub held_out: Vec<PreferencePair>,
    /// Praised answers, of both splits.
    pub upvoted: Vec<Example>,
    /// How much was left out.
    pub report: Report,
    /// Which rows, the first [`LEFT_OUT_LISTED_MAX`].
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// Names exactly these rows.
    pub digest: DatasetDigest,
}
