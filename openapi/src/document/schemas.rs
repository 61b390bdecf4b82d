//! The schemas of everything that goes over the wire.

use utoipa::ToSchema;
use utoipa::openapi::{Components, ComponentsBuilder, RefOr, Schema};

use crate::{
    AdapterCard, AdapterList, AdapterLoad, AliasCard, AliasList, AliasPut, AuditList, ChatChunk,
    ChatCompletion, ChatCompletionBody, ErrorBody, FeedbackExportRow, FeedbackRequest,
    FeedbackResponse, FeedbackRetracted, FileDeleted, FileList, FineTuningCheckpointList,
    FineTuningEventList, FineTuningJob, FineTuningJobBody, FineTuningJobList, KillRequest,
    KillState, LoadLoraAdapter, ModelCard, ModelList, RolloutAbort, RolloutAnalysis, RolloutList,
    RolloutPut, RolloutResource, TrainingFile, TrainingFileUpload, UnloadLoraAdapter,
};

/// A component for each wire type that a route names, and for those inside.
pub(super) fn components() -> ComponentsBuilder {
    let mut all = Vec::new();
    add::<ErrorBody>(&mut all);
    add::<ChatCompletionBody>(&mut all);
    add::<ChatCompletion>(&mut all);
    add::<ChatChunk>(&mut all);
    add::<ModelList>(&mut all);
    add::<ModelCard>(&mut all);
    add::<FeedbackRequest>(&mut all);
    add::<FeedbackResponse>(&mut all);
    add::<FeedbackRetracted>(&mut all);
    add::<FeedbackExportRow>(&mut all);
    add::<TrainingFile>(&mut all);
    add::<TrainingFileUpload>(&mut all);
    add::<FileList>(&mut all);
    add::<FileDeleted>(&mut all);
    add::<FineTuningJobBody>(&mut all);
    add::<FineTuningJob>(&mut all);
    add::<FineTuningJobList>(&mut all);
    add::<FineTuningEventList>(&mut all);
    add::<FineTuningCheckpointList>(&mut all);
    add::<LoadLoraAdapter>(&mut all);
    add::<UnloadLoraAdapter>(&mut all);
    add::<AdapterLoad>(&mut all);
    add::<AdapterList>(&mut all);
    add::<AdapterCard>(&mut all);
    add::<AliasList>(&mut all);
    add::<AliasCard>(&mut all);
    add::<AliasPut>(&mut all);
    add::<RolloutList>(&mut all);
    add::<RolloutResource>(&mut all);
    add::<RolloutPut>(&mut all);
    add::<RolloutAbort>(&mut all);
    add::<RolloutAnalysis>(&mut all);
    add::<KillRequest>(&mut all);
    add::<KillState>(&mut all);
    add::<AuditList>(&mut all);
    Components::builder().schemas_from_iter(all)
}

fn add<T: ToSchema>(all: &mut Vec<(String, RefOr<Schema>)>) {
    all.push((T::name().into_owned(), T::schema()));
    T::schemas(all);
}
