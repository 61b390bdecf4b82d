//! Stores a candidate that passed and makes it known.

use std::collections::{BTreeMap, BTreeSet};

use adapter_store::{AdapterFiles, Lineage, Source};
use control::{AuditEntry, ControlError, Expected};
use feedback::pairs::Dataset;
use ids::{AdapterDigest, AliasName, BasisPoints, FeedbackId, ModelName, Sha256Digest};
use rollout::Command;
use serde_json::json;

use crate::TrainerError;
use crate::report::{Report, TrainingReport, Votes};
use crate::services::Services;
use crate::thumbs::RatedAnswer;

/// Who changes the control state.
const ACTOR: &str = "flywheel-trainer";
/// The most votes that a manifest lists, which has a limited size; all of them
/// are in the run's `votes.json` and under [`Votes::digest`].
const VOTES_LISTED_MAX: usize = 1000;
/// How often a write that somebody else overtook is tried again.
const CONFLICTS_MAX: usize = 5;

/// Stores the files with their lineage, points the alias `MODEL/candidate` at
/// them and, if so configured, starts a canary.
pub(crate) async fn publish(
    services: &Services,
    files: &AdapterFiles,
    report: &Report,
    training: &TrainingReport,
    parent: Option<AdapterDigest>,
    model_name: Option<&ModelName>,
) -> Result<AdapterDigest, TrainerError> {
    let extra = [
        ("run_id", json!(report.run_id)),
        ("seed", json!(training.recipe.seed)),
        ("recipe", json!(training.recipe)),
        ("stages", json!(training.stages)),
        ("trial", json!(training.trial)),
        ("tokens", json!(training.tokens)),
        ("gate", json!(report.gate)),
        ("rows", json!(training.rows)),
        ("code_version", json!(crate::CODE_VERSION)),
        ("votes", json!(training.votes)),
    ];
    let lineage = Lineage {
        base: Some(services.base.digest),
        dataset: Some(training.dataset),
        parent,
        evaluation: Some(json!(report.evaluation)),
        created: services.clock.now(),
        source: Source::Trained,
        extra: extra
            .map(|(key, value)| (key.to_owned(), value))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
    };
    let digest = services.adapters.put(files, &lineage).await?;
    let name = model_name.map_or(services.base.name.as_str(), ModelName::as_str);
    let alias = AliasName::new(format!("{name}/candidate")).map_err(|e| TrainerError::Config {
        key: "model_name",
        problem: e.to_string(),
    })?;
    let audit = audit(services, "trainer.publish");
    control::aliases::set(&*services.control, &alias, digest, Expected::Any, audit).await?;
    let share = services.config.publish.initial_basis_points;
    if let (true, Some(name)) = (share > BasisPoints::ZERO, model_name) {
        start_canary(services, name, digest, share).await?;
    }
    Ok(digest)
}

/// The votes behind pairs, praised and rated answers, in their order of name.
pub(crate) fn vote_ids<'a>(dataset: &'a Dataset, rated: &'a [RatedAnswer]) -> BTreeSet<&'a str> {
    let pairs = dataset.train.iter().chain(&dataset.held_out);
    let of_pairs = pairs.flat_map(|pair| &pair.provenance.votes);
    let praised = dataset.upvoted.iter();
    let of_praised = praised.flat_map(|example| &example.provenance.votes);
    let of_rated = rated.iter().flat_map(|answer| &answer.votes);
    let all = of_pairs.chain(of_praised).chain(of_rated);
    all.map(FeedbackId::as_str).collect()
}

/// The same as a manifest tells it.
pub(crate) fn votes(dataset: &Dataset, rated: &[RatedAnswer]) -> Votes {
    let ids = vote_ids(dataset, rated);
    let parts: Vec<(&str, &[u8])> = ids.iter().map(|id| ("vote", id.as_bytes())).collect();
    Votes {
        count: ids.len(),
        digest: Sha256Digest::of_parts(&parts),
        ids: ids
            .into_iter()
            .take(VOTES_LISTED_MAX)
            .map(str::to_owned)
            .collect(),
    }
}

