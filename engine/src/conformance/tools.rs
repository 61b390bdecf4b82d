//! Functions: a call that is asked for comes as a call, and fits its schema.

use serde_json::{Value, json};

use super::support::{ask, request};
use super::{Violation, expect};
use crate::api::{ChatRequest, Engine, EngineError, FinishReason};
use crate::tools::{Tool, ToolChoice, ToolUse};

const QUESTION: &str = "When is high water in Rye?";

pub(super) async fn run(engine: &dyn Engine) -> Result<(), Violation> {
    forced_call(engine).await?;
    refusal(engine).await
}

fn tools(name: &str) -> ToolUse {
    let parameters = json!({
        "type": "object",
        "properties": {"town": {"enum": ["Rye", "Hythe"]}, "day": {"type": "integer"}},
        "required": ["town", "day"],
        "additionalProperties": false,
    });
    ToolUse {
        tools: vec![Tool {
            name: name.to_owned(),
            description: Some("The time of high water".to_owned()),
            parameters,
            is_strict: false,
        }],
        choice: ToolChoice::Named("tide".to_owned()),
        is_parallel: true,
    }
}

async fn forced_call(engine: &dyn Engine) -> Result<(), Violation> {
    let request = ChatRequest {
        tools: Some(tools("tide")),
        ..request(QUESTION, 200)
    };
    let with = engine.count_prompt_tokens(&request.messages, request.tools.as_ref());
    let (with, messages) = (with.await?, &request.messages);
    let without = engine.count_prompt_tokens(messages, None).await?;
    expect(with > without, "functions are told", (with, without))?;
    let answer = ask(engine, request).await?;
    let counted = answer.usage.prompt_tokens;
    expect(counted == with, "and counted", (counted, with))?;
    let Some(choice) = answer.choices.first() else {
        return Err(Violation::CutOff);
    };
    let called = match choice.calls.as_slice() {
        [(name, arguments)] if name == "tide" => serde_json::from_str::<Value>(arguments).ok(),
        _ => None,
    };
    let fits = called.is_some_and(|arguments| {
        let town = arguments["town"].as_str();
        matches!(town, Some("Rye" | "Hythe")) && arguments["day"].is_i64()
    });
    expect(fits, "one call that fits its schema", choice)?;
    expect(choice.text.is_empty(), "a call is no text", &choice.text)?;
    let reason = choice.reason;
    let expected = Some(FinishReason::ToolCalls);
    expect(reason == expected, "a call ends the answer", reason)
}

async fn refusal(engine: &dyn Engine) -> Result<(), Violation> {
    let request = ChatRequest {
        tools: Some(tools("other")),
        ..request(QUESTION, 8)
    };
    let found = engine.chat(request).await.err();
    let param = "tool_choice";
    let named = matches!(&found, Some(EngineError::InvalidRequest { param: p, .. }) if *p == param);
    expect(named, "a function that is not there", found)
}
