//! A run's recipe: stages, each of which goes on from the adapter of the one
//! before.
//!
//! The file's `[[stage]]` tables, with `[training]` as what holds for all of
//! them. Without any, a run is one stage of preference pairs from the votes.

use std::path::{Path, PathBuf};

use model::BaseModel;
use model::lora::{LoraAdapter, LoraConfig};
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::data::SourcedRow;
use crate::mixture::{Category, Mixture};
use crate::train::TrainConfig;

/// Stages of one recipe at most.
pub(crate) const STAGES_MAX: usize = 16;
/// Epochs of one stage at most; a job cannot ask for more either.
const EPOCHS_MAX: usize = 8;
/// Files of one stage at most.
const FILES_MAX: usize = 64;
/// Dropout of stages that imitate, unless the recipe says otherwise.
const IMITATION_DROPOUT: f64 = 0.1;

/// What a stage learns from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageKind {
    /// Plain text, packed to the context.
    Cpt,
    /// Conversations: their answers are imitated.
    Sft,
    /// Preference pairs of the votes and of files, with the loss that
    /// `training` names.
    #[default]
    Dpo,
    /// Thumbs without a counterpart.
    Kto,
}

/// One `[[stage]]` of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// What it learns from.
    pub kind: StageKind,
    /// Material beside the votes; a `kto` stage has only general answers.
    #[serde(default)]
    pub file: Vec<FileSource>,
    /// What of an `sft` stage's material is trained; other stages mix nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixture: Option<Mixture>,
    /// What differs from the file's `[training]`.
    #[serde(default)]
    pub training: toml::Table,
}

/// A file of training material in any format that `data` reads: texts for
/// `cpt`, conversations, reasoning or preferences for `sft`, preferences for
/// `dpo`; of category general, conversations and reasoning also for `dpo` and `kto`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// Where it is.
    pub path: PathBuf,
    /// What it counts as in the mixture; by default reasoning rows are
    /// reasoning, and all others dialogue. `dpo` and `kto` stages know `general`
    /// alone: answers that `training.retention` mixes in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<Category>,
}

/// A stage with everything that holds for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// What it learns from.
    pub kind: StageKind,
    /// Further material.
    pub file: Vec<FileSource>,
    /// What of the material is trained.
    pub mixture: Mixture,
    /// How.
    pub training: TrainConfig,
}

impl Stage {
    /// What the recipe says that the row's file is.
    pub(crate) fn category_of(&self, row: &SourcedRow) -> Option<Category> {
        let mut files = self.file.iter();
        let file = files.find(|file| Some(&file.path) == row.file.as_ref());
        file.and_then(|file| file.category)
    }
}

/// The adapter that training begins with where it continues none.
///
/// # Errors
/// When the recipe's modules do not fit the base.
pub(crate) fn fresh_adapter(
    base: &BaseModel,
    config: &TrainConfig,
) -> Result<LoraAdapter, TrainerError> {
    let mut lora = LoraConfig::uniform(config.lora.rank, config.lora.alpha);
    lora.use_rslora = config.lora.use_rslora;
    lora.dropout = config.lora.dropout as f32;
    lora.target.clone_from(&config.lora.target);
    lora.base_model_name_or_path = Some(base.name.clone());
    Ok(LoraAdapter::new_random(&base.config, &lora, config.seed)?)
}

/// The stages of a file.
///
/// # Errors
/// [`TrainerError::Config`] names what makes no sense.
pub(crate) fn stages(
    training: &TrainConfig,
    stages: &[StageConfig],
) -> Result<Vec<Stage>, TrainerError> {
    training.check()?;
    check_epochs(training)?;
    if stages.is_empty() {
        return Ok(vec![Stage {
            kind: StageKind::Dpo,
            file: Vec::new(),
            mixture: Mixture::default(),
            training: training.clone(),
        }]);
    }
    if stages.len() > STAGES_MAX {
        return Err(wrong(format!(
            "{} stages are more than {STAGES_MAX}",
            stages.len()
        )));
    }
    let all: Vec<Stage> = stages
        .iter()
        .enumerate()
        .map(|(index, stage)| resolve(index, training, stage))
        .collect::<Result<_, _>>()?;
    let shape = |stage: &Stage| {
        let lora = &stage.training.lora;
        (lora.rank, lora.alpha, lora.use_rslora, lora.target.clone())
    };
    if let [first, rest @ ..] = &all[..]
        && rest.iter().any(|stage| shape(stage) != shape(first))
    {
        let problem = "stages train one adapter: rank, alpha and modules are the same in all";
        return Err(wrong(problem.to_owned()));
    }
    Ok(all)
}

