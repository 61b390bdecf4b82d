//! Calls on the real model: forced, strict, in the model's own markup or in
//! another one, alone and in a batch.

use std::path::Path;
use std::sync::Arc;

use engine::native::{NativeEngine, NativeOptions};
use engine::{
    ChatEvent, ChatMessage, ChatRequest, Engine, EngineError, FinishReason, Role, SamplingParams,
    Tool, ToolCall, ToolChoice, ToolUse,
};
use futures::future::join_all;
use model::{BaseModel, ChatTemplate, ToolMarkup};
use serde_json::{Value, json};

use crate::support::{model, path};

/// Names, functions and calls as Llama 3.1's template has them, in short.
const LLAMA: &str = "{% for t in tools or [] %}{{ t | tojson(indent=4) }}\n{% endfor %}\
    {% for m in messages %}<|im_start|>{{ 'ipython' if m.role == 'tool' else m.role }}\n\
    {% if m.tool_calls %}{\"name\": \"{{ m.tool_calls[0].function.name }}\", \
    {{ '\"parameters\": ' }}{{ m.tool_calls[0].function.arguments | tojson }}}\
    {% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// What one completion did.
#[derive(Debug, Default, Clone, PartialEq)]
struct Answer {
    text: String,
    calls: Vec<(String, String)>,
    reason: Option<FinishReason>,
    deltas: usize,
}

async fn answers(engine: &NativeEngine, request: ChatRequest) -> Result<Vec<Answer>, EngineError> {
    let mut answers = vec![Answer::default(); request.n as usize];
    let mut stream = engine.chat(request).await?;
    while let Some(event) = stream.events.recv().await {
        match event? {
            ChatEvent::Delta {
                choice,
                text,
                tool_calls,
                ..
            } => {
                let answer = &mut answers[choice as usize];
                answer.text.push_str(&text);
                for delta in tool_calls {
                    answer.deltas += 1;
                    if let Some(name) = delta.name {
                        answer.calls.push((name, String::new()));
                    }
                    assert_eq!(delta.index as usize + 1, answer.calls.len());
                    answer.calls.last_mut().unwrap().1 += &delta.arguments;
                }
            }
            ChatEvent::Finished { choice, reason } => {
                answers[choice as usize].reason = Some(reason)
            }
            ChatEvent::Done { .. } => return Ok(answers),
        }
    }
    Err(EngineError::Stopped)
}

async fn answer(engine: &NativeEngine, request: ChatRequest) -> Answer {
    answers(engine, request).await.unwrap().remove(0)
}

fn tool(name: &str, parameters: Value, is_strict: bool) -> Tool {
    Tool {
        name: name.to_owned(),
        description: Some(format!("Does {name}.")),
        parameters,
        is_strict,
    }
}

