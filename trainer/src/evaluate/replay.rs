//! General prompts that the base answers right: what did the candidate forget?

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use engine::{ChatMessage, EngineError, Role};
use ids::AdapterDigest;
use serde::{Deserialize, Serialize};

use super::compare::Interval;
use super::generate::{Answer, Generator};
use super::matching::contains;
use super::refusing::declines;
use crate::TrainerError;

/// The most prompts of a replay set.
pub const REPLAY_LINES_MAX: usize = 10_000;
/// The longest replay file.
const REPLAY_BYTES_MAX: u64 = 64 << 20;
/// Lost prompts that a report lists.
const LOST_LISTED_MAX: usize = 100;

/// One general prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayPrompt {
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// Any of these makes an answer right.
    pub expect: Vec<String>,
}

/// Answers to the replay set, judged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// How many prompts the set has.
    pub prompts: usize,
    /// Prompts that the bare base answers right: what can be lost.
    pub base_right: usize,
    /// Of those, how many the incumbent answers right.
    pub incumbent_right: usize,
    /// Of those, how many the candidate answers right.
    pub candidate_right: usize,
    /// Where the gain from incumbent to candidate lies, as a share of those.
    #[serde(default)]
    pub gain: Interval,
    /// Where the gain from base to candidate lies, which is a loss or nothing.
    #[serde(default)]
    pub gain_on_base: Interval,
    /// Of all prompts, the candidate's answers that go round in circles.
    pub degenerate: usize,
    /// Of all prompts, the base's.
    pub degenerate_base: usize,
    /// Of all prompts, the candidate's answers that decline to answer.
    #[serde(default)]
    pub declined: usize,
    /// The base's.
    #[serde(default)]
    pub declined_base: usize,
    /// Length of the candidate's answers by that of the base's, in characters;
    /// 0 where it was not measured.
    #[serde(default)]
    pub length_ratio: f64,
    /// Prompts that the base answers right and the candidate does not.
    pub lost: Vec<String>,
}

