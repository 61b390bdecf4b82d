//! A candidate's whole evaluation: log-probabilities by the trainer's forward
//! pass, answers by the serving engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adapter_store::AdapterFiles;
use engine::AdapterPackage;
use engine::native::{NativeEngine, NativeOptions};
use feedback::pairs::PreferencePair;
use ids::AdapterDigest;
use model::BaseModel;
use model::lora::LoraAdapter;

use super::measure::measure;
use super::{
    Comparison, Evaluation, Generator, HeldOutPrompt, PreferenceScores, RatedScore, RatedScores,
    TaskSet, compare, held_out, preference, rated, read_replay, read_tasks, replay,
};
use crate::config::EvalConfig;
use crate::examples::{encode_pairs, encode_task_pair, held_out_prompts};
use crate::train::{Items, PairScore, RatedExample, TrainConfig, score, sums};
use crate::{FrozenModel, Parameters, Place, TrainerError};

/// The score of each task's pair, for tasks that have one.
type TaskPairs = Vec<Option<PairScore>>;
type Answered = (
    Option<super::HeldOut>,
    Option<super::Replay>,
    Option<Comparison>,
);

/// What is compared with what.
pub struct Subject<'a> {
    /// The version that is served now; none is the bare base.
    pub incumbent: Option<&'a AdapterFiles>,
    /// The version that wants to be.
    pub candidate: &'a AdapterFiles,
    /// Pairs that were not trained.
    pub held_out: &'a [PreferencePair],
    /// Prompts that were not trained, where there are no pairs.
    pub prompts: &'a [HeldOutPrompt],
    /// Answers that were called good or bad and not trained, where such were.
    pub rated: &'a [RatedExample],
}

/// How and with what to measure.
pub struct Assessor {
    /// The served base.
    pub base: Arc<BaseModel>,
    /// Replay set and length of answers.
    pub eval: EvalConfig,
    /// Packing limits.
    pub training: TrainConfig,
    /// Threads that compute; 0 takes as many as there are CPUs.
    pub threads: usize,
    /// Where log-probabilities are computed.
    pub place: Place,
    /// Where answers are kept for the next evaluation.
    pub cache: Option<PathBuf>,
}

impl Assessor {
    /// Measures `subject`.
    ///
    /// # Errors
    /// When an adapter is unusable, the engine fails or the replay set cannot
    /// be read.
    pub async fn assess(&self, subject: &Subject<'_>) -> Result<Evaluation, TrainerError> {
        let base = &self.base;
        let candidate = self.adapter(subject.candidate)?;
        let incumbent = subject
            .incumbent
            .map(|files| self.adapter(files))
            .transpose()?;
        let tasks = self.tasks()?;
        let pairs = self
            .pair_scores(&tasks, incumbent.clone(), candidate.clone())
            .await?;
        let incumbent_for_rated = incumbent.clone();
        let preference = self
            .preference(incumbent, candidate.clone(), subject.held_out)
            .await?;
        let rated = self
            .rated(
                subject.rated,
                [incumbent_for_rated, Some(candidate.clone())],
            )
            .await?;
        let options = NativeOptions {
            threads: self.threads,
            ..NativeOptions::default()
        };
        let engine = Arc::new(NativeEngine::start(Arc::clone(base), options)?);
        let generator = Generator::new(
            Arc::clone(&engine) as Arc<dyn engine::Engine>,
            self.eval.answer_tokens_max,
            self.cache.clone(),
        );
        let measured = self.answers(&generator, subject, &tasks, &pairs).await;
        engine.shutdown().await;
        let (held_out, replay, tasks) = measured?;
        let digest = subject.candidate.digest();
        let changes = candidate
            .modules
            .values()
            .any(|pair| pair.b.iter().any(|b| *b != 0.0));
        if preference.as_ref().is_some_and(|scores| scores.displaced) {
            tracing::warn!("the chosen answers lost likelihood (displacement)");
        }
        Ok(Evaluation {
            tasks,
            foreign_base: None,
            held_out,
            rated,
            preference,
            replay,
            finite: candidate
                .modules
                .values()
                .all(|pair| pair.a.iter().chain(&pair.b).all(|value| value.is_finite())),
            changed: changes
                && subject
                    .incumbent
                    .is_none_or(|files| files.digest() != digest),
        })
    }

