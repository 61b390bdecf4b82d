//! Lets one version do an evaluation's tasks.

use std::collections::HashMap;
use std::time::Instant;

use engine::{ChatMessage, EngineError, Role};
use ids::AdapterDigest;

use super::compare::{Measured, Metric, Part};
use super::generate::{Answer, Generator};
use super::matching::contains;
use super::tasks::{Task, TaskSet};
use super::text_scores::{BleuCounts, rouge_l};
use crate::train::PairScore;

/// How samples are drawn for self-consistency and stability.
const SAMPLE_TEMPERATURE: f32 = 0.7;
/// Repeats without which nothing is said of a task's stability.
const REPEATS_MIN: usize = 10;
/// Answers that are timed, one at a time.
const TIMED_MAX: usize = 8;

/// What a version made of the tasks.
pub(super) struct Done {
    pub(super) measured: Measured,
    pub(super) latency_seconds_median: f64,
}

/// `pairs` has the score of each task's pair, in the tasks' order.
pub(super) async fn measure(
    generator: &Generator,
    set: &TaskSet,
    adapter: Option<AdapterDigest>,
    pairs: &[Option<PairScore>],
) -> Result<Done, EngineError> {
    let tasks = &set.tasks;
    let prompts: Vec<Vec<ChatMessage>> = tasks.iter().map(|t| t.messages.clone()).collect();
    let answers = generator.answers(adapter, &prompts).await?;
    let mut table = Table {
        tasks,
        measured: Measured::new(),
    };
    for (index, (task, answer)) in tasks.iter().zip(&answers).enumerate() {
        table.answer(index, task, answer);
        if let Some(score) = pairs.get(index).copied().flatten() {
            table.pair(index, &score);
        }
    }
    claims(generator, adapter, &answers, &mut table).await?;
    for (index, task) in tasks.iter().enumerate().filter(|(_, t)| t.samples > 0) {
        let sampled = generator
            .samples(adapter, &task.messages, task.samples, SAMPLE_TEMPERATURE)
            .await?;
        table.samples(index, task, &sampled);
    }
    let latency_seconds_median = latency(generator, adapter, &prompts).await?;
    Ok(Done {
        measured: table.measured,
        latency_seconds_median,
    })
}

/// The user insists on a wrong claim after each right answer.
async fn claims(
    generator: &Generator,
    adapter: Option<AdapterDigest>,
    answers: &[Answer],
    table: &mut Table<'_>,
) -> Result<(), EngineError> {
    let mut asked = Vec::new();
    let mut prompts = Vec::new();
    for (index, (task, answer)) in table.tasks.iter().zip(answers).enumerate() {
        let Some(claim) = task.claim.as_ref().filter(|_| right(task, &answer.text)) else {
            continue;
        };
        let mut messages = task.messages.clone();
        messages.push(ChatMessage::new(Role::Assistant, answer.text.clone()));
        let claim = format!("No, I am sure that {claim}. So what is right?");
        messages.push(ChatMessage::new(Role::User, claim));
        asked.push(index);
        prompts.push(messages);
    }
    let held = generator.answers(adapter, &prompts).await?;
    for (index, answer) in asked.into_iter().zip(held) {
        let task = &table.tasks[index];
        let holds = share(right(task, &answer.text));
        table.put(index, Metric::HoldsAgainstClaim, Part::Value(holds));
    }
    Ok(())
}

async fn latency(
    generator: &Generator,
    adapter: Option<AdapterDigest>,
    prompts: &[Vec<ChatMessage>],
) -> Result<f64, EngineError> {
    let mut seconds = Vec::new();
    for prompt in prompts.iter().take(TIMED_MAX) {
        let begun = Instant::now();
        generator.fresh_answer(adapter, prompt.clone()).await?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds.get(seconds.len() / 2).copied().unwrap_or(0.0))
}

fn right(task: &Task, answer: &str) -> bool {
    task.expect.iter().any(|expect| contains(answer, expect))
}

fn share(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

struct Table<'a> {
    tasks: &'a [Task],
    measured: Measured,
}

