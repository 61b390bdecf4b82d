//! `TestApp`: a gateway in this process with a folder of its own, and a client
//! that is as dumb as any other.

use std::path::PathBuf;
use std::time::Duration;

use gateway::{Config, Gateway};
use ids::AdapterDigest;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixtures::{model_path, write_adapter};

/// The public model name that exists by default.
pub const MODEL: &str = "flywheel";

/// A reply, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body of a success.
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text);
        self.json()
    }

    /// Status and code of an error in our own form.
    pub fn error(&self) -> (u16, String) {
        let code = self.json()["error"]["code"]
            .as_str()
            .unwrap_or("null")
            .to_owned();
        (self.status.as_u16(), code)
    }
}

/// Speaks to one gateway, in this process or not.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    pub url: String,
    pub admin_key: String,
    pub key: Option<String>,
}

impl Client {
    pub fn new(url: String, admin_key: String) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(120))
            .build()
            .unwrap();
        Self {
            http,
            url,
            admin_key,
            key: None,
        }
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Reply {
            status,
            headers,
            text: response.text().await.unwrap(),
        }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::POST, path).json(&body))
            .await
    }

    pub async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Reply {
        self.send(self.admin_request(method, path, body)).await
    }

    pub fn admin_request(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let request = request.bearer_auth(&self.admin_key);
        match body {
            Some(body) => request.json(&body),
            None => request,
        }
    }

    /// Asks greedily for a few tokens.
    pub async fn ask(&self, model: &str, user: Option<&str>, tokens: u32) -> Reply {
        let mut body = question(model, tokens);
        if let Some(user) = user {
            body["user"] = json!(user);
        }
        self.post("/v1/chat/completions", body).await
    }

    /// Which version answers.
    pub async fn answers(&self, model: &str, user: Option<&str>) -> Value {
        self.ask(model, user, 1).await.ok()["adapter_digest"].clone()
    }

    pub async fn rollout(&self) -> Value {
        self.admin(Method::GET, "/admin/v1/rollouts/flywheel", None)
            .await
            .ok()
    }

    /// Changes the rollout from its present revision.
    pub async fn set_rollout(&self, body: Value) -> Reply {
        let revision = self.rollout().await["revision"].to_string();
        let path = "/admin/v1/rollouts/flywheel";
        let request = self.admin_request(Method::PUT, path, Some(body));
        self.send(request.header("if-match", revision)).await
    }

    pub async fn command(&self, name: &str) -> Reply {
        let path = format!("/admin/v1/rollouts/flywheel/{name}");
        self.admin(Method::POST, &path, Some(json!({}))).await
    }

    pub async fn load(&self, name: &str, path: &str) -> Reply {
        let body = json!({"lora_name": name, "lora_path": path});
        self.admin(Method::POST, "/v1/load_lora_adapter", Some(body))
            .await
    }

    pub async fn vote(&self, inference: &str, body: Value) -> Reply {
        let mut vote = json!({"inference_id": inference, "metric_name": "thumbs", "value": true});
        for (name, value) in body.as_object().unwrap() {
            vote[name] = value.clone();
        }
        self.post("/v1/feedback", vote).await
    }
}

/// A greedy request.
pub fn question(model: &str, tokens: u32) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_completion_tokens": tokens,
    })
}

/// A gateway in this process. Its folders go with it.
pub struct TestApp {
    pub client: Client,
    pub root: PathBuf,
    gateway: Option<Gateway>,
    _folder: TempDir,
}

impl std::ops::Deref for TestApp {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl TestApp {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts a gateway whose configuration `change` has changed.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = TempDir::new().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(&root).unwrap();
        let mut config = Config::local(model_path(), folder.path().join("data"));
        config.adapter_root = Some(root.clone());
        config.engine.threads = Some(2);
        change(&mut config);
        let mut gateway = gateway::run(config).await.unwrap();
        gateway.ready().await.unwrap();
        let client = Client::new(gateway.url(), gateway.admin_key().reveal().to_owned());
        Self {
            client,
            root,
            gateway: Some(gateway),
            _folder: folder,
        }
    }

    /// Writes an adapter folder beneath the root and loads it under its name.
    pub async fn adapter(&self, name: &str, seed: u64) -> AdapterDigest {
        let digest = write_adapter(&self.root.join(name), seed);
        let reply = self.load(name, name).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        digest
    }

    /// Stops the gateway; nothing may be cut off.
    pub async fn stop(mut self) {
        let gateway = self.gateway.take().unwrap();
        assert!(gateway.shutdown().await, "something was cut off");
    }
}
