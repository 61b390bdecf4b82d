//! Answers: order of events, limits, stops, seeds, log-probabilities.

use super::support::{ask, request};
use super::{Violation, expect};
use crate::api::{ChatRequest, Engine, FinishReason, SamplingParams};

const QUESTION: &str = "Write one sentence about the sea.";

pub(super) async fn run(engine: &dyn Engine) -> Result<(), Violation> {
    plain(engine).await?;
    length(engine).await?;
    stops(engine).await?;
    choices_and_seeds(engine).await?;
    log_probabilities(engine).await
}

async fn plain(engine: &dyn Engine) -> Result<(), Violation> {
    let once = ask(engine, request(QUESTION, 24)).await?;
    let again = ask(engine, request(QUESTION, 24)).await?;
    expect(
        once.choices == again.choices,
        "a greedy answer is repeatable",
        &again.choices,
    )?;
    expect(
        !once.choices[0].text.is_empty(),
        "an answer has text",
        &once.choices,
    )?;
    let counted = engine
        .count_prompt_tokens(&request(QUESTION, 1).messages, None)
        .await?;
    expect(
        counted == once.usage.prompt_tokens,
        "the prompt's length is foretold",
        counted,
    )
}

async fn length(engine: &dyn Engine) -> Result<(), Violation> {
    let answer = ask(
        engine,
        ChatRequest {
            ignore_eos: true,
            ..request(QUESTION, 9)
        },
    )
    .await?;
    let reason = answer.choices[0].reason;
    expect(
        reason == Some(FinishReason::Length),
        "max_tokens ends an answer",
        reason,
    )?;
    let tokens = answer.usage.completion_tokens;
    expect(tokens == 9, "as many tokens as asked for", tokens)
}

async fn stops(engine: &dyn Engine) -> Result<(), Violation> {
    let whole = ask(engine, request(QUESTION, 24))
        .await?
        .choices
        .remove(0)
        .text;
    let words: Vec<&str> = whole.split(' ').collect();
    expect(words.len() > 5, "an answer of several words", &whole)?;
    let stop = words[2..5].join(" ");
    let answer = ask(
        engine,
        ChatRequest {
            stop: vec![stop.clone()],
            ..request(QUESTION, 24)
        },
    );
    let choice = answer.await?.choices.remove(0);
    expect(
        choice.reason == Some(FinishReason::Stop),
        "a stop text ends",
        choice.reason,
    )?;
    let expected = whole.find(&stop).map(|at| &whole[..at]);
    expect(
        expected == Some(&choice.text),
        "text ends before the stop",
        (&choice.text, &stop),
    )
}

async fn choices_and_seeds(engine: &dyn Engine) -> Result<(), Violation> {
    let sampling = SamplingParams {
        seed: 7,
        ..SamplingParams::default()
    };
    let seeded = ChatRequest {
        sampling,
        n: 3,
        ..request(QUESTION, 16)
    };
    let first = ask(engine, seeded.clone()).await?;
    let second = ask(engine, seeded.clone()).await?;
    expect(
        first.choices == second.choices,
        "a seed repeats",
        &second.choices,
    )?;
    let different = first.choices[0].text != first.choices[1].text;
    expect(different, "choices of one request differ", &first.choices)?;
    let sampling = SamplingParams {
        seed: 8,
        ..SamplingParams::default()
    };
    let other = ask(engine, ChatRequest { sampling, ..seeded }).await?;
    expect(
        other.choices != first.choices,
        "another seed, another answer",
        &other.choices,
    )
}

async fn log_probabilities(engine: &dyn Engine) -> Result<(), Violation> {
    let answer = ask(engine, request(QUESTION, 12)).await?;
    let choice = &answer.choices[0];
    let bytes: Vec<u8> = choice
        .logprobs
        .iter()
        .flat_map(|l| l.bytes.clone())
        .collect();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    expect(text == choice.text, "the tokens are the text", &text)?;
    for token in &choice.logprobs {
        expect(
            token.logprob <= 0.0 && token.top.len() == 3,
            "log-probabilities",
            token,
        )?;
        let falling = token.top.is_sorted_by(|a, b| a.2 >= b.2);
        expect(falling, "the most likely come first", token)?;
        let top = token.top.first().map(|top| &top.1);
        expect(
            top == Some(&token.bytes),
            "greedy takes the most likely",
            token,
        )?;
    }
    let without = ask(
        engine,
        ChatRequest {
            top_logprobs: None,
            ..request(QUESTION, 12)
        },
    )
    .await?;
    expect(
        without.choices[0].text == choice.text,
        "the same text without",
        &without.choices,
    )?;
    expect(
        without.choices[0].logprobs.is_empty(),
        "none unasked",
        &without.choices,
    )
}
