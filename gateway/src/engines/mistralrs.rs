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
