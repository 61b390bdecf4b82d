//! What the Hub says of a file before any of it is sent.
//!
//! For a large file the Hub's answer is a redirection to where the bytes lie, and
//! only that answer has the commit and the digest; so it is not followed, except
//! within the Hub, where a repository was renamed.

use std::time::Duration;

use hf_hub::hf_home;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};

use crate::HubError;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long an answer without a body may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How often a repository may have been renamed.
const RENAMES_MAX: usize = 5;
/// The longest token.
const TOKEN_BYTES_MAX: usize = 4096;

/// A file at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) file: String,
    pub(crate) commit: String,
    /// The SHA-256 of a large file, git's id of a small one.
    pub(crate) digest: String,
    pub(crate) size_bytes: u64,
}

/// Why there is no head.
pub(crate) enum NoHead {
    /// The Hub was not reached, or is not able to answer now.
    Unreachable(String),
    Hub(HubError),
}

/// Asks for heads.
pub(crate) struct Heads {
    client: Client,
    endpoint: String,
    token: Option<String>,
}

impl Heads {
    pub(crate) fn new(endpoint: &str) -> Result<Self, HubError> {
        let client = Client::builder()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            .build()
            .map_err(|error| crate::fetch::failed(&error))?;
        Ok(Self {
            client,
            endpoint: endpoint.to_owned(),
            token: token(),
        })
    }

    /// The head of `file` in `repo` (`ORG/REPO`).
    pub(crate) async fn of(&self, repo: &str, file: &str, revision: &str) -> Result<Head, NoHead> {
        // a branch is one segment of the address; all other characters need no escape
        let revision = revision.replace('/', "%2F");
        let mut address = format!("{}/{repo}/resolve/{revision}/{file}", self.endpoint);
        for _ in 0..=RENAMES_MAX {
            let mut ask = self.client.head(&address);
            if let Some(token) = &self.token {
                ask = ask.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let answer = ask
                .send()
                .await
                .map_err(|error| match crate::fetch::failed(&error) {
                    HubError::Failed { reason } => NoHead::Unreachable(reason),
                    other => NoHead::Hub(other),
                })?;
            let location = text(answer.headers(), LOCATION.as_str());
            match location.filter(|to| to.starts_with('/') && !to.starts_with("//")) {
                Some(to) if answer.status().is_redirection() => {
                    address = format!("{}{to}", self.endpoint);
                }
                _ if is_away(answer.status()) => {
                    let reason = format!("it answered {} for {file}", answer.status());
                    return Err(NoHead::Unreachable(reason));
                }
                _ => return read(answer.status(), answer.headers(), file).map_err(NoHead::Hub),
            }
        }
        Err(NoHead::Hub(damaged(file, "leads in a circle")))
    }
}

/// Whether an answer says nothing of the file, only that there is none now.
pub(crate) fn is_away(status: StatusCode) -> bool {
    let is_later = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
    is_later || status.is_server_error()
}

fn damaged(file: &str, problem: &'static str) -> HubError {
    HubError::Damaged {
        file: file.to_owned(),
        problem,
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Everything in it becomes part of a path or of a size: all of it is checked.
fn read(status: StatusCode, headers: &HeaderMap, file: &str) -> Result<Head, HubError> {
    match status.as_u16() {
        200..=399 => {}
        401 | 403 => {
            return Err(HubError::Refused {
                name: file.to_owned(),
            });
        }
        404 => {
            let why = text(headers, "x-error-message").unwrap_or("it says so");
            return Err(HubError::NotFound {
                what: format!(
                    "{file} there ({})",
                    why.chars().take(200).collect::<String>()
                ),
            });
        }
        _ => {
            return Err(HubError::Failed {
                reason: format!("it answered {status} for {file}"),
            });
        }
    }
    let is_hex = |text: &&str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let commit = text(headers, "x-repo-commit")
        .filter(|c| c.len() == 40)
        .filter(is_hex);
    let digest = text(headers, "x-linked-etag").or(text(headers, ETAG.as_str()));
    let digest = digest.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
    let digest = digest.filter(|d| matches!(d.len(), 40 | 64)).filter(is_hex);
    let size = text(headers, "x-linked-size").or(text(headers, CONTENT_LENGTH.as_str()));
    let size = size
        .and_then(|size| size.parse::<u64>().ok())
        .filter(|size| *size > 0);
    Ok(Head {
        file: file.to_owned(),
        commit: commit
            .ok_or_else(|| damaged(file, "has no commit"))?
            .to_owned(),
        digest: digest
            .ok_or_else(|| damaged(file, "has no usable digest"))?
            .to_owned(),
        size_bytes: size.ok_or_else(|| damaged(file, "has no length"))?,
    })
}

/// The token that the Hub's other programs use too.
fn token() -> Option<String> {
    let from_file = || {
        let path = std::env::var_os("HF_TOKEN_PATH");
        let path = path.map_or_else(|| hf_home().join("token"), Into::into);
        std::fs::read_to_string(path).ok()
    };
    let token = std::env::var("HF_TOKEN").ok().or_else(from_file)?;
    let token = token.trim();
    (1..=TOKEN_BYTES_MAX)
        .contains(&token.len())
        .then(|| token.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&'static str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_large_files_own_digest_and_length_count() {
        let digest = "ab".repeat(32);
        let found = headers(&[
            ("x-repo-commit", COMMIT),
            ("x-linked-etag", &format!("\"{digest}\"")),
            ("x-linked-size", "5000"),
            ("etag", "\"other\""),
            ("content-length", "1300"),
            ("location", "https://elsewhere.example/x"),
        ]);
        let head = read(StatusCode::FOUND, &found, "m.gguf").unwrap();
        assert_eq!((head.digest, head.size_bytes), (digest, 5000));
        let small = headers(&[
            ("x-repo-commit", COMMIT),
            ("etag", &format!("W/\"{COMMIT}\"")),
            ("content-length", "17"),
        ]);
        let head = read(StatusCode::OK, &small, "config.json").unwrap();
        assert_eq!((head.digest.as_str(), head.size_bytes), (COMMIT, 17));
    }

    #[test]
    fn what_could_lead_out_of_the_cache_is_refused() {
        let with = |commit: &str, etag: &str, size: &str| {
            let found = headers(&[
                ("x-repo-commit", commit),
                ("etag", etag),
                ("content-length", size),
            ]);
            read(StatusCode::OK, &found, "f").map_err(|e| e.to_string())
        };
        assert!(with(COMMIT, COMMIT, "1").is_ok());
        for (commit, etag, size, needle) in [
            ("main", COMMIT, "1", "no commit"),
            (
                "../../0123456789abcdef0123456789abcdef01",
                COMMIT,
                "1",
                "no commit",
            ),
            (COMMIT, "../../x", "1", "digest"),
            (COMMIT, "abc", "1", "digest"),
            (COMMIT, COMMIT, "0", "length"),
            (COMMIT, COMMIT, "-1", "length"),
        ] {
            let error = with(commit, etag, size).unwrap_err();
            assert!(error.contains(needle), "{error}");
        }
        let away = |status| is_away(StatusCode::from_u16(status).unwrap());
        assert!([408, 429, 500, 502, 503, 504].into_iter().all(away));
        assert!(![200, 302, 400, 401, 403, 404].into_iter().any(away));
        let none = HeaderMap::new();
        for (status, needle) in [
            (401, "HF_TOKEN"),
            (403, "HF_TOKEN"),
            (404, "no f"),
            (400, "400"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let error = read(status, &none, "f").unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
