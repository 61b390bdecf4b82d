//! A vote that was answered is there after a SIGKILL, and was fsynced before
//! it was answered; with the fsyncs turned off, the same trace says so.
//!
//! The voter is this test binary run once more, as a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use feedback::{FeedbackStore, Inference, Message, NewVote, Value};
use ids::{BaseDigest, FeedbackId, InferenceId, RaterId, Sha256Digest, UnixMillis};
use store::testing::{RedisServer, Strace, fsynced_between};
use store::{Backend, Durability, StoreError, StoreOptions, StoreUrl, Synchronous};

/// Each of them has to be fsynced before its answer: one could be by chance,
/// under a server that fsyncs every second.
const VOTES: usize = 5;
/// Votes until strace is known to see them.
const WARM_UP_VOTES_MAX: usize = 1000;

const URL: &str = "FLYWHEEL_TEST_VOTER_URL";
const FOLDER: &str = "FLYWHEEL_TEST_VOTER_FOLDER";
const WEAK: &str = "FLYWHEEL_TEST_VOTER_WEAK";

/// The voter: takes a vote for each line that it reads, and says when it was
/// taken.
#[test]
#[ignore = "run by the other tests, as a process of its own"]
fn voter() {
    let url = StoreUrl::parse(
        &std::env::var(URL).unwrap(),
        Path::new(&std::env::var(FOLDER).unwrap()),
    )
    .unwrap();
    let options = options(std::env::var_os(WEAK).is_some());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let store = runtime.block_on(async {
        let store = feedback::open(&Backend::open(&url, &options).await.unwrap())
            .await
            .unwrap();
        store.record_inference(&inference()).await.unwrap();
        store
    });
    say("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let vote = runtime
            .block_on(store.vote(vote(&line), UnixMillis(0)))
            .unwrap();
        say(&format!("2xx {}", vote.feedback_id));
    }
}

fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").unwrap();
    stdout.flush().unwrap();
}

fn options(weak: bool) -> StoreOptions {
    if weak {
        StoreOptions {
            required: Durability::Unknown,
            synchronous: Synchronous::Off,
            ..StoreOptions::default()
        }
    } else {
        StoreOptions::default()
    }
}

fn inference() -> Inference {
    Inference {
        id: InferenceId::new("a").unwrap(),
        created: UnixMillis(0),
        model: "m".to_owned(),
        rollout: None,
        arm: None,
        unit: None,
        adapter: None,
        base: BaseDigest(Sha256Digest::of(b"base")),
        messages: vec![Message::new("user", "?")],
        answer: "!".to_owned(),
        finish_reason: "stop".to_owned(),
        prompt_tokens: 1,
        completion_tokens: 1,
        seed: 0,
        metadata: BTreeMap::new(),
    }
}

fn vote(id: &str) -> NewVote {
    NewVote {
        id: Some(FeedbackId::new(id).unwrap()),
        inference: inference().id,
        rater: Some(RaterId::new(format!("rater of {id}")).unwrap()),
        value: Value::Thumbs(false),
        tags: BTreeMap::new(),
        attribution: None,
    }
}

/// A running voter, killed when dropped.
struct Voter {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Voter {
    fn start(url: &str, folder: &Path, weak: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "voter", "--ignored", "--nocapture"])
            .env(URL, url)
            .env(FOLDER, folder);
        if weak {
            command.env(WEAK, "1");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (
            child.stdin.take().unwrap(),
            BufReader::new(child.stdout.take().unwrap()),
        );
        let mut voter = Self {
            child,
            stdin,
            stdout,
        };
        voter.wait_for("ready");
        voter
    }

    fn vote(&mut self, id: &str) {
        // one write: in two, the voter may read half a line, and no call of it
        // would show the whole id
        self.stdin.write_all(format!("{id}\n").as_bytes()).unwrap();
        self.wait_for(&format!("2xx {id}"));
    }

    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(
                self.stdout.read_line(&mut line).unwrap() > 0,
                "the voter ended before it said {text}"
            );
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Voter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn current_votes(url: &StoreUrl) -> usize {
    let backend = Backend::open(url, &StoreOptions::default()).await.unwrap();
    let store: std::sync::Arc<dyn FeedbackStore> = feedback::open(&backend).await.unwrap();
    store.current_votes(&inference().id).await.unwrap().len()
}

#[tokio::test]
async fn a_vote_survives_a_sigkill_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let mut voter = Voter::start("embedded", folder.path(), false);
    voter.vote("vote-0");
    voter.kill();
    assert_eq!(
        current_votes(&StoreUrl::parse("embedded", folder.path()).unwrap()).await,
        1
    );
}

