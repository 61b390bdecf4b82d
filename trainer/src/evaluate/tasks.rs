//! An evaluation file: tasks that an answer is held against.
//!
//! TOML with `[[task]]` tables, or one JSON object a line. A task belongs to a
//! set: `goal` is what a candidate must be better at, every other set is what
//! it must not lose.

use std::path::Path;

use engine::{ChatMessage, Role};
use serde::Deserialize;
use serde_json::Value;

use super::schema::Schema;
use crate::TrainerError;

/// The most tasks of one evaluation.
pub const TASKS_MAX: usize = 10_000;
/// The longest evaluation file.
pub const TASK_FILE_BYTES_MAX: u64 = 64 << 20;
/// The most samples that one task may ask for.
pub const SAMPLES_MAX: u32 = 20;
/// The longest regular expression.
const REGEX_BYTES_MAX: usize = 4096;
/// How far an expression may go back before it counts as not matching.
const REGEX_BACKTRACKS_MAX: usize = 100_000;

/// The set whose metrics a candidate must improve.
pub const GOAL: &str = "goal";

/// Everything that is asked.
#[derive(Debug, Clone, Default)]
pub struct TaskSet {
    /// In the file's order.
    pub tasks: Vec<Task>,
}

/// One prompt and what its answer is held against.
#[derive(Debug, Clone)]
pub struct Task {
    /// `goal`, or the name of what must not be lost.
    pub set: String,
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// Any of these in an answer makes it right.
    pub expect: Vec<String>,
    /// What a good answer says, for ROUGE-L and BLEU.
    pub references: Vec<String>,
    /// What an answer matches somewhere.
    pub regex: Option<Box<fancy_regex::Regex>>,
    /// What an answer is, as JSON.
    pub schema: Option<Schema>,
    /// A wrong claim that the user insists on after the answer.
    pub claim: Option<String>,
    /// The better and the worse of two given answers.
    pub pair: Option<(String, String)>,
    /// How often it is sampled for self-consistency, and from ten on for
    /// stability; 0 never.
    pub samples: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    task: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    set: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    expect: Option<OneOrMore>,
    reference: Option<OneOrMore>,
    regex: Option<String>,
    schema: Option<Value>,
    claim: Option<String>,
    chosen: Option<String>,
    rejected: Option<String>,
    #[serde(default)]
    samples: u32,
}

/// Reads an evaluation file: TOML by its extension, else JSON lines.
///
/// # Errors
/// [`TrainerError::File`], or [`TrainerError::Content`] with the line, of TOML
/// with the task's number.
pub fn read_tasks(path: &Path) -> Result<TaskSet, TrainerError> {
    let wrong = |line: usize, problem: String| TrainerError::Content {
        path: path.to_owned(),
        line,
        problem,
    };
    let size = std::fs::metadata(path)
        .map_err(TrainerError::file(path))?
        .len();
    if size > TASK_FILE_BYTES_MAX {
        let problem = format!("{size} bytes are more than {TASK_FILE_BYTES_MAX}");
        return Err(wrong(0, problem));
    }
    let text = std::fs::read_to_string(path).map_err(TrainerError::file(path))?;
    let values: Vec<(usize, Value)> = if path.extension().is_some_and(|e| e == "toml") {
        let file: File = toml::from_str(&text).map_err(|error| wrong(0, error.to_string()))?;
        (1..).zip(file.task).collect()
    } else {
        let lines = (1..).zip(text.lines());
        lines
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(number, line)| match serde_json::from_str(line) {
                Ok(value) => Ok((number, value)),
                Err(error) => Err(wrong(number, error.to_string())),
            })
            .collect::<Result<_, _>>()?
    };
    if values.len() > TASKS_MAX {
        return Err(wrong(0, format!("more than {TASKS_MAX} tasks")));
    }
    let tasks: Result<Vec<Task>, TrainerError> = values
        .into_iter()
        .map(|(number, value)| task(value).map_err(|problem| wrong(number, problem)))
        .collect();
    Ok(TaskSet { tasks: tasks? })
}

fn task(value: Value) -> Result<Task, String> {
    let line: Line = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let texts = |texts: Option<OneOrMore>| match texts {
        None => Vec::new(),
        Some(OneOrMore::One(text)) => vec![text],
        Some(OneOrMore::More(texts)) => texts,
    };
    let user = |content: String| vec![ChatMessage::new(Role::User, content)];
    let (expect, references) = (texts(line.expect), texts(line.reference));
    let pair = match (line.chosen, line.rejected) {
        (Some(chosen), Some(rejected)) => Some((chosen, rejected)),
        (None, None) => None,
        _ => return Err("chosen and rejected come together".to_owned()),
    };
    let task = Task {
        set: line.set.unwrap_or_else(|| GOAL.to_owned()),
        messages: line.messages.or(line.prompt.map(user)).unwrap_or_default(),
        expect,
        references,
        regex: line.regex.as_deref().map(regex).transpose()?.map(Box::new),
        schema: line.schema.map(|schema| Schema::new(&schema)).transpose()?,
        claim: line.claim,
        pair,
        samples: line.samples,
    };
    check(&task)?;
    Ok(task)
}

