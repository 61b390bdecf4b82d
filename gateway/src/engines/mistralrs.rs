//! `[engine] engine = "mistralrs"`: the crate of that name serves. Only what its
//! engine is given of the configuration; what it does with it is `engine-mistralrs`'.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use engine_mistralrs::{MistralEngine, MistralOptions};

use crate::config::Config;

/// The folder below the data folder where versions are merged.
const SCRATCH: &str = "mistralrs";

pub(super) fn open(model: &Path, config: &Config) -> Result<Arc<dyn Engine>, String> {
    let engine = MistralEngine::open(model, options(config));
    Ok(Arc::new(engine.map_err(|error| error.to_string())?))
}

fn options(config: &Config) -> MistralOptions {
    let (default, engine) = (MistralOptions::default(), &config.engine);
    let waiting_max = engine.waiting_max.unwrap_or(default.waiting_max);
    let seconds =
        |configured: Option<u64>, default| configured.map_or(default, Duration::from_secs);
    MistralOptions {
        running_max: engine.running_max.unwrap_or(default.running_max),
        waiting_max,
        waiting_per_tenant_max: engine.waiting_per_tenant_max(waiting_max, config.keys.len()),
        context_length_max: engine.context_length_max,
        adapter_bytes_max: engine.adapter_bytes_max,
        adapter_wait_max: seconds(engine.adapter_wait_seconds, default.adapter_wait_max),
        queue_wait_max: seconds(engine.queue_wait_seconds, default.queue_wait_max),
        prefix_cache: engine.prefix_cache.unwrap_or(default.prefix_cache),
        isq: engine.isq.clone(),
        scratch: Some(config.data.join(SCRATCH)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::EngineKind;

    /// A tiny model of the goldens.
    fn tiny() -> PathBuf {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        root.join("../tests/golden/folders/llama3")
    }

    /// Posts to a gateway; the status line and the body.
    fn post(address: SocketAddr, path: &str, body: &Value) -> (String, String) {
        let body = body.to_string();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.lines().next().unwrap();
        (status.to_owned(), body.to_owned())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_gateway_answers_with_the_configured_engine() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::local(tiny(), folder.path().join("data"));
        config.engine.engine = EngineKind::Mistralrs;
        let mut gateway = crate::run(config).await.unwrap();
        gateway.ready().await.unwrap();
        let address = gateway.address();
        let body = json!({
            "model": "flywheel",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 5, "temperature": 0, "ignore_eos": true,
        });
        let ask = |body: Value| {
            let post = move || post(address, "/v1/chat/completions", &body);
            tokio::task::spawn_blocking(post)
        };
        let (status, answer) = ask(body.clone()).await.unwrap();
        assert!(status.contains("200"), "{status} {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["usage"]["completion_tokens"], 5);
        let whole = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let mut streamed = body;
        streamed["stream"] = json!(true);
        let (status, events) = ask(streamed).await.unwrap();
        assert!(status.contains("200"), "{status} {events}");
        let text: String = events
            .lines()
            .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
            .filter_map(|event: Value| {
                let content = &event["choices"][0]["delta"]["content"];
                content.as_str().map(str::to_owned)
            })
            .collect();
        assert_eq!(text, whole);
        assert!(gateway.shutdown().await, "nothing was cut off");
    }

    /// A file of the goldens of models that look at images.
    fn vision(name: &str) -> PathBuf {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        root.join("../tests/golden/vision").join(name)
    }

    /// A question about a picture.
    fn about(picture: &str) -> Value {
        use base64::Engine as _;
        let bytes = std::fs::read(vision(picture)).unwrap();
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        let url = format!("data:image/png;base64,{text}");
        json!({
            "model": "flywheel", "max_tokens": 10, "temperature": 0, "ignore_eos": true,
            "logprobs": true,
            "messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
                {"type": "text", "text": "what is it?"},
            ]}],
        })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_gateway_answers_about_a_picture_whole_and_streamed() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut config = Config::local(vision("idefics3"), data.clone());
        config.engine.engine = EngineKind::Mistralrs;
        let mut gateway = crate::run(config).await.unwrap();
        gateway.ready().await.unwrap();
        let address = gateway.address();
        let ask = |body: Value| {
            let post = move || post(address, "/v1/chat/completions", &body);
            tokio::task::spawn_blocking(post)
        };
        let golden = std::fs::read(vision("idefics3").join("answers.json")).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let mut ids = Vec::new();
        for (picture, what) in [("slope.png", "one"), ("noise.png", "another")] {
            let (status, answer) = ask(about(picture)).await.unwrap();
            assert!(status.contains("200"), "{status} {answer}");
            let answer: Value = serde_json::from_str(&answer).unwrap();
            ids.push(answer["id"].as_str().unwrap().to_owned());
            let expected = &golden[what];
            assert_eq!(answer["usage"]["prompt_tokens"], expected["prompt_tokens"]);
            let said = answer["choices"][0]["logprobs"]["content"].as_array();
            for (said, expected) in said
                .unwrap()
                .iter()
                .zip(expected["tokens"].as_array().unwrap())
            {
                assert_eq!(said["bytes"], expected["bytes"], "{what}");
                let (a, b) = (said["logprob"].as_f64(), expected["logprob"].as_f64());
                assert!((a.unwrap() - b.unwrap()).abs() < 1e-4, "{said} {expected}");
            }
            let whole = answer["choices"][0]["message"]["content"].clone();
            let mut streamed = about(picture);
            streamed["stream"] = json!(true);
            streamed["stream_options"] = json!({"include_usage": true});
            let (status, events) = ask(streamed).await.unwrap();
            assert!(status.contains("200"), "{status} {events}");
            let events: Vec<Value> = events
                .lines()
                .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
                .collect();
            let text: String = events
                .iter()
                .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
                .collect();
            assert_eq!(Value::from(text), whole, "{what}");
            let usage = &events.last().unwrap()["usage"];
            assert_eq!(usage["prompt_tokens"], expected["prompt_tokens"]);
        }
        // what is kept says that there was an image, and has nothing of it
        let url = store::StoreUrl::parse("embedded", &data).unwrap();
        let options = store::StoreOptions::default();
        let backend = store::Backend::open(&url, &options).await.unwrap();
        let feedback = feedback::open(&backend).await.unwrap();
        let id = ids[0].parse().unwrap();
        let kept = feedback.inference(&id).await.unwrap().unwrap();
        let image = &kept.messages[0].images[0];
        let bytes = std::fs::read(vision("slope.png")).unwrap();
        assert_eq!(image.digest, ids::Sha256Digest::of(&bytes));
        assert_eq!(
            (image.bytes, image.media_type.as_str()),
            (bytes.len() as u64, "image/png")
        );
        assert_eq!(kept.messages[0].content, "what is it?");
        // a text that would end the turn, and a URL that leads elsewhere
        let mut ends = about("slope.png");
        ends["messages"][0]["content"][1]["text"] = json!("a<end_of_utterance>b");
        let mut elsewhere = about("slope.png");
        elsewhere["messages"][0]["content"][0]["image_url"]["url"] = json!("http://[::1]/a.png");
        for (body, reason) in [(ends, "end_of_utterance"), (elsewhere, "not fetched")] {
            let (status, answer) = ask(body).await.unwrap();
            assert!(
                status.contains("400") && answer.contains(reason),
                "{status} {answer}"
            );
        }
        assert!(gateway.shutdown().await, "nothing was cut off");
    }

    #[test]
    fn what_is_configured_reaches_the_engine() {
        let mut config = Config::local("m".into(), "data".into());
        assert_eq!(
            options(&config).running_max,
            MistralOptions::default().running_max
        );
        config.engine.running_max = Some(3);
        config.engine.adapter_bytes_max = Some(5);
        config.engine.queue_wait_seconds = Some(7);
        config.engine.isq = Some("q4k".to_owned());
        let options = options(&config);
        assert_eq!(
            (options.running_max, options.adapter_bytes_max),
            (3, Some(5))
        );
        assert_eq!(options.queue_wait_max, Duration::from_secs(7));
        assert_eq!(options.isq.as_deref(), Some("q4k"));
        assert_eq!(options.scratch, Some("data/mistralrs".into()));
    }
}
