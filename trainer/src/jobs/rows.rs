//! A job's files as examples, and what is held out of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use feedback::Message;
use feedback::pairs::{PreferencePair, Provenance, Source, Split};
use fine_tuning::Method;
use ids::{DatasetDigest, RaterId, Sha256Digest};

use super::Refused;
use crate::TrainerError;
use crate::config::Config;
use crate::data::{Checked, DataOptions, Format, Row, SourcedRow, check_files};
use crate::evaluate::HeldOutPrompt;
use crate::examples::{chat_message, encode_answer};
use crate::journal::replace;
use crate::train::{Examples, Items, PairExample, PlainExample};

/// Refused rows that the job's owner is told of.
const PROBLEMS_TOLD_MAX: usize = 10;
/// The rater of a pair from a file.
const RATER: &str = "training-file";

/// What a job learns, and what it is judged by.
pub(super) struct Rows {
    pub(super) examples: Examples,
    /// For a preference job: the pairs that are held out.
    pub(super) pairs: Vec<PreferencePair>,
    /// For a supervised job: the prompts that are held out.
    pub(super) prompts: Vec<HeldOutPrompt>,
    pub(super) digest: DatasetDigest,
    /// Rows that were left out, in words; none where all were taken.
    pub(super) left_out: Option<String>,
}

/// The files as they were sent.
pub(super) struct Sent {
    pub(super) training: Bytes,
    pub(super) validation: Option<Bytes>,
}

/// Reads the files into `folder` and makes examples of their rows.
///
/// # Errors
/// The outer one is the trainer's; the inner one says what is wrong with a file.
pub(super) fn read(
    sent: &Sent,
    method: Method,
    folder: &Path,
    base: &model::BaseModel,
    config: &Config,
) -> Result<Result<Rows, Refused>, TrainerError> {
    let mut left_out = Vec::new();
    let mut check = |bytes: &Bytes, name: &'static str| {
        let path = folder.join(name).with_extension("jsonl");
        replace(&path, bytes)?;
        let options = DataOptions {
            base: Some(base),
            tokens_max: config.training.sequence_tokens_max,
            format: Some(match method {
                Method::Supervised => Format::OpenaiChat,
                Method::Dpo => Format::OpenaiPreference,
            }),
            ..DataOptions::default()
        };
        let checked = check_files(&[PathBuf::from(&path)], &options)?;
        left_out.extend(problems(&checked, name));
        Ok::<_, TrainerError>(checked.rows)
    };
    let training = check(&sent.training, "training_file")?;
    let validation = sent.validation.as_ref();
    let validation = validation
        .map(|bytes| check(bytes, "validation_file"))
        .transpose()?;
    let left_out = (!left_out.is_empty()).then(|| left_out.join("; "));
    let refused = |param: &'static str, code, problem: &str| Refused {
        code,
        param: Some(param),
        message: match &left_out {
            Some(rows) => format!("{problem}: {rows}"),
            None => problem.to_owned(),
        },
    };
    let (train, held_out) = match validation {
        Some(held_out) if held_out.is_empty() => {
            let problem = "the validation file has no row that can be used";
            let code = "invalid_validation_file";
            return Ok(Err(refused("validation_file", code, problem)));
        }
        Some(held_out) => (training, held_out),
        None => split(training, config),
    };
    if train.is_empty() || held_out.is_empty() {
        let problem = "the training file has too few rows that can be used";
        let code = "invalid_training_file";
        return Ok(Err(refused("training_file", code, problem)));
    }
    let all: Vec<SourcedRow> = train.iter().chain(&held_out).cloned().collect();
    Ok(Ok(Rows {
        digest: crate::data::digest(&all),
        examples: Examples {
            train: items(base, &train, method)?,
            validation: items(base, &held_out, method)?,
            retained: Vec::new(),
        },
        pairs: held_out.iter().filter_map(|row| pair(&row.row)).collect(),
        prompts: held_out.iter().filter_map(|row| prompt(&row.row)).collect(),
        left_out,
    }))
}

fn problems(checked: &Checked, name: &str) -> Option<String> {
    let refused = &checked.report.refused_rows;
    if refused.is_empty() {
        return None;
    }
    let told = refused.iter().take(PROBLEMS_TOLD_MAX);
    let told: Vec<String> = told
        .map(|row| format!("line {}: {}", row.line, row.problem))
        .collect();
    let count = checked.report.refused;
    Some(format!(
        "{count} rows of {name} left out ({})",
        told.join("; ")
    ))
}