    fn adapter(&self, files: &AdapterFiles) -> Result<LoraAdapter, TrainerError> {
        let config = &self.base.config;
        Ok(LoraAdapter::from_peft(
            &files.config_json,
            &files.safetensors,
            config,
        )?)
    }

    /// How base, incumbent and candidate rank the held-out pairs.
    async fn preference(
        &self,
        incumbent: Option<LoraAdapter>,
        candidate: LoraAdapter,
        pairs: &[PreferencePair],
    ) -> Result<Option<PreferenceScores>, TrainerError> {
        let tokens_max = self.training.sequence_tokens_max;
        let (encoded, _) = encode_pairs(&self.base, pairs, tokens_max)?;
        if encoded.is_empty() {
            return Ok(None);
        }
        let (base, rows) = (Arc::clone(&self.base), self.training.pack_rows_max);
        let (place, seed) = (self.place.clone(), self.eval.seed);
        crate::compute(self.threads, move || {
            let model = FrozenModel::on(&place, &base.weights, &base.config, tokens_max)?;
            let of = |adapter: Option<&LoraAdapter>| {
                let parameters = adapter.map(Parameters::from_adapter).transpose()?;
                score(&model, parameters.as_ref(), &encoded, rows)
            };
            let (of_base, of_candidate) = (of(None)?, of(Some(&candidate))?);
            let of_incumbent = match &incumbent {
                None => of_base.clone(),
                Some(adapter) => of(Some(adapter))?,
            };
            Ok(Some(preference(
                &of_base,
                &of_incumbent,
                &of_candidate,
                seed,
            )))
        })
        .await
    }

    /// Log-probabilities of rated answers under two versions.
    async fn rated(
        &self,
        answers: &[RatedExample],
        versions: [Option<LoraAdapter>; 2],
    ) -> Result<Option<RatedScores>, TrainerError> {
        if answers.is_empty() {
            return Ok(None);
        }
        // a stage may have taken longer ones than the recipe's common limit
        let lengths = answers.iter().map(|answer| answer.sequence.tokens.len());
        let tokens_max = lengths.fold(1, usize::max);
        let items = Items::Rated(answers.to_vec());
        let (base, rows) = (Arc::clone(&self.base), self.training.pack_rows_max);
        let place = self.place.clone();
        let scores = crate::compute(self.threads, move || {
            let model = FrozenModel::on(&place, &base.weights, &base.config, tokens_max)?;
            let of = |adapter: &Option<LoraAdapter>| {
                let parameters = adapter.as_ref().map(Parameters::from_adapter).transpose()?;
                sums(&model, parameters.as_ref(), &items, rows)
            };
            let [before, after] = [of(&versions[0])?, of(&versions[1])?];
            let Items::Rated(answers) = &items else {
                return Ok(Vec::new());
            };
            let each = answers.iter().zip(before.of.iter().zip(&after.of));
            let score =
                |(answer, (before, after)): (&RatedExample, (&Vec<f64>, &Vec<f64>))| RatedScore {
                    is_good: answer.is_good,
                    tokens: answer.sequence.completion_len(),
                    before: before[0],
                    after: after[0],
                };
            Ok(each.map(score).collect())
        })
        .await?;
        Ok(Some(rated(&scores, self.eval.seed)))
    }