fn check(task: &Task) -> Result<(), String> {
    let blank = |text: &String| text.trim().is_empty();
    if task.messages.iter().all(|m| m.content.trim().is_empty()) {
        return Err("a prompt is needed".to_owned());
    }
    if task.expect.iter().any(blank) || task.references.iter().any(blank) {
        return Err("an expectation or reference is empty".to_owned());
    }
    if task.samples > SAMPLES_MAX {
        return Err(format!("more than {SAMPLES_MAX} samples"));
    }
    if task.expect.is_empty() && (task.claim.is_some() || task.samples > 0) {
        return Err("a claim, or samples, need what is expected".to_owned());
    }
    let nothing = task.expect.is_empty()
        && task.references.is_empty()
        && task.regex.is_none()
        && task.schema.is_none()
        && task.pair.is_none();
    match nothing {
        true => Err("there is nothing to hold an answer against".to_owned()),
        false => Ok(()),
    }
}

fn regex(source: &str) -> Result<fancy_regex::Regex, String> {
    if source.len() > REGEX_BYTES_MAX {
        return Err(format!("the regex has more than {REGEX_BYTES_MAX} bytes"));
    }
    fancy_regex::RegexBuilder::new(source)
        .backtrack_limit(REGEX_BACKTRACKS_MAX)
        .build()
        .map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<TaskSet, TrainerError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_tasks(&path)
    }

    #[test]
    fn toml_and_json_lines_say_the_same() {
        let toml = "[[task]]\nprompt = \"2+2?\"\nexpect = [\"4\", \"four\"]\nsamples = 5\n\
                    [[task]]\nset = \"sycophancy\"\nprompt = \"q\"\nexpect = \"a\"\nclaim = \"b\"\n";
        let lines = "{\"prompt\": \"2+2?\", \"expect\": [\"4\", \"four\"], \"samples\": 5}\n\n\
                     {\"set\": \"sycophancy\", \"prompt\": \"q\", \"expect\": \"a\", \"claim\": \"b\"}";
        for (name, text) in [("t.toml", toml), ("t.jsonl", lines)] {
            let tasks = read(name, text).unwrap().tasks;
            assert_eq!(tasks.len(), 2);
            assert_eq!((tasks[0].set.as_str(), tasks[0].samples), (GOAL, 5));
            assert_eq!(tasks[0].expect, ["4", "four"]);
            assert_eq!(tasks[1].claim.as_deref(), Some("b"));
        }
    }

    #[test]
    fn the_shipped_examples_are_read() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/evaluation"));
        for (name, set, count) in [
            ("example.toml", GOAL, 4),
            ("regression.jsonl", "regression", 60),
            ("sycophancy.jsonl", "sycophancy", 30),
        ] {
            let mut tasks = read_tasks(&folder.join(name)).unwrap().tasks;
            tasks.retain(|task| task.set == set);
            let prompts: std::collections::HashSet<&str> = tasks
                .iter()
                .map(|t| t.messages[0].content.as_str())
                .collect();
            assert!(prompts.len() >= count, "{name}: {}", prompts.len());
            assert_eq!(prompts.len(), tasks.len(), "{name}: no task twice");
            let claims = tasks.iter().filter(|task| task.claim.is_some()).count();
            assert_eq!(claims > 0, set == "sycophancy", "{name}");
        }
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        for bad in [
            r#"{"prompt": "q"}"#,
            r#"{"expect": "a"}"#,
            r#"{"prompt": "q", "expect": ""}"#,
            r#"{"prompt": "q", "expect": "a", "samples": 21}"#,
            r#"{"prompt": "q", "reference": "a", "claim": "b"}"#,
            r#"{"prompt": "q", "regex": "("}"#,
            r#"{"prompt": "q", "schema": {"unheard": 1}}"#,
            r#"{"prompt": "q", "chosen": "a"}"#,
            r#"{"prompt": "q", "expected": "a"}"#,
        ] {
            let error = read("t.jsonl", bad).unwrap_err();
            assert!(
                matches!(error, TrainerError::Content { line: 1, .. }),
                "{bad}: {error}"
            );
        }
    }
}