/// The recipe of what imitates, which has dropout unless another was set.
pub(crate) fn imitating(mut training: TrainConfig) -> TrainConfig {
    if training.lora.dropout == 0.0 {
        training.lora.dropout = IMITATION_DROPOUT;
    }
    training
}

fn resolve(
    index: usize,
    training: &TrainConfig,
    stage: &StageConfig,
) -> Result<Stage, TrainerError> {
    let at = |problem: String| wrong(format!("stage {}: {problem}", index + 1));
    let mut table = toml::Table::try_from(training).map_err(|e| at(e.to_string()))?;
    merge(&mut table, &stage.training);
    let mut merged: TrainConfig = table.try_into().map_err(|e| at(e.to_string()))?;
    let imitates = matches!(stage.kind, StageKind::Cpt | StageKind::Sft);
    let says_dropout = stage
        .training
        .get("lora")
        .and_then(toml::Value::as_table)
        .is_some_and(|lora| lora.contains_key("dropout"));
    if imitates && !says_dropout {
        merged = imitating(merged);
    }
    let told = |error: TrainerError| match error {
        TrainerError::Config { key, problem } => at(format!("{key}: {problem}")),
        other => at(other.to_string()),
    };
    merged.check().map_err(told)?;
    check_epochs(&merged).map_err(told)?;
    let is_general = |file: &FileSource| file.category == Some(Category::General);
    if stage.kind == StageKind::Kto && !stage.file.iter().all(is_general) {
        let problem = "thumbs come from the votes: a file of a kto stage is of category general";
        return Err(at(problem.to_owned()));
    }
    if stage.file.len() > FILES_MAX {
        return Err(at(format!("has more than {FILES_MAX} files")));
    }
    let mut paths: Vec<&Path> = stage.file.iter().map(|file| file.path.as_path()).collect();
    paths.sort_unstable();
    if let Some(pair) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(at(format!("the file {} is named twice", pair[0].display())));
    }
    let mixture = stage.mixture.unwrap_or_default();
    if let Some(problem) = mixture.problem() {
        return Err(at(problem));
    }
    if stage.kind != StageKind::Sft {
        // neither would change anything
        let kind = format!("{:?}", stage.kind).to_lowercase();
        if stage.mixture.is_some() {
            return Err(at(format!("mixture: a {kind} stage mixes nothing")));
        }
        let replays = stage.file.iter().any(is_general);
        let is_useless = match stage.kind {
            StageKind::Cpt => stage.file.iter().any(|file| file.category.is_some()),
            _ => stage
                .file
                .iter()
                .any(|f| f.category.is_some() && !is_general(f)),
        };
        if is_useless {
            return Err(at(format!("file.category: a {kind} stage mixes nothing")));
        }
        let retention = &merged.retention;
        let unset = match (retention.weight == 0.0, retention.per_micro_batch == 0) {
            _ if !replays => None,
            (true, _) => Some("weight"),
            (_, true) => Some("per_micro_batch"),
            (false, false) => None,
        };
        if let Some(key) = unset {
            return Err(at(format!(
                "training.retention.{key} is 0: nothing of a general file is trained"
            )));
        }
    }
    Ok(Stage {
        kind: stage.kind,
        file: stage.file.clone(),
        mixture,
        training: merged,
    })
}

fn check_epochs(training: &TrainConfig) -> Result<(), TrainerError> {
    match training.epochs {
        epochs if epochs <= EPOCHS_MAX => Ok(()),
        epochs => Err(TrainerError::Config {
            key: "training.epochs",
            problem: format!("{epochs} is more than {EPOCHS_MAX}"),
        }),
    }
}

