//! Votes. A 2xx is said only after the write is durable.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use feedback::{NewVote, Value, VoteOutcome};
use ids::{FeedbackId, InferenceId};
use openapi::{
    FeedbackOutcome, FeedbackRequest, FeedbackResponse, FeedbackRetracted, FeedbackValue,
};
use rollout::Arm;

use crate::app::App;
use crate::errors::{ApiError, Thing};
use crate::extract::{Body, Client};

fn value(value: FeedbackValue) -> Value {
    match value {
        FeedbackValue::Thumbs(up) => Value::Thumbs(up),
        FeedbackValue::Rating(rating) => Value::Rating(rating),
        FeedbackValue::Comment(text) => Value::Comment(text),
        FeedbackValue::Demonstration(text) => Value::Demonstration(text),
    }
}

pub(crate) async fn vote(
    app: Data<App>,
    client: Client,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let request = FeedbackRequest::parse(&body.0)?;
    if let Some(caller) = &client.0 {
        caller.budget.charge(0).map_err(ApiError::Limit)?;
    }
    let now = app.clock.now();
    let verify = |token: &String| {
        app.signer
            .verify(token, now)
            .map_err(feedback::FeedbackError::from)
    };
    let attribution = request.token.as_ref().map(verify).transpose()?;
    let inference = request.inference_id.clone();
    let value = value(request.value);
    let vote = NewVote {
        id: request.id,
        inference: inference.clone(),
        rater: request.rater,
        value: value.clone(),
        tags: request.tags,
        attribution,
    };
    let receipt = app.feedback.vote(vote, now).await?;
    let (outcome, supersedes) = match receipt.outcome {
        VoteOutcome::Recorded => (FeedbackOutcome::Recorded, None),
        VoteOutcome::Unchanged => (FeedbackOutcome::Unchanged, None),
        VoteOutcome::Superseded(old) => (FeedbackOutcome::Superseded, Some(old)),
    };
    count(&app, &inference, &value, outcome);
    Ok(HttpResponse::Ok().json(FeedbackResponse {
        feedback_id: receipt.feedback_id,
        outcome,
        supersedes,
        durability: receipt.durability.as_str().to_owned(),
    }))
}

/// Counts a vote, behind the reply, under the version and the arm that made
/// the answer.
fn count(app: &Data<App>, inference: &InferenceId, value: &Value, outcome: FeedbackOutcome) {
    let (metric, said) = match value {
        Value::Thumbs(true) => ("thumbs", "up"),
        Value::Thumbs(false) => ("thumbs", "down"),
        Value::Rating(_) => ("rating", ""),
        Value::Comment(_) => ("comment", ""),
        Value::Demonstration(_) => ("demonstration", ""),
    };
    let word = match outcome {
        FeedbackOutcome::Recorded => "recorded",
        FeedbackOutcome::Unchanged => "unchanged",
        FeedbackOutcome::Superseded => "superseded",
    };
    app.metrics.votes.with_label_values(&[metric, word]).inc();
    if outcome == FeedbackOutcome::Unchanged {
        return;
    }
    let (shared, inference, up) = (app.clone().into_inner(), inference.clone(), said == "up");
    app.tasks.spawn(async move {
        let Ok(Some(record)) = shared.feedback.inference(&inference).await else {
            return;
        };
        let label = shared.metrics.label(record.adapter.as_ref());
        shared
            .metrics
            .adapter_votes
            .with_label_values(&[label.as_str(), metric, said])
            .inc();
        let Some(serving) = shared.serving.get().filter(|_| metric == "thumbs") else {
            return;
        };
        let table = serving.router.table();
        let model = record
            .rollout
            .as_ref()
            .and_then(|model| table.models.get(model.as_str()));
        let Some(trial) = model.and_then(|model| model.trial.as_ref()) else {
            return;
        };
        let arm = match record.arm.as_deref() {
            Some("canary") => Arm::Canary,
            _ => Arm::Stable,
        };
        trial.voted(arm, up);
    });
}

pub(crate) async fn retract(
    app: Data<App>,
    _: Client,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let unknown = || ApiError::not_found(Thing::Feedback, id.as_str());
    let feedback_id: FeedbackId = id.parse().map_err(|_| unknown())?;
    if !app.feedback.retract(&feedback_id, app.clock.now()).await? {
        return Err(unknown());
    }
    Ok(HttpResponse::Ok().json(FeedbackRetracted {
        feedback_id,
        retracted: true,
    }))
}
