//! The files of a stage, read through `data`: once when a run is prepared, and
//! again, with the same digest, when the stage is trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use feedback::Message;
use feedback::pairs::{Dataset, PreferencePair};
use ids::DatasetDigest;
use model::BaseModel;
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::config::Config;
use crate::data::{DataOptions, DataReport, EvaluationSet, Kind, SourcedRow, check_files};
use crate::evaluate::read_replay;
use crate::journal::replace;
use crate::recipe::{Stage, StageKind};
use crate::rows::{HoldOut, held_out_pair};

/// Refused rows that the log names; all that the report lists are in its file.
const REFUSED_LOGGED_MAX: usize = 20;

/// What a stage's files came to. The refused rows, each with its line and
/// reason, are in the run's `data-STAGE.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FilesReport {
    /// Names the rows in their order; none where there are none.
    pub digest: Option<DatasetDigest>,
    /// Rows that are trained or held out.
    pub kept: usize,
    /// Of these, rows that are held out.
    pub held_out: usize,
    /// Lines that were refused.
    pub refused: usize,
    /// Kept rows of each kind.
    pub kinds: BTreeMap<Kind, usize>,
}

/// The files of one stage, as a run was prepared with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StageFiles {
    pub(crate) report: FilesReport,
    /// Pairs that the candidate is judged by.
    pub(crate) held_out: Vec<PreferencePair>,
}

/// The rows of a stage's files.
#[derive(Debug)]
pub(crate) struct StageRows {
    pub(crate) train: Vec<SourcedRow>,
    /// Only of pairs: what is imitated validates by what was drawn of it.
    pub(crate) held_out: Vec<SourcedRow>,
    pub(crate) report: DataReport,
}

impl StageRows {
    /// Reads and checks a stage's files; rows that it cannot train are refused
    /// like those that are wrong.
    ///
    /// # Errors
    /// When a file, or an evaluation that rows are held against, cannot be read.
    pub(crate) fn read(
        base: &BaseModel,
        config: &Config,
        votes: &Dataset,
        stage: &Stage,
    ) -> Result<Self, TrainerError> {
        let options = DataOptions {
            base: Some(base),
            tokens_max: stage.training.sequence_tokens_max,
            format: None,
            kinds: Some(kinds(stage.kind)),
            whole_texts: true,
            evaluation: match stage.file.is_empty() {
                true => EvaluationSet::default(),
                false => evaluation(config, votes)?,
            },
        };
        let paths: Vec<PathBuf> = stage.file.iter().map(|file| file.path.clone()).collect();
        let checked = check_files(&paths, &options)?;
        let hold_out = HoldOut {
            salt: &config.dataset.split_salt,
            share: config.dataset.held_out,
        };
        let (train, held_out) = match stage.kind {
            StageKind::Dpo => hold_out.split(checked.rows),
            _ => (checked.rows, Vec::new()),
        };
        Ok(Self {
            train,
            held_out,
            report: checked.report,
        })
    }

    pub(crate) fn report(&self) -> FilesReport {
        FilesReport {
            digest: self.report.digest,
            kept: self.report.kept,
            held_out: self.held_out.len(),
            refused: self.report.refused,
            kinds: self.report.kinds.clone(),
        }
    }
}

/// Reads the files of all stages and writes down what was found in each.
///
/// # Errors
/// As [`StageRows::read`], and when the report cannot be written.
pub(crate) fn prepare(
    base: &BaseModel,
    config: &Config,
    votes: &Dataset,
    stages: &[Stage],
    folder: &Path,
) -> Result<Vec<StageFiles>, TrainerError> {
    let prepare = |(index, stage): (usize, &Stage)| {
        let rows = StageRows::read(base, config, votes, stage)?;
        if !stage.file.is_empty() {
            let number = index + 1;
            let json = serde_json::to_vec_pretty(&rows.report).unwrap_or_default();
            replace(&folder.join(format!("data-{number}.json")), &json)?;
            log(number, &rows.report);
        }
        Ok(StageFiles {
            report: rows.report(),
            held_out: rows
                .held_out
                .iter()
                .filter_map(|row| held_out_pair(&row.row))
                .collect(),
        })
    };
    stages.iter().enumerate().map(prepare).collect()
}

fn log(number: usize, report: &DataReport) {
    let (kept, refused) = (report.kept, report.refused);
    tracing::info!("stage {number}: {kept} rows of files, {refused} lines refused");
    for row in report.refused_rows.iter().take(REFUSED_LOGGED_MAX) {
        tracing::warn!("{}:{}: {}", row.path.display(), row.line, row.problem);
    }
}

/// What a stage can learn from.
fn kinds(stage: StageKind) -> &'static [Kind] {
    match stage {
        StageKind::Cpt => &[Kind::Text],
        // of two answers the better one
        StageKind::Sft => &[Kind::Chat, Kind::Reasoning, Kind::Preference],
        StageKind::Dpo => &[Kind::Preference],
        StageKind::Kto => &[],
    }
}

/// Every prompt that a candidate will be judged by.
fn evaluation(config: &Config, votes: &Dataset) -> Result<EvaluationSet, TrainerError> {
    let mut evaluation = EvaluationSet::default();
    for path in &config.eval.tasks {
        evaluation.add_file(path)?;
    }
    if let Some(path) = &config.eval.replay {
        for prompt in read_replay(path)? {
            let messages: Vec<Message> = prompt.messages.iter().map(message).collect();
            evaluation.add(&messages);
        }
    }
    for pair in &votes.held_out {
        evaluation.add(&pair.prompt);
    }
    Ok(evaluation)
}

fn message(message: &engine::ChatMessage) -> Message {
    Message {
        role: message.role.as_str().to_owned(),
        content: message.content.clone(),
    }
}
