//! API keys and their limits, and the admin key.

use gateway::config::ApiKey;
use reqwest::Method;
use serde_json::json;

use super::app::{MODEL, TestApp, question};

const KEY: &str = "sk-a-key-for-this-test";

async fn app(requests: u32, tokens: u32) -> TestApp {
    let mut app = TestApp::with(|config| {
        let key = ApiKey::new(
            "test",
            KEY,
            requests.try_into().ok(),
            tokens.try_into().ok(),
        );
        config.keys.push(key.unwrap());
    })
    .await;
    app.client.key = Some(KEY.to_owned());
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_needed_and_do_not_open_the_admin_routes() {
    let mut app = app(100, 10_000).await;
    assert_eq!(app.ask(MODEL, None, 1).await.status, 200);
    assert_eq!(
        app.get("/admin/v1/audit").await.error(),
        (401, "invalid_api_key".to_owned())
    );
    let load = app
        .post(
            "/v1/load_lora_adapter",
            json!({"lora_name": "a", "lora_path": "a"}),
        )
        .await;
    assert_eq!(load.status, 401);
    app.client.key = Some("sk-another-key-entirely".to_owned());
    assert_eq!(
        app.ask(MODEL, None, 1).await.error(),
        (401, "invalid_api_key".to_owned())
    );
    app.client.key = None;
    assert_eq!(
        app.ask(MODEL, None, 1).await.error(),
        (401, "missing_api_key".to_owned())
    );
    assert_eq!(app.get("/v1/models").await.status, 401);
    assert_eq!(app.vote("chatcmpl-x", json!({})).await.status, 401);
    assert_eq!(app.get("/health/live").await.status, 200);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_charged_with_the_completion_cap() {
    let app = app(100, 200).await;
    let too_large = app.ask(MODEL, None, 200).await;
    assert_eq!(
        too_large.error(),
        (400, "request_exceeds_limit".to_owned()),
        "never a 429"
    );
    assert_eq!(too_large.header("retry-after"), None);
    let fits = app.ask(MODEL, None, 100).await;
    assert_eq!(fits.header("x-ratelimit-limit-tokens"), Some("200"));
    let remaining: u32 = fits
        .header("x-ratelimit-remaining-tokens")
        .unwrap()
        .parse()
        .unwrap();
    let prompt = fits.ok()["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(
        u64::from(remaining),
        200 - 100 - prompt,
        "the cap is charged, not what was said"
    );
    let later = app.ask(MODEL, None, 100).await;
    assert_eq!(later.error(), (429, "rate_limit_exceeded".to_owned()));
    let wait: u64 = later.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    for name in ["limit", "remaining", "reset"] {
        for what in ["requests", "tokens"] {
            let header = format!("x-ratelimit-{name}-{what}");
            assert!(later.header(&header).is_some(), "{header}");
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_a_429_and_a_long_prompt_a_400() {
    let app = TestApp::with(|config| {
        config.engine.running_max = Some(1);
        config.engine.waiting_max = Some(1);
        config.engine.context_length_max = Some(512);
    })
    .await;
    let mut body = question(MODEL, 300);
    body["ignore_eos"] = json!(true);
    let requests = (0..6).map(|_| app.post("/v1/chat/completions", body.clone()));
    let replies = futures::future::join_all(requests).await;
    let full: Vec<_> = replies.iter().filter(|reply| reply.status == 429).collect();
    assert!(!full.is_empty(), "nothing was refused");
    assert!(
        replies.iter().any(|reply| reply.status == 200),
        "nothing was answered"
    );
    assert_eq!(full[0].error(), (429, "queue_full".to_owned()));
    assert!(full[0].header("retry-after").is_some());
    let long = app.ask(MODEL, None, 600).await;
    assert_eq!(long.error(), (400, "context_length_exceeded".to_owned()));
    let admin = app
        .send(app.request(Method::GET, "/admin/v1/adapters"))
        .await;
    assert_eq!(
        admin.error(),
        (401, "missing_api_key".to_owned()),
        "loopback opens no admin route"
    );
    app.stop().await;
}
