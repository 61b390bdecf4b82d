//! The files of a stage, read through `data`: once when a run is prepared, and
//! again, with the same digest, when the stage is trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use feedback::Message;
use feedback::pairs::{Dataset, PreferencePair, Split};
use ids::DatasetDigest;
use model::BaseModel;
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::config::Config;
use crate::data::{DataOptions, DataReport, EvaluationSet, Kind, Problem, SourcedRow, check_files};
use crate::evaluate::read_replay;
use crate::journal::replace;
use crate::mixture::Category;
use crate::recipe::{Stage, StageKind};
use crate::rows::{HoldOut, held_out_pair};
use crate::thumbs::RatedAnswer;

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

impl FilesReport {
    /// Kept rows that are pairs, those that are held out included.
    pub(crate) fn pairs(&self) -> usize {
        self.kinds.get(&Kind::Preference).copied().unwrap_or(0)
    }
}

/// The files of one stage, as a run was prepared with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StageFiles {
    pub(crate) report: FilesReport,
    /// Pairs that the candidate is judged by.
    pub(crate) held_out: Vec<PreferencePair>,
}

/// The votes' rows, of which those that are held out are kept out of files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Votes<'a> {
    pub(crate) dataset: &'a Dataset,
    pub(crate) rated: &'a [RatedAnswer],
}

