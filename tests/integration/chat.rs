//! Chat completions, whole and streamed.

use serde_json::{Value, json};

use super::app::{MODEL, TestApp, question};

pub fn events(text: &str) -> Vec<Value> {
    let mut lines: Vec<&str> = text
        .split("\n\n")
        .filter(|event| !event.is_empty())
        .collect();
    assert_eq!(lines.pop(), Some("data: [DONE]"), "{text}");
    let data = lines.iter().map(|line| {
        line.strip_prefix("data: ")
            .unwrap_or_else(|| panic!("{line}"))
    });
    data.map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

pub fn text(chunks: &[Value]) -> String {
    let pieces = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    pieces.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_what_the_whole_answer_says() {
    let app = TestApp::start().await;
    let whole = app.ask(MODEL, Some("u"), 12).await;
    assert_eq!(whole.header("x-adapter-digest"), Some("none"));
    assert!(whole.header("x-request-id").unwrap().starts_with("req-"));
    assert!(whole.header("x-feedback-token").is_some());
    let whole = whole.ok();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["adapter_digest"], Value::Null);
    assert_eq!(whole["usage"]["completion_tokens"], 12);

    let mut body = question(MODEL, 12);
    body["stream"] = json!(true);
    let streamed = app.post("/v1/chat/completions", body.clone()).await;
    assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
    let chunks = events(&streamed.text);
    assert_eq!(
        text(&chunks),
        whole["choices"][0]["message"]["content"].as_str().unwrap()
    );
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.as_object().unwrap().contains_key("adapter_digest"))
    );
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));

    body["stream_options"] = json!({"include_usage": true});
    let chunks = events(&app.post("/v1/chat/completions", body).await.text);
    let (last, earlier) = chunks.split_last().unwrap();
    assert!(
        earlier
            .iter()
            .all(|chunk| chunk.get("usage") == Some(&Value::Null))
    );
    assert_eq!(last["choices"], json!([]));
    let (mut usage, mut first) = (last["usage"].clone(), whole["usage"].clone());
    let cached = |usage: &mut Value| usage["prompt_tokens_details"]["cached_tokens"].take();
    // what was asked before is in the prefix cache, by whole pages
    assert_eq!(cached(&mut first), json!(0));
    assert_eq!(cached(&mut usage), json!(32));
    assert_eq!(usage, first);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_choices_seeds_and_logprobs() {
    let app = TestApp::start().await;
    let mut body = question(MODEL, 6);
    body["temperature"] = json!(1.0);
    body["seed"] = json!(7);
    body["n"] = json!(2);
    body["ignore_eos"] = json!(true);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(2);
    let first = app.post("/v1/chat/completions", body.clone()).await.ok();
    let again = app.post("/v1/chat/completions", body).await.ok();
    assert_eq!(
        first["choices"], again["choices"],
        "the same seed gives the same tokens"
    );
    assert_eq!(first["choices"].as_array().unwrap().len(), 2);
    assert_eq!(first["usage"]["completion_tokens"], 12);
    let tokens = first["choices"][1]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(tokens.len(), 6);
    assert_eq!(tokens[0]["top_logprobs"].as_array().unwrap().len(), 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_frees_its_sequence_and_a_shutdown_drains_the_rest() {
    let app = TestApp::start().await;
    let mut body = question(MODEL, 2000);
    body["stream"] = json!(true);
    body["ignore_eos"] = json!(true);
    let request = app
        .request(reqwest::Method::POST, "/v1/chat/completions")
        .json(&body);
    let mut response = request.send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    drop(response);
    let gauge = "vllm:num_requests_running 0";
    let mut metrics = String::new();
    for _ in 0..100 {
        metrics = app.get("/metrics").await.text;
        if metrics.contains(gauge) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(
        metrics.contains(gauge),
        "the sequence still runs:\n{metrics}"
    );

    body["max_completion_tokens"] = json!(40);
    let client = app.client.clone();
    let running = tokio::spawn(async move { client.post("/v1/chat/completions", body).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    app.stop().await;
    let chunks = events(&running.await.unwrap().text);
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn models_metrics_health_and_document() {
    let app = TestApp::start().await;
    let models = app.get("/v1/models").await.ok();
    let ids: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [MODEL, "SmolLM2-135M-Instruct.Q4_1"]);
    assert!(!models.to_string().contains(".gguf"), "no path is shown");
    assert_eq!(app.get("/v1/models/flywheel").await.ok()["parent"], ids[1]);
    assert_eq!(app.answers(ids[1], None).await, Value::Null);
    assert_eq!(app.get("/health/live").await.status, 200);
    assert_eq!(app.get("/health/ready").await.status, 200);
    let document = app.get("/openapi.json").await.ok();
    // Every documented route exists, under its methods and no others.
    for (path, methods) in document["paths"].as_object().unwrap() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let real = path
            .replace("{id}", "some-id")
            .replace("{name}", "some-name")
            .replace("{digest}", &digest);
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let method: reqwest::Method = method.parse().unwrap();
            let documented = methods.get(method.as_str().to_lowercase()).is_some();
            let reply = app.send(app.request(method.clone(), &real)).await;
            assert_eq!(
                reply.status != 405,
                documented,
                "{method} {path}: {}",
                reply.text
            );
            assert!(!reply.text.contains("unknown_route"), "{method} {path}");
        }
    }
    let metrics = app.get("/metrics").await.text;
    for name in [
        "vllm:num_requests_waiting",
        "vllm:lora_requests_info",
        "flywheel_store_durability",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
    app.stop().await;
}
