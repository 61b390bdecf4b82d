//! Chat requests: what is taken, with which defaults, and what is refused
//! under which name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use openapi::{
    AdapterSelector, AnswerFormat, AnswerFormatKind, ChatCompletionBody, ChatCompletionRequest,
    MessageRole, RequestError, RequestToolChoice, code, limits,
};
use serde_json::{Value, json};

fn parse(body: &Value) -> Result<ChatCompletionRequest, RequestError> {
    ChatCompletionRequest::parse(body.to_string().as_bytes())
}

/// The smallest request with some fields more.
fn with(fields: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    let Value::Object(fields) = fields else {
        panic!("not an object")
    };
    body.as_object_mut().unwrap().extend(fields);
    body
}

#[test]
fn the_smallest_request_has_the_apis_defaults() {
    let request = parse(&with(json!({}))).unwrap();
    assert_eq!(request.model, "m");
    assert_eq!(
        (request.n, request.max_tokens, request.seed),
        (1, None, None)
    );
    assert_eq!(
        (request.temperature, request.top_p, request.top_k),
        (1.0, 1.0, 0)
    );
    assert_eq!((request.repetition_penalty, request.min_p), (1.0, 0.0));
    assert_eq!(
        (request.stream, request.include_usage, request.ignore_eos),
        (false, false, false)
    );
    assert_eq!(
        (request.top_logprobs, request.adapter, request.store),
        (None, None, None)
    );
}

#[test]
fn every_honoured_field_arrives() {
    let request = parse(&with(json!({
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": null, "tool_calls": [], "audio": null},
        ],
        "max_completion_tokens": 7, "n": 3, "seed": -1, "stop": ["x", "y"],
        "logit_bias": {"5": -100, "7": 1.5}, "logprobs": true, "top_logprobs": 20,
        "frequency_penalty": -2, "presence_penalty": 2, "temperature": 0, "top_p": 0.5,
        "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1,
        "metadata": {"session_id": "s"}, "store": false, "user": "u", "safety_identifier": "i",
        "prompt_cache_key": "k", "service_tier": "auto", "parallel_tool_calls": true,
        "response_format": {"type": "text"}, "tools": [], "tool_choice": "none",
        "reasoning_effort": "none", "modalities": ["text"], "stream": true,
        "stream_options": {"include_usage": true}, "ignore_eos": true, "adapter": "support/v2",
    })))
    .unwrap();
    let roles: Vec<_> = request
        .messages
        .iter()
        .map(|m| (m.role, m.content.as_str()))
        .collect();
    let expected = [
        (MessageRole::System, "Be brief."),
        (MessageRole::User, "ab"),
        (MessageRole::Assistant, "c"),
    ];
    assert_eq!(roles, expected);
    assert_eq!(
        (request.max_tokens, request.n, request.seed),
        (Some(7), 3, Some(u64::MAX))
    );
    assert_eq!(request.stop, ["x", "y"]);
    assert_eq!(request.logit_bias, BTreeMap::from([(5, -100.0), (7, 1.5)]));
    assert_eq!(request.top_logprobs, Some(20));
    assert_eq!(
        (request.frequency_penalty, request.presence_penalty),
        (-2.0, 2.0)
    );
    assert_eq!(
        (request.temperature, request.top_p, request.top_k),
        (0.0, 0.5, 40)
    );
    assert_eq!((request.min_p, request.repetition_penalty), (0.05, 1.1));
    assert_eq!(request.metadata["session_id"], "s");
    assert_eq!(request.store, Some(false));
    assert_eq!(request.user.as_deref(), Some("u"));
    assert_eq!(request.safety_identifier.as_deref(), Some("i"));
    assert_eq!(request.prompt_cache_key.as_deref(), Some("k"));
    assert!(request.stream && request.include_usage && request.ignore_eos);
    let alias = AdapterSelector::Alias("support/v2".parse().unwrap());
    assert_eq!(request.adapter, Some(alias));
}

