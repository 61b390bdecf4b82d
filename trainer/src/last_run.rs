//! What the last run that judged a candidate was made of: the same again would
//! come to the same.

use ids::{BaseDigest, DatasetDigest, Sha256Digest};
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::journal::{Journal, replace};
use crate::recipe::Stage;

/// The file's name in the trainer's folder.
const FILE_NAME: &str = "last_run.json";

/// A run's rows, base and recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastRun {
    run_id: String,
    dataset: DatasetDigest,
    /// Missing, as the recipe, in files of versions that compared rows alone.
    #[serde(default)]
    base: Option<BaseDigest>,
    #[serde(default)]
    recipe: Option<Sha256Digest>,
}

impl LastRun {
    /// A run of these stages.
    pub(crate) fn of(
        run_id: &str,
        dataset: DatasetDigest,
        base: BaseDigest,
        stages: &[Stage],
    ) -> Self {
        let recipe = serde_json::to_vec(stages).unwrap_or_default();
        Self {
            run_id: run_id.to_owned(),
            dataset,
            base: Some(base),
            recipe: Some(Sha256Digest::of(&recipe)),
        }
    }

    /// The last one; none before the first, and none that can be read.
    pub(crate) fn read(journal: &Journal) -> Option<Self> {
        let bytes = std::fs::read(journal.root().join(FILE_NAME)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Whether both train the same rows by the same recipe on the same base.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let parts = |run: &Self| (run.dataset, run.base, run.recipe);
        parts(self) == parts(other)
    }

    /// Remembers it.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub(crate) fn keep(&self, journal: &Journal) -> Result<(), TrainerError> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        replace(&journal.root().join(FILE_NAME), &json)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn another_base_or_recipe_is_another_run() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(LastRun::read(&journal), None);
        let digest = Sha256Digest::of;
        let stage = |epochs| {
            let mut stage = Stage::default();
            stage.training.epochs = epochs;
            [stage]
        };
        let run = |rows: &[u8], base: &[u8], epochs| {
            let (rows, base) = (DatasetDigest(digest(rows)), BaseDigest(digest(base)));
            LastRun::of("run-1", rows, base, &stage(epochs))
        };
        let last = run(b"rows", b"base", 2);
        last.keep(&journal).unwrap();
        let read = LastRun::read(&journal).unwrap();
        assert!(read.is_like(&run(b"rows", b"base", 2)));
        for other in [
            run(b"more", b"base", 2),
            run(b"rows", b"other", 2),
            run(b"rows", b"base", 3),
        ] {
            assert!(!read.is_like(&other));
        }
        // a file of before has rows alone, and is like nothing
        let old = format!(
            "{{\"dataset\": \"{}\", \"run_id\": \"run-0\"}}",
            digest(b"rows")
        );
        std::fs::write(folder.path().join("trainer").join(FILE_NAME), old).unwrap();
        let read = LastRun::read(&journal).unwrap();
        assert!(!read.is_like(&last));
    }
}
