//! Votes, administration bodies, and the exact form of answers.
#![allow(clippy::unwrap_used, clippy::panic)]

use ids::{AdapterDigest, InferenceId};
use openapi::{
    AliasPut, ChatChunk, ChatChunkChoice, ChatDelta, ErrorBody, FeedbackRequest, FeedbackValue,
    FinishReason, Guardrail, KillRequest, LoadLoraAdapter, RequestError, RolloutPut, Usage, code,
    feedback_limits, parse_body,
};
use serde_json::{Value, json};

fn vote(body: &Value) -> Result<FeedbackRequest, RequestError> {
    FeedbackRequest::parse(body.to_string().as_bytes())
}

#[test]
fn each_metric_has_its_type_of_value() {
    let with = |metric: &str, value: Value| {
        vote(&json!({"inference_id": "chatcmpl-1", "metric_name": metric, "value": value}))
            .map(|vote| vote.value)
    };
    assert_eq!(
        with("thumbs", json!(false)).unwrap(),
        FeedbackValue::Thumbs(false)
    );
    assert_eq!(
        with("rating", json!(4)).unwrap(),
        FeedbackValue::Rating(4.0)
    );
    assert_eq!(
        with("comment", json!("ok")).unwrap(),
        FeedbackValue::Comment("ok".to_owned())
    );
    let better = FeedbackValue::Demonstration("better".to_owned());
    assert_eq!(with("demonstration", json!("better")).unwrap(), better);
    for (metric, value, wanted) in [
        ("thumbs", json!("up"), code::TYPE),
        ("thumbs", json!(1), code::TYPE),
        ("rating", json!("5"), code::TYPE),
        ("comment", json!(true), code::TYPE),
        ("demonstration", json!("  "), code::VALUE),
        (
            "demonstration",
            json!("x".repeat(feedback_limits::TEXT_BYTES_MAX + 1)),
            code::VALUE,
        ),
        ("comment", Value::Null, code::MISSING),
    ] {
        let error = with(metric, value.clone()).unwrap_err();
        let found = (error.param.as_deref(), error.code);
        assert_eq!(found, (Some("value"), wanted), "{metric} {value:.40}");
    }
    let text = json!("x".repeat(feedback_limits::TEXT_BYTES_MAX));
    assert!(with("demonstration", text).is_ok());
    assert_eq!(
        with("stars", json!(5)).unwrap_err().param.as_deref(),
        Some("metric_name")
    );
}

#[test]
fn votes_are_strict_about_their_fields() {
    let full = json!({
        "inference_id": "chatcmpl-1", "metric_name": "thumbs", "value": true, "id": "fb-1",
        "rater": "Jörg", "token": "abc", "tags": {"page": "help"},
    });
    let read = vote(&full).unwrap();
    assert_eq!(read.rater.unwrap().as_str(), "Jörg");
    assert_eq!(read.tags["page"], "help");
    for (field, value) in [
        ("inference_id", json!("no/such")),
        ("inference_id", json!(5)),
        ("id", json!("a b")),
        ("rater", json!("")),
        ("tags", json!([])),
        ("token", json!("x".repeat(3_000))),
        ("dryrun", json!(true)),
    ] {
        let mut body = full.clone();
        body[field] = value;
        let error = vote(&body).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(field), "{error}");
    }
    let mut body = full;
    body["tags"] = json!({"page": 5});
    assert_eq!(vote(&body).unwrap_err().param.as_deref(), Some("tags.page"));
}

