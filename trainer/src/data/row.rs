//! A row of training data, and why one is refused.

use std::path::PathBuf;

use feedback::Message;
use serde::{Deserialize, Serialize};

/// What can be learned from one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Row {
    /// Text to continue.
    Text {
        /// The text.
        text: String,
    },
    /// An answer to give.
    Chat {
        /// The conversation up to the answer.
        prompt: Vec<Message>,
        /// The answer.
        answer: String,
    },
    /// A way of thinking that leads to an answer.
    Reasoning {
        /// The conversation up to the question.
        prompt: Vec<Message>,
        /// The thoughts.
        thinking: String,
        /// What they come to.
        answer: String,
    },
    /// Two answers, of which one is better.
    Preference {
        /// The conversation up to the answers.
        prompt: Vec<Message>,
        /// The better answer.
        chosen: String,
        /// The worse one.
        rejected: String,
    },
}

/// The kinds of rows, as mixtures and reports count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`Row::Text`].
    Text,
    /// [`Row::Chat`].
    Chat,
    /// [`Row::Reasoning`].
    Reasoning,
    /// [`Row::Preference`].
    Preference,
}

impl Row {
    /// What kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Text { .. } => Kind::Text,
            Self::Chat { .. } => Kind::Chat,
            Self::Reasoning { .. } => Kind::Reasoning,
            Self::Preference { .. } => Kind::Preference,
        }
    }

    /// The conversation up to the answer; empty for plain text.
    #[must_use]
    pub fn prompt(&self) -> &[Message] {
        match self {
            Self::Text { .. } => &[],
            Self::Chat { prompt, .. }
            | Self::Reasoning { prompt, .. }
            | Self::Preference { prompt, .. } => prompt,
        }
    }

    /// What would be trained on: each with the text that the model writes.
    /// Thoughts stand in front of the answer between `<think>` marks, as
    /// models that think write them.
    #[must_use]
    pub fn completions(&self) -> Vec<String> {
        match self {
            Self::Text { text } => vec![text.clone()],
            Self::Chat { answer, .. } => vec![answer.clone()],
            Self::Reasoning {
                thinking, answer, ..
            } => vec![format!("<think>\n{thinking}\n</think>\n\n{answer}")],
            Self::Preference {
                chosen, rejected, ..
            } => vec![chosen.clone(), rejected.clone()],
        }
    }
}

/// A row and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcedRow {
    /// The file; none where it is from elsewhere.
    pub file: Option<PathBuf>,
    /// The line in it, from 1.
    pub line: usize,
    /// What can be learned.
    pub row: Row,
    /// Tokens of the longest sequence that it makes; none where no model was
    /// at hand to count them.
    pub tokens: Option<usize>,
}

/// Why a row is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Problem {
    /// The line is not what its format asks for.
    #[error("{detail}")]
    Schema {
        /// What is wrong.
        detail: String,
    },
    /// The roles are not a conversation's.
    #[error("{detail}")]
    Roles {
        /// What is wrong.
        detail: String,
    },
    /// The line is too long to be read.
    #[error("the line has more than {bytes_max} bytes")]
    LineTooLong {
        /// What may be read.
        bytes_max: usize,
    },
    /// A row of a kind that nothing is learned from here.
    #[error("a row of kind {kind:?} is of no use to this stage")]
    OtherKind {
        /// Which kind.
        kind: Kind,
    },
    /// More tokens than a sequence may have.
    #[error("{tokens} tokens are more than {tokens_max}")]
    TooLong {
        /// Tokens of the row.
        tokens: usize,
        /// Tokens allowed.
        tokens_max: usize,
    },
    /// What would be learned is not what will be asked for.
    #[error("the chat template's prompt is no prefix of the conversation with its answer")]
    TemplatePrefix,
    /// The model's template or tokenizer refuses it.
    #[error("{detail}")]
    Template {
        /// What they say.
        detail: String,
    },
    /// Nothing to learn.
    #[error("the {field} is empty")]
    Empty {
        /// Which field.
        field: String,
    },
    /// Both answers say the same.
    #[error("both answers say the same")]
    Equal,
    /// Says what an earlier row says.
    #[error("says nearly what line {line} of {file} says ({percent}% alike)")]
    NearDuplicate {
        /// The earlier row's file.
        file: String,
        /// Its line.
        line: usize,
        /// How much of their character runs they share.
        percent: u32,
    },
    /// Says what the row of another vote says.
    #[error("says nearly what the vote on {inference} says ({percent}% alike)")]
    NearVote {
        /// The answer that the other vote is on.
        inference: String,
        /// How much of their character runs they share.
        percent: u32,
    },
    /// Is word for word what another vote says.
    #[error("says the same as another vote")]
    Duplicate,
    /// Whoever voted has as many rows as one may have.
    #[error("its rater has too many")]
    OverRaterCap,
    /// What it answers is not there to learn from.
    #[error("an image was in what was asked, and images are not kept")]
    HasImage,
    /// Asks what the evaluation asks.
    #[error("overlaps with the evaluation set")]
    InEvaluation,
}
