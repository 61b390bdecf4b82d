//! Models that are named instead of lying in a file: `hf:ORG/REPO/FILE@REVISION`
//! on the Hugging Face Hub.
//!
//! Names are read in every build; fetching needs the feature `hf-hub`, and says
//! so without it. Knows nothing of what is in the files: it makes a path of a
//! name. What was fetched lies in the Hub's own cache (`HF_HOME`), where other
//! programs find it too.

mod error;
#[cfg(feature = "hf-hub")]
mod fetch;
#[cfg(feature = "hf-hub")]
mod head;
mod name;
#[cfg(feature = "hf-hub")]
mod partial;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use error::HubError;
pub use name::HubName;

/// How often the log says how far a transfer is.
const LOG_INTERVAL: Duration = Duration::from_secs(3);

/// How far a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file in its repository.
    pub file: &'a str,
    /// Bytes that are there.
    pub done_bytes: u64,
    /// Bytes that it has.
    pub all_bytes: u64,
}

/// The path of a model: `model` itself, or, where it is a name on the Hub, where
/// the file or the folder lies once it is fetched. Blocks until then. What is in
/// the cache is used when the Hub cannot be reached.
///
/// # Errors
/// [`HubError`], with what to do about it.
pub fn resolve(model: &Path, report: impl FnMut(Progress<'_>) + Send) -> Result<PathBuf, HubError> {
    let Some(name) = model.to_str().and_then(HubName::of) else {
        return Ok(model.to_owned());
    };
    fetch(&name?, report)
}

/// As [`resolve`], with a line in the log every few seconds.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_and_log(model: &Path) -> Result<PathBuf, HubError> {
    let mut told: Option<Instant> = None;
    resolve(model, |progress| {
        let is_whole = progress.done_bytes == progress.all_bytes;
        if is_whole || told.is_none_or(|told| told.elapsed() >= LOG_INTERVAL) {
            told = Some(Instant::now());
            let Progress {
                file,
                done_bytes,
                all_bytes,
            } = progress;
            tracing::info!(file, done_bytes, all_bytes, "fetching from the Hub");
        }
    })
}

#[cfg(feature = "hf-hub")]
fn fetch(name: &HubName, report: impl FnMut(Progress<'_>) + Send) -> Result<PathBuf, HubError> {
    fetch::fetch(name, report)
}

#[cfg(not(feature = "hf-hub"))]
fn fetch(name: &HubName, _report: impl FnMut(Progress<'_>)) -> Result<PathBuf, HubError> {
    Err(HubError::NotBuilt {
        name: name.to_string(),
    })
}

#[cfg(all(test, not(feature = "hf-hub")))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_and_a_name_needs_the_feature() {
        let path = Path::new("/models/hf:a/b");
        assert_eq!(resolve(path, |_| {}).unwrap(), path);
        let error = resolve(Path::new("hf:org/repo/m.gguf"), |_| {}).unwrap_err();
        assert!(matches!(&error, HubError::NotBuilt { name } if name == "hf:org/repo/m.gguf"));
        assert!(error.to_string().contains("--features hf-hub"), "{error}");
        let error = resolve(Path::new("hf:org"), |_| {}).unwrap_err();
        assert!(matches!(error, HubError::Name { .. }));
    }
}
