//! The Redis store against real servers: what they promise, WAITAOF, restarts
//! and schemas.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

use store::redis::{eval, key};
use store::testing::RedisServer;
use store::{
    Backend, Durability, Redis, RedisCredentials, Secret, StoreError, StoreOptions, Topic,
};

const BUMP: &str = "return redis.call('INCR', KEYS[1] .. 'changes:control')";

async fn open(server: &RedisServer, required: Durability) -> Result<Redis, StoreError> {
    let options = StoreOptions {
        required,
        ..StoreOptions::default()
    };
    match Backend::open(&server.url(), &options).await? {
        Backend::Redis(redis) => Ok(redis),
        Backend::Sqlite(_) => panic!("not Redis"),
    }
}

fn settings(extra: &[&'static str]) -> Vec<&'static str> {
    [&["--appendonly", "yes"], extra].concat()
}

/// A server that has WAITAOF, which Debian 12's has not.
fn newer_server() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    std::env::var_os("FLYWHEEL_TEST_VALKEY")
        .map_or_else(|| cache.join("flywheel/bin/valkey-server"), PathBuf::from)
}

async fn refused_as(settings: &[&str], found_as: Durability, remedy_has: &str) {
    let server = RedisServer::start_with("redis-server".as_ref(), settings).unwrap();
    match open(&server, Durability::Fsynced).await {
        Err(StoreError::TooWeak { found, remedy, .. }) => {
            assert_eq!(found, found_as, "{settings:?}");
            assert!(remedy.contains(remedy_has), "{remedy}");
        }
        other => panic!(
            "{settings:?} gave {:?}",
            other.map(|redis| redis.durability())
        ),
    }
    assert_eq!(
        open(&server, Durability::Unknown)
            .await
            .unwrap()
            .durability(),
        found_as
    );
}

#[tokio::test]
async fn weak_servers_are_refused_with_what_to_set() {
    refused_as(
        &settings(&["--appendfsync", "everysec"]),
        Durability::OsBuffered,
        "appendfsync always",
    )
    .await;
    refused_as(
        &["--appendonly", "no"],
        Durability::Unknown,
        "appendonly yes",
    )
    .await;
    let always = settings(&[
        "--appendfsync",
        "always",
        "--maxmemory-policy",
        "allkeys-lru",
    ]);
    refused_as(&always, Durability::Unknown, "noeviction").await;
    let always = settings(&[
        "--appendfsync",
        "always",
        "--no-appendfsync-on-rewrite",
        "yes",
    ]);
    refused_as(&always, Durability::OsBuffered, "no-appendfsync-on-rewrite").await;
}

#[tokio::test]
async fn a_user_who_may_not_ask_gets_no_promise() {
    let extra = ["--appendfsync", "always"];
    let server = RedisServer::start_with("redis-server".as_ref(), &settings(&extra)).unwrap();
    let admin = open(&server, Durability::Fsynced).await.unwrap();
    let mut user = redis::cmd("ACL");
    user.arg(&[
        "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-config",
    ]);
    admin.write::<String>(user).await.unwrap();
    let redis = RedisCredentials {
        username: Some("app".to_owned()),
        password: Some(Secret::new("secret")),
    };
    let options = StoreOptions {
        redis,
        ..StoreOptions::default()
    };
    let refused = Backend::open(&server.url(), &options).await.unwrap_err();
    assert!(
        matches!(
            refused,
            StoreError::TooWeak {
                found: Durability::Unknown,
                ..
            }
        ),
        "{refused}"
    );
    let options = StoreOptions {
        required: Durability::Unknown,
        ..options
    };
    Backend::open(&server.url(), &options).await.unwrap();

    let redis = RedisCredentials {
        username: Some("app".to_owned()),
        password: Some(Secret::new("wrong")),
    };
    let options = StoreOptions { redis, ..options };
    let refused = Backend::open(&server.url(), &options).await.unwrap_err();
    assert!(matches!(refused, StoreError::Redis(_)), "{refused}");
    assert!(!format!("{options:?}").contains("wrong"));
}

#[tokio::test]
async fn a_server_with_waitaof_fsyncs_under_everysec_too() {
    let program = newer_server();
    assert!(
        program.exists(),
        "{} is missing: run `make deps`",
        program.display()
    );
    let server =
        RedisServer::start_with(&program, &settings(&["--appendfsync", "everysec"])).unwrap();
    let redis = open(&server, Durability::Fsynced).await.unwrap();
    assert_eq!(redis.durability(), Durability::Fsynced);
    let mut writes = tokio::task::JoinSet::new();
    for i in 0..300 {
        let (redis, mut set) = (redis.clone(), redis::cmd("SET"));
        set.arg(key(&format!("n{i}"))).arg(i);
        writes.spawn(async move { redis.write::<String>(set).await });
    }
    assert!(writes.join_all().await.iter().all(Result::is_ok));
    // A failed command fails alone.
    let mut wrong = redis::cmd("INCR");
    wrong.arg(key("n1")).arg("too many");
    assert!(matches!(
        redis.write::<i64>(wrong).await,
        Err(StoreError::Redis(_))
    ));

    // Where the fsync is turned off behind our back, nothing is promised.
    let mut stop = redis::cmd("CONFIG");
    stop.arg("SET").arg("appendonly").arg("no");
    let unsure = redis.write::<String>(stop).await;
    assert!(unsure.is_err(), "{unsure:?}");
    let unsure = redis.write::<i64>(eval(BUMP)).await;
    assert!(unsure.is_err(), "{unsure:?}");
}

#[tokio::test]
async fn promises_are_checked_again_after_a_restart() {
    let mut server = RedisServer::start("always").unwrap();
    let redis = open(&server, Durability::Fsynced).await.unwrap();
    let mut changes = redis.changes(Topic::Control);
    assert_eq!(redis.write::<i64>(eval(BUMP)).await.unwrap(), 1);
    tokio::time::timeout(Duration::from_secs(1), changes.changed())
        .await
        .unwrap()
        .unwrap();

    server.kill().unwrap();
    assert!(redis.write::<i64>(eval(BUMP)).await.is_err());
    server.start_again().unwrap();
    let mut written = redis.write::<i64>(eval(BUMP)).await;
    for _ in 0..50 {
        if written.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        written = redis.write::<i64>(eval(BUMP)).await;
    }
    assert_eq!(written.unwrap(), 2);

    server.kill().unwrap();
    server.change_setting("always", "everysec");
    server.start_again().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = redis.write::<i64>(eval(BUMP)).await.unwrap_err();
    assert!(matches!(refused, StoreError::TooWeak { .. }), "{refused}");
    assert_eq!(redis.durability(), Durability::OsBuffered);
}

#[tokio::test]
async fn another_schema_is_refused() {
    let server = RedisServer::start("always").unwrap();
    let redis = open(&server, Durability::Fsynced).await.unwrap();
    redis.component("test", 2).await.unwrap();
    redis.component("test", 2).await.unwrap();
    for other in [1, 3] {
        let refused = redis.component("test", other).await;
        assert!(
            matches!(refused, Err(StoreError::Schema { found: 2, supported, .. }) if supported == other)
        );
    }
}