fn town() -> Value {
    json!({
        "type": "object",
        "properties": {
            "town": {"enum": ["Paris", "Rome", "Oslo"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["town", "days"],
        "additionalProperties": false,
    })
}

fn asks(text: &str, choice: ToolChoice, is_strict: bool) -> ChatRequest {
    let note = json!({"type": "object", "properties": {"text": {"type": "string", "maxLength": 12}},
        "required": ["text"], "additionalProperties": false});
    ChatRequest {
        tools: Some(ToolUse {
            tools: vec![
                tool("forecast", town(), is_strict),
                tool("note", note, is_strict),
            ],
            choice,
            is_parallel: true,
        }),
        ..ChatRequest::greedy(vec![ChatMessage::new(Role::User, text)], 160)
    }
}

fn assert_fits(name: &str, arguments: &str) {
    let value: Value =
        serde_json::from_str(arguments).unwrap_or_else(|e| panic!("{e}: {arguments}"));
    if name == "note" {
        assert!(value["text"].as_str().unwrap().chars().count() <= 12);
    } else {
        assert_eq!(name, "forecast");
        assert!(["Paris", "Rome", "Oslo"].contains(&value["town"].as_str().unwrap()));
        assert!((1..=9).contains(&value["days"].as_i64().unwrap()));
        assert_eq!(value.as_object().unwrap().len(), 2);
    }
}

fn start() -> NativeEngine {
    NativeEngine::start(model(), NativeOptions::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forced_calls_fit_alone_and_in_a_batch_whatever_stops_are_given() {
    let engine = start();
    let named = ChatRequest {
        stop: vec!["\n".to_owned(), "}".to_owned()],
        ..asks("Weather?", ToolChoice::Named("forecast".to_owned()), false)
    };
    let alone = answer(&engine, named.clone()).await;
    assert_eq!((alone.calls.len(), alone.text.as_str()), (1, ""));
    assert_eq!(alone.reason, Some(FinishReason::ToolCalls));
    assert!(alone.deltas > 3, "the arguments come in pieces: {alone:?}");
    assert_fits(&alone.calls[0].0, &alone.calls[0].1);
    let required = |seed| ChatRequest {
        sampling: SamplingParams {
            seed,
            ..SamplingParams::default()
        },
        n: 2,
        max_tokens: Some(400),
        ..asks("Plan a trip.", ToolChoice::Required, false)
    };
    let (first, others) = tokio::join!(
        answer(&engine, named),
        join_all((0..4).map(|seed| answers(&engine, required(seed))))
    );
    assert_eq!(first, alone);
    for other in others.into_iter().flat_map(Result::unwrap) {
        assert!((1..=8).contains(&other.calls.len()), "{other:?}");
        if other.reason == Some(FinishReason::ToolCalls) {
            other
                .calls
                .iter()
                .for_each(|call| assert_fits(&call.0, &call.1));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_function_changes_no_text_and_holds_the_calls() {
    let engine = start();
    let question = "What is the capital of France?";
    let free = answer(&engine, asks(question, ToolChoice::Auto, false)).await;
    let held = answer(&engine, asks(question, ToolChoice::Auto, true)).await;
    assert!(free.calls.is_empty() && !free.text.is_empty(), "{free:?}");
    assert_eq!(held, free, "what is no call is not touched");
    // by example, with a town that the schema does not allow
    let mut messages = Vec::new();
    for (i, place) in ["Bonn", "Rye", "Kiel", "Bath"].iter().enumerate() {
        let mut calls = ChatMessage::new(Role::Assistant, "");
        calls.tool_calls.push(ToolCall {
            id: format!("call_{i}"),
            name: "forecast".to_owned(),
            arguments: format!("{{\"town\": \"{place}\", \"days\": 2}}"),
        });
        messages.extend([
            ChatMessage::new(Role::User, format!("Forecast for {place}, 2 days.")),
            calls,
            ChatMessage::new(Role::Tool, "Sunny."),
            ChatMessage::new(Role::Assistant, "Sunny."),
        ]);
    }
    messages.push(ChatMessage::new(Role::User, "Forecast for Hull, 2 days."));
    let asked = |is_strict| ChatRequest {
        messages: messages.clone(),
        ..asks("", ToolChoice::Auto, is_strict)
    };
    let free = answer(&engine, asked(false)).await;
    assert!(free.calls[0].1.contains("Hull"), "{free:?}");
    let held = answer(&engine, asked(true)).await;
    assert_eq!(held.reason, Some(FinishReason::ToolCalls), "{held:?}");
    held.calls
        .iter()
        .for_each(|call| assert_fits(&call.0, &call.1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_with_another_markup_calls_in_its_own() {
    let mut llama = BaseModel::open(Path::new(&path())).unwrap();
    llama.template = ChatTemplate::new(LLAMA, "", "").unwrap();
    assert_eq!(llama.template.tool_markup(), Some(ToolMarkup::Bare));
    let engine = NativeEngine::start(Arc::new(llama), NativeOptions::default()).unwrap();
    let forced = answer(&engine, asks("Weather?", ToolChoice::Required, false)).await;
    assert_eq!(forced.reason, Some(FinishReason::ToolCalls));
    assert_eq!((forced.calls.len(), forced.text.as_str()), (1, ""));
    assert_fits(&forced.calls[0].0, &forced.calls[0].1);
    let question = "What is the capital of France?";
    let free = answer(&engine, asks(question, ToolChoice::Auto, false)).await;
    let held = answer(&engine, asks(question, ToolChoice::Auto, true)).await;
    if free.calls.is_empty() && !free.text.trim_start().starts_with('{') {
        assert_eq!(held, free);
    }
    held.calls
        .iter()
        .for_each(|call| assert_fits(&call.0, &call.1));
    // the functions and the earlier call are in the prompt as the template has them
    let asked = asks(question, ToolChoice::Auto, false);
    let with = engine.count_prompt_tokens(&asked.messages, asked.tools.as_ref());
    let without = engine.count_prompt_tokens(&asked.messages, None);
    assert!(with.await.unwrap() > without.await.unwrap() + 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_cannot_be_offered_are_refused_by_name() {
    let engine = start();
    let with = |change: fn(&mut ChatRequest)| {
        let mut request = asks("Hi", ToolChoice::Auto, false);
        change(&mut request);
        request
    };
    fn tools(request: &mut ChatRequest) -> &mut ToolUse {
        request.tools.as_mut().unwrap()
    }
    for (request, param) in [
        (with(|r| tools(r).tools.clear()), "tools"),
        (
            with(|r| tools(r).tools[1].name = "forecast".to_owned()),
            "tools",
        ),
        (with(|r| tools(r).tools[0].name = "a b".to_owned()), "tools"),
        (
            with(|r| tools(r).choice = ToolChoice::Named("other".to_owned())),
            "tool_choice",
        ),
        (with(|r| r.ignore_eos = true), "ignore_eos"),
        (
            with(|r| {
                tools(r).choice = ToolChoice::Required;
                tools(r).tools[0].parameters = json!({"type": "nothing"});
            }),
            "tools",
        ),
    ] {
        let found = answers(&engine, request).await.unwrap_err();
        assert!(
            matches!(found, EngineError::InvalidRequest { param: p, .. } if p == param),
            "{found:?}"
        );
    }
}
