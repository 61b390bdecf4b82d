//! A job's files as examples, and what is held out of them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use feedback::Message;
use feedback::pairs::PreferencePair;
use fine_tuning::Method;
use ids::DatasetDigest;

use super::Refused;
use super::recipe::Recipe;
use crate::TrainerError;
use crate::data::{Checked, DataOptions, EvaluationSet, Format, Row, SourcedRow, check_files};
use crate::evaluate::{Expectation, HeldOutPrompt};
use crate::examples::chat_message;
use crate::journal::replace;
use crate::rows;
use crate::train::{Examples, Items, PlainExample};

/// Refused rows that the job's owner is told of.
const PROBLEMS_TOLD_MAX: usize = 10;

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

/// Reads the files into `folder` and makes examples of their rows. Rows to train
/// that ask what `judged_by` asks, or the validation file, are left out.
///
/// # Errors
/// The outer one is the trainer's; the inner one says what is wrong with a file.
pub(super) fn read(
    sent: &Sent,
    method: Method,
    folder: &Path,
    base: &model::BaseModel,
    recipe: &Recipe,
    mut judged_by: EvaluationSet,
) -> Result<Result<Rows, Refused>, TrainerError> {
    let mut left_out = Vec::new();
    let mut check = |bytes: &Bytes, name: &'static str, evaluation: EvaluationSet| {
        let path = folder.join(name).with_extension("jsonl");
        replace(&path, bytes)?;
        let options = DataOptions {
            base: Some(base),
            tokens_max: recipe.training.sequence_tokens_max,
            format: Some(match method {
                Method::Supervised => Format::OpenaiChat,
                Method::Dpo => Format::OpenaiPreference,
            }),
            evaluation,
            ..DataOptions::default()
        };
        let checked = check_files(&[PathBuf::from(&path)], &options)?;
        left_out.extend(problems(&checked, name));
        Ok::<_, TrainerError>(checked.rows)
    };
    let validation = sent.validation.as_ref();
    let validation = validation
        .map(|bytes| check(bytes, "validation_file", EvaluationSet::default()))
        .transpose()?;
    // what is judged by is not trained
    for row in validation.iter().flatten() {
        judged_by.add(row.row.prompt());
    }
    let training = check(&sent.training, "training_file", judged_by)?;
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
        None => recipe.hold_out().split(training),
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
        pairs: held_out
            .iter()
            .filter_map(|row| rows::held_out_pair(&row.row))
            .collect(),
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

fn items(
    base: &model::BaseModel,
    rows: &[SourcedRow],
    method: Method,
) -> Result<Items, TrainerError> {
    Ok(match method {
        Method::Supervised => {
            let answers = rows.iter().map(|row| rows::answer(base, &row.row));
            let plain = answers.filter_map(Result::transpose);
            let plain = plain.map(|sequence| sequence.map(|sequence| PlainExample { sequence }));
            Items::Plain(plain.collect::<Result<_, _>>()?)
        }
        Method::Dpo => {
            let pairs = rows.iter().map(|row| rows::pair(base, row));
            Items::Pairs(
                pairs
                    .filter_map(Result::transpose)
                    .collect::<Result<_, _>>()?,
            )
        }
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
        expect: Some(Expectation::Whole(answer.clone())),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use ids::BasisPoints;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Config;
    use crate::tests::words;

    fn lines(method: Method, asked: &[(&str, u64)]) -> Bytes {
        let message = |role: &str, content: &str| json!([{ "role": role, "content": content }]);
        let line = |&(question, number): &(&str, u64)| {
            let (user, answer) = (message("user", question), words(number, 4));
            match method {
                Method::Dpo => json!({
                    "input": { "messages": user },
                    "preferred_output": message("assistant", &answer),
                    "non_preferred_output": message("assistant", &words(number + 100, 4)),
                }),
                Method::Supervised => json!({ "messages": [
                    user[0], { "role": "assistant", "content": answer },
                ] }),
            }
        };
        let lines: Vec<String> = asked.iter().map(|one| line(one).to_string()).collect();
        Bytes::from(lines.join("\n"))
    }

    #[test]
    fn rows_that_the_validation_file_asks_are_not_trained() {
        let long = words(7, 14);
        let (said, shouted) = (format!("Well, {long}?"), format!("SO {long}!"));
        for method in [Method::Dpo, Method::Supervised] {
            let folder = tempfile::tempdir().unwrap();
            let training = [("one?", 1), (said.as_str(), 2), ("Two!", 3), ("three?", 4)];
            let sent = Sent {
                training: lines(method, &training),
                validation: Some(lines(method, &[("two?", 5), (shouted.as_str(), 6)])),
            };
            let recipe = Recipe::configured(&Config::default());
            let (folder, base) = (folder.path(), crate::tests::tiny());
            let apart = EvaluationSet::default();
            let rows = read(&sent, method, folder, base, &recipe, apart);
            let Ok(rows) = rows.unwrap() else {
                panic!("the file was refused");
            };
            let counts = (rows.examples.train.len(), rows.examples.validation.len());
            assert_eq!(counts, (2, 2));
            let told = rows.left_out.unwrap();
            assert!(told.starts_with("2 rows of training_file"), "{told}");
            for line in ["line 2: overlaps", "line 3: overlaps"] {
                assert!(told.contains(line), "{told}");
            }
        }
    }

    #[test]
    fn rows_that_the_configured_evaluations_ask_are_not_trained() {
        let long = words(7, 14);
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, line: Value| {
            let path = folder.path().join(name);
            std::fs::write(&path, line.to_string()).unwrap();
            path
        };
        let mut config = Config::default();
        config.dataset.held_out = BasisPoints::new(1).unwrap();
        let task = json!({ "prompt": format!("SO {long}!"), "expect": "a" });
        config.eval.tasks = vec![write("tasks.jsonl", task)];
        let general = json!({ "prompt": "Two!", "expect": "b" });
        config.eval.replay = Some(write("replay.jsonl", general));
        let said = format!("Well, {long}?");
        let training = [("one?", 1), (said.as_str(), 2), ("two?", 3), ("three?", 4)];
        // with a validation file, which may ask it, and without one
        for validation in [None, Some([("two?", 5)])] {
            let sent = Sent {
                training: lines(Method::Dpo, &training),
                validation: validation.map(|asked| lines(Method::Dpo, &asked)),
            };
            let judged_by = crate::stage_files::evaluation(&config).unwrap();
            let (recipe, base) = (Recipe::configured(&config), crate::tests::tiny());
            let rows = read(&sent, Method::Dpo, folder.path(), base, &recipe, judged_by);
            let Ok(rows) = rows.unwrap() else {
                panic!("the file was refused");
            };
            let counts = (rows.examples.train.len(), rows.examples.validation.len());
            let expected = match sent.validation {
                None => (1, 1),
                Some(_) => (2, 1),
            };
            assert_eq!(counts, expected);
            let told = rows.left_out.unwrap();
            assert!(told.starts_with("2 rows of training_file"), "{told}");
            for line in ["line 2: overlaps", "line 3: overlaps"] {
                assert!(told.contains(line), "{told}");
            }
        }
    }
}