#[test]
fn the_form_of_the_answers_is_read_from_both_fields() {
    let format = |fields: Value| parse(&with(fields)).unwrap().format;
    let asked = |param, kind| Some(AnswerFormat { param, kind });
    assert_eq!(format(json!({"response_format": {"type": "text"}})), None);
    assert_eq!(
        format(json!({"response_format": {"type": "json_object"}})),
        asked("response_format", AnswerFormatKind::JsonObject)
    );
    let schema = json!({"type": "object", "properties": {"b": {}, "a": {}}});
    let full = json!({"name": "town", "description": "A town.", "strict": true, "schema": schema});
    let kind = AnswerFormatKind::JsonSchema(schema.clone());
    assert_eq!(
        format(json!({"response_format": {"type": "json_schema", "json_schema": full}})),
        asked("response_format", kind.clone())
    );
    assert_eq!(
        format(json!({"structured_outputs": {"json": schema, "regex": null}})),
        asked("structured_outputs", kind)
    );
    let longest = "x".repeat(limits::GRAMMAR_BYTES_MAX);
    assert_eq!(
        format(
            json!({"structured_outputs": {"grammar": longest}, "response_format": {"type": "text"}})
        ),
        asked("structured_outputs", AnswerFormatKind::Grammar(longest))
    );
    assert_eq!(
        format(json!({"structured_outputs": {"regex": "a+"}})),
        asked(
            "structured_outputs",
            AnswerFormatKind::Regex("a+".to_owned())
        )
    );
}

#[test]
fn other_spellings_are_the_same() {
    assert_eq!(
        parse(&with(json!({"max_tokens": 7}))).unwrap().max_tokens,
        Some(7)
    );
    let both = with(json!({"max_tokens": 7, "max_completion_tokens": 7}));
    assert_eq!(parse(&both).unwrap().max_tokens, Some(7));
    assert_eq!(parse(&with(json!({"stop": "x"}))).unwrap().stop, ["x"]);
    assert_eq!(parse(&with(json!({"top_k": -1}))).unwrap().top_k, 0);
    assert_eq!(
        parse(&with(json!({"logprobs": true})))
            .unwrap()
            .top_logprobs,
        Some(0)
    );
    assert_eq!(
        parse(&with(json!({"seed": u64::MAX}))).unwrap().seed,
        Some(u64::MAX)
    );
    let digest = format!("sha256:{}", "a".repeat(64));
    let pinned = parse(&with(json!({"adapter": {"digest": digest}}))).unwrap();
    assert_eq!(
        pinned.adapter,
        Some(AdapterSelector::Digest {
            digest: digest.parse().unwrap()
        })
    );
    let null = json!({"temperature": null, "tools": null, "stream_options": null, "adapter": null});
    assert_eq!(
        parse(&with(null)).unwrap(),
        parse(&with(json!({}))).unwrap()
    );
}

fn function(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

fn call() -> Value {
    json!({"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}})
}

#[test]
fn functions_calls_and_results_arrive() {
    let mut body = with(json!({
        "tools": [{"type": "function", "function": {
            "name": "find", "description": "Finds.", "strict": true,
            "parameters": {"type": "object", "properties": {}}}}, function("buy-2")],
        "tool_choice": {"type": "function", "function": {"name": "buy-2"}},
        "parallel_tool_calls": false,
    }));
    body["messages"] = json!([
        {"role": "user", "content": "Find it."},
        {"role": "assistant", "content": null, "tool_calls": [call()]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "here"}]},
    ]);
    let request = parse(&body).unwrap();
    let tools = request.tools.unwrap();
    let names: Vec<&str> = tools.functions.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["find", "buy-2"]);
    assert_eq!(tools.functions[0].description.as_deref(), Some("Finds."));
    assert!(tools.functions[0].is_strict && !tools.functions[1].is_strict);
    assert_eq!(tools.functions[1].parameters, json!({"type": "object"}));
    assert_eq!(tools.choice, RequestToolChoice::Named("buy-2".to_owned()));
    assert!(!tools.is_parallel);
    let [_, asks, result] = request.messages.as_slice() else {
        panic!("{:?}", request.messages);
    };
    assert_eq!(
        serde_json::to_value(&asks.tool_calls).unwrap(),
        json!([call()])
    );
    assert_eq!(
        (asks.role, asks.content.as_str()),
        (MessageRole::Assistant, "")
    );
    assert_eq!(
        (result.role, result.content.as_str()),
        (MessageRole::Tool, "here")
    );
    assert_eq!(result.tool_call_id.as_deref(), Some("call_1"));
    for (choice, expected) in [
        (json!(null), Some(RequestToolChoice::Auto)),
        (json!("auto"), Some(RequestToolChoice::Auto)),
        (json!("required"), Some(RequestToolChoice::Required)),
        (json!("none"), None),
    ] {
        body["tool_choice"] = choice;
        let tools = parse(&body).unwrap().tools;
        assert_eq!(tools.map(|tools| tools.choice), expected);
    }
    body["tool_choice"] = json!("none");
    body["response_format"] = json!({"type": "json_object"});
    assert!(
        parse(&body).is_ok(),
        "tools that may not be called are in nobody's way"
    );
}

