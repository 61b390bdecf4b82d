//! From the Hub into its cache: which files a name means, and each of them once,
//! from where an earlier transfer of it ended.
//!
//! The client crate knows the protocol and the cache's layout; it begins every
//! transfer anew, which is why the bytes are moved here. Everything that the
//! server says is checked before it is part of a path.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError, HFRepository, RepoTypeModel};

use crate::head::{Head, Heads, NoHead, is_away};
use crate::partial::Partial;
use crate::{HubError, HubName, Progress};

/// How often a transfer is taken up again without a byte more.
const ATTEMPTS_MAX: u32 = 4;
/// How long it is waited before that.
const ATTEMPT_WAIT: Duration = Duration::from_millis(500);
/// How often the client itself asks again.
const RETRIES_MAX: usize = 2;
/// The most files of one model.
const FILES_MAX: usize = 512;
/// The most entries of a repository that are looked at.
const ENTRIES_MAX: usize = 10_000;
/// The longest file whose digest the Hub does not say.
const UNCHECKED_BYTES_MAX: u64 = 256 << 20;
const GGUF: &str = ".gguf";
const SAFETENSORS: &str = ".safetensors";
/// Files that every published folder has.
const NEEDED_FILES: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files of a published folder, beside its tensors.
const FOLDER_FILES: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// Fetches what a name means, and gives its path in the cache.
pub(crate) fn fetch(
    name: &HubName,
    report: impl FnMut(Progress<'_>) + Send,
) -> Result<PathBuf, HubError> {
    // a thread of its own: the caller may be inside of another runtime
    std::thread::scope(|scope| {
        let body = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| failed(&error))?;
            runtime.block_on(Fetch::new(name, report)?.run())
        };
        let thread = scope.spawn(body);
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

struct Fetch<'a, R> {
    name: &'a HubName,
    client: HFClient,
    repo: HFRepository<RepoTypeModel>,
    heads: Heads,
    report: R,
}

pub(crate) fn failed(error: &dyn std::error::Error) -> HubError {
    HubError::Failed {
        reason: reason(error),
    }
}

/// What an error says, causes and all.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    // the cause is often the only part that says something
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    reason
}