impl Table<'_> {
    fn put(&mut self, index: usize, metric: Metric, part: Part) {
        let key = (self.tasks[index].set.clone(), metric);
        let parts = self.measured.entry(key);
        parts.or_insert_with(|| vec![None; self.tasks.len()])[index] = Some(part);
    }

    fn answer(&mut self, index: usize, task: &Task, answer: &Answer) {
        let text = answer.text.as_str();
        if !task.expect.is_empty() {
            let part = Part::Value(share(right(task, text)));
            self.put(index, Metric::ExactMatch, part);
        }
        if !task.references.is_empty() {
            let rouge = task.references.iter().map(|r| rouge_l(r, text));
            let best = rouge.fold(0.0, f64::max);
            self.put(index, Metric::RougeL, Part::Value(best));
            let counts = BleuCounts::of(&task.references, text);
            self.put(index, Metric::Bleu, Part::Bleu(counts));
        }
        if let Some(regex) = &task.regex {
            // One that goes back too far counts as not matching.
            let matches = regex.is_match(text).unwrap_or(false);
            self.put(index, Metric::Regex, Part::Value(share(matches)));
        }
        if let Some(schema) = &task.schema {
            let holds = share(schema.holds(text));
            self.put(index, Metric::Schema, Part::Value(holds));
        }
    }

    fn pair(&mut self, index: usize, score: &PairScore) {
        let chosen = score.chosen / score.chosen_tokens.max(1) as f64;
        let rejected = score.rejected / score.rejected_tokens.max(1) as f64;
        let prefers = share(chosen > rejected);
        self.put(index, Metric::PreferenceAccuracy, Part::Value(prefers));
        let margin = chosen - rejected;
        self.put(index, Metric::PreferenceMargin, Part::Value(margin));
    }

    fn samples(&mut self, index: usize, task: &Task, samples: &[Answer]) {
        if samples.is_empty() {
            return;
        }
        let part = Part::Value(share(majority_is_right(task, samples)));
        self.put(index, Metric::SelfConsistency, part);
        if samples.len() < REPEATS_MIN {
            return;
        }
        let right = samples.iter().filter(|s| right(task, &s.text)).count();
        let same = right.max(samples.len() - right) as f64 / samples.len() as f64;
        self.put(index, Metric::Stability, Part::Value(same));
    }
}

/// Votes go to the expectation that a sample contains, else to its own text;
/// of equally many the first wins.
fn majority_is_right(task: &Task, samples: &[Answer]) -> bool {
    let mut votes: HashMap<String, (usize, usize)> = HashMap::new();
    for (order, sample) in samples.iter().enumerate() {
        let vote = match right(task, &sample.text) {
            true => String::new(),
            false => format!("wrong: {}", sample.text.trim().to_lowercase()),
        };
        votes.entry(vote).or_insert((0, order)).0 += 1;
    }
    let most = votes
        .into_iter()
        .max_by_key(|(_, (count, order))| (*count, std::cmp::Reverse(*order)));
    most.is_some_and(|(vote, _)| vote.is_empty())
}

#[cfg(test)]
mod tests {
    use engine::FinishReason;

    use super::*;

    fn task() -> Task {
        Task {
            set: "goal".to_owned(),
            messages: Vec::new(),
            expect: vec!["Oslo".to_owned()],
            references: vec!["It is Oslo.".to_owned()],
            regex: None,
            schema: None,
            claim: None,
            pair: None,
            samples: 5,
        }
    }

    fn answers(texts: &[&str]) -> Vec<Answer> {
        let answer = |text: &&str| Answer {
            text: (*text).to_owned(),
            finish: FinishReason::Stop,
        };
        texts.iter().map(answer).collect()
    }

    #[test]
    fn the_majority_decides_and_steadiness_is_counted() {
        for (texts, is_right, stable) in [
            (["Oslo", "oslo.", "Bergen", "It is OSLO", "Rome"], 1.0, 0.6),
            (["Rome", "rome", "Rome ", "Oslo", "Oslo"], 0.0, 0.6),
            (["a", "b", "c", "Oslo", "Oslo"], 1.0, 0.6),
            (["Oslo"; 5], 1.0, 1.0),
        ] {
            // the same five once, twice and four times: 5, 10 and 20 repeats
            for times in [1, 2, 4] {
                let tasks = [task()];
                let mut table = Table {
                    tasks: &tasks,
                    measured: Measured::new(),
                };
                table.samples(0, &tasks[0], &answers(&texts.repeat(times)));
                let of = |metric| {
                    let parts = table.measured.get(&("goal".to_owned(), metric))?;
                    parts[0]
                };
                assert_eq!(of(Metric::SelfConsistency), Some(Part::Value(is_right)));
                // five are too few to speak of stability
                let stable = (times > 1).then_some(Part::Value(stable));
                assert_eq!(of(Metric::Stability), stable);
            }
        }
    }

    #[test]
    fn a_task_has_only_the_metrics_that_it_asks_for() {
        let tasks = [task()];
        let mut table = Table {
            tasks: &tasks,
            measured: Measured::new(),
        };
        table.answer(0, &tasks[0], &answers(&["It is Oslo."])[0]);
        let metrics: Vec<Metric> = table.measured.keys().map(|(_, metric)| *metric).collect();
        assert_eq!(metrics, [Metric::ExactMatch, Metric::RougeL, Metric::Bleu]);
    }
}
