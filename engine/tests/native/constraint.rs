//! What the native engine does with grammars beyond the suite: exactness in
//! batches and after preemption, log-probabilities, hostile grammars.

use std::time::{Duration, Instant};

use engine::native::{NativeEngine, NativeOptions};
use engine::{
    ChatEvent, ChatMessage, ChatRequest, Constraint, Engine, EngineError, FinishReason, Grammar,
    Role, SamplingParams, TokenLogprob,
};
use serde_json::{Value, json};

use crate::support::model;

const PARAM: &str = "structured_outputs";

fn held_to(text: &str, grammar: Grammar, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        constraint: Some(Constraint {
            param: PARAM,
            grammar,
        }),
        ..ChatRequest::greedy(vec![ChatMessage::new(Role::User, text)], max_tokens)
    }
}

#[derive(Debug, Default, PartialEq)]
struct Answer {
    text: String,
    logprobs: Vec<TokenLogprob>,
    reason: Option<FinishReason>,
}

async fn answers(engine: &NativeEngine, request: ChatRequest) -> Result<Vec<Answer>, EngineError> {
    let mut answers: Vec<Answer> = (0..request.n).map(|_| Answer::default()).collect();
    let mut stream = engine.chat(request).await?;
    while let Some(event) = stream.events.recv().await {
        match event? {
            ChatEvent::Delta {
                choice,
                text,
                logprobs,
                ..
            } => {
                answers[choice as usize].text.push_str(&text);
                answers[choice as usize].logprobs.extend(logprobs);
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

fn start() -> NativeEngine {
    NativeEngine::start(model(), NativeOptions::default()).unwrap()
}

fn person() -> Value {
    json!({
        "$defs": {"city": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3}},
            "required": ["name", "tags"], "additionalProperties": false}},
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,9}$"},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "home": {"$ref": "#/$defs/city"},
            "married": {"type": ["boolean", "null"]},
        },
        "required": ["name", "age", "home", "married"],
        "additionalProperties": false,
    })
}

