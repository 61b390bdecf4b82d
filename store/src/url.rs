//! Where a store is, as text: `embedded` or `redis[s]://HOST[:PORT][/DB]`.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::StoreError;

/// The embedded store's file in the data folder.
const EMBEDDED_FILE: &str = "flywheel.sqlite";
const REDIS_PORT_DEFAULT: u16 = 6379;
/// Longer texts are no address.
const URL_CHARS_MAX: usize = 512;

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// One SQLite file on a local disk.
    Embedded {
        /// The file.
        path: PathBuf,
    },
    /// A Redis server.
    Redis(RedisAddress),
}

/// A Redis server and database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisAddress {
    /// Host name or address, an IPv6 one without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database number.
    pub db: u16,
    /// Whether TLS is spoken (`rediss://`).
    pub tls: bool,
}

impl StoreUrl {
    /// Reads `text`; the embedded store's file lies in `data_dir`.
    ///
    /// # Errors
    /// [`StoreError::Url`] for anything else than the two forms, and for an
    /// address with a user or password in it, which command lines and logs
    /// would show.
    pub fn parse(text: &str, data_dir: &Path) -> Result<Self, StoreError> {
        if text == "embedded" {
            return Ok(Self::Embedded {
                path: data_dir.join(EMBEDDED_FILE),
            });
        }
        let (tls, rest) = match (
            text.strip_prefix("redis://"),
            text.strip_prefix("rediss://"),
        ) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => {
                return Err(wrong(
                    text,
                    "it must read embedded or redis[s]://HOST:PORT/DB",
                ));
            }
        };
        if rest.contains('@') {
            let reason = "credentials do not belong in it; use FLYWHEEL_REDIS_USERNAME and FLYWHEEL_REDIS_PASSWORD";
            return Err(wrong("redis://…@…", reason));
        }
        if text.chars().count() > URL_CHARS_MAX || rest.contains(['?', '#', ' ']) {
            return Err(wrong(
                text,
                "only a host, a port and a database number are allowed",
            ));
        }
        parse_redis(text, rest, tls).map(Self::Redis)
    }
}

fn parse_redis(text: &str, rest: &str, tls: bool) -> Result<RedisAddress, StoreError> {
    let (authority, db) = rest.split_once('/').unwrap_or((rest, ""));
    let db = match db {
        "" => 0,
        digits => digits
            .parse()
            .map_err(|_| wrong(text, "the database must be a number"))?,
    };
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6
                .split_once(']')
                .ok_or_else(|| wrong(text, "the ] is missing"))?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None => REDIS_PORT_DEFAULT,
        Some(digits) => digits
            .parse()
            .map_err(|_| wrong(text, "the port must be a number"))?,
    };
    if host.is_empty() {
        return Err(wrong(text, "the host is missing"));
    }
    Ok(RedisAddress {
        host: host.to_owned(),
        port,
        db,
        tls,
    })
}

fn wrong(url: &str, reason: &'static str) -> StoreError {
    StoreError::Url {
        url: url.chars().take(URL_CHARS_MAX).collect(),
        reason,
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded { path } => write!(f, "embedded:{}", path.display()),
            Self::Redis(RedisAddress {
                host,
                port,
                db,
                tls,
            }) => {
                let scheme = if *tls { "rediss" } else { "redis" };
                write!(f, "{scheme}://{host}:{port}/{db}")
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, StoreError> {
        StoreUrl::parse(text, Path::new("/d")).map(|url| url.to_string())
    }

    #[test]
    fn both_forms_are_read() {
        assert_eq!(parsed("embedded").unwrap(), "embedded:/d/flywheel.sqlite");
        assert_eq!(parsed("redis://cache").unwrap(), "redis://cache:6379/0");
        assert_eq!(
            parsed("rediss://cache:7000/3").unwrap(),
            "rediss://cache:7000/3"
        );
        assert_eq!(
            parsed("redis://[::1]:7000/3").unwrap(),
            "redis://::1:7000/3"
        );
    }

    #[test]
    fn credentials_and_other_forms_are_refused() {
        let secret = parsed("redis://user:hunter2@cache/0")
            .unwrap_err()
            .to_string();
        assert!(!secret.contains("hunter2"), "{secret}");
        for bad in [
            "",
            "sqlite",
            "redis://",
            "redis://h:x/0",
            "redis://h/x",
            "redis://h?a=b",
            "http://h",
        ] {
            assert!(
                matches!(parsed(bad), Err(StoreError::Url { .. })),
                "{bad} was taken"
            );
        }
    }
}