    async fn answers(
        &self,
        generator: &Generator,
        subject: &Subject<'_>,
        tasks: &TaskSet,
        pairs: &[TaskPairs; 3],
    ) -> Result<Answered, TrainerError> {
        let mut digests: [Option<AdapterDigest>; 2] = [None, None];
        let both = [subject.incumbent, Some(subject.candidate)];
        for (files, digest) in both.into_iter().zip(&mut digests) {
            let Some(files) = files else { continue };
            let package = AdapterPackage {
                digest: files.digest(),
                config_json: files.config_json.clone(),
                safetensors: files.safetensors.clone(),
            };
            *digest = Some(package.digest);
            generator.load(package).await?;
        }
        let [incumbent, candidate] = digests;
        let mut prompts = held_out_prompts(subject.held_out);
        prompts.extend_from_slice(subject.prompts);
        let seed = self.eval.seed;
        let judged = match prompts.is_empty() {
            true => None,
            false => Some(held_out(generator, &prompts, incumbent, candidate, seed).await?),
        };
        let replayed = match self.eval.replay.as_deref().map(Path::new) {
            Some(path) => {
                let prompts = read_replay(path)?;
                Some(replay(generator, &prompts, incumbent, candidate, seed).await?)
            }
            None => None,
        };
        let compared = match tasks.tasks.is_empty() {
            true => None,
            false => {
                let versions = [None, incumbent, candidate];
                Some(self.compared(generator, tasks, versions, pairs).await?)
            }
        };
        Ok((judged, replayed, compared))
    }

    /// The tasks of all evaluation files.
    fn tasks(&self) -> Result<TaskSet, TrainerError> {
        let mut all = TaskSet::default();
        for path in &self.eval.tasks {
            all.tasks.extend(read_tasks(path)?.tasks);
        }
        Ok(all)
    }

    async fn compared(
        &self,
        generator: &Generator,
        tasks: &TaskSet,
        versions: [Option<AdapterDigest>; 3],
        pairs: &[TaskPairs; 3],
    ) -> Result<Comparison, TrainerError> {
        let [base, incumbent, candidate] = versions;
        let of_base = measure(generator, tasks, base, &pairs[0]).await?;
        let of_incumbent = measure(generator, tasks, incumbent, &pairs[1]).await?;
        let of_candidate = measure(generator, tasks, candidate, &pairs[2]).await?;
        let mut compared = compare(
            &of_base.measured,
            &of_incumbent.measured,
            &of_candidate.measured,
            self.eval.seed,
        );
        compared.latency_seconds_median =
            [of_base, of_incumbent, of_candidate].map(|done| done.latency_seconds_median);
        Ok(compared)
    }

    /// Log-probabilities of the tasks' pairs under base, incumbent and
    /// candidate; a pair that is too long has none.
    async fn pair_scores(
        &self,
        tasks: &TaskSet,
        incumbent: Option<LoraAdapter>,
        candidate: LoraAdapter,
    ) -> Result<[TaskPairs; 3], TrainerError> {
        let tokens_max = self.training.sequence_tokens_max;
        let mut places = Vec::new();
        let mut encoded = Vec::new();
        for (index, task) in tasks.tasks.iter().enumerate() {
            if let Some(pair) = encode_task_pair(&self.base, task, tokens_max)? {
                places.push(index);
                encoded.push(pair);
            }
        }
        let count = tasks.tasks.len();
        if encoded.is_empty() {
            return Ok(std::array::from_fn(|_| vec![None; count]));
        }
        let (base, rows) = (Arc::clone(&self.base), self.training.pack_rows_max);
        let place = self.place.clone();
        crate::compute(self.threads, move || {
            let model = FrozenModel::on(&place, &base.weights, &base.config, tokens_max)?;
            let of = |adapter: Option<&LoraAdapter>| -> Result<TaskPairs, TrainerError> {
                let parameters = adapter.map(Parameters::from_adapter).transpose()?;
                let scores = score(&model, parameters.as_ref(), &encoded, rows)?;
                let mut placed = vec![None; count];
                for (place, score) in places.iter().zip(scores) {
                    placed[*place] = Some(score);
                }
                Ok(placed)
            };
            Ok([of(None)?, of(incumbent.as_ref())?, of(Some(&candidate))?])
        })
        .await
    }
}
