//! A gateway in a process of its own, and its memory as the system counts it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::cli::CliError;
use crate::cli::bench::failed;

/// How long it may take until it is ready: many registered versions are looked at.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// A running gateway; killed when dropped.
pub(super) struct Server {
    child: Child,
    url: String,
    http: reqwest::Client,
}

/// How a gateway is started.
pub(super) struct Setup<'a> {
    pub(super) model: &'a Path,
    pub(super) data: PathBuf,
    pub(super) threads: usize,
    pub(super) adapter_bytes_max: u64,
    pub(super) kv_tokens_max: u32,
}

impl Server {
    /// Starts a gateway and waits until it serves.
    pub(super) async fn start(setup: Setup<'_>) -> Result<Self, CliError> {
        std::fs::create_dir_all(&setup.data)?;
        let config = setup.data.join("flywheel.toml");
        let engine = format!(
            "[engine]\nthreads = {}\nadapter_bytes_max = {}\nkv_tokens_max = {}\n",
            setup.threads, setup.adapter_bytes_max, setup.kv_tokens_max
        );
        std::fs::write(&config, engine)?;
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?
            .local_addr()?
            .port();
        let listen = format!("127.0.0.1:{port}");
        let log = std::fs::File::create(setup.data.join("log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        // no setting of this shell may reach it
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLYWHEEL_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(["serve", "--listen", &listen, "--config"])
            .arg(&config)
            .arg("--data")
            .arg(&setup.data)
            .arg("--model")
            .arg(setup.model)
            .env("FLYWHEEL_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let mut server = Self {
            child,
            url: format!("http://{listen}"),
            http: reqwest::Client::new(),
        };
        server.ready().await?;
        Ok(server)
    }

    async fn ready(&mut self) -> Result<(), CliError> {
        let from = Instant::now();
        let url = format!("{}/health/ready", self.url);
        while from.elapsed() < READY_LIMIT {
            let answer = self.http.get(&url).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(failed(format!("the gateway ended with {status}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(failed("the gateway was not ready in time"))
    }

    /// Asks `model` for exactly so many tokens; how many came.
    pub(super) async fn ask(
        &self,
        model: &str,
        question: &str,
        tokens: u32,
    ) -> Result<u64, CliError> {
        let body = json!({
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_completion_tokens": tokens,
            "ignore_eos": true,
        });
        let url = format!("{}/v1/chat/completions", self.url);
        let answer = self.http.post(url).json(&body).send().await;
        let answer = answer.map_err(failed)?;
        let status = answer.status();
        let body: Value = answer.json().await.map_err(failed)?;
        match body["usage"]["completion_tokens"].as_u64() {
            Some(tokens) if status.is_success() => Ok(tokens),
            _ => Err(failed(format!("{status}: {body}"))),
        }
    }

    /// A metric, all of its labels together.
    pub(super) async fn metric(&self, name: &str) -> Result<f64, CliError> {
        let url = format!("{}/metrics", self.url);
        let answer = self.http.get(url).send().await.map_err(failed)?;
        let text = answer.text().await.map_err(failed)?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest
                .starts_with(['{', ' '])
                .then(|| rest.rsplit(' ').next());
            value.flatten()?.parse::<f64>().ok()
        });
        let values: Vec<f64> = values.collect();
        if values.is_empty() {
            return Err(failed(format!("there is no metric {name}")));
        }
        Ok(values.iter().sum())
    }

    /// Bytes of memory that it holds, now and at most since its start; none where
    /// the system does not say.
    pub(super) fn memory(&self) -> Option<(u64, u64)> {
        let status = format!("/proc/{}/status", self.child.id()?);
        let text = std::fs::read_to_string(status).ok()?;
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
            Some(kib << 10)
        };
        Some((bytes("VmRSS:")?, bytes("VmHWM:")?))
    }
}
