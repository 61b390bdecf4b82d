//! Trains a recipe: one stage after another, each from the adapter that the
//! one before it made, which is also its reference.
//!
//! Each stage has a folder of its own in the run's, with its checkpoint, its
//! curve and, once it is done, its adapter: a run that goes on takes that
//! instead of training it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::lora::LoraAdapter;
use serde_json::json;

use crate::checkpoints::CheckpointFile;
use crate::curves::{self, Curves};
use crate::journal::{append, replace};
use crate::planned::planned;
use crate::prepared::Prepared;
use crate::recipe::{Stage, fresh_adapter};
use crate::report::{Computed, StageReport};
use crate::services::Services;
use crate::stage_data::StageData;
use crate::stage_files::{StageRows, others};
use crate::train::{
    Curve, EpochMetrics, Job, Observer, StepMetrics, Trained, parameter_report, train_with,
};
use crate::{Parameters, TrainerError};

/// A trained recipe.
pub(crate) struct TrainedRecipe {
    pub(crate) adapter: LoraAdapter,
    pub(crate) stages: Vec<StageReport>,
}

/// Trains the stages that are not done yet.
pub(crate) async fn train_stages(
    services: &Services,
    folder: &Path,
    prepared: &Arc<Prepared>,
    stop: &Arc<AtomicBool>,
) -> Result<TrainedRecipe, TrainerError> {
    let mut adapter = None;
    let mut reports = Vec::new();
    for (index, stage) in prepared.stages.iter().enumerate() {
        let folder = stage_folder(folder, index, prepared.stages.len());
        std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
        if let Some((done, report)) = finished(services, &folder)? {
            adapter = Some(done);
            reports.push(report);
            continue;
        }
        let start = match adapter.take() {
            Some(before) => before,
            None => fresh_adapter(&services.base, &stage.training)?,
        };
        let work = Work {
            services: services.clone(),
            folder,
            stage: stage.clone(),
            prepared: Arc::clone(prepared),
            index,
        };
        let stop = Arc::clone(stop);
        let threads = services.config.threads;
        let (trained, report) = crate::compute(threads, move || work.train(&start, &stop)).await?;
        adapter = Some(trained.adapter);
        reports.push(report);
    }
    let adapter = adapter.ok_or_else(|| TrainerError::NotEnoughData("no stage".to_owned()))?;
    Ok(TrainedRecipe {
        adapter,
        stages: reports,
    })
}

/// The only stage of a run has no folder of its own.
fn stage_folder(folder: &Path, index: usize, stages: usize) -> PathBuf {
    match stages {
        1 => folder.to_owned(),
        _ => folder.join(format!("stage-{}", index + 1)),
    }
}

/// The adapter of a stage that is done.
fn finished(
    services: &Services,
    folder: &Path,
) -> Result<Option<(LoraAdapter, StageReport)>, TrainerError> {
    let path = folder.join("stage.json");
    let report = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TrainerError::file(&path)(error)),
    };
    let report = serde_json::from_slice(&report).map_err(|error| TrainerError::Content {
        path,
        line: error.line(),
        problem: error.to_string(),
    })?;
    let read = |name: &str| {
        let path = folder.join("done").join(name);
        std::fs::read(&path).map_err(TrainerError::file(&path))
    };
    let (config, weights) = (
        read("adapter_config.json")?,
        read("adapter_model.safetensors")?,
    );
    let adapter = LoraAdapter::from_peft(&config, &weights, &services.base.config)?;
    Ok(Some((adapter, report)))
}

/// One stage.
struct Work {
    services: Services,
    folder: PathBuf,
    stage: Stage,
    prepared: Arc<Prepared>,
    /// Which of the prepared stages it is.
    index: usize,
}

impl Work {
    fn train(
        &self,
        start: &LoraAdapter,
        stop: &AtomicBool,
    ) -> Result<(Trained, StageReport), TrainerError> {
        let (base, config) = (&self.services.base, &self.stage.training);
        let rows = self.rows()?;
        let data = StageData::collect(base, &self.prepared, &self.stage, &rows)?;
        let model = self.services.frozen_model(config.sequence_tokens_max)?;
        let parameters = parameter_report(&model, &Parameters::from_adapter(start)?);
        tracing::info!("{:?}: {parameters}", self.stage.kind);
        if let Some(drawn) = &data.drawn {
            tracing::info!("mixture: {}", json!(drawn));
        }
        let config = &planned(&self.services, &self.folder, start, &data.examples, config)?;
        let job = Job {
            model: &model,
            base: base.digest,
            start,
            examples: &data.examples,
            config,
        };
        let mut checkpoints = CheckpointFile::new(&self.folder, config.checkpoint_every_steps);
        let mut observer = Teller {
            services: &self.services,
            folder: &self.folder,
            curves: Curves::default(),
            best: None,
        };
        let result = train_with(job, &mut checkpoints, &mut observer, stop);
        observer.draw();
        if let Err(failed) = &result
            && let Some(adapter) = &failed.last_good
            && let Err(error) = self.keep(adapter, "last_good")
        {
            tracing::warn!(%error, "the last good epoch's adapter was not kept");
        }
        let trained = result?;
        self.keep(&trained.adapter, "done")?;
        let report = StageReport {
            stage: self.stage.clone(),
            computed: Some(Computed::here(config)),
            examples: [data.examples.train.len(), data.examples.validation.len()],
            retained: data.examples.retained.len(),
            too_long: data.too_long,
            files: rows.report(),
            drawn: data.drawn,
            epoch: trained.epoch,
            held_out: observer.best.take(),
            tokens: trained.tokens,
            seconds: trained.seconds,
        };
        let json = serde_json::to_vec_pretty(&report).unwrap_or_default();
        replace(&self.folder.join("stage.json"), &json)?;
        checkpoints.forget()?;
        Ok((trained, report))
    }

