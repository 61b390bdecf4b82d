//! What a job leaves for its owner to read: the figures of its steps, and what
//! the gate saw, whether or not it let the outcome pass.

use bytes::Bytes;
use fine_tuning::{FineTuningError, Job, Method, Purpose, Transition};
use ids::{AdapterDigest, BaseDigest, DatasetDigest, FileId, JobId, UnixMillis};
use serde::Serialize;
use serde_json::Value;

use super::taken_back;
use crate::TrainerError;
use crate::evaluate::{Evaluation, GateConfig};
use crate::services::Services;
use crate::train::{Curve, EpochMetrics, StepMetrics, TrainConfig};

/// What the files are called.
const STEPS_NAME: &str = "step_metrics.csv";
const REPORT_NAME: &str = "evaluation.json";
/// OpenAI's columns. The accuracy is of tokens, which training does not measure.
const COLUMNS: &str = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy";
/// What preferences have beside them.
const PREFERENCE_COLUMNS: &str = ",train_rewards_accuracy,valid_rewards_accuracy";

/// What the gate saw.
#[derive(Serialize)]
pub(super) struct JobReport<'a> {
    pub(super) job: &'a JobId,
    pub(super) at: UnixMillis,
    pub(super) passed: bool,
    /// Why it was refused.
    pub(super) reasons: &'a [String],
    pub(super) base: BaseDigest,
    /// What training went on from, and what had to be beaten.
    pub(super) start: Option<AdapterDigest>,
    pub(super) candidate: AdapterDigest,
    pub(super) dataset: DatasetDigest,
    /// Rows that were left out.
    pub(super) left_out: Option<&'a str>,
    pub(super) recipe: &'a TrainConfig,
    /// The epoch that was taken, and its validation.
    pub(super) epoch: usize,
    pub(super) held_out: Option<&'a EpochMetrics>,
    pub(super) tokens: u64,
    pub(super) gate: &'a GateConfig,
    pub(super) evaluation: &'a Evaluation,
    pub(super) code_version: &'a str,
}

/// The figures of a job's steps.
#[derive(Debug, Default)]
pub(super) struct Steps {
    steps: Vec<Step>,
    validations: Vec<EpochMetrics>,
}

#[derive(Debug)]
struct Step {
    number: u64,
    /// Epochs done.
    epoch: f64,
    loss: f64,
    rewards_accuracy: f64,
}

impl Steps {
    /// What was reported up to a checkpoint.
    pub(super) fn of(curve: &Curve) -> Self {
        let step = |line: &str| Step::read(&serde_json::from_str::<Value>(line).ok()?);
        let validation = |line: &str| serde_json::from_str::<EpochMetrics>(line).ok();
        Self {
            steps: curve.steps.lines().filter_map(step).collect(),
            validations: curve.epochs.lines().filter_map(validation).collect(),
        }
    }

    pub(super) fn step(&mut self, metrics: &StepMetrics) {
        self.steps.push(Step {
            number: metrics.step as u64,
            epoch: metrics.epoch,
            loss: metrics.loss,
            rewards_accuracy: metrics.rewards_accuracies,
        });
    }

    pub(super) fn epoch(&mut self, metrics: &EpochMetrics) {
        self.validations.push(metrics.clone());
    }

    /// A line for each step; that of an epoch's last step has its validation.
    pub(super) fn csv(&self, method: Method) -> String {
        let mut csv = COLUMNS.to_owned();
        if method == Method::Dpo {
            csv.push_str(PREFERENCE_COLUMNS);
        }
        csv.push('\n');
        for step in &self.steps {
            csv.push_str(&step.cells(method, self.validation(step)).join(","));
            csv.push('\n');
        }
        csv
    }

    fn validation(&self, step: &Step) -> Option<&EpochMetrics> {
        let mut validations = self.validations.iter();
        validations.find(|validation| (validation.epoch as f64 - step.epoch).abs() < 1e-9)
    }
}

impl Step {
    /// A line of the curve.
    fn read(line: &Value) -> Option<Self> {
        let number = |key: &str| line.get(key).and_then(Value::as_f64);
        Some(Self {
            number: line.get("step").and_then(Value::as_u64)?,
            epoch: number("epoch")?,
            loss: number("loss")?,
            rewards_accuracy: number("rewards/accuracies").unwrap_or_default(),
        })
    }