impl Replay {
    /// Percentage points of the base's right answers that are lost.
    #[must_use]
    pub fn points_lost(&self) -> f64 {
        let lost = self.base_right.saturating_sub(self.candidate_right);
        100.0 * lost as f64 / self.base_right.max(1) as f64
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    expect: OneOrMore,
}

/// Reads a replay set: JSON lines with `prompt` or `messages`, and `expect`, a
/// text or a list of which any suffices.
///
/// # Errors
/// [`TrainerError::File`], or [`TrainerError::Content`] with the line.
pub fn read_replay(path: &Path) -> Result<Vec<ReplayPrompt>, TrainerError> {
    let file = std::fs::File::open(path).map_err(TrainerError::file(path))?;
    let mut prompts = Vec::new();
    for (index, line) in BufReader::new(file.take(REPLAY_BYTES_MAX))
        .lines()
        .enumerate()
    {
        let line = line.map_err(TrainerError::file(path))?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |problem: String| TrainerError::Content {
            path: path.to_owned(),
            line: index + 1,
            problem,
        };
        if prompts.len() == REPLAY_LINES_MAX {
            return Err(wrong(format!("more than {REPLAY_LINES_MAX} prompts")));
        }
        let line: Line = serde_json::from_str(&line).map_err(|e| wrong(e.to_string()))?;
        let user = |content| vec![ChatMessage::new(Role::User, content)];
        let messages = line.messages.or(line.prompt.map(user)).unwrap_or_default();
        let expect = match line.expect {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(texts) => texts,
        };
        if messages.is_empty() || expect.iter().all(|text| text.trim().is_empty()) {
            return Err(wrong("a prompt and an expectation are needed".into()));
        }
        prompts.push(ReplayPrompt { messages, expect });
    }
    Ok(prompts)
}

/// Lets base, incumbent and candidate answer the set.
///
/// # Errors
/// The engine's.
pub async fn replay(
    generator: &Generator,
    prompts: &[ReplayPrompt],
    incumbent: Option<AdapterDigest>,
    candidate: Option<AdapterDigest>,
    seed: u64,
) -> Result<Replay, EngineError> {
    let messages: Vec<Vec<ChatMessage>> = prompts.iter().map(|p| p.messages.clone()).collect();
    let base = generator.answers(None, &messages).await?;
    let before = match incumbent {
        Some(_) => generator.answers(incumbent, &messages).await?,
        None => base.clone(),
    };
    let after = generator.answers(candidate, &messages).await?;
    Ok(judge(prompts, [&base, &before, &after], seed))
}

/// Judges the answers of base, incumbent and candidate.
fn judge(prompts: &[ReplayPrompt], answers: [&[Answer]; 3], seed: u64) -> Replay {
    let [base, before, after] = answers;
    let (mut kept_before, mut kept_after) = (Vec::new(), Vec::new());
    let mut replay = Replay {
        prompts: prompts.len(),
        length_ratio: length_ratio(base, after),
        ..Replay::default()
    };
    for (index, prompt) in prompts.iter().enumerate() {
        let right = |answer: &Answer| prompt.expect.iter().any(|e| contains(&answer.text, e));
        let circles = |answer: &Answer| usize::from(rollout::is_degenerate(&answer.text));
        replay.degenerate += circles(&after[index]);
        replay.degenerate_base += circles(&base[index]);
        let declined = |answer: &Answer| usize::from(declines(&answer.text));
        replay.declined += declined(&after[index]);
        replay.declined_base += declined(&base[index]);
        if !right(&base[index]) {
            continue;
        }
        replay.base_right += 1;
        let (was_right, is_right) = (right(&before[index]), right(&after[index]));
        kept_before.push(f64::from(was_right));
        kept_after.push(f64::from(is_right));
        replay.incumbent_right += usize::from(was_right);
        if is_right {
            replay.candidate_right += 1;
        } else if replay.lost.len() < LOST_LISTED_MAX {
            replay.lost.push(
                prompt
                    .messages
                    .last()
                    .map_or(String::new(), |m| m.content.clone()),
            );
        }
    }
    let all = vec![1.0; kept_after.len()];
    replay.gain = Interval::of(&kept_before, &kept_after, seed);
    replay.gain_on_base = Interval::of(&all, &kept_after, seed);
    replay
}

/// One character is added on both sides, so that empty answers have a ratio.
fn length_ratio(base: &[Answer], after: &[Answer]) -> f64 {
    let chars = |answers: &[Answer]| -> usize {
        answers
            .iter()
            .map(|answer| answer.text.trim().chars().count() + 1)
            .sum()
    };
    chars(after) as f64 / chars(base).max(1) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use engine::FinishReason;

    use super::*;

    #[test]
    fn only_what_the_base_knew_can_be_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replay.jsonl");
        let lines = [
            r#"{"prompt": "capital of France?", "expect": "Paris"}"#,
            r#"{"messages": [{"role": "user", "content": "2+2?"}], "expect": ["4", "four"]}"#,
            r#"{"prompt": "x?", "expect": "y"}"#,
        ];
        std::fs::write(&path, lines.join("\n")).unwrap();
        let prompts = read_replay(&path).unwrap();
        let answer = |text: &str| Answer {
            text: text.to_owned(),
            finish: FinishReason::Stop,
        };
        let base = ["Paris.", "It is Four.", "z"].map(answer);
        let after = ["Lyon", "4", "I cannot help with that."].map(answer);
        let replay = judge(&prompts, [&base, &base, &after], 1);
        assert_eq!((replay.base_right, replay.candidate_right), (2, 1));
        assert!((replay.points_lost() - 50.0).abs() < 1e-9);
        assert_eq!(replay.lost, ["capital of France?"]);
        // of two prompts that the base knows, both or none may be drawn
        let loss = replay.gain_on_base;
        assert!((loss.low + 1.0).abs() < 1e-12 && loss.high.abs() < 1e-12);
        assert_eq!(replay.gain, loss, "the incumbent is the base here");
        assert_eq!((replay.declined, replay.declined_base), (1, 0));
    }

    #[test]
    fn a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replay.jsonl");
        std::fs::write(
            &path,
            "{\"prompt\": \"a\", \"expect\": \"b\"}\n{\"prompt\": \"a\"}\n",
        )
        .unwrap();
        let error = read_replay(&path).unwrap_err();
        assert!(
            matches!(error, TrainerError::Content { line: 2, .. }),
            "{error}"
        );
    }
}
