//! What a Redis server promises about a write, from its version and its
//! configuration.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;

use crate::{Durability, StoreError};

/// The oldest server whose commands suffice, as text and as numbers.
const VERSION_MIN: (&str, (u32, u32)) = ("7.0", (7, 0));
/// From here on there is WAITAOF.
const WAITAOF_SINCE: (u32, u32) = (7, 2);

/// What an answered write promises, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) durability: Durability,
    /// Whether each batch of writes has to be followed by WAITAOF.
    pub(super) wait_aof: bool,
    /// What an operator has to set for more; empty where nothing is missing.
    pub(super) remedy: String,
}

impl Promise {
    /// Asks the server.
    pub(super) async fn read(connection: &mut MultiplexedConnection) -> Result<Self, StoreError> {
        let info = redis::cmd("INFO")
            .arg("server")
            .query_async::<String>(connection)
            .await;
        let version = match info {
            Ok(text) => version(&text),
            Err(error) if is_refusal(&error) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some((text, numbers)) = &version
            && *numbers < VERSION_MIN.1
        {
            return Err(StoreError::RedisTooOld {
                found: text.clone(),
                least: VERSION_MIN.0,
            });
        }
        let mut get = redis::cmd("CONFIG");
        get.arg("GET")
            .arg(&["append*", "no-appendfsync-on-rewrite", "maxmemory-policy"]);
        let config = match get.query_async::<HashMap<String, String>>(connection).await {
            Ok(config) => Some(config),
            Err(error) if is_refusal(&error) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self::assess(
            version.map(|(_, numbers)| numbers),
            config.as_ref(),
        ))
    }

    /// Judges what the server said; `None` is what it refused to say.
    fn assess(version: Option<(u32, u32)>, config: Option<&HashMap<String, String>>) -> Self {
        let weak = |durability, remedy: &str| Self {
            durability,
            wait_aof: false,
            remedy: remedy.to_owned(),
        };
        let (Some(version), Some(config)) = (version, config) else {
            return weak(
                Durability::Unknown,
                "allow this user INFO and CONFIG GET, so that it can be found out",
            );
        };
        let value = |name: &str| config.get(name).map_or("", String::as_str);
        if value("maxmemory-policy") != "noeviction" {
            return weak(
                Durability::Unknown,
                "set maxmemory-policy noeviction: Redis may drop keys now",
            );
        }
        if value("appendonly") != "yes" {
            return weak(
                Durability::Unknown,
                "set appendonly yes and appendfsync always",
            );
        }
        if value("no-appendfsync-on-rewrite") != "no" {
            let remedy =
                "set no-appendfsync-on-rewrite no: Redis skips the fsync during a rewrite now";
            return weak(Durability::OsBuffered, remedy);
        }
        match value("appendfsync") {
            "always" => Self {
                durability: Durability::Fsynced,
                wait_aof: false,
                remedy: String::new(),
            },
            "everysec" if version >= WAITAOF_SINCE => Self {
                durability: Durability::Fsynced,
                wait_aof: true,
                remedy: String::new(),
            },
            "everysec" => weak(
                Durability::OsBuffered,
                "set appendfsync always, or run Redis 7.2 or later",
            ),
            _ => weak(Durability::OsBuffered, "set appendfsync always"),
        }
    }
}

/// Whether the question itself was refused: not allowed, or a command that was
/// renamed away.
fn is_refusal(error: &redis::RedisError) -> bool {
    matches!(error.code(), Some("NOPERM" | "ERR"))
}

/// The version of `INFO server`, as text and as numbers.
fn version(info: &str) -> Option<(String, (u32, u32))> {
    let text = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"))?
        .trim();
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let numbers = (parts.next()??, parts.next()??);
    Some((text.to_owned(), numbers))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Version, changed settings; durability and whether WAITAOF follows.
    type Case = (
        (u32, u32),
        &'static [(&'static str, &'static str)],
        Durability,
        bool,
    );

    fn assess(version: (u32, u32), changes: &[(&str, &str)]) -> Promise {
        let mut config: HashMap<String, String> = [
            ("appendonly", "yes"),
            ("appendfsync", "always"),
            ("no-appendfsync-on-rewrite", "no"),
            ("maxmemory-policy", "noeviction"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for (name, value) in changes {
            config.insert((*name).to_owned(), (*value).to_owned());
        }
        Promise::assess(Some(version), Some(&config))
    }

    #[test]
    fn only_an_fsync_before_the_answer_counts_as_one() {
        let cases: [Case; 8] = [
            ((7, 0), &[], Durability::Fsynced, false),
            (
                (7, 0),
                &[("appendfsync", "everysec")],
                Durability::OsBuffered,
                false,
            ),
            (
                (7, 2),
                &[("appendfsync", "everysec")],
                Durability::Fsynced,
                true,
            ),
            (
                (8, 0),
                &[("appendfsync", "no")],
                Durability::OsBuffered,
                false,
            ),
            ((8, 0), &[("appendonly", "no")], Durability::Unknown, false),
            (
                (8, 0),
                &[("maxmemory-policy", "allkeys-lru")],
                Durability::Unknown,
                false,
            ),
            (
                (8, 0),
                &[("no-appendfsync-on-rewrite", "yes")],
                Durability::OsBuffered,
                false,
            ),
            (
                (8, 0),
                &[("appendfsync", "")],
                Durability::OsBuffered,
                false,
            ),
        ];
        for (version, changes, durability, wait_aof) in cases {
            let found = assess(version, changes);
            assert_eq!(
                (found.durability, found.wait_aof),
                (durability, wait_aof),
                "{version:?} {changes:?}"
            );
            assert_eq!(
                found.remedy.is_empty(),
                durability == Durability::Fsynced,
                "{changes:?}"
            );
        }
    }

    #[test]
    fn a_refused_question_is_no_promise() {
        assert_eq!(
            Promise::assess(Some((7, 2)), None).durability,
            Durability::Unknown
        );
        assert_eq!(
            Promise::assess(None, Some(&HashMap::new())).durability,
            Durability::Unknown
        );
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(
            version("# Server\r\nredis_version:7.0.15\r\n").unwrap().1,
            (7, 0)
        );
        assert_eq!(
            version("redis_version:255.255.255\n").unwrap().1,
            (255, 255)
        );
        assert!(version("redis_version:x\n").is_none());
        assert!(version("").is_none());
    }
}