impl<'a> Votes<'a> {
    fn held_out(self) -> impl Iterator<Item = &'a [Message]> {
        let pairs = self.dataset.held_out.iter();
        let rated = self.rated.iter().filter(|row| row.split == Split::HeldOut);
        let pairs = pairs.map(|pair| &pair.prompt[..]);
        pairs.chain(rated.map(|row| &row.prompt[..]))
    }
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
    /// like those that are wrong, and so are rows to train that overlap what
    /// other stages hold out of their files (`others`), or what this one holds
    /// out of another file. What is held out does not depend on other stages.
    ///
    /// # Errors
    /// When a file, or an evaluation that rows are held against, cannot be read.
    pub(crate) fn read(
        base: &BaseModel,
        config: &Config,
        votes: Votes<'_>,
        stage: &Stage,
        others: &[PreferencePair],
    ) -> Result<Self, TrainerError> {
        let options = DataOptions {
            base: Some(base),
            tokens_max: stage.training.sequence_tokens_max,
            format: None,
            kinds: Some(kinds(stage)),
            whole_texts: true,
            evaluation: match stage.file.is_empty() {
                true => EvaluationSet::default(),
                false => judged_by(config, votes)?,
            },
        };
        let paths: Vec<PathBuf> = stage.file.iter().map(|file| file.path.clone()).collect();
        let mut checked = check_files(&paths, &options)?;
        checked.refuse(|row| {
            let kind = row.row.kind();
            (!is_of_use(stage, row, kind)).then_some(Problem::OtherKind { kind })
        });
        let hold_out = HoldOut {
            salt: &config.dataset.split_salt,
            share: config.dataset.held_out,
        };
        let pairs: Vec<&SourcedRow> = checked.rows.iter().filter(|row| is_pair(row)).collect();
        let held_out = hold_out.of(&pairs);
        let is_held_out =
            |row: &SourcedRow| stage.kind == StageKind::Dpo && is_pair(row) && held_out(row);
        let mut apart = Apart::from(others);
        if paths.len() > 1 {
            let held_out = checked.rows.iter().filter(|row| is_held_out(row));
            held_out.for_each(|row| apart.add(row));
        }
        checked.report.evaluation_prompts += others.len();
        checked.refuse(|row| {
            let is_trained = !is_held_out(row);
            (is_trained && apart.holds(row)).then_some(Problem::InEvaluation)
        });
        let (held_out, train) = checked.rows.into_iter().partition(is_held_out);
        Ok(Self {
            train,
            held_out,
            report: checked.report,
        })
    }

    /// The held-out rows as the evaluation takes pairs.
    fn held_out_pairs(&self) -> Vec<PreferencePair> {
        let held_out = self.held_out.iter();
        held_out.filter_map(|row| held_out_pair(&row.row)).collect()
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

/// Held-out prompts of files, which no other file and no other stage trains.
struct Apart {
    others: EvaluationSet,
    /// This stage's own, by file.
    own: BTreeMap<PathBuf, EvaluationSet>,
}

impl Apart {
    fn from(others: &[PreferencePair]) -> Self {
        let mut apart = Self {
            others: EvaluationSet::default(),
            own: BTreeMap::new(),
        };
        for pair in others {
            apart.others.add(&pair.prompt);
        }
        apart
    }

    fn add(&mut self, row: &SourcedRow) {
        if let Some(file) = &row.file {
            let own = self.own.entry(file.clone()).or_default();
            own.add(row.row.prompt());
        }
    }

    fn holds(&self, row: &SourcedRow) -> bool {
        let mut own = self.own.iter();
        self.others.holds(&row.row)
            || own.any(|(file, set)| row.file.as_ref() != Some(file) && set.holds(&row.row))
    }
}

/// Reads the files of all stages and writes down what was found in each.
///
/// # Errors
/// As [`StageRows::read`], and when the report cannot be written.
pub(crate) fn prepare(
    base: &BaseModel,
    config: &Config,
    votes: Votes<'_>,
    stages: &[Stage],
    folder: &Path,
) -> Result<Vec<StageFiles>, TrainerError> {
    let with_files = stages.iter().filter(|stage| !stage.file.is_empty()).count();
    // what each holds out, to keep it out of all others
    let held_out = stages.iter().map(|stage| {
        match stage.kind == StageKind::Dpo && !stage.file.is_empty() && with_files > 1 {
            true => Ok(StageRows::read(base, config, votes, stage, &[])?.held_out_pairs()),
            false => Ok(Vec::new()),
        }
    });
    let held_out = held_out.collect::<Result<Vec<_>, TrainerError>>()?;
    let prepare = |(index, stage): (usize, &Stage)| {
        let rows = StageRows::read(base, config, votes, stage, &others(&held_out, index))?;
        if !stage.file.is_empty() {
            let number = index + 1;
            let json = serde_json::to_vec_pretty(&rows.report).unwrap_or_default();
            replace(&folder.join(format!("data-{number}.json")), &json)?;
            log(number, &rows.report);
        }
        Ok(StageFiles {
            report: rows.report(),
            held_out: rows.held_out_pairs(),
        })
    };
    stages.iter().enumerate().map(prepare).collect()
}

/// What all stages but one hold out of their files.
pub(crate) fn others<P: AsRef<[PreferencePair]>>(
    held_out: &[P],
    index: usize,
) -> Vec<PreferencePair> {
    let others = held_out.iter().enumerate();
    let others = others.filter(|(other, _)| *other != index);
    others
        .flat_map(|(_, pairs)| pairs.as_ref())
        .cloned()
        .collect()
}

impl AsRef<[PreferencePair]> for StageFiles {
    fn as_ref(&self) -> &[PreferencePair] {
        &self.held_out
    }
}

fn log(number: usize, report: &DataReport) {
    let (kept, refused) = (report.kept, report.refused);
    tracing::info!("stage {number}: {kept} rows of files, {refused} lines refused");
    for row in report.refused_rows.iter().take(REFUSED_LOGGED_MAX) {
        tracing::warn!("{}:{}: {}", row.path.display(), row.line, row.problem);
    }
}

/// What a stage can learn from.
fn kinds(stage: &Stage) -> &'static [Kind] {
    match stage.kind {
        StageKind::Cpt => &[Kind::Text],
        // of two answers the better one
        StageKind::Sft => &[Kind::Chat, Kind::Reasoning, Kind::Preference],
        StageKind::Dpo if stage.file.iter().all(|file| file.category.is_none()) => {
            &[Kind::Preference]
        }
        // answers beside them
        StageKind::Dpo => &[Kind::Preference, Kind::Chat, Kind::Reasoning],
        StageKind::Kto => &[Kind::Chat, Kind::Reasoning],
    }
}

/// Whether a row of one of the kinds is of use in its file: where preferences are
/// learned, general answers are in files of their own.
fn is_of_use(stage: &Stage, row: &SourcedRow, kind: Kind) -> bool {
    match stage.kind {
        StageKind::Cpt | StageKind::Sft => true,
        StageKind::Dpo | StageKind::Kto => {
            (kind == Kind::Preference) != (stage.category_of(row) == Some(Category::General))
        }
    }
}

fn is_pair(row: &SourcedRow) -> bool {
    row.row.kind() == Kind::Preference
}

/// Every prompt that a candidate will be judged by, but for those of files.
fn judged_by(config: &Config, votes: Votes<'_>) -> Result<EvaluationSet, TrainerError> {
    let mut evaluation = evaluation(config)?;
    votes.held_out().for_each(|prompt| evaluation.add(prompt));
    Ok(evaluation)
}

/// The prompts of the configured evaluations.
pub(crate) fn evaluation(config: &Config) -> Result<EvaluationSet, TrainerError> {
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
    Ok(evaluation)
}

fn message(message: &engine::ChatMessage) -> Message {
    Message::new(message.role.as_str(), message.content.clone())
}
