//! What a run was started with, kept in its folder until it has ended, so
//! that an interrupted one can go on with the same rows whatever was voted
//! since.

use std::path::{Path, PathBuf};

use feedback::EventId;
use feedback::pairs::{Dataset, PreferencePair};
use ids::{DatasetDigest, Sha256Digest};
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::checkpoints::CheckpointFile;
use crate::journal::{Journal, replace};
use crate::recipe::{STAGES_MAX, Stage};
use crate::stage_files::{StageFiles, Votes};
use crate::thumbs::RatedAnswer;
use crate::trial;
use crate::vote_rows::VotesReport;

/// The file's name in the run's folder.
const FILE_NAME: &str = "prepared.json";

/// A run's rows and recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Prepared {
    /// Which run.
    pub(crate) run_id: String,
    /// Pairs and praised answers.
    pub(crate) dataset: Dataset,
    /// Answers with thumbs alone, where a stage learns from them.
    pub(crate) rated: Vec<RatedAnswer>,
    /// What of the votes was refused.
    #[serde(default)]
    pub(crate) refused: VotesReport,
    /// The votes that are done with when the run has ended.
    pub(crate) claimed: Vec<EventId>,
    /// How to train.
    pub(crate) stages: Vec<Stage>,
    /// What each stage's files came to; missing in runs of versions that read
    /// them only to train.
    #[serde(default)]
    pub(crate) files: Vec<StageFiles>,
}

impl Prepared {
    /// Names everything that is learned: pairs and praised answers, rated ones, and
    /// the rows of all stages' files.
    pub(crate) fn digest(&self) -> DatasetDigest {
        let votes = self.dataset.digest;
        let rated = serde_json::to_vec(&self.rated).unwrap_or_default();
        let files = self.files.iter().filter_map(|files| files.report.digest);
        let files: Vec<DatasetDigest> = files.collect();
        if self.rated.is_empty() && files.is_empty() {
            return votes;
        }
        let mut parts: Vec<(&str, &[u8])> = vec![("votes", votes.0.as_bytes())];
        if !self.rated.is_empty() {
            parts.push(("rated", &rated));
        }
        let files = files
            .iter()
            .map(|digest| ("files", &digest.0.as_bytes()[..]));
        parts.extend(files);
        DatasetDigest(Sha256Digest::of_parts(&parts))
    }

    /// The votes' rows.
    pub(crate) fn votes(&self) -> Votes<'_> {
        Votes {
            dataset: &self.dataset,
            rated: &self.rated,
        }
    }

    /// The pairs that a candidate is judged by.
    pub(crate) fn held_out(&self) -> Vec<PreferencePair> {
        let of_files = self.files.iter().flat_map(|files| &files.held_out);
        self.dataset
            .held_out
            .iter()
            .chain(of_files)
            .cloned()
            .collect()
    }

    /// Writes it into the run's folder.
    pub(crate) fn keep(&self, folder: &Path) -> Result<(), TrainerError> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        replace(&folder.join(FILE_NAME), &bytes)
    }

    /// The last run that did not end, if any.
    pub(crate) fn interrupted(journal: &Journal) -> Result<Option<(PathBuf, Self)>, TrainerError> {
        let Some(folder) = folders(journal)?.pop() else {
            return Ok(None);
        };
        let path = folder.join(FILE_NAME);
        let bytes = std::fs::read(&path).map_err(TrainerError::file(&path))?;
        let prepared = serde_json::from_slice(&bytes).map_err(|error| TrainerError::Content {
            path,
            line: error.line(),
            problem: error.to_string(),
        })?;
        Ok(Some((folder, prepared)))
    }

    /// Gives all interrupted runs up, with their checkpoints.
    pub(crate) fn abandon(journal: &Journal) -> Result<(), TrainerError> {
        for folder in folders(journal)? {
            Self::give_up(&folder)?;
        }
        Ok(())
    }

    /// Gives the run in `folder` up, with its checkpoints.
    pub(crate) fn give_up(folder: &Path) -> Result<(), TrainerError> {
        Self::forget(folder)?;
        for part in parts(folder) {
            CheckpointFile::new(&part, 0).forget()?;
        }
        Ok(())
    }

    /// Whether the run in `folder` has not ended.
    pub(crate) fn is_interrupted(folder: &Path) -> bool {
        folder.join(FILE_NAME).exists()
    }

    /// Notes that the run in `folder` has ended.
    pub(crate) fn forget(folder: &Path) -> Result<(), TrainerError> {
        match std::fs::remove_file(folder.join(FILE_NAME)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(TrainerError::file(folder)(error))
            }
            _ => Ok(()),
        }
    }
}

/// A run's folder and all that its trial and its stages may have in it.
pub(crate) fn parts(folder: &Path) -> Vec<PathBuf> {
    let mut parts = Vec::new();
    for folder in [folder.to_owned(), folder.join(trial::FOLDER)] {
        parts.extend((1..=STAGES_MAX).map(|stage| folder.join(format!("stage-{stage}"))));
        parts.push(folder);
    }
    parts
}

/// The folders of interrupted runs, the oldest first.
fn folders(journal: &Journal) -> Result<Vec<PathBuf>, TrainerError> {
    let runs = journal.root().join("runs");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&runs)
        .map_err(TrainerError::file(&runs))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|folder| Prepared::is_interrupted(folder))
        .collect();
    // a run's name begins with its time
    folders.sort();
    Ok(folders)
}
