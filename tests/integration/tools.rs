//! Functions that the model calls, over HTTP on the real model.

use serde_json::{Value, json};

use super::app::{MODEL, TestApp, question};
use super::chat::{events, text};

const CHAT: &str = "/v1/chat/completions";

fn weather() -> Value {
    json!({"type": "function", "function": {
        "name": "get_weather",
        "description": "The weather of a town.",
        "strict": true,
        "parameters": {
            "$defs": {"unit": {"enum": ["celsius", "fahrenheit"]}},
            "type": "object",
            "properties": {"town": {"type": "string", "maxLength": 24}, "unit": {"$ref": "#/$defs/unit"}},
            "required": ["town", "unit"],
            "additionalProperties": false,
        },
    }})
}

fn tide() -> Value {
    json!({"type": "function", "function": {
        "name": "get-tide",
        "parameters": {"type": "object", "properties": {"day": {"enum": ["today", "tomorrow"]}},
            "required": ["day"], "additionalProperties": false},
    }})
}

fn asks(tools: Value, choice: Value) -> Value {
    let mut body = question(MODEL, 200);
    body["messages"] = json!([{"role": "user", "content": "How is the weather in Paris?"}]);
    body["tools"] = tools;
    body["tool_choice"] = choice;
    body
}

fn named(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

/// Checks the arguments of a call by hand.
fn assert_call(name: &str, arguments: &str) {
    let value: Value =
        serde_json::from_str(arguments).unwrap_or_else(|e| panic!("{e}: {arguments}"));
    if name == "get-tide" {
        assert!(["today", "tomorrow"].contains(&value["day"].as_str().unwrap()));
        assert_eq!(value.as_object().unwrap().len(), 1);
    } else {
        assert_eq!(name, "get_weather");
        assert!(value["town"].as_str().unwrap().chars().count() <= 24);
        assert!(["celsius", "fahrenheit"].contains(&value["unit"].as_str().unwrap()));
        assert_eq!(value.as_object().unwrap().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_function_is_called_whole_and_streamed() {
    let app = TestApp::start().await;
    let mut body = asks(json!([weather(), tide()]), named("get_weather"));
    let whole = app.post(CHAT, body.clone()).await.ok();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{whole}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0]["type"], "function");
    assert!(calls[0]["id"].as_str().unwrap().starts_with("call_"));
    assert_eq!(calls[0]["function"]["name"], "get_weather");
    let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
    assert_call("get_weather", arguments);

    body["stream"] = json!(true);
    let chunks = events(&app.post(CHAT, body).await.text);
    assert_eq!(text(&chunks), "");
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "tool_calls"
    );
    let deltas: Vec<&Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"].get("tool_calls"))
        .collect();
    assert!(deltas.len() > 1, "the arguments come in pieces");
    let mut joined = String::new();
    for (i, delta) in deltas.iter().enumerate() {
        let [delta] = delta.as_array().unwrap().as_slice() else {
            panic!("{delta}");
        };
        assert_eq!(delta["index"], 0);
        let first = i == 0;
        assert_eq!(delta.get("id").is_some(), first, "the id comes once");
        assert_eq!(delta.get("type").is_some(), first);
        assert_eq!(delta["function"].get("name").is_some(), first);
        joined.push_str(delta["function"]["arguments"].as_str().unwrap());
    }
    assert_eq!(joined, arguments, "streamed, it is the same");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn required_calls_keep_to_their_schemas_and_the_results_go_back() {
    let app = TestApp::start().await;
    let mut body = asks(json!([weather(), tide()]), json!("required"));
    body["temperature"] = json!(1.0);
    body["n"] = json!(3);
    body["seed"] = json!(1);
    body["max_completion_tokens"] = json!(400);
    let reply = app.post(CHAT, body.clone()).await.ok();
    for choice in reply["choices"].as_array().unwrap() {
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert!((1..=8).contains(&calls.len()));
        for call in calls {
            if choice["finish_reason"] == "tool_calls" {
                let function = &call["function"];
                assert_call(
                    function["name"].as_str().unwrap(),
                    function["arguments"].as_str().unwrap(),
                );
            }
        }
    }
    body["parallel_tool_calls"] = json!(false);
    let reply = app.post(CHAT, body.clone()).await.ok();
    let answer = reply["choices"][0]["message"].clone();
    for choice in reply["choices"].as_array().unwrap() {
        assert_eq!(choice["message"]["tool_calls"].as_array().unwrap().len(), 1);
        assert_eq!(choice["finish_reason"], "tool_calls");
    }
    // the answer goes back as it came, with the result behind it
    let id = answer["tool_calls"][0]["id"].clone();
    body["messages"].as_array_mut().unwrap().extend([
        answer,
        json!({"role": "tool", "tool_call_id": id, "content": "Sunny, 21 degrees."}),
    ]);
    body["tool_choice"] = json!("none");
    body["n"] = json!(1);
    let reply = app.post(CHAT, body.clone()).await.ok();
    let message = &reply["choices"][0]["message"];
    assert!(!message["content"].as_str().unwrap().is_empty());
    assert!(message.get("tool_calls").is_none());
    let without = reply["usage"]["prompt_tokens"].as_u64().unwrap();
    body["tool_choice"] = json!("auto");
    let reply = app.post(CHAT, body.clone()).await.ok();
    let with = reply["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(
        with > without + 100,
        "the functions are in the prompt: {with} and {without}"
    );
    body["messages"][2]["tool_call_id"] = json!("call_of_nobody");
    let reply = app.post(CHAT, body).await;
    assert_eq!(reply.json()["error"]["param"], "messages[2].tool_call_id");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_the_model_makes_by_itself_are_found() {
    let app = TestApp::start().await;
    let mut body = asks(json!([weather()]), json!("auto"));
    // by example: a small model does what it has just done
    let mut messages = Vec::new();
    for (i, town) in ["Rome", "Oslo", "Rye", "Hythe"].iter().enumerate() {
        let id = format!("call_{i}");
        let arguments = json!({"town": town, "unit": "celsius"}).to_string();
        let call = json!({"id": id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}});
        messages.extend([
            json!({"role": "user", "content": format!("How is the weather in {town}?")}),
            json!({"role": "assistant", "content": null, "tool_calls": [call]}),
            json!({"role": "tool", "tool_call_id": id, "content": "Sunny."}),
            json!({"role": "assistant", "content": "It is sunny."}),
        ]);
    }
    messages.push(json!({"role": "user", "content": "How is the weather in Paris?"}));
    body["messages"] = json!(messages);
    body["parallel_tool_calls"] = json!(false);
    let reply = app.post(CHAT, body).await.ok();
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    let function = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(function["name"], "get_weather");
    assert!(
        function["arguments"].as_str().unwrap().contains("Paris"),
        "{function}"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prompts_limit_counts_the_functions() {
    let app = TestApp::start().await;
    let mut tool = weather();
    tool["function"]["parameters"]["description"] = json!("word ".repeat(9000));
    let reply = app.post(CHAT, asks(json!([tool]), json!("auto"))).await;
    assert_eq!(reply.error(), (400, "context_length_exceeded".to_owned()));
    let mut bad = weather();
    bad["function"]["parameters"]["properties"]["town"] = json!({"type": "nothing"});
    let reply = app
        .post(CHAT, asks(json!([bad]), named("get_weather")))
        .await;
    assert_eq!(reply.json()["error"]["param"], "tools", "{}", reply.text);
    app.stop().await;
}
