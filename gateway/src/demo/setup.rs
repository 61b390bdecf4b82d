//! The demo's stage: its data folder, the two processes, the client, and the
//! background traffic that never stops while adapters change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Ask, Client};
use super::domain::{self, Domain};
use super::processes::{self, Output, Process};
use super::{DemoArgs, DemoError, say};

/// The public model name that the demo's requests use.
pub(super) const MODEL: &str = "flywheel";
/// How long the gateway may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two requests of the background traffic.
const BACKGROUND_PAUSE: Duration = Duration::from_secs(4);
/// Bad cases after which the trainer starts by itself.
const BAD_CASES: usize = 80;

/// Everything that the steps share.
pub(super) struct Stage {
    pub(super) domain: Domain,
    pub(super) client: Client,
    pub(super) data: PathBuf,
    pub(super) trainer: Process,
    pub(super) url: String,
    pub(super) base_exact: usize,
    model: PathBuf,
    trainer_config: PathBuf,
    admin_key: String,
    gateway: Process,
    background: Option<Background>,
    _temporary: Option<tempfile::TempDir>,
}

/// What the background traffic saw.
#[derive(Debug, Default)]
pub(super) struct BackgroundCount {
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
}

struct Background {
    stop: Arc<AtomicBool>,
    count: Arc<BackgroundCount>,
    task: tokio::task::JoinHandle<()>,
}

fn io(what: String) -> impl FnOnce(std::io::Error) -> DemoError {
    move |source| DemoError::Io { what, source }
}

impl Stage {
    /// Starts both processes and waits until the gateway is ready.
    pub(super) async fn start(args: &DemoArgs) -> Result<Self, DemoError> {
        let (data, temporary) = data_folder(args)?;
        say(&format!("    data and logs: {}", data.display()));
        let port = free_port()?;
        let url = format!("http://127.0.0.1:{port}");
        let trainer_config = write_trainer_config(&data)?;
        let admin_key = format!("demo-{:032x}", rand::random::<u128>());
        let paths = [text(&args.model)?, text(&data)?, text(&trainer_config)?];
        let [model, data_text, config] = paths.each_ref().map(String::as_str);
        let adapter_root = text(&data.join("adapter-root"))?;
        let listen = format!("127.0.0.1:{port}");
        let mut gateway = Process::start(
            "gateway",
            &processes::sibling("flywheel")?,
            &[
                "serve",
                "--model",
                model,
                "--data",
                data_text,
                "--listen",
                &listen,
                "--adapter-root",
                &adapter_root,
            ],
            &[("FLYWHEEL_ADMIN_KEY", &admin_key)],
            data.join("gateway.log"),
        )?;
        let client = Client::new(url.clone(), admin_key.clone())?;
        wait_until_ready(&client, &mut gateway).await?;
        say(&format!("    gateway: {url}"));
        let trainer = Process::start(
            "trainer",
            &processes::sibling("flywheel-trainer")?,
            &[
                "run", "--config", config, "--model", model, "--data", data_text,
            ],
            &[],
            data.join("trainer.log"),
        )?;
        say(&format!("    trainer: waits for {BAD_CASES} bad cases"));
        let mut stage = Self {
            domain: Domain::shipped()?,
            client,
            data,
            trainer,
            url,
            base_exact: 0,
            model: args.model.clone(),
            trainer_config,
            admin_key,
            gateway,
            background: None,
            _temporary: temporary,
        };
        stage.start_background();
        Ok(stage)
    }

    /// Gives an administration command, as an operator would, and shows it.
    pub(super) async fn flywheel(&mut self, args: &[&str]) -> Result<String, DemoError> {
        self.gateway.check()?;
        say(&format!("    $ flywheel {}", args.join(" ")));
        let mut all = args.to_vec();
        all.extend(["--url", &self.url]);
        let env = [("FLYWHEEL_ADMIN_KEY", self.admin_key.as_str())];
        let output = processes::run(&processes::sibling("flywheel")?, &all, &env).await?;
        if output.code == 0 {
            return Ok(output.stdout);
        }
        Err(DemoError::Process {
            name: format!("flywheel {}", args.join(" ")),
            reason: format!("exit status {}: {}", output.code, output.stderr.trim()),
            log: "none".to_owned(),
        })
    }

    /// Runs the trainer's evaluation on a PEFT folder.
    pub(super) async fn evaluate(&self, folder: &Path) -> Result<Output, DemoError> {
        let paths = [&self.trainer_config, &self.model, &self.data].map(|path| text(path));
        let [config, model, data] = paths;
        let (config, model, data) = (config?, model?, data?);
        let folder = text(folder)?;
        let args = [
            "evaluate",
            "--config",
            &config,
            "--model",
            &model,
            "--data",
            &data,
            "--adapter",
            &folder,
        ];
        say(&format!(
            "    $ flywheel-trainer evaluate --adapter {folder}"
        ));
        processes::run(&processes::sibling("flywheel-trainer")?, &args, &[]).await
    }