#[tokio::test]
async fn a_vote_survives_a_sigkill_on_redis() {
    let mut server = RedisServer::start("always").unwrap();
    let mut voter = Voter::start(&server.url_text(), Path::new("."), false);
    voter.vote("vote-0");
    server.kill().unwrap();
    voter.kill();
    server.start_again().unwrap();
    assert_eq!(current_votes(&server.url()).await, 1);
}

/// Whether each of [`VOTES`] votes was fsynced before its answer.
fn each_is_fsynced(
    voter: &mut Voter,
    traced_pid: u32,
    markers: fn(&str) -> (String, String),
) -> Vec<bool> {
    let folder = tempfile::tempdir().unwrap();
    let strace = Strace::attach(traced_pid, &folder.path().join("trace")).unwrap();
    wait_until_traced(voter, &strace, markers);
    let ids: Vec<String> = (0..VOTES).map(|i| format!("vote-{i}")).collect();
    for id in &ids {
        voter.vote(id);
    }
    let trace = strace.finish().unwrap();
    let judge = |id: &String| {
        let (arrival, acknowledgement) = markers(id);
        fsynced_between(&trace, &arrival, &acknowledgement).unwrap()
    };
    ids.iter().map(judge).collect()
}

/// Votes until one is in the trace from its arrival on.
fn wait_until_traced(voter: &mut Voter, strace: &Strace, markers: fn(&str) -> (String, String)) {
    for i in 0..WARM_UP_VOTES_MAX {
        let id = format!("warm-up-{i}");
        voter.vote(&id);
        let (arrival, acknowledgement) = markers(&id);
        if fsynced_between(&strace.so_far().unwrap(), &arrival, &acknowledgement).is_ok() {
            return;
        }
    }
    panic!("strace does not see the votes");
}

fn sqlite_fsyncs(weak: bool) -> Vec<bool> {
    let folder = tempfile::tempdir().unwrap();
    let mut voter = Voter::start("embedded", folder.path(), weak);
    let pid = voter.child.id();
    each_is_fsynced(&mut voter, pid, |id| {
        (format!("\"{id}\\n\""), format!("2xx {id}"))
    })
}

fn redis_fsyncs(server: &RedisServer, weak: bool) -> Vec<bool> {
    let mut voter = Voter::start(&server.url_text(), Path::new("."), weak);
    // In the command, the rater; in the answer, the outcome before the id.
    let markers = |id: &str| {
        (
            format!("rater of {id}"),
            format!("recorded\\r\\n${}\\r\\n{id}", id.len()),
        )
    };
    each_is_fsynced(&mut voter, server.pid(), markers)
}

#[test]
fn sqlite_fsyncs_before_the_answer() {
    assert_eq!(sqlite_fsyncs(false), [true; VOTES]);
}

#[test]
fn sqlite_with_synchronous_off_is_caught() {
    assert_eq!(sqlite_fsyncs(true), [false; VOTES]);
}

#[test]
fn redis_with_appendfsync_always_fsyncs_before_the_answer() {
    assert_eq!(
        redis_fsyncs(&RedisServer::start("always").unwrap(), false),
        [true; VOTES]
    );
}

#[test]
fn redis_with_appendfsync_everysec_is_caught() {
    let found = redis_fsyncs(&RedisServer::start("everysec").unwrap(), true);
    assert!(found.contains(&false), "each vote was fsynced: {found:?}");
}

#[tokio::test]
async fn a_store_that_promises_less_is_refused() {
    let server = RedisServer::start("everysec").unwrap();
    let refused = Backend::open(&server.url(), &StoreOptions::default())
        .await
        .unwrap_err();
    let StoreError::TooWeak {
        required,
        found,
        remedy,
    } = refused
    else {
        panic!("{refused}")
    };
    assert_eq!(
        (required, found),
        (Durability::Fsynced, Durability::OsBuffered)
    );
    assert!(remedy.contains("appendfsync always"), "{remedy}");

    let folder = tempfile::tempdir().unwrap();
    let url = StoreUrl::parse("embedded", folder.path()).unwrap();
    let off = StoreOptions {
        synchronous: Synchronous::Off,
        ..StoreOptions::default()
    };
    assert!(matches!(
        Backend::open(&url, &off).await,
        Err(StoreError::TooWeak { .. })
    ));
    let weak = Backend::open(&url, &options(true)).await.unwrap();
    assert_eq!(weak.durability(), Durability::OsBuffered);
}
