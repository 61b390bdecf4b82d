//! Completions that are held to a grammar.

use serde_json::{Value, json};

use super::support::{ask, request};
use super::{Violation, expect};
use crate::api::{ChatRequest, Engine, EngineError, FinishReason, SamplingParams};
use crate::constraint::{Constraint, Grammar};

const QUESTION: &str = "Describe a small town as JSON.";

pub(super) async fn run(engine: &dyn Engine) -> Result<(), Violation> {
    schema(engine).await?;
    expression(engine).await?;
    refusals(engine).await
}

fn held_to(grammar: Grammar, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        constraint: Some(Constraint {
            param: "response_format",
            grammar,
        }),
        ..request(QUESTION, max_tokens)
    }
}

async fn schema(engine: &dyn Engine) -> Result<(), Violation> {
    let schema = json!({
        "type": "object",
        "properties": {"size": {"type": "integer"}, "kind": {"enum": ["port", "mill"]}},
        "required": ["size", "kind"],
        "additionalProperties": false,
    });
    let sampled = SamplingParams {
        seed: 4,
        ..SamplingParams::default()
    };
    for sampling in [SamplingParams::greedy(), sampled] {
        let request = ChatRequest {
            n: 2,
            sampling,
            ..held_to(Grammar::JsonSchema(schema.clone()), 200)
        };
        for choice in ask(engine, request).await?.choices {
            let value: Option<Value> = serde_json::from_str(&choice.text).ok();
            let fits = value.as_ref().is_some_and(|value| {
                let kind = value["kind"].as_str();
                value["size"].is_i64()
                    && matches!(kind, Some("port" | "mill"))
                    && value.as_object().map(serde_json::Map::len) == Some(2)
            });
            expect(fits, "a completion fits its schema", &choice.text)?;
            let reason = choice.reason;
            expect(
                reason == Some(FinishReason::Stop),
                "the grammar's end ends it",
                reason,
            )?;
        }
    }
    Ok(())
}

async fn expression(engine: &dyn Engine) -> Result<(), Violation> {
    let grammar = Grammar::Regex("[0-9]{3}-[0-9]{4}".to_owned());
    let choice = ask(engine, held_to(grammar, 40)).await?.choices.remove(0);
    let text = &choice.text;
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let matches = text.len() == 8 && digits == 7 && text.find('-') == Some(3);
    expect(matches, "a completion matches its expression", text)?;
    expect(
        choice.reason == Some(FinishReason::Stop),
        "and ends there",
        choice.reason,
    )
}

async fn refusals(engine: &dyn Engine) -> Result<(), Violation> {
    let bad = [
        Grammar::JsonSchema(json!({"type": "nothing"})),
        Grammar::JsonSchema(json!({"$ref": "#/$defs/nowhere"})),
        Grammar::Regex("(".to_owned()),
        Grammar::Lark("begin: \"a\"".to_owned()),
    ];
    for grammar in bad {
        let found = engine.chat(held_to(grammar.clone(), 8)).await.err();
        let named = matches!(
            &found,
            Some(EngineError::InvalidRequest { param: "response_format", reason }) if !reason.is_empty()
        );
        expect(
            named,
            "a bad grammar is refused by its field",
            (grammar, found),
        )?;
    }
    Ok(())
}