#[test]
fn plain_bodies_name_unknown_and_missing_fields() {
    let error = parse_body::<AliasPut>(br#"{"digits": 1}"#).unwrap_err();
    assert_eq!(
        (error.param.as_deref(), error.code),
        (Some("digits"), code::UNKNOWN)
    );
    let error = parse_body::<AliasPut>(b"{}").unwrap_err();
    assert_eq!(
        (error.param.as_deref(), error.code),
        (Some("digest"), code::MISSING)
    );
    let error = parse_body::<KillRequest>(br#"{"active": 1}"#).unwrap_err();
    assert_eq!((error.param, error.code), (None, code::TYPE));
    let error = parse_body::<KillRequest>(b"{").unwrap_err();
    assert_eq!(error.code, code::INVALID_JSON);
    assert!(parse_body::<KillRequest>(b"{}").unwrap().active);
    let load = parse_body::<LoadLoraAdapter>(br#"{"lora_name": "a"}"#).unwrap();
    assert_eq!((load.lora_path, load.load_inplace), (None, false));
}

#[test]
fn null_and_absent_are_told_apart_where_it_matters() {
    let absent: RolloutPut = parse_body(b"{}").unwrap();
    assert_eq!(absent.stable, None);
    let base: RolloutPut = parse_body(br#"{"stable": null}"#).unwrap();
    assert_eq!(base.stable, Some(None));
    assert_eq!(serde_json::to_string(&absent).unwrap(), "{}");
    assert_eq!(serde_json::to_string(&base).unwrap(), r#"{"stable":null}"#);
    let digest = format!("sha256:{}", "0".repeat(64));
    let set: RolloutPut = parse_body(json!({"stable": digest}).to_string().as_bytes()).unwrap();
    assert_eq!(
        set.stable,
        Some(Some(digest.parse::<AdapterDigest>().unwrap()))
    );
    let wrong = parse_body::<RolloutPut>(br#"{"basis_points": 10001}"#).unwrap_err();
    assert_eq!(wrong.code, code::VALUE);
    let guard = br#"{"guardrails": [{"kind": "repetition", "max_share": 100, "min_samples": 5}]}"#;
    let guarded: RolloutPut = parse_body(guard).unwrap();
    assert!(matches!(
        guarded.guardrails.unwrap()[0],
        Guardrail::Repetition { min_samples: 5, .. }
    ));
}

fn chunk(usage: Option<Option<Usage>>) -> ChatChunk {
    ChatChunk {
        id: InferenceId::new("chatcmpl-1").unwrap(),
        object: Default::default(),
        created: 5,
        model: "m".to_owned(),
        choices: vec![ChatChunkChoice {
            index: 0,
            delta: ChatDelta {
                role: None,
                content: Some("a".to_owned()),
                tool_calls: None,
            },
            logprobs: None,
            finish_reason: Some(FinishReason::Stop),
        }],
        usage,
        system_fingerprint: None,
        adapter_digest: None,
    }
}

#[test]
fn chunks_carry_usage_absent_null_or_whole() {
    let plain = serde_json::to_value(chunk(None)).unwrap();
    assert_eq!(
        plain,
        json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m",
            "choices": [{
                "index": 0, "delta": {"content": "a"}, "logprobs": null, "finish_reason": "stop",
            }],
            "system_fingerprint": null, "adapter_digest": null,
        })
    );
    let null = serde_json::to_value(chunk(Some(None))).unwrap();
    assert_eq!(null.get("usage"), Some(&Value::Null));
    let whole = serde_json::to_value(chunk(Some(Some(Usage::new(3, 4, 1))))).unwrap();
    assert_eq!(
        whole["usage"],
        json!({
            "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 0},
        })
    );
    for usage in [None, Some(None), Some(Some(Usage::new(3, 4, 1)))] {
        let text = serde_json::to_string(&chunk(usage)).unwrap();
        assert_eq!(
            serde_json::from_str::<ChatChunk>(&text).unwrap(),
            chunk(usage)
        );
    }
}

#[test]
fn an_error_has_the_four_fields() {
    let body = RequestError::new(code::VALUE, "n", "n: too large").into_body();
    let json = serde_json::to_value(&body).unwrap();
    let expected = json!({"error": {
        "message": "n: too large", "type": "invalid_request_error", "param": "n",
        "code": "invalid_value",
    }});
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<ErrorBody>(json).unwrap(), body);
}