/// Fields, the `param` that the refusal names, and its code.
fn refused() -> Vec<(Value, &'static str, &'static str)> {
    use code::{MISSING, TYPE, UNKNOWN, UNSUPPORTED, VALUE};
    let user = |message: Value| json!({"messages": [{"role": "user", "content": "Hi"}, message]});
    vec![
        (json!({"temprature": 1}), "temprature", UNKNOWN),
        (json!({"temprature": null, "n": 1}), "temprature", UNKNOWN),
        (json!({"model": null}), "model", MISSING),
        (json!({"model": ""}), "model", VALUE),
        (json!({"model": 5}), "model", TYPE),
        (json!({"messages": null}), "messages", MISSING),
        (json!({"messages": []}), "messages", VALUE),
        (json!({"messages": "Hi"}), "messages", TYPE),
        (user(json!("Hi")), "messages[1]", TYPE),
        (user(json!({"content": "Hi"})), "messages[1].role", MISSING),
        (
            user(json!({"role": "function", "content": "Hi"})),
            "messages[1].role",
            VALUE,
        ),
        (
            user(json!({"role": "tool", "content": "Hi"})),
            "messages[1].tool_call_id",
            MISSING,
        ),
        (
            user(json!({"role": "tool", "content": "Hi", "tool_call_id": "c"})),
            "messages[1].tool_call_id",
            VALUE,
        ),
        (
            user(json!({"role": "user", "content": "Hi", "tool_calls": [call()]})),
            "messages[1].tool_calls",
            VALUE,
        ),
        (
            user(json!({"role": "assistant", "tool_calls": []})),
            "messages[1].content",
            MISSING,
        ),
        (
            user(json!({"role": "user"})),
            "messages[1].content",
            MISSING,
        ),
        (
            user(json!({"role": "user", "content": 5})),
            "messages[1].content",
            TYPE,
        ),
        (
            user(json!({"role": "user", "content": "", "name": "x"})),
            "messages[1].name",
            UNSUPPORTED,
        ),
        (
            user(json!({"role": "user", "content": "", "nmae": "x"})),
            "messages[1].nmae",
            UNKNOWN,
        ),
        (
            user(json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]})),
            "messages[1].content[0].image_url.url",
            MISSING,
        ),
        (
            user(json!({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]})),
            "messages[1].content[0].type",
            UNSUPPORTED,
        ),
        (
            user(json!({"role": "user", "content": [{"type": "text"}]})),
            "messages[1].content[0].text",
            MISSING,
        ),
        (
            user(json!({"role": "assistant", "content": "", "tool_calls": [{}]})),
            "messages[1].tool_calls[0].type",
            MISSING,
        ),
        (json!({"max_tokens": 0}), "max_tokens", VALUE),
        (json!({"max_tokens": 1.5}), "max_tokens", TYPE),
        (
            json!({"max_tokens": 9, "max_completion_tokens": 8}),
            "max_tokens",
            VALUE,
        ),
        (
            json!({"max_completion_tokens": "8"}),
            "max_completion_tokens",
            TYPE,
        ),
        (json!({"n": 0}), "n", VALUE),
        (json!({"n": 9}), "n", VALUE),
        (json!({"seed": "x"}), "seed", TYPE),
        (json!({"seed": 1.5}), "seed", VALUE),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop", VALUE),
        (json!({"stop": ["a", ""]}), "stop[1]", VALUE),
        (json!({"stop": ["a", 1]}), "stop[1]", TYPE),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x", VALUE),
        (json!({"logit_bias": {"1": 101}}), "logit_bias.1", VALUE),
        (json!({"logit_bias": []}), "logit_bias", TYPE),
        (json!({"logprobs": 1}), "logprobs", TYPE),
        (json!({"top_logprobs": 3}), "top_logprobs", VALUE),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "top_logprobs",
            VALUE,
        ),
        (json!({"temperature": 2.1}), "temperature", VALUE),
        (json!({"temperature": -0.1}), "temperature", VALUE),
        (json!({"temperature": "hot"}), "temperature", TYPE),
        (json!({"top_p": 0}), "top_p", VALUE),
        (json!({"top_p": 1e-60}), "top_p", VALUE),
        (json!({"top_k": -2}), "top_k", VALUE),
        (json!({"min_p": 1.1}), "min_p", VALUE),
        (
            json!({"repetition_penalty": 0}),
            "repetition_penalty",
            VALUE,
        ),
        (
            json!({"frequency_penalty": 2.5}),
            "frequency_penalty",
            VALUE,
        ),
        (json!({"presence_penalty": -2.5}), "presence_penalty", VALUE),
        (json!({"metadata": {"a": 1}}), "metadata.a", TYPE),
        (
            json!({"metadata": {"session_id": ""}}),
            "metadata.session_id",
            VALUE,
        ),
        (json!({"user": ""}), "user", VALUE),
        (
            json!({"safety_identifier": "x".repeat(257)}),
            "safety_identifier",
            VALUE,
        ),
        (json!({"stream": "yes"}), "stream", TYPE),
        (
            json!({"stream_options": {"include_usage": true}}),
            "stream_options",
            VALUE,
        ),
        (
            json!({"stream": true, "stream_options": {"x": 1}}),
            "stream_options.x",
            UNKNOWN,
        ),
        (json!({"adapter": "a b"}), "adapter", VALUE),
        (json!({"adapter": 5}), "adapter", TYPE),
        (
            json!({"adapter": {"digest": "sha256:00"}}),
            "adapter.digest",
            VALUE,
        ),
        (json!({"adapter": {}}), "adapter.digest", MISSING),
        (
            json!({"response_format": {"type": "xml"}}),
            "response_format.type",
            VALUE,
        ),
        (
            json!({"response_format": "json_object"}),
            "response_format",
            TYPE,
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
            MISSING,
        ),
        (
            json!({"response_format": {"type": "json_object", "json_schema": {}}}),
            "response_format.json_schema",
            UNKNOWN,
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}),
            "response_format.json_schema.name",
            VALUE,
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}}),
            "response_format.json_schema.schema",
            TYPE,
        ),
        (
            json!({"structured_outputs": {}}),
            "structured_outputs",
            VALUE,
        ),
        (
            json!({"structured_outputs": {"regex": "a", "grammar": "b"}}),
            "structured_outputs",
            VALUE,
        ),
        (
            json!({"structured_outputs": {"regex": "x".repeat(limits::GRAMMAR_BYTES_MAX + 1)}}),
            "structured_outputs.regex",
            VALUE,
        ),
        (
            json!({"structured_outputs": {"choice": ["a"]}}),
            "structured_outputs.choice",
            UNKNOWN,
        ),
        (
            json!({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}),
            "structured_outputs",
            VALUE,
        ),
        (
            json!({"tools": [{"type": "function"}]}),
            "tools[0].function",
            MISSING,
        ),
        (
            json!({"tools": [{"type": "custom", "custom": {}}]}),
            "tools[0].type",
            UNSUPPORTED,
        ),
        (
            json!({"tools": [function("a b")]}),
            "tools[0].function.name",
            VALUE,
        ),
        (
            json!({"tools": [function("a"), function("a")]}),
            "tools[1].function.name",
            VALUE,
        ),
        (
            json!({"tools": vec![function("a"); limits::TOOLS_MAX + 1]}),
            "tools",
            VALUE,
        ),
        (json!({"tool_choice": "required"}), "tool_choice", VALUE),
        (json!({"tool_choice": "any"}), "tool_choice", VALUE),
        (
            json!({"tools": [function("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}}),
            "tool_choice",
            VALUE,
        ),
        (
            json!({"tools": [function("a")], "response_format": {"type": "json_object"}}),
            "response_format",
            VALUE,
        ),
        (json!({"functions": [{}]}), "functions", UNSUPPORTED),
        (
            json!({"reasoning_effort": "high"}),
            "reasoning_effort",
            UNSUPPORTED,
        ),
        (json!({"service_tier": "flex"}), "service_tier", UNSUPPORTED),
        (json!({"modalities": ["audio"]}), "modalities", UNSUPPORTED),
        (json!({"audio": {"voice": "x"}}), "audio", UNSUPPORTED),
        (json!({"prediction": {}}), "prediction", UNSUPPORTED),
        (
            json!({"web_search_options": {}}),
            "web_search_options",
            UNSUPPORTED,
        ),
    ]
}

#[test]
fn every_refusal_names_its_field() {
    for (fields, param, code) in refused() {
        let body = with(fields.clone());
        let error = parse(&body).expect_err(&fields.to_string());
        assert_eq!(error.param.as_deref(), Some(param), "{fields}: {error}");
        assert_eq!(error.code, code, "{fields}: {error}");
        assert!(error.message.contains(param), "{fields}: {error}");
    }
}

#[test]
fn what_is_no_json_object_is_refused_without_a_field() {
    let deep = "[".repeat(100_000);
    for body in [
        "",
        "{",
        "[]",
        "5",
        "{\"model\": 1e999}",
        "{\"a\":\"\\ud800\"}",
        &deep,
    ] {
        let error = ChatCompletionRequest::parse(body.as_bytes()).unwrap_err();
        assert_eq!(
            (error.code, error.param),
            (code::INVALID_JSON, None),
            "{body:.40}"
        );
    }
    assert!(ChatCompletionRequest::parse(b"{\"model\": \"\xff\"}").is_err());
}

#[test]
fn limits_hold_exactly() {
    let messages =
        |count: usize| json!({"messages": vec![json!({"role": "user", "content": "x"}); count]});
    assert!(parse(&with(messages(limits::MESSAGES_MAX))).is_ok());
    assert!(parse(&with(messages(limits::MESSAGES_MAX + 1))).is_err());
    let content =
        |bytes: usize| json!({"messages": [{"role": "user", "content": "x".repeat(bytes)}]});
    assert!(parse(&with(content(limits::CONTENT_BYTES_MAX))).is_ok());
    assert!(parse(&with(content(limits::CONTENT_BYTES_MAX + 1))).is_err());
    let half = json!({"type": "text", "text": "x".repeat(limits::CONTENT_BYTES_MAX / 2 + 1)});
    let parts = json!({"messages": [{"role": "user", "content": [half, half]}]});
    assert!(
        parse(&with(parts)).is_err(),
        "parts together are over the limit"
    );
    let metadata = |count: usize| {
        let entries: BTreeMap<String, &str> = (0..count).map(|i| (i.to_string(), "x")).collect();
        json!({"metadata": entries})
    };
    assert!(parse(&with(metadata(limits::METADATA_MAX))).is_ok());
    assert!(parse(&with(metadata(limits::METADATA_MAX + 1))).is_err());
    let bias = |count: usize| {
        let entries: BTreeMap<String, u8> = (0..count).map(|i| (i.to_string(), 1)).collect();
        json!({"logit_bias": entries})
    };
    assert!(parse(&with(bias(limits::LOGIT_BIAS_MAX))).is_ok());
    assert!(parse(&with(bias(limits::LOGIT_BIAS_MAX + 1))).is_err());
}

#[test]
fn an_endless_field_name_is_cut_in_the_error() {
    let name = "x".repeat(100_000);
    let error = parse(&with(json!({name: 1}))).unwrap_err();
    assert!(error.message.len() < 200);
}

/// The schema of the document and the reader know the same fields.
#[test]
fn every_documented_field_is_known_to_the_reader() {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let schema = &document["components"]["schemas"]["ChatCompletionBody"]["properties"];
    let names: Vec<&String> = schema.as_object().unwrap().keys().collect();
    assert!(names.len() >= 32, "{names:?}");
    for name in names {
        // An object with a field that nothing knows is right for no field.
        let error = parse(&with(json!({name: {"no such field": [[]]}}))).unwrap_err();
        assert_ne!(
            (error.code, error.param.as_ref()),
            (code::UNKNOWN, Some(name)),
            "{error}"
        );
    }
    for (name, _) in with(json!({})).as_object().unwrap() {
        assert!(schema.get(name).is_some());
    }
}

#[test]
fn a_body_that_this_crate_writes_is_read() {
    let body = ChatCompletionBody {
        model: "m".to_owned(),
        messages: vec![openapi::MessageBody {
            role: MessageRole::User,
            content: Some(openapi::ContentBody::Text("Hi".to_owned())),
            tool_calls: None,
            tool_call_id: None,
        }],
        max_completion_tokens: Some(5),
        stop: Some(openapi::StopBody::One("x".to_owned())),
        stream: Some(true),
        stream_options: Some(openapi::StreamOptions {
            include_usage: true,
        }),
        adapter: Some(AdapterSelector::Alias("a".parse().unwrap())),
        ..ChatCompletionBody::default()
    };
    let request = parse(&serde_json::to_value(body).unwrap()).unwrap();
    assert_eq!((request.max_tokens, request.include_usage), (Some(5), true));
    assert_eq!(request.stop, ["x"]);
}