    /// The rows of the stage's files, as long as they are still those that the
    /// run was prepared with.
    fn rows(&self) -> Result<StageRows, TrainerError> {
        let (base, config) = (&self.services.base, &self.services.config);
        let (prepared, index) = (&self.prepared, self.index);
        let others = others(&prepared.files, index);
        let rows = StageRows::read(base, config, prepared.votes(), &self.stage, &others)?;
        match prepared.files.get(index).map(|files| files.report.digest) {
            Some(digest) if digest != rows.report.digest => Err(TrainerError::Config {
                key: "stage.file",
                problem: "the files have other rows than when the run was prepared".to_owned(),
            }),
            _ => Ok(rows),
        }
    }

    /// Writes an adapter into a folder of the stage's.
    fn keep(&self, adapter: &LoraAdapter, name: &str) -> Result<(), TrainerError> {
        let files = adapter.to_peft(&self.services.base.config)?;
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
        replace(&folder.join("adapter_config.json"), &files.config_json)?;
        replace(
            &folder.join("adapter_model.safetensors"),
            &files.safetensors,
        )
    }
}

/// Writes a stage's progress down as it happens.
struct Teller<'a> {
    services: &'a Services,
    folder: &'a Path,
    curves: Curves,
    /// What is held out, after the best epoch so far.
    best: Option<EpochMetrics>,
}

impl Teller<'_> {
    fn warn(result: Result<(), TrainerError>) {
        // Progress that cannot be told is no reason to throw a run away.
        if let Err(error) = result {
            tracing::warn!(%error, "progress was not written");
        }
    }

    fn draw(&self) {
        if let Some(svg) = self.curves.svg() {
            let path = self.folder.join(curves::FILE_NAME);
            Self::warn(replace(&path, svg.as_bytes()));
        }
    }
}

impl Observer for Teller<'_> {
    fn step(&mut self, metrics: &StepMetrics) {
        let now = self.services.clock.now();
        Self::warn(self.services.journal.step(self.folder, metrics, now));
        self.curves.step(metrics);
    }

    fn epoch(&mut self, metrics: &EpochMetrics) {
        tracing::info!(
            "epoch {}: held-out accuracy {:.2}, margin {:.3}, exact match {:.2}, loss {:.4}",
            metrics.epoch,
            metrics.accuracy,
            metrics.margin,
            metrics.exact_match,
            metrics.loss
        );
        let now = self.services.clock.now();
        let journal = &self.services.journal;
        Self::warn(journal.event(now, "epoch", json!(metrics)));
        if let Some(problem) = metrics.displacement() {
            tracing::warn!("{problem}");
            let lost = -metrics.chosen_shift_per_token;
            let detail = json!({ "epoch": metrics.epoch, "lost_per_token": lost });
            Self::warn(journal.event(now, "displacement_in_training", detail));
        }
        let line = json!(metrics).to_string();
        Self::warn(append(&self.folder.join("epochs.jsonl"), &line));
        if metrics.best {
            self.best = Some(metrics.clone());
        }
        self.curves.epoch(metrics);
        self.draw();
    }

    fn resumed(&mut self, curve: &Curve) {
        let write = |name: &str, text: &str| replace(&self.folder.join(name), text.as_bytes());
        Self::warn(write("steps.jsonl", &curve.steps));
        Self::warn(write("epochs.jsonl", &curve.epochs));
        self.curves = Curves::of(curve);
        self.best = curve.best();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn displacement_is_told_as_soon_as_it_is_measured() {
        let data = tempfile::tempdir().unwrap();
        let services = crate::tests::services(data.path(), "").await;
        let mut teller = Teller {
            services: &services,
            folder: data.path(),
            curves: Curves::default(),
            best: None,
        };
        for (epoch, chosen_shift_per_token) in [(1, 0.25), (2, -0.25)] {
            teller.epoch(&EpochMetrics {
                epoch,
                chosen_shift_per_token,
                ..EpochMetrics::default()
            });
        }
        let events = std::fs::read_to_string(data.path().join("trainer/events.jsonl")).unwrap();
        let told: Vec<&str> = events
            .lines()
            .filter(|e| e.contains("displacement_in"))
            .collect();
        assert_eq!(told.len(), 1, "{events}");
        assert!(told[0].contains("\"epoch\":2") && told[0].contains("0.25"));
    }
}
