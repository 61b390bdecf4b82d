//! Answers of a given form, over HTTP on the real model.

use serde_json::{Value, json};

use super::app::{MODEL, TestApp, question};
use super::chat::{events, text};

const CHAT: &str = "/v1/chat/completions";

fn held_to(field: &str, format: Value) -> Value {
    let mut body = question(MODEL, 160);
    body["messages"] = json!([{"role": "user", "content": "Describe the town of Rye as JSON."}]);
    body[field] = format;
    body
}

fn town() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "town", "strict": true, "schema": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "people": {"type": "integer", "minimum": 1, "maximum": 99999},
            "coast": {"type": "boolean"},
            "trades": {"type": "array", "items": {"enum": ["fish", "wool", "iron"]}, "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "people", "coast", "trades"],
        "additionalProperties": false,
    }}})
}

/// Checks by hand what [`town`] says.
fn assert_town(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(value.as_object().unwrap().len(), 4, "{text}");
    assert!(
        value["name"].as_str().unwrap().chars().count() <= 20,
        "{text}"
    );
    assert!(
        (1..=99999).contains(&value["people"].as_i64().unwrap()),
        "{text}"
    );
    assert!(value["coast"].is_boolean(), "{text}");
    let trades = value["trades"].as_array().unwrap();
    assert!((1..=3).contains(&trades.len()), "{text}");
    assert!(
        trades
            .iter()
            .all(|t| ["fish", "wool", "iron"].contains(&t.as_str().unwrap()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_kept_to_whole_and_streamed_and_by_every_choice() {
    let app = TestApp::start().await;
    let mut body = held_to("response_format", town());
    let whole = app.post(CHAT, body.clone()).await.ok();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    let content = choice["message"]["content"].as_str().unwrap().to_owned();
    assert_town(&content);

    body["stream"] = json!(true);
    let chunks = events(&app.post(CHAT, body.clone()).await.text);
    assert_eq!(text(&chunks), content, "streamed, it is the same");
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );

    body["stream"] = json!(false);
    body["temperature"] = json!(1.0);
    body["seed"] = json!(3);
    body["n"] = json!(3);
    body["logprobs"] = json!(true);
    let several = app.post(CHAT, body).await.ok();
    for choice in several["choices"].as_array().unwrap() {
        assert_town(choice["message"]["content"].as_str().unwrap());
        assert!(!choice["logprobs"]["content"].as_array().unwrap().is_empty());
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_expressions_and_grammars_are_kept_to() {
    let app = TestApp::start().await;
    let said = async |field: &str, format: Value| {
        let reply = app.post(CHAT, held_to(field, format)).await.ok();
        let choice = reply["choices"][0].clone();
        (
            choice["message"]["content"].as_str().unwrap().to_owned(),
            choice["finish_reason"].as_str().unwrap().to_owned(),
        )
    };
    let (content, reason) = said("response_format", json!({"type": "json_object"})).await;
    assert!(content.starts_with('{'), "{content}");
    if reason == "stop" {
        assert!(serde_json::from_str::<Value>(&content).unwrap().is_object());
    }
    let (content, _) = said(
        "structured_outputs",
        json!({"regex": "(?:yes|no), [a-z]{3,8}"}),
    )
    .await;
    let (word, rest) = content.split_once(", ").unwrap();
    assert!(
        ["yes", "no"].contains(&word) && (3..=8).contains(&rest.len()),
        "{content}"
    );
    let grammar = "start: NUMBER \" + \" NUMBER\nNUMBER: /[1-9][0-9]?/";
    let (content, reason) = said("structured_outputs", json!({"grammar": grammar})).await;
    let (left, right) = content.split_once(" + ").unwrap();
    assert!(
        left.parse::<u8>().is_ok() && right.parse::<u8>().is_ok(),
        "{content}"
    );
    assert_eq!(reason, "stop");
    let (content, _) = said("structured_outputs", json!({"json": {"enum": [7, "x"]}})).await;
    assert!(["7", "\"x\""].contains(&content.as_str()), "{content}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_to_is_a_400_that_names_the_field() {
    let app = TestApp::start().await;
    let schema = |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    let cases = [
        ("response_format", schema(json!({"type": "nothing"}))),
        ("response_format", schema(json!({"$ref": "#/$defs/none"}))),
        (
            "response_format",
            schema(json!({"type": "array", "uniqueItems": true})),
        ),
        ("structured_outputs", json!({"regex": "("})),
        ("structured_outputs", json!({"grammar": "nothing here"})),
    ];
    for (field, format) in cases {
        let reply = app.post(CHAT, held_to(field, format.clone())).await;
        assert_eq!(reply.status, 400, "{format}: {}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["param"], field, "{format}: {}", reply.text);
        assert_eq!(error["code"], "invalid_value");
        assert!(
            error["message"].as_str().unwrap().len() > 10,
            "{}",
            reply.text
        );
    }
    let mut body = held_to("response_format", town());
    body["stream"] = json!(true);
    body["response_format"]["json_schema"]["schema"]["required"] = json!("name");
    let reply = app.post(CHAT, body).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["param"]),
        (400, &json!("response_format"))
    );
    app.stop().await;
}
