//! The real program, killed: what it acknowledged is there after a restart.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use store::testing::RedisServer;

use super::app::{Client, MODEL};
use super::fixtures::{model_path, write_adapter};

const ADMIN_KEY: &str = "an-admin-key-for-this-test";
const START_LIMIT: Duration = Duration::from_secs(60);

/// A program of this workspace, built beside this test.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `make build`",
        path.display()
    );
    path
}

/// A gateway in a process of its own, killed when dropped.
pub struct Process {
    child: Child,
    pub client: Client,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    async fn start(data: &Path, store: &str) -> Self {
        Self::configured(data, store, "").await
    }

    /// Starts the program with this text as its configuration file.
    pub async fn configured(data: &Path, store: &str, text: &str) -> Self {
        let config = data.join("flywheel.toml");
        std::fs::write(&config, text).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let listen = format!("127.0.0.1:{port}");
        let log = std::fs::File::create(data.join("gateway.log")).unwrap();
        let child = Command::new(program("flywheel"))
            .args(["serve", "--listen", &listen, "--store", store])
            .arg("--config")
            .arg(config)
            .arg("--model")
            .arg(model_path())
            .arg("--data")
            .arg(data)
            .arg("--adapter-root")
            .arg(data.join("root"))
            .env("FLYWHEEL_ADMIN_KEY", ADMIN_KEY)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let client = Client::new(format!("http://{listen}"), ADMIN_KEY.to_owned());
        let mut process = Self { child, client };
        let started = Instant::now();
        loop {
            let ready = reqwest::get(format!("{}/health/ready", process.client.url)).await;
            if ready.is_ok_and(|reply| reply.status().is_success()) {
                return process;
            }
            if let Some(status) = process.child.try_wait().unwrap() {
                let log = std::fs::read_to_string(data.join("gateway.log")).unwrap();
                panic!("ended with {status}: {log}");
            }
            assert!(started.elapsed() < START_LIMIT, "not ready in time");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, with requests running.
    async fn kill(mut self) {
        let client = self.client.clone();
        let running = tokio::spawn(async move {
            let body = super::app::question(MODEL, 500);
            let _ = client
                .request(Method::POST, "/v1/chat/completions")
                .json(&body)
                .send()
                .await;
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        running.await.unwrap();
    }
}

async fn survives_a_kill(data: &Path, store: &str) {
    let adapter = write_adapter(&data.join("root/one"), 1).to_string();
    let gateway = Process::start(data, store).await;
    let client = &gateway.client;
    assert_eq!(client.load("one", "one").await.status, 200);
    let set = json!({"canary": adapter, "basis_points": 5000});
    let salt = client.set_rollout(set).await.ok()["salt"].clone();
    let mut arms = Vec::new();
    for user in 0..8 {
        let user = format!("user-{user}");
        let answer = client.ask(MODEL, Some(&user), 1).await.ok();
        let id = answer["id"].as_str().unwrap().to_owned();
        client.vote(&id, json!({"value": false})).await.ok();
        arms.push((user, id, answer["adapter_digest"].clone()));
    }
    gateway.kill().await;

    let gateway = Process::start(data, store).await;
    let client = &gateway.client;
    let export = client
        .admin(Method::GET, "/admin/v1/feedback/export", None)
        .await
        .text;
    for (user, id, arm) in &arms {
        assert!(export.contains(id.as_str()), "the vote of {user} is lost");
        assert_eq!(
            client.answers(MODEL, Some(user)).await,
            *arm,
            "{user} was moved"
        );
        let again = client.vote(id, json!({"value": false})).await.ok();
        assert_eq!(again["outcome"], "unchanged");
    }
    assert_eq!(export.lines().count(), arms.len());
    assert_eq!(
        client.answers("one", None).await,
        json!(adapter),
        "the alias is lost"
    );
    assert_eq!(client.rollout().await["salt"], salt);
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_aliases_and_rollouts_survive_a_kill_with_the_embedded_store() {
    let folder = tempfile::tempdir().unwrap();
    survives_a_kill(folder.path(), "embedded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_aliases_and_rollouts_survive_a_kill_with_redis() {
    let folder = tempfile::tempdir().unwrap();
    let redis = RedisServer::start("always").expect("redis-server is needed: run `make deps`");
    survives_a_kill(folder.path(), &redis.url_text()).await;
}

/// Without a store, everyone gets stable, the kill switch works, and answers
/// go on; when it is back, so is the canary.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_agree_within_a_second_and_serve_without_their_store() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut redis = RedisServer::start("always").expect("redis-server is needed: run `make deps`");
    let store = redis.url_text();
    let shared = folders[0].path().join("adapters");
    std::fs::create_dir_all(&shared).unwrap();
    std::os::unix::fs::symlink(&shared, folders[1].path().join("adapters")).unwrap();
    let adapter = write_adapter(&folders[0].path().join("root/one"), 1).to_string();
    let one = Process::start(folders[0].path(), &store).await;
    let two = Process::start(folders[1].path(), &store).await;
    assert_eq!(one.client.load("one", "one").await.status, 200);
    let set = json!({"canary": adapter, "basis_points": 10_000});
    one.client.set_rollout(set).await.ok();
    let changed = Instant::now();
    while two.client.answers(MODEL, Some("u")).await != json!(adapter) {
        assert!(
            changed.elapsed() < Duration::from_secs(3),
            "the other replica did not follow"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    redis.kill().unwrap();
    let away = Instant::now();
    while one.client.answers(MODEL, Some("u")).await != json!(null) {
        assert!(
            away.elapsed() < Duration::from_secs(20),
            "still on the canary"
        );
    }
    let id = one.client.ask(MODEL, Some("u"), 1).await.ok()["id"].clone();
    let vote = one.client.vote(id.as_str().unwrap(), json!({})).await;
    assert_eq!(
        vote.error(),
        (503, "store_unavailable".to_owned()),
        "never a 2xx that is not durable"
    );
    let kill = one
        .client
        .admin(
            Method::POST,
            "/admin/v1/kill",
            Some(json!({"active": true})),
        )
        .await;
    assert_eq!(kill.ok()["active"], true);
}
