//! The examples of one stage, in tokens: from the votes, and from files.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use feedback::Message;
use feedback::pairs::Split;
use model::BaseModel;
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::examples::{encode, encode_answer};
use crate::mixture::{Category, Drawn};
use crate::pack::Sequence;
use crate::prepared::Prepared;
use crate::recipe::{FileSource, Stage, StageKind};
use crate::thumbs::RatedAnswer;
use crate::train::{Examples, Items, PlainExample, RatedExample};

/// The longest file of material.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// The longest line of one.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Every so many examples of imitation validate, where there are that many.
const VALIDATION_EVERY: usize = 20;

/// What a stage trains, and what was left out.
pub(crate) struct StageData {
    pub(crate) examples: Examples,
    /// Examples left out for their length.
    pub(crate) too_long: usize,
    /// What the mixture came to; none where nothing is mixed.
    pub(crate) drawn: Option<Drawn>,
}

/// One line of a file of conversations.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Chat {
        messages: Vec<Message>,
    },
    Reasoning {
        question: String,
        #[serde(default)]
        thinking: String,
        answer: String,
    },
}

impl StageData {
    /// Collects and encodes.
    ///
    /// # Errors
    /// When a file cannot be read, or a text not be encoded.
    pub(crate) fn collect(
        base: &BaseModel,
        prepared: &Prepared,
        stage: &Stage,
    ) -> Result<Self, TrainerError> {
        let tokens_max = stage.training.sequence_tokens_max;
        let (mut examples, mut too_long) = encode(base, &prepared.dataset, tokens_max)?;
        let drawn = match stage.kind {
            StageKind::Dpo => None,
            StageKind::Kto => {
                let (train, validation, long) = rated(base, &prepared.rated, tokens_max)?;
                (examples.train, examples.validation) = (train, validation);
                too_long = long;
                None
            }
            StageKind::Sft => {
                let (pools, long) = conversations(base, prepared, stage)?;
                too_long = long;
                let sizes = [pools[0].len(), pools[1].len(), pools[2].len()];
                let (indices, drawn) = stage.mixture.draw(sizes, stage.training.seed);
                let picked = pools
                    .iter()
                    .zip(&indices)
                    .flat_map(|(pool, indices)| indices.iter().map(|&index| pool[index].clone()));
                imitate(&mut examples, picked.collect());
                Some(drawn)
            }
            StageKind::Cpt => {
                let windows = texts(base, &stage.file, tokens_max)?;
                imitate(&mut examples, windows);
                too_long = 0;
                None
            }
        };
        Ok(Self {
            examples,
            too_long,
            drawn,
        })
    }
}

/// Sets examples to imitate, of which every twentieth validates. What the
/// votes praise is among them and need not be retained besides.
fn imitate(examples: &mut Examples, sequences: Vec<Sequence>) {
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (index, sequence) in sequences.into_iter().enumerate() {
        let into = if index % VALIDATION_EVERY == VALIDATION_EVERY - 1 {
            &mut validation
        } else {
            &mut train
        };
        into.push(PlainExample { sequence });
    }
    *examples = Examples {
        train: Items::Plain(train),
        validation: Items::Plain(validation),
        retained: Vec::new(),
    };
}

fn rated(
    base: &BaseModel,
    rows: &[RatedAnswer],
    tokens_max: usize,
) -> Result<(Items, Items, usize), TrainerError> {
    let (mut train, mut validation, mut long) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        let sequence = encode_answer(base, &row.prompt, &row.answer)?;
        if sequence.tokens.len() > tokens_max {
            long += 1;
            continue;
        }
        let into = match row.split {
            Split::Train => &mut train,
            Split::HeldOut => &mut validation,
        };
        into.push(RatedExample {
            sequence,
            is_good: row.is_good,
        });
    }
    Ok((Items::Rated(train), Items::Rated(validation), long))
}