/// Checks by hand what [`person`] says.
fn assert_person(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let object = value.as_object().unwrap();
    assert_eq!(object.len(), 4, "{text}");
    let name = value["name"].as_str().unwrap();
    assert!((2..=10).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_uppercase()));
    assert!(
        (0..=120).contains(&value["age"].as_i64().unwrap()),
        "{text}"
    );
    assert!(value["home"]["name"].as_str().unwrap().chars().count() <= 20);
    let tags = value["home"]["tags"].as_array().unwrap();
    assert!(
        tags.len() <= 3
            && tags
                .iter()
                .all(|t| t.as_str().unwrap().chars().count() <= 8)
    );
    assert!(value["married"].is_boolean() || value["married"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_fits_its_schema_alone_in_a_batch_and_after_preemption() {
    let roomy = start();
    // four sequences of some 120 tokens do not fit in 6 pages of 32
    let tight = NativeOptions {
        kv_tokens_max: 192,
        ..NativeOptions::default()
    };
    let tight = NativeEngine::start(model(), tight).unwrap();
    let asks = [
        "A sailor.",
        "A baker from Rome.",
        "Somebody old.",
        "你好 🙂",
    ];
    let sampled = |ask: &str, seed| ChatRequest {
        sampling: SamplingParams {
            seed,
            ..SamplingParams::default()
        },
        ..held_to(ask, Grammar::JsonSchema(person()), 120)
    };
    let batch = asks.map(|ask| answer(&tight, sampled(ask, 5)));
    let batch = futures::future::join_all(batch).await;
    let mut whole = 0;
    for (ask, together) in asks.iter().zip(batch) {
        assert_eq!(together, answer(&roomy, sampled(ask, 5)).await, "{ask}");
        if together.reason == Some(FinishReason::Stop) {
            assert_person(&together.text);
            whole += 1;
        }
    }
    assert!(whole >= 3, "only {whole} answers came to their end");
    let several = ChatRequest {
        n: 3,
        max_tokens: Some(300),
        ..sampled(asks[0], 6)
    };
    let several = answers(&roomy, several).await.unwrap();
    assert!(several[0] != several[1] && several[1] != several[2]);
    several
        .iter()
        .for_each(|answer| assert_person(&answer.text));
    assert_person(
        &answer(&roomy, held_to(asks[1], Grammar::JsonSchema(person()), 200))
            .await
            .text,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grammar_ends_its_completion_and_eos_waits_for_it() {
    let engine = start();
    let fixed = Grammar::Lark(
        r#"start: "one, " word ", é漢🙂!"
        word: "two" | "three""#
            .to_owned(),
    );
    let found = answer(&engine, held_to("Count.", fixed, 60)).await;
    assert!(matches!(
        found.text.as_str(),
        "one, two, é漢🙂!" | "one, three, é漢🙂!"
    ));
    assert_eq!(found.reason, Some(FinishReason::Stop));
    // the model would say more, or end earlier: neither is possible
    let long = Grammar::Regex("(la ){30}".to_owned());
    let found = answer(&engine, held_to("Say: la", long, 120)).await;
    assert_eq!(
        (found.text, found.reason),
        ("la ".repeat(30), Some(FinishReason::Stop))
    );
    // where it may end and may go on, the end token ends it
    let open = Grammar::Regex("(?s:.*)".to_owned());
    let free = ChatRequest {
        constraint: None,
        ..held_to("Say hello.", Grammar::JsonObject, 60)
    };
    let free = answer(&engine, free).await;
    assert_eq!(free.reason, Some(FinishReason::Stop));
    assert_eq!(answer(&engine, held_to("Say hello.", open, 60)).await, free);
    // and the token limit cuts it off
    let found = answer(
        &engine,
        held_to("A town.", Grammar::JsonSchema(person()), 3),
    )
    .await;
    assert_eq!(found.reason, Some(FinishReason::Length));
    let found = answer(
        &engine,
        held_to("A town as JSON.", Grammar::JsonObject, 300),
    )
    .await;
    if found.reason == Some(FinishReason::Stop) {
        assert!(
            serde_json::from_str::<Value>(&found.text)
                .unwrap()
                .is_object()
        );
    }
    assert!(found.text.starts_with('{'), "{}", found.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_probabilities_are_those_before_the_grammar() {
    let engine = start();
    let free = ChatRequest {
        constraint: None,
        top_logprobs: Some(5),
        ..held_to("What is copper?", Grammar::JsonObject, 1)
    };
    let free = answer(&engine, free).await.logprobs.remove(0);
    let held = ChatRequest {
        top_logprobs: Some(5),
        ..held_to("What is copper?", Grammar::Regex("zz".to_owned()), 4)
    };
    let held = answer(&engine, held).await;
    assert_eq!(held.text, "zz");
    assert_eq!(
        held.logprobs[0].top, free.top,
        "the alternatives are the model's own"
    );
    assert!(
        held.logprobs[0].logprob < free.top[4].2,
        "what was forced was not likely"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_text_is_not_ignored_within_a_grammar() {
    let request = ChatRequest {
        ignore_eos: true,
        ..held_to("Hello", Grammar::JsonObject, 4)
    };
    let found = start().chat(request).await.unwrap_err();
    assert!(matches!(
        found,
        EngineError::InvalidRequest {
            param: "ignore_eos",
            ..
        }
    ));
}

/// Grammars made to be large, deep or slow.
fn hostile() -> Vec<Grammar> {
    let nest = |depth: usize, open: &str, inner: &str, close: &str| {
        open.repeat(depth) + inner + &close.repeat(depth)
    };
    let deep = (0..99).fold(
        json!({"type": "null"}),
        |inner, _| json!({"anyOf": [inner], "type": "array", "items": {"type": "null"}}),
    );
    let arrays = (0..49).fold(
        json!({}),
        |inner, _| json!({"type": "array", "items": inner}),
    );
    let products: Vec<Value> = (0..24)
        .map(|i| json!({"anyOf": (0..8).map(|j| json!({"properties": {format!("p{i}"): {"const": j}}})).collect::<Vec<_>>()}))
        .collect();
    let values: Vec<String> = (0..6000).map(|i| format!("v{i:04}")).collect();
    let regex = |text: &str| Grammar::Regex(text.to_owned());
    let lark = |text: String| Grammar::Lark(text);
    vec![
        Grammar::JsonSchema(deep),
        Grammar::JsonSchema(arrays),
        Grammar::JsonSchema(json!({"allOf": products})),
        Grammar::JsonSchema(json!({"enum": values})),
        Grammar::JsonSchema(
            json!({"type": "string", "minLength": 100_000, "maxLength": 900_000_000}),
        ),
        Grammar::JsonSchema(json!({"type": "array", "minItems": 1_000_000_000, "items": {}})),
        Grammar::JsonSchema(json!({"$ref": "#"})),
        Grammar::JsonSchema(
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        ),
        Grammar::JsonSchema(json!({"type": "string", "pattern": "(a{1,1000}){1,1000}"})),
        Grammar::JsonSchema(json!({"type": "number", "multipleOf": 1e-300})),
        Grammar::JsonSchema(json!({"type": "integer", "minimum": 1, "maximum": 1e300})),
        Grammar::JsonSchema(json!({"x-guidance": 7, "type": "null"})),
        regex(&nest(100, "(", "a", ")")),
        regex(&nest(100, "(", "a", "){0,9}")),
        regex("((a{0,9999}){0,9999}){0,9999}"),
        regex("(.*a){30}.{300}"),
        regex(r"\p{L}{1000}"),
        regex(&"(a|b)?".repeat(5000)),
        lark(format!("start: {}", nest(100, "(", "\"a\"", ")"))),
        lark("start: start start | \"a\" |".to_owned()),
        lark(format!("start: {}", "\"a\" ".repeat(15_000))),
        lark("start: a{1000000000}\na: \"x\"".to_owned()),
        lark(format!(
            "start: %json {}",
            nest(90, "{\"items\":", "{}", "}")
        )),
        lark(format!("start: {}", "!".repeat(60_000))),
        lark("start: <|im_start|>".to_owned()),
        lark("start: \"\\".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_grammar_is_refused_or_works_and_stops_nobody() {
    let engine = start();
    for grammar in hostile() {
        let name: String = format!("{grammar:?}").chars().take(100).collect();
        let began = Instant::now();
        match answers(&engine, held_to("Go.", grammar, 12)).await {
            Ok(answers) => assert!(answers[0].reason.is_some(), "{name}"),
            Err(EngineError::InvalidRequest { param, reason }) => {
                assert_eq!(param, PARAM, "{name}");
                assert!(
                    !reason.is_empty() && reason.len() < 2000,
                    "{name}: {reason}"
                );
                assert!(!reason.contains("backtrace"), "{name}: {reason}");
            }
            Err(other) => panic!("{name}: {other}"),
        }
        let took = began.elapsed();
        println!("{took:>12?}  {name}");
        assert!(took < Duration::from_secs(20), "{name} took {took:?}");
    }
    let after = Grammar::Regex("yes|no".to_owned());
    let found = answer(&engine, held_to("Is copper a metal?", after, 8)).await;
    assert!(matches!(found.text.as_str(), "yes" | "no"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_grammar_can_ask_for_a_control_token() {
    let engine = start();
    let control = Grammar::Lark("start: \"a\" <|im_start|>".to_owned());
    let found = engine.chat(held_to("Go.", control, 8)).await.err();
    assert!(
        matches!(&found, Some(EngineError::InvalidRequest { param, .. }) if *param == PARAM),
        "{found:?}"
    );
}