impl<'a, R: FnMut(Progress<'_>) + Send> Fetch<'a, R> {
    fn new(name: &'a HubName, report: R) -> Result<Self, HubError> {
        let client = HFClient::builder()
            .retry_max_attempts(RETRIES_MAX)
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Self {
            repo: client.model(name.org.as_str(), name.repo.as_str()),
            heads: Heads::new(client.endpoint())?,
            name,
            client,
            report,
        })
    }

    async fn run(mut self) -> Result<PathBuf, HubError> {
        let asked = self.name.revision.as_deref().unwrap_or("main").to_owned();
        let first = self.name.file.clone();
        let first = first.unwrap_or_else(|| FOLDER_FILES[0].to_owned());
        match self.fetch_all(&first, &asked).await {
            Err(HubError::Unreachable { reason, .. }) => self.cached(&first, &asked, reason).await,
            fetched => fetched,
        }
    }

    /// What the revision has now.
    async fn fetch_all(&mut self, first: &str, asked: &str) -> Result<PathBuf, HubError> {
        let head = self.head(first, asked).await?;
        // all files are of the commit that the revision is now
        let commit = head.commit.clone();
        let path = self.file(&head).await?;
        let others = match &self.name.file {
            Some(file) => parts(file)?,
            None => self.folder_files(&commit).await?,
        };
        for other in others.iter().filter(|other| *other != first) {
            let head = self.head(other, &commit).await?;
            self.file(&head).await?;
        }
        // not before all of it is there: till then, the earlier commit is whole
        self.note_revision(first, asked).await;
        self.model_of(path)
    }

    /// The file, or the folder that it lies in.
    fn model_of(&self, path: PathBuf) -> Result<PathBuf, HubError> {
        match (&self.name.file, path.parent()) {
            (None, Some(folder)) => Ok(folder.to_owned()),
            _ => Ok(path),
        }
    }

    /// What an earlier fetch of the same revision left in the cache.
    async fn cached(
        &self,
        first: &str,
        revision: &str,
        reason: String,
    ) -> Result<PathBuf, HubError> {
        let Some(path) = self.in_cache(first, revision).await else {
            return Err(self.unreachable(reason));
        };
        let missing = match &self.name.file {
            Some(file) => {
                let mut missing = Vec::new();
                for part in parts(file)? {
                    if self.in_cache(&part, revision).await.is_none() {
                        missing.push(part);
                    }
                }
                missing
            }
            None => missing_of_folder(&self.model_of(path.clone())?)?,
        };
        if !missing.is_empty() {
            return Err(HubError::Incomplete {
                name: self.name.to_string(),
                endpoint: self.client.endpoint().to_owned(),
                missing,
                reason,
            });
        }
        tracing::warn!(name = %self.name, reason, "the Hub cannot be reached; the cached model is used");
        self.model_of(path)
    }

    /// A file of a revision as an earlier fetch left it.
    async fn in_cache(&self, file: &str, revision: &str) -> Option<PathBuf> {
        let found = self.repo.download_file().filename(file).revision(revision);
        found.local_files_only(true).send().await.ok()
    }

    fn unreachable(&self, reason: String) -> HubError {
        HubError::Unreachable {
            name: self.name.to_string(),
            endpoint: self.client.endpoint().to_owned(),
            cache: self.client.cache_dir().to_owned(),
            reason,
        }
    }

    /// What the Hub says of a file.
    async fn head(&self, file: &str, revision: &str) -> Result<Head, HubError> {
        let repo = format!("{}/{}", self.name.org, self.name.repo);
        let head = self.heads.of(&repo, file, revision).await;
        head.map_err(|error| match error {
            NoHead::Unreachable(reason) => self.unreachable(reason),
            NoHead::Hub(HubError::Refused { .. }) => HubError::Refused {
                name: self.name.to_string(),
            },
            NoHead::Hub(HubError::NotFound { .. }) => HubError::NotFound {
                what: format!("{file} in {}", self.name),
            },
            NoHead::Hub(error) => error,
        })
    }

    /// The files of a published folder that a model is read from.
    async fn folder_files(&self, commit: &str) -> Result<Vec<String>, HubError> {
        let tree = self.repo.list_tree().revision(commit).limit(ENTRIES_MAX);
        let tree = tree
            .send()
            .map_err(|error| self.error(error, "the list of files"))?;
        futures::pin_mut!(tree);
        let mut files = Vec::new();
        while let Some(entry) = tree.next().await {
            let entry = entry.map_err(|error| self.error(error, "the list of files"))?;
            let RepoTreeEntry::File { path, .. } = entry else {
                continue;
            };
            let is_tensors = path.ends_with(SAFETENSORS)
                && path.starts_with("model")
                && !path.contains(['/', '\\']);
            if is_tensors || FOLDER_FILES.contains(&path.as_str()) {
                files.push(path);
            }
        }
        if files.len() > FILES_MAX {
            return Err(HubError::Damaged {
                file: "the list of files".to_owned(),
                problem: "is too long",
            });
        }
        // small ones first, so that what is no model is known early
        files.sort_by_key(|file| (file.ends_with(SAFETENSORS), file.clone()));
        Ok(files)
    }

    /// Has a file in the cache, and gives its path there.
    async fn file(&mut self, head: &Head) -> Result<PathBuf, HubError> {
        let repo = format!("models--{}--{}", self.name.org, self.name.repo);
        let blobs = self.client.cache_dir().join(repo).join("blobs");
        self.transfer(head, &blobs.join(&head.digest)).await?;
        // with its bytes in place, the client only links them
        let file = head.file.as_str();
        let place = self.repo.download_file().filename(file);
        let place = place.revision(head.commit.as_str());
        place.send().await.map_err(|error| self.error(error, file))
    }

    /// Has the client remember which commit the revision was, so that it is
    /// found without a network.
    async fn note_revision(&self, file: &str, revision: &str) {
        let again = self.repo.download_file().filename(file);
        if let Err(error) = again.revision(revision).send().await {
            tracing::debug!(%error, "the revision is not noted");
        }
    }

    /// Moves the bytes of a file into the cache.
    async fn transfer(&mut self, head: &Head, blob: &Path) -> Result<(), HubError> {
        let damaged = |problem| HubError::Damaged {
            file: head.file.clone(),
            problem,
        };
        if blob.exists() {
            return Ok(());
        }
        let Some(mut partial) = Partial::open(blob)? else {
            return Ok(());
        };
        let size = head.size_bytes;
        // only what can be checked as a whole is put together from pieces
        let is_checked = head.digest.len() == 64;
        if !is_checked && size > UNCHECKED_BYTES_MAX {
            return Err(damaged("is large and has no digest"));
        }
        if !is_checked || partial.have() > size {
            partial.clear()?;
        }
        let mut attempts = 0;
        while partial.have() < size {
            let before = partial.have();
            match self.stream(head, &mut partial).await {
                Ok(()) => {}
                Err(error @ (HubError::Io { .. } | HubError::Damaged { .. })) => return Err(error),
                Err(error) => {
                    attempts = if partial.have() > before {
                        0
                    } else {
                        attempts + 1
                    };
                    let have = partial.have();
                    tracing::warn!(%error, have, size, "a transfer was interrupted");
                    if attempts >= ATTEMPTS_MAX {
                        let file = head.file.clone();
                        return Err(HubError::Interrupted { file, have, size });
                    }
                    if !is_checked {
                        partial.clear()?;
                    }
                    tokio::time::sleep(ATTEMPT_WAIT).await;
                }
            }
        }
        if is_checked && !partial.has_digest(&head.digest)? {
            partial.clear()?;
            return Err(damaged("has another digest"));
        }
        partial.finish()
    }

    /// Appends what one answer brings.
    async fn stream(&mut self, head: &Head, partial: &mut Partial) -> Result<(), HubError> {
        let (file, size) = (head.file.as_str(), head.size_bytes);
        let ask = self.repo.download_file_stream().filename(file);
        let ask = ask.revision(head.commit.as_str());
        let have = partial.have();
        let range = (have > 0).then_some(have..size);
        let answer = ask.maybe_range(range).send().await;
        let (_, mut bytes) = answer.map_err(|error| self.error(error, file))?;
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.map_err(|error| self.error(error, file))?;
            if partial.have() + chunk.len() as u64 > size {
                // whoever knows no ranges sends all of it again: from the start, then
                partial.clear()?;
                return Err(HubError::Failed {
                    reason: "the answer is longer than it was said to be".to_owned(),
                });
            }
            partial.push(&chunk)?;
            (self.report)(Progress {
                file,
                done_bytes: partial.have(),
                all_bytes: size,
            });
        }
        match partial.have() < size {
            true => Err(HubError::Failed {
                reason: "the answer ended too early".to_owned(),
            }),
            false => Ok(()),
        }
    }

    fn error(&self, error: HFError, file: &str) -> HubError {
        match error {
            HFError::RepoNotFound { .. } => HubError::NotFound {
                what: format!("{}/{}", self.name.org, self.name.repo),
            },
            HFError::RevisionNotFound { revision, .. } => HubError::NotFound {
                what: format!(
                    "revision {revision} of {}/{}",
                    self.name.org, self.name.repo
                ),
            },
            HFError::EntryNotFound { .. } => HubError::NotFound {
                what: format!("{file} in {}", self.name),
            },
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => HubError::Refused {
                name: self.name.to_string(),
            },
            HFError::Request { ref source, .. }
                if source.is_connect() || source.is_timeout() || source.is_request() =>
            {
                self.unreachable(reason(&error))
            }
            HFError::RateLimited { .. } => self.unreachable(reason(&error)),
            HFError::Http { ref context } if is_away(context.status) => {
                self.unreachable(reason(&error))
            }
            error => failed(&error),
        }
    }
}