/// Conversations by category: the votes' good answers are dialogue.
fn conversations(
    base: &BaseModel,
    prepared: &Prepared,
    stage: &Stage,
) -> Result<([Vec<Sequence>; 3], usize), TrainerError> {
    let tokens_max = stage.training.sequence_tokens_max;
    let mut pools: [Vec<Sequence>; 3] = Default::default();
    let mut long = 0;
    let mut add = |category: Category, prompt: &[Message], answer: &str| {
        let sequence = encode_answer(base, prompt, answer)?;
        if sequence.tokens.len() > tokens_max {
            long += 1;
        } else {
            let pool = Category::ALL.iter().position(|c| *c == category);
            pools[pool.unwrap_or_default()].push(sequence);
        }
        Ok::<_, TrainerError>(())
    };
    let dataset = &prepared.dataset;
    for pair in &dataset.train {
        add(Category::Dialogue, &pair.prompt, &pair.chosen)?;
    }
    for praised in dataset.upvoted.iter().filter(|e| e.split == Split::Train) {
        add(Category::Dialogue, &praised.prompt, &praised.answer)?;
    }
    for file in &stage.file {
        lines(&file.path, |line, text| {
            for (prompt, answer) in turns(&file.path, line, text)? {
                add(file.category, &prompt, &answer)?;
            }
            Ok(())
        })?;
    }
    Ok((pools, long))
}

