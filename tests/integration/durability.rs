//! Over HTTP, the 2xx of a vote is written only after an fsync of that vote
//! returned; with the fsyncs turned off, the same trace says so.
//!
//! The page cache survives a SIGKILL, so that killing the program, as `crash`
//! does, cannot tell the difference: only the system calls can.

use std::time::{Duration, Instant};

use gateway::{Config, StartError};
use serde_json::json;
use store::testing::{RedisServer, Strace, fsynced_between};
use store::{Durability, StoreError};

use super::app::{Client, MODEL};
use super::crash::Process;
use super::fixtures::model_path;

/// Each has to be fsynced before its 2xx: one could be by chance, under a
/// server that fsyncs every second.
const VOTES: usize = 20;
/// Votes until strace is known to see them.
const WARM_UP_VOTES_MAX: usize = 1000;
/// The configuration that accepts a store which does not fsync.
const LOWERED: &str = "durability = \"os_buffered\"";

/// How the arrival and the acknowledgement of the vote with this id look in a
/// trace.
type Markers = fn(&str) -> (String, String);

/// Votes on one answer, each time as another rater.
struct Voter<'a> {
    client: &'a Client,
    inference: String,
    promised: Durability,
}

impl<'a> Voter<'a> {
    async fn new(client: &'a Client, promised: Durability) -> Self {
        let answer = client.ask(MODEL, Some("me"), 1).await.ok();
        Self {
            client,
            inference: answer["id"].as_str().unwrap().to_owned(),
            promised,
        }
    }

    /// Returns when the 2xx has come, which must not claim more than is true.
    async fn vote(&self, id: &str) {
        let body = json!({"id": id, "rater": rater(id)});
        let reply = self.client.vote(&self.inference, body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let reply = reply.json();
        assert_eq!(reply["outcome"], "recorded", "{id}");
        assert_eq!(reply["durability"], self.promised.as_str(), "{id}");
    }

    /// Votes until one is in the trace from its arrival on.
    async fn wait_until_traced(&self, strace: &Strace, markers: Markers) {
        for turn in 0..WARM_UP_VOTES_MAX {
            let id = format!("warm-up-{turn}");
            self.vote(&id).await;
            let (arrival, acknowledgement) = markers(&id);
            if fsynced_between(&strace.so_far().unwrap(), &arrival, &acknowledgement).is_ok() {
                return;
            }
        }
        panic!("strace does not see the votes");
    }

    /// How many of [`VOTES`] votes were fsynced before their acknowledgement,
    /// and within which time they were cast.
    async fn fsynced(&self, traced_pid: u32, markers: Markers) -> (usize, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let strace = Strace::attach(traced_pid, &folder.path().join("trace")).unwrap();
        self.wait_until_traced(&strace, markers).await;
        let started = Instant::now();
        let ids: Vec<String> = (0..VOTES).map(|turn| format!("vote-{turn:02}")).collect();
        for id in &ids {
            self.vote(id).await;
        }
        let elapsed = started.elapsed();
        let trace = strace.finish().unwrap();
        let fsynced = |id: &&String| {
            let (arrival, acknowledgement) = markers(id);
            fsynced_between(&trace, &arrival, &acknowledgement).unwrap()
        };
        (ids.iter().filter(fsynced).count(), elapsed)
    }
}

/// Text of a request that no reply repeats.
fn rater(id: &str) -> String {
    format!("rater of {id}")
}

/// The votes come one after the other, so that the first status line after the
/// arrival of one is its own: the fsync has to precede the whole reply.
fn over_http(id: &str) -> (String, String) {
    (rater(id), "\"HTTP/1.1 200 OK".to_owned())
}

/// What Redis is sent and answers: the rater in the command, and in the answer
/// the outcome before the id.
fn over_redis(id: &str) -> (String, String) {
    let answer = format!("recorded\\r\\n${}\\r\\n{id}", id.len());
    (rater(id), answer)
}

/// Traces the gateway, which is the process that writes the file.
async fn sqlite(config: &str, promised: Durability) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Process::configured(folder.path(), "embedded", config).await;
    let voter = Voter::new(&gateway.client, promised).await;
    voter.fsynced(gateway.pid(), over_http).await.0
}

/// Traces redis-server, which is the process that writes the file. That its
/// fdatasync returns before it writes its answer is the whole proof, since the
/// gateway's 2xx can only follow that answer: the 2xx says the outcome
/// (`recorded`), which the script in Redis decides.
async fn redis(appendfsync: &str, config: &str, promised: Durability) -> (usize, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let server = RedisServer::start(appendfsync).unwrap();
    let gateway = Process::configured(folder.path(), &server.url_text(), config).await;
    let voter = Voter::new(&gateway.client, promised).await;
    voter.fsynced(server.pid(), over_redis).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_fsyncs_each_vote_before_its_2xx() {
    assert_eq!(sqlite("", Durability::Fsynced).await, VOTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_with_synchronous_off_fsyncs_none_and_says_so() {
    assert_eq!(sqlite(LOWERED, Durability::OsBuffered).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_with_appendfsync_always_fsyncs_each_vote_before_its_2xx() {
    assert_eq!(redis("always", "", Durability::Fsynced).await.0, VOTES);
}

/// Redis fsyncs in the background then, at most once in each second of its
/// clock, and so only by chance between a vote and its answer.
#[tokio::test(flavor = "multi_thread")]
async fn redis_with_appendfsync_everysec_is_caught_and_says_so() {
    let (fsynced, elapsed) = redis("everysec", LOWERED, Durability::OsBuffered).await;
    let seconds = usize::try_from(elapsed.as_secs()).unwrap() + 2;
    assert!(
        fsynced < VOTES && fsynced <= seconds,
        "{fsynced} of {VOTES} were fsynced within {elapsed:?}"
    );
}

/// Only a configuration that lowers the demand gets the weaker store.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_promises_less_than_is_demanded_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = RedisServer::start("everysec").unwrap();
    let mut config = Config::local(model_path(), folder.path().to_owned());
    config.store = server.url_text();
    let refused = gateway::run(config).await.err().unwrap();
    assert!(
        matches!(refused, StartError::Store(StoreError::TooWeak { .. })),
        "{refused}"
    );
}
