//! The body and status of errors, as clients see them.

use reqwest::Method;
use serde_json::json;

use super::app::{MODEL, TestApp, question};

/// The beginning of a PNG of one pixel.
const PIXEL: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB";

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_as_recorded() {
    let app = TestApp::with(|config| config.body_bytes_max = 4096).await;
    let chat = "/v1/chat/completions";
    let raw = |body: &str| {
        let request = app
            .request(Method::POST, chat)
            .header("content-type", "application/json");
        request.body(body.to_owned())
    };
    let with = |name: &str, value: serde_json::Value| {
        let mut body = question(MODEL, 1);
        body[name] = value;
        app.request(Method::POST, chat).json(&body)
    };
    let shown = |url: &str| {
        let image = json!({"type": "image_url", "image_url": {"url": url}});
        json!([{"role": "user", "content": [image]}])
    };
    let none = format!("sha256:{}", "0".repeat(64));
    let cases = [
        ("malformed JSON", raw("{\"model\": ")),
        ("no object", raw("[1]")),
        ("no body", raw("")),
        ("body too large", raw(&" ".repeat(5000))),
        (
            "another media type",
            app.request(Method::POST, chat).body("{}"),
        ),
        ("unknown model", with("model", json!("gpt-4"))),
        ("a digest that is not loaded", with("model", json!(none))),
        ("unknown adapter", with("adapter", json!("nobody"))),
        ("unknown field", with("colour", json!("red"))),
        (
            "a field that is not honoured",
            with("functions", json!([{"name": "f"}])),
        ),
        ("a value out of range", with("temperature", json!(3))),
        (
            "a value of the wrong type",
            with("max_completion_tokens", json!("ten")),
        ),
        ("no messages", with("messages", json!([]))),
        (
            "an image for a model of text",
            with("messages", shown(PIXEL)),
        ),
        (
            "an image that is elsewhere",
            with("messages", shown("https://example.org/a.png")),
        ),
        ("an image of no kind", with("messages", shown("data:,x"))),
        ("unknown route", app.request(Method::GET, "/v2/nothing")),
        ("wrong method", app.request(Method::GET, chat)),
        (
            "no admin key",
            app.request(Method::GET, "/admin/v1/rollouts"),
        ),
    ];
    let mut seen = Vec::new();
    for (name, request) in cases {
        let reply = app.send(request).await;
        assert!(reply.header("x-request-id").is_some(), "{name}");
        seen.push(json!({"case": name, "status": reply.status.as_u16(), "body": reply.json()}));
    }
    assert_eq!(app.ask(MODEL, None, 1).await.status, 200, "it still serves");
    app.stop().await;
    insta::assert_json_snapshot!(seen);
}