fn audit(services: &Services, action: &str) -> AuditEntry {
    AuditEntry {
        actor: ACTOR.to_owned(),
        action: action.to_owned(),
        at: services.clock.now(),
    }
}

/// Puts the version on trial. A trial that is already running is left alone.
async fn start_canary(
    services: &Services,
    name: &ModelName,
    adapter: AdapterDigest,
    basis_points: BasisPoints,
) -> Result<(), TrainerError> {
    for _ in 0..CONFLICTS_MAX {
        let Some((revision, rollout)) = control::rollouts::get(&*services.control, name).await?
        else {
            tracing::warn!(%name, "no rollout to start a canary in");
            return Ok(());
        };
        // The version's digest is new to this rollout, and so is the salt.
        let new_salt = format!("{}-{}", adapter.short(), services.clock.now().0);
        let command = Command::SetCanary {
            adapter,
            basis_points,
            new_salt,
        };
        let next = match rollout.apply(command, services.clock.now()) {
            Ok(next) if !rollout.in_flight() => next,
            Ok(_) => {
                tracing::warn!(%name, "another canary is on trial; the candidate waits");
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(%name, %error, "the canary was not started");
                return Ok(());
            }
        };
        let audit = audit(services, "trainer.canary");
        let expected = Expected::Revision(revision);
        match control::rollouts::put(&*services.control, &next, expected, audit).await {
            Err(ControlError::Conflict { .. }) => {}
            other => return Ok(other.map(|_| ())?),
        }
    }
    tracing::warn!(%name, "the rollout kept changing; the canary was not started");
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use feedback::Message;
    use feedback::pairs::{PreferencePair, Provenance, Source, Split};
    use ids::{DatasetDigest, InferenceId, RaterId};

    use super::*;

    fn dataset(votes: &[usize]) -> Dataset {
        let pair = |number: &usize| PreferencePair {
            prompt: vec![Message::new("user", "q")],
            chosen: "a".into(),
            rejected: "b".into(),
            split: Split::Train,
            tags: BTreeMap::new(),
            provenance: Provenance {
                inferences: vec![InferenceId::new("answer").unwrap()],
                votes: vec![FeedbackId::new(format!("vote-{number:05}")).unwrap()],
                rater: RaterId::new("rater").unwrap(),
                source: Source::Demonstration,
                adapter: None,
                weight: 1.0,
            },
        };
        Dataset {
            train: votes.iter().map(pair).collect(),
            held_out: Vec::new(),
            upvoted: Vec::new(),
            report: feedback::pairs::Report::default(),
            left_out: Vec::new(),
            digest: DatasetDigest(Sha256Digest::of(b"")),
        }
    }

    #[test]
    fn the_same_votes_have_one_digest_in_any_order() {
        let of = |numbers: &[usize]| votes(&dataset(numbers), &[]);
        assert_eq!(of(&[1, 2, 3]), of(&[3, 1, 2, 2]));
        assert_eq!(of(&[2, 1]).ids, ["vote-00001", "vote-00002"]);
        assert_ne!(of(&[1, 2, 3]).digest, of(&[1, 2]).digest);
    }

    #[test]
    fn votes_on_rated_answers_are_listed_too() {
        let rated = RatedAnswer {
            prompt: Vec::new(),
            answer: "a".into(),
            is_good: false,
            split: Split::Train,
            inferences: vec![InferenceId::new("answer").unwrap()],
            votes: vec![FeedbackId::new("thumb").unwrap()],
        };
        let votes = votes(&dataset(&[1]), &[rated]);
        assert_eq!(votes.ids, ["thumb", "vote-00001"]);
    }

    #[test]
    fn a_manifest_has_room_for_the_votes_that_it_lists() {
        let many: Vec<usize> = (0..VOTES_LISTED_MAX + 1).collect();
        let votes = votes(&dataset(&many), &[]);
        assert_eq!(
            (votes.count, votes.ids.len()),
            (VOTES_LISTED_MAX + 1, VOTES_LISTED_MAX)
        );
    }
}
