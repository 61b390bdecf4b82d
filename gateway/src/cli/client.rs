//! The administrator's client of one gateway.

use std::path::Path;
use std::time::Duration;

use openapi::ErrorBody;
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CliError;
use crate::config::AdminKey;

/// How long a command waits for its answer; a load reads and checks files.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
const KEY_VARIABLE: &str = "FLYWHEEL_ADMIN_KEY";

/// What a change is based on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Based {
    On(u64),
    OnNothing,
}

pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    key: AdminKey,
}

impl Client {
    pub(super) fn new(url: &str, data: &Path) -> Result<Self, CliError> {
        let key = match std::env::var(KEY_VARIABLE) {
            Ok(key) => AdminKey::new(&key)?,
            Err(_) => AdminKey::read(data)?.ok_or(CliError::NoKey)?,
        };
        let url = url.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder().timeout(ANSWER_LIMIT).build();
        let http = http.map_err(|source| CliError::Unreachable {
            url: url.clone(),
            source,
        })?;
        Ok(Self { http, url, key })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(self.key.reveal())
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, CliError> {
        let unreachable = |source| CliError::Unreachable {
            url: self.url.clone(),
            source,
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.map_err(unreachable)?;
        let message = match serde_json::from_str::<ErrorBody>(&text) {
            Ok(body) => body.error.message,
            Err(_) => text,
        };
        Err(CliError::Refused {
            status: status.as_u16(),
            message,
        })
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CliError> {
        let text = self.text(request).await?;
        serde_json::from_str(&text).map_err(|error| CliError::Protocol(error.to_string()))
    }

    async fn text(&self, request: RequestBuilder) -> Result<String, CliError> {
        let unreachable = |source| CliError::Unreachable {
            url: self.url.clone(),
            source,
        };
        self.send(request).await?.text().await.map_err(unreachable)
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.json(self.request(Method::GET, path)).await
    }

    pub(super) async fn get_text(&self, path: &str) -> Result<String, CliError> {
        self.text(self.request(Method::GET, path)).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    pub(super) async fn post_text(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<String, CliError> {
        self.text(self.request(Method::POST, path).json(body)).await
    }

    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        based: Option<Based>,
    ) -> Result<T, CliError> {
        let request = self.request(Method::PUT, path).json(body);
        let request = match based {
            None => request,
            Some(Based::On(revision)) => request.header("if-match", format!("\"{revision}\"")),
            Some(Based::OnNothing) => request.header("if-none-match", "*"),
        };
        self.json(request).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), CliError> {
        self.send(self.request(Method::DELETE, path))
            .await
            .map(|_| ())
    }
}