/// A split file's name before its number, its number and how many there are.
fn split_name<'a>(file: &'a str, extension: &str) -> Option<(&'a str, usize, usize)> {
    let number = |text: &str| match text.len() {
        5 => text.parse::<usize>().ok(),
        _ => None,
    };
    let (rest, count) = file.strip_suffix(extension)?.rsplit_once("-of-")?;
    let (name, no) = rest.rsplit_once('-')?;
    Some((name, number(no)?, number(count)?))
}

/// All parts of a split file, whose first one is `file`; itself if it is whole.
fn parts(file: &str) -> Result<Vec<String>, HubError> {
    let Some((name, first, count)) = split_name(file, GGUF) else {
        return Ok(vec![file.to_owned()]);
    };
    if first != 1 || !(1..=FILES_MAX).contains(&count) {
        return Err(HubError::Damaged {
            file: file.to_owned(),
            problem: "is not the first part, or one of too many",
        });
    }
    let part = |no| format!("{name}-{no:05}-of-{count:05}{GGUF}");
    Ok((1..=count).map(part).collect())
}

/// What a folder in the cache lacks, as far as the names in it tell.
fn missing_of_folder(folder: &Path) -> Result<Vec<String>, HubError> {
    let io = |source| HubError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        // a link into nothing is no file
        if entry.path().exists() {
            found.extend(entry.file_name().into_string());
        }
    }
    let mut needed = BTreeSet::from(NEEDED_FILES.map(str::to_owned));
    let mut tensors = found.iter().filter(|file| file.ends_with(SAFETENSORS));
    match tensors
        .clone()
        .find_map(|file| split_name(file, SAFETENSORS))
    {
        Some((name, _, count)) => needed.extend(
            (1..=count.min(FILES_MAX))
                .map(|no| format!("{name}-{no:05}-of-{count:05}{SAFETENSORS}")),
        ),
        None if tensors.next().is_none() => {
            needed.insert(format!("model{SAFETENSORS}"));
        }
        None => {}
    }
    Ok(needed.difference(&found).cloned().collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_split_file_are_named_by_its_first() {
        assert_eq!(parts("m.gguf").unwrap(), ["m.gguf"]);
        assert_eq!(
            parts("q/m-00001-of-00003.gguf").unwrap(),
            [
                "q/m-00001-of-00003.gguf",
                "q/m-00002-of-00003.gguf",
                "q/m-00003-of-00003.gguf"
            ]
        );
        assert!(parts("m-00002-of-00003.gguf").is_err());
        assert!(parts("m-00001-of-00513.gguf").is_err());
        assert!(parts("m-00001-of-00000.gguf").is_err());
        assert_eq!(parts("m-1-of-3.gguf").unwrap(), ["m-1-of-3.gguf"]);
    }

    #[test]
    fn what_a_folder_lacks_is_told_by_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let missing = || missing_of_folder(folder.path()).unwrap();
        let put = |file: &str| std::fs::write(folder.path().join(file), b"x").unwrap();
        put("config.json");
        assert_eq!(missing(), ["model.safetensors", "tokenizer.json"]);
        put("tokenizer.json");
        put("model-00002-of-00003.safetensors");
        assert_eq!(
            missing(),
            [
                "model-00001-of-00003.safetensors",
                "model-00003-of-00003.safetensors"
            ]
        );
        put("model-00001-of-00003.safetensors");
        put("model-00003-of-00003.safetensors");
        assert!(missing().is_empty());
    }
}