/// `over` on `table`, key by key, also within tables; but a loss replaces the
/// other with its constants.
fn merge(table: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (table.get_mut(key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(over)) if key != "loss" => {
                merge(inner, over);
            }
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

fn wrong(problem: String) -> TrainerError {
    TrainerError::Config {
        key: "stage",
        problem,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::Config;
    use crate::loss::PreferenceLoss;

    use super::*;

    #[test]
    fn a_file_without_stages_is_one_stage_of_pairs() {
        let config = Config::parse("[training]\nepochs = 4\nbeta = 0.3\n").unwrap();
        let stages = config.stages().unwrap();
        assert_eq!(stages.len(), 1);
        assert_eq!(stages[0].kind, StageKind::Dpo);
        assert_eq!(stages[0].training, config.training);
    }

    #[test]
    fn a_stage_says_what_differs() {
        let config = Config::parse(
            "[training]\nbeta = 0.3\nseed = 9\n[training.lora]\nrank = 8\n\
             [[stage]]\nkind = \"sft\"\n[stage.training]\nlearning_rate = 2e-4\nepochs = 1\n\
             [[stage.file]]\npath = \"reasoning.jsonl\"\ncategory = \"reasoning\"\n\
             [[stage]]\nkind = \"dpo\"\n[stage.training.loss]\ntype = \"robust\"\nlabel_smoothing = 0.1\n",
        )
        .unwrap();
        let stages = config.stages().unwrap();
        let (sft, dpo) = (&stages[0], &stages[1]);
        assert_eq!(
            (sft.training.epochs, dpo.training.epochs),
            (1, config.training.epochs)
        );
        assert_eq!((sft.training.seed, sft.training.lora.rank), (9, 8));
        assert!((sft.training.lora.dropout - 0.1).abs() < 1e-12);
        assert!(dpo.training.lora.dropout == 0.0);
        assert_eq!(
            dpo.training.loss,
            PreferenceLoss::Robust {
                label_smoothing: 0.1
            }
        );
        assert_eq!(sft.file[0].category, Some(Category::Reasoning));
    }

    #[test]
    fn nonsense_is_refused() {
        let stage = "[[stage]]\nkind = \"dpo\"\n";
        for bad in [
            "[[stage]]\nkind = \"rlhf\"".to_owned(),
            format!("{stage}[stage.training]\nepochs = 0"),
            format!("{stage}[stage.training]\nepoch = 1"),
            "[[stage]]\nkind = \"kto\"\n[[stage.file]]\npath = \"x\"".to_owned(),
            format!("{stage}[stage.mixture]\nreasoning = -1.0"),
            format!("{stage}{stage}[stage.training.lora]\nrank = 4"),
            stage.repeat(STAGES_MAX + 1),
        ] {
            assert!(Config::parse(&bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn epochs_have_a_limit_and_only_sft_mixes() {
        let refused = |text: &str| Config::parse(text).unwrap_err().to_string();
        assert!(Config::parse("[training]\nepochs = 8").is_ok());
        for text in [
            "[training]\nepochs = 9",
            "[[stage]]\nkind = \"sft\"\n[stage.training]\nepochs = 9",
        ] {
            assert!(refused(text).contains("9 is more than 8"), "{text}");
        }
        let of = |kind: &str| format!("[[stage]]\nkind = {kind:?}\n");
        let mixture = "[stage.mixture]\ngeneral = 0.2\n";
        let category = "[[stage.file]]\npath = \"a\"\ncategory = \"general\"\n";
        assert!(Config::parse(&format!("{}{category}{mixture}", of("sft"))).is_ok());
        let replay = "[stage.training.retention]\nweight = 1.0\n";
        for kind in ["dpo", "kto"] {
            let of_general = format!("{}{category}", of(kind));
            let problem = refused(&of_general);
            assert!(problem.contains("retention.weight is 0"), "{problem}");
            let none = format!("{of_general}{replay}per_micro_batch = 0\n");
            assert!(refused(&none).contains("retention.per_micro_batch is 0"));
            assert!(Config::parse(&format!("{of_general}{replay}")).is_ok());
        }
        for kind in ["cpt", "dpo", "kto"] {
            let problem = refused(&format!("{}{mixture}", of(kind)));
            let named = format!("mixture: a {kind} stage mixes nothing");
            assert!(problem.contains(&named), "{problem}");
        }
        let twice = format!(
            "{}{category}{}",
            of("sft"),
            category.replace("general", "dialogue")
        );
        assert!(refused(&twice).contains("the file a is named twice"));
        let reasoning = category.replace("general", "reasoning");
        let problem = refused(&format!("{}{reasoning}{replay}", of("dpo")));
        assert!(problem.contains("file.category"), "{problem}");
    }
}