    fn cells(&self, method: Method, validation: Option<&EpochMetrics>) -> Vec<String> {
        let of = |value: fn(&EpochMetrics) -> f64| {
            let value = validation.map(value);
            value.map(|value| value.to_string()).unwrap_or_default()
        };
        let mut cells = vec![
            self.number.to_string(),
            self.loss.to_string(),
            String::new(),
            of(|validation| validation.loss),
        ];
        match method {
            Method::Supervised => cells.push(of(|validation| validation.token_accuracy)),
            // the tokens of an answer that is only preferred need not be likely
            Method::Dpo => cells.extend([
                String::new(),
                self.rewards_accuracy.to_string(),
                of(|validation| validation.accuracy),
            ]),
        }
        cells
    }
}

/// Writes the files and names them in the job, in place of those of an earlier
/// judgement. What cannot be written is no reason to throw the outcome away.
///
/// # Errors
/// [`TrainerError::Stopped`] where the job's owner took it back, and the stores'.
pub(super) async fn keep(
    services: &Services,
    job: &Job,
    steps: &str,
    report: &JobReport<'_>,
) -> Result<(), TrainerError> {
    let report = serde_json::to_vec_pretty(report).unwrap_or_default();
    let mut written = Vec::new();
    for (name, content) in [
        (STEPS_NAME, Bytes::from(steps.to_owned())),
        (REPORT_NAME, Bytes::from(report)),
    ] {
        match write(services, name, content).await {
            Ok(file) => written.push(file),
            Err(error) => tracing::warn!(job = %job.id, %error, "{name} was not kept"),
        }
    }
    let (jobs, now) = (&services.tuning.jobs, services.clock.now());
    let results = Transition::Results(written.clone());
    let named = jobs.transition(&job.id, results, now).await;
    let nameless: &[FileId] = match &named {
        Ok(_) => &job.result_files,
        Err(FineTuningError::Impossible { .. } | FineTuningError::NoJob(_)) => &written,
        // the job may name them all the same
        Err(_) => &[],
    };
    for file in nameless {
        remove(services, file).await;
    }
    named.map(drop).map_err(taken_back)
}

async fn write(services: &Services, name: &str, content: Bytes) -> Result<FileId, FineTuningError> {
    let (files, now) = (&services.tuning.files, services.clock.now());
    let mut upload = files.begin(name, Purpose::FineTuneResults, now).await?;
    if let Err(error) = upload.write(content).await {
        upload.abort().await;
        return Err(error);
    }
    Ok(upload.finish(now).await?.id)
}

/// Removes a file that no job names; its owner may have done so already.
async fn remove(services: &Services, file: &FileId) {
    match services.tuning.files.delete(file).await {
        Ok(()) | Err(FineTuningError::NoFile(_)) => {}
        Err(error) => tracing::warn!(%file, %error, "an old result was not removed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epochs_last_step_has_its_validation() {
        let (mut reported, mut curve) = (Steps::default(), Curve::default());
        for (number, epoch) in [(1, 0.5), (2, 1.0), (3, 1.5)] {
            let step = StepMetrics {
                step: number,
                epoch,
                loss: 0.25 * number as f64,
                rewards_accuracies: 0.75,
                ..StepMetrics::default()
            };
            reported.step(&step);
            curve.steps += &format!("{}\n", serde_json::json!(step));
        }
        let validation = EpochMetrics {
            epoch: 1,
            accuracy: 1.0,
            token_accuracy: 0.125,
            loss: 0.375,
            ..EpochMetrics::default()
        };
        reported.epoch(&validation);
        curve.epochs += &format!("{}\n", serde_json::json!(validation));
        // of a run that goes on the same
        for steps in [reported, Steps::of(&curve)] {
            let csv = steps.csv(Method::Supervised);
            let lines: Vec<&str> = csv.lines().collect();
            assert_eq!(
                lines,
                [COLUMNS, "1,0.25,,,", "2,0.5,,0.375,0.125", "3,0.75,,,"]
            );
            let csv = steps.csv(Method::Dpo);
            let lines: Vec<&str> = csv.lines().skip(1).collect();
            assert_eq!(
                lines,
                ["1,0.25,,,,0.75,", "2,0.5,,0.375,,0.75,1", "3,0.75,,,,0.75,"]
            );
        }
    }
}