/// The assistant's turns of one line, each with what came before it. All of a
/// conversation's turns are learned; what they share is computed once.
fn turns(
    path: &Path,
    line: usize,
    text: &str,
) -> Result<Vec<(Vec<Message>, String)>, TrainerError> {
    let wrong = |problem: String| TrainerError::Content {
        path: path.to_owned(),
        line,
        problem,
    };
    let message = |role: &str, content: &str| Message {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    let messages = match serde_json::from_str(text).map_err(|e| wrong(e.to_string()))? {
        Line::Chat { messages } => messages,
        Line::Reasoning {
            question,
            thinking,
            answer,
        } => {
            let answer = match thinking.trim() {
                "" => answer,
                thinking => format!("<think>\n{thinking}\n</think>\n\n{answer}"),
            };
            vec![message("user", &question), message("assistant", &answer)]
        }
    };
    let turns: Vec<(Vec<Message>, String)> = (1..messages.len())
        .filter(|&i| messages[i].role == "assistant" && !messages[i].content.trim().is_empty())
        .map(|i| (messages[..i].to_vec(), messages[i].content.clone()))
        .collect();
    if turns.is_empty() {
        return Err(wrong(
            "has no answer of the assistant's after a prompt".to_owned(),
        ));
    }
    Ok(turns)
}

/// Plain text, end to end with an end token between files, cut to the context.
/// Each window begins with the last token of the one before, so that every
/// token but the very first is predicted once.
fn texts(
    base: &BaseModel,
    files: &[FileSource],
    tokens_max: usize,
) -> Result<Vec<Sequence>, TrainerError> {
    let mut stream: Vec<u32> = base.tokenizer.bos().into_iter().collect();
    for file in files {
        let mut text = String::new();
        let open = std::fs::File::open(&file.path).map_err(TrainerError::file(&file.path))?;
        open.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(TrainerError::file(&file.path))?;
        check_size(&file.path, text.len() as u64)?;
        stream.extend(base.tokenizer.encode(&text, false)?);
        stream.push(base.tokenizer.eos());
    }
    let step = tokens_max.saturating_sub(1).max(1);
    let window = |start: usize| Sequence {
        tokens: stream[start..stream.len().min(start + step + 1)].to_vec(),
        completion_start: 1,
    };
    let last = stream.len().saturating_sub(1);
    Ok((0..last).step_by(step).map(window).collect())
}

fn check_size(path: &Path, bytes: u64) -> Result<(), TrainerError> {
    if bytes <= FILE_BYTES_MAX {
        return Ok(());
    }
    Err(TrainerError::Content {
        path: path.to_owned(),
        line: 1,
        problem: format!("the file is longer than {FILE_BYTES_MAX} bytes"),
    })
}

/// Calls `each` with the number and text of every line that is not empty.
fn lines(
    path: &Path,
    mut each: impl FnMut(usize, &str) -> Result<(), TrainerError>,
) -> Result<(), TrainerError> {
    let file = std::fs::File::open(path).map_err(TrainerError::file(path))?;
    check_size(
        path,
        file.metadata().map_err(TrainerError::file(path))?.len(),
    )?;
    let mut reader = BufReader::new(file);
    let mut text = String::new();
    for line in 1.. {
        text.clear();
        let read = (&mut reader)
            .take(LINE_BYTES_MAX as u64 + 1)
            .read_line(&mut text)
            .map_err(TrainerError::file(path))?;
        if read == 0 {
            return Ok(());
        }
        if read > LINE_BYTES_MAX {
            return Err(TrainerError::Content {
                path: path.to_owned(),
                line,
                problem: format!("the line is longer than {LINE_BYTES_MAX} bytes"),
            });
        }
        if !text.trim().is_empty() {
            each(line, &text)?;
        }
    }
    Ok(())
}

/// What a stage trained, for the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// The stage as it was trained.
    pub stage: Stage,
    /// Examples trained and validated with.
    pub examples: [usize; 2],
    /// Examples left out for their length.
    pub too_long: usize,
    /// What the mixture came to.
    pub drawn: Option<Drawn>,
    /// The epoch whose adapter was taken.
    pub epoch: usize,
    /// Unpadded policy tokens.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_of_the_assistant_is_learned_with_what_came_before() {
        let path = Path::new("x.jsonl");
        let chat = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]}"#;
        let turns_of = turns(path, 1, chat).unwrap();
        let seen: Vec<(usize, &str)> = turns_of
            .iter()
            .map(|(prompt, answer)| (prompt.len(), answer.as_str()))
            .collect();
        assert_eq!(seen, [(1, "b"), (3, "d")]);
        let reasoning = r#"{"question":"2+2?","thinking":"two twos","answer":"4"}"#;
        let (prompt, answer) = &turns(path, 1, reasoning).unwrap()[0];
        assert_eq!(prompt[0].content, "2+2?");
        assert_eq!(answer, "<think>\ntwo twos\n</think>\n\n4");
        for bad in [
            "{}",
            "not json",
            r#"{"messages":[]}"#,
            r#"{"messages":[{"role":"user","content":"a"}]}"#,
            r#"{"messages":[{"role":"assistant","content":"a"}]}"#,
        ] {
            let error = turns(path, 7, bad).unwrap_err();
            assert!(
                matches!(error, TrainerError::Content { line: 7, .. }),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn text_is_cut_to_the_context_and_every_token_is_predicted_once() {
        let base = crate::tests::tiny();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(
            &path,
            "the quick brown fox jumps over the lazy dog ".repeat(9),
        )
        .unwrap();
        let file = FileSource {
            path,
            category: Category::default(),
        };
        let windows = texts(base, &[file.clone(), file], 16).unwrap();
        assert!(windows.len() > 2 && windows.iter().all(|w| w.tokens.len() <= 16));
        for pair in windows.windows(2) {
            assert_eq!(pair[0].tokens.last(), pair[1].tokens.first());
        }
        let predicted: usize = windows.iter().map(Sequence::completion_len).sum();
        let whole: usize = windows.iter().map(|w| w.tokens.len() - 1).sum();
        assert_eq!(predicted, whole);
        let ends = windows
            .iter()
            .flat_map(|w| &w.tokens[1..])
            .filter(|&&t| t == base.tokenizer.eos())
            .count();
        assert_eq!(ends, 2);
    }

    #[test]
    fn long_lines_are_refused_with_their_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        std::fs::write(&path, format!("1\n\n{long}\n")).unwrap();
        let mut seen = Vec::new();
        let result = lines(&path, |line, _| {
            seen.push(line);
            Ok(())
        });
        assert!(matches!(
            result.unwrap_err(),
            TrainerError::Content { line: 3, .. }
        ));
        assert_eq!(seen, [1]);
    }
}