/// Holds the configured share out, by each prompt's hash, and one at least
/// where there are two.
fn split(rows: Vec<SourcedRow>, config: &Config) -> (Vec<SourcedRow>, Vec<SourcedRow>) {
    let salt = config.dataset.split_salt.as_bytes();
    let share = u64::from(config.dataset.held_out.get());
    let place = |row: &SourcedRow| {
        let messages = row.row.prompt().iter();
        let mut parts: Vec<(&str, &[u8])> = vec![("salt", salt)];
        parts.extend(messages.map(|message| (message.role.as_str(), message.content.as_bytes())));
        let digest = Sha256Digest::of_parts(&parts);
        let mut first = [0; 8];
        first.copy_from_slice(&digest.as_bytes()[..8]);
        u64::from_be_bytes(first)
    };
    let least = rows.iter().map(place).min_by_key(|place| place % 10_000);
    let is_alone = rows.iter().map(place).all(|place| Some(place) == least);
    let is_held = |row: &SourcedRow| {
        let place = place(row);
        !is_alone && (place % 10_000 < share || Some(place) == least)
    };
    let (held_out, train) = rows.into_iter().partition(is_held);
    (train, held_out)
}

fn items(
    base: &model::BaseModel,
    rows: &[SourcedRow],
    method: Method,
) -> Result<Items, TrainerError> {
    let mut pairs = Vec::new();
    let mut plain = Vec::new();
    for row in rows {
        match &row.row {
            Row::Preference {
                prompt,
                chosen,
                rejected,
            } => pairs.push(PairExample {
                id: format!("line-{}", row.line),
                chosen: encode_answer(base, prompt, chosen)?,
                rejected: encode_answer(base, prompt, rejected)?,
            }),
            Row::Chat { prompt, answer } => plain.push(PlainExample {
                sequence: encode_answer(base, prompt, answer)?,
            }),
            // of other formats, which were refused
            Row::Text { .. } | Row::Reasoning { .. } => {}
        }
    }
    Ok(match method {
        Method::Supervised => Items::Plain(plain),
        Method::Dpo => Items::Pairs(pairs),
    })
}

fn pair(row: &Row) -> Option<PreferencePair> {
    let Row::Preference {
        prompt,
        chosen,
        rejected,
    } = row
    else {
        return None;
    };
    Some(PreferencePair {
        prompt: prompt.clone(),
        chosen: chosen.clone(),
        rejected: rejected.clone(),
        split: Split::HeldOut,
        tags: BTreeMap::new(),
        provenance: Provenance {
            inferences: Vec::new(),
            votes: Vec::new(),
            rater: RaterId::new(RATER).ok()?,
            source: Source::Demonstration,
            adapter: None,
            weight: 1.0,
        },
    })
}

fn prompt(row: &Row) -> Option<HeldOutPrompt> {
    let Row::Chat { prompt, answer } = row else {
        return None;
    };
    let messages = prompt
        .iter()
        .filter_map(|message: &Message| chat_message(message));
    Some(HeldOutPrompt {
        messages: messages.collect(),
        expect: answer.clone(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(question: &str) -> SourcedRow {
        SourcedRow {
            file: None,
            line: 1,
            row: Row::Chat {
                prompt: vec![Message {
                    role: "user".to_owned(),
                    content: question.to_owned(),
                }],
                answer: "a".to_owned(),
            },
            tokens: None,
        }
    }

    #[test]
    fn the_split_is_by_prompt_and_never_empty_on_either_side() {
        let config = Config::default();
        let rows: Vec<SourcedRow> = (0..40).map(|i| row(&i.to_string())).collect();
        let (train, held_out) = split(rows.clone(), &config);
        assert_eq!(train.len() + held_out.len(), 40);
        assert!(
            !held_out.is_empty() && held_out.len() < 20,
            "{}",
            held_out.len()
        );
        assert_eq!(split(rows, &config), (train, held_out));
        let (train, held_out) = split(vec![row("a"), row("b"), row("b")], &config);
        assert!(!train.is_empty() && !held_out.is_empty());
        let (train, held_out) = split(vec![row("a"), row("a")], &config);
        assert_eq!(
            (train.len(), held_out.len()),
            (2, 0),
            "one prompt cannot be split"
        );
    }
}