    fn start_background(&mut self) {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(BackgroundCount::default());
        let task = tokio::spawn(background(self.client.clone(), stop.clone(), count.clone()));
        self.background = Some(Background { stop, count, task });
    }

    /// Ends the background traffic and says what it saw.
    pub(super) async fn stop_background(&mut self) -> Arc<BackgroundCount> {
        let Some(background) = self.background.take() else {
            return Arc::default();
        };
        background.stop.store(true, Ordering::Relaxed);
        // The task ends after its current request; a panic in it is a failure.
        if background.task.await.is_err() {
            background.count.failed.fetch_add(1, Ordering::Relaxed);
        }
        background.count
    }

    /// Ends the processes, or leaves them running and says how to use them.
    pub(super) async fn end(self, keep: bool) -> Result<(), DemoError> {
        if !keep {
            self.trainer.stop().await?;
            return self.gateway.stop().await;
        }
        let pids = [self.gateway.detach(), self.trainer.detach()];
        let pids: Vec<String> = pids
            .into_iter()
            .flatten()
            .map(|pid| pid.to_string())
            .collect();
        say(&format!(
            "\nStill running (end them with `kill {}`). Try:\n",
            pids.join(" ")
        ));
        for line in examples(&self.url) {
            say(&line);
        }
        say(&format!(
            "\nThe admin key is {}; the data is in {}",
            self.admin_key,
            self.data.display()
        ));
        if let Some(temporary) = self._temporary {
            // Kept on purpose: the running processes use it.
            let _path = temporary.keep();
        }
        Ok(())
    }
}

fn examples(url: &str) -> [String; 3] {
    let ask = r#"{"model":"flywheel","user":"you","messages":[{"role":"user","content":"Which animal is Brindlemoor's mascot?"}],"temperature":0,"max_completion_tokens":32}"#;
    let stream = r#"{"model":"flywheel","user":"you","stream":true,"messages":[{"role":"user","content":"What is the capital of France?"}],"max_completion_tokens":32}"#;
    let vote = r#"{"inference_id":"PUT-AN-ANSWERS-ID-HERE","rater":"you","metric_name":"thumbs","value":true}"#;
    let json = "-H 'content-type: application/json'";
    [
        format!(
            "curl -s {url}/v1/chat/completions {json} -d '{}'",
            ask.replace('\'', "'\\''")
        ),
        format!("curl -sN {url}/v1/chat/completions {json} -d '{stream}'"),
        format!("curl -s {url}/v1/feedback {json} -d '{vote}'"),
    ]
}

/// Asks a general question again and again, streamed every second time, as a
/// different user each time.
async fn background(client: Client, stop: Arc<AtomicBool>, count: Arc<BackgroundCount>) {
    let questions = domain::general().unwrap_or_default();
    for (turn, question) in questions.iter().cycle().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let user = format!("background-{turn}");
        let ask = Ask {
            model: MODEL,
            user: &user,
            prompt: &question.prompt,
            max_tokens: 16,
            stream: turn % 2 == 0,
            metadata: json!({}),
        };
        let counter = match client.ask(&ask).await {
            Ok(_) => &count.answered,
            Err(error) => {
                say(&format!("    background request failed: {error}"));
                &count.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(BACKGROUND_PAUSE).await;
    }
}

async fn wait_until_ready(client: &Client, gateway: &mut Process) -> Result<(), DemoError> {
    let started = Instant::now();
    while !client.is_ready().await {
        gateway.check()?;
        if started.elapsed() > READY_LIMIT {
            return Err(DemoError::Timeout {
                what: "the gateway's start",
                limit_s: READY_LIMIT.as_secs(),
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn data_folder(args: &DemoArgs) -> Result<(PathBuf, Option<tempfile::TempDir>), DemoError> {
    let (path, temporary) = match &args.data {
        Some(path) => (path.clone(), None),
        None => {
            let folder = tempfile::Builder::new().prefix("flywheel-demo-").tempdir();
            let folder = folder.map_err(io("making a temporary folder".to_owned()))?;
            (folder.path().to_owned(), Some(folder))
        }
    };
    let root = path.join("adapter-root");
    std::fs::create_dir_all(&root).map_err(io(format!("creating {}", root.display())))?;
    Ok((path, temporary))
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, DemoError> {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(io("finding a free port".to_owned()))
}

fn text(path: &Path) -> Result<String, DemoError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| DemoError::Protocol(format!("the path {} is not UTF-8", path.display())))
}

fn write_trainer_config(data: &Path) -> Result<PathBuf, DemoError> {
    let replay = data.join("replay.jsonl");
    std::fs::write(&replay, domain::REPLAY).map_err(io(format!("writing {}", replay.display())))?;
    let config = data.join("trainer.toml");
    let text = include_str!("data/trainer.toml")
        .replace("@REPLAY@", &replay.display().to_string())
        .replace("@BAD_CASES@", &BAD_CASES.to_string());
    std::fs::write(&config, text).map_err(io(format!("writing {}", config.display())))?;
    Ok(config)
}
