//! Every route that the gateway offers, one row each. The gateway's own test
//! compares its router with [`routes`].

/// The method of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// Reads.
    Get,
    /// Does or creates.
    Post,
    /// Sets.
    Put,
    /// Removes.
    Delete,
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Open,
    /// Holders of an API key, where keys are configured.
    Client,
    /// Holders of the admin key.
    Admin,
}

/// What a route takes or gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    /// JSON of the schema with this name.
    Json(&'static str),
    /// JSON of the first schema, or server-sent events of the second.
    JsonOrEvents(&'static str, &'static str),
    /// JSON lines of the schema with this name.
    JsonLines(&'static str),
    /// A form of the schema with this name, with files in it.
    Form(&'static str),
    /// Bytes, as they were sent.
    Bytes,
    /// Any JSON object.
    AnyJson,
    /// Plain text.
    Text,
    /// Nothing.
    Empty,
}

/// One route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, with `{parameters}`.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [(&'static str, &'static str)],
    pub(super) takes: Payload,
    pub(super) gives: Payload,
    pub(super) errors: &'static [u16],
}

const fn route(
    method: Method,
    path: &'static str,
    access: Access,
    id: &'static str,
    summary: &'static str,
) -> Route {
    let tag = match access {
        Access::Open => "health",
        Access::Client => "client",
        Access::Admin => "admin",
    };
    let (takes, gives) = (Payload::Empty, Payload::Empty);
    Route {
        method,
        path,
        access,
        id,
        tag,
        summary,
        query: &[],
        takes,
        gives,
        errors: &[],
    }
}

impl Route {
    const fn takes(self, takes: Payload) -> Self {
        Self { takes, ..self }
    }

    const fn gives(self, gives: Payload) -> Self {
        Self { gives, ..self }
    }

    const fn errors(self, errors: &'static [u16]) -> Self {
        Self { errors, ..self }
    }

    const fn query(self, query: &'static [(&'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }
}

/// All routes.
#[must_use]
pub fn routes() -> &'static [Route] {
    ROUTES
}

use Access::{Admin, Client, Open};
use Method::{Delete, Get, Post, Put};
use Payload::{AnyJson, Bytes, Form, Json, JsonLines, JsonOrEvents, Text};

const PAGE: &[(&str, &str)] = &[
    ("after", "Where the last page ended."),
    ("limit", "The most rows, 1 to 1000."),
];

const CURSOR: &[(&str, &str)] = &[
    ("after", "The id at which the last page ended."),
    ("limit", "The most rows, 1 to 100."),
];

const FILES: &[(&str, &str)] = &[
    ("after", "The id at which the last page ended."),
    ("limit", "The most rows, 1 to 10000."),
    ("order", "`asc` or `desc` by age; `desc` by default."),
    ("purpose", "Only files for this."),
];

static ROUTES: &[Route] = &[
    route(
        Post,
        "/v1/chat/completions",
        Client,
        "createChatCompletion",
        "Answers a conversation",
    )
    .takes(Json("ChatCompletionBody"))
    .gives(JsonOrEvents("ChatCompletion", "ChatChunk"))
    .errors(&[400, 401, 404, 413, 429, 503]),
    route(
        Get,
        "/v1/models",
        Client,
        "listModels",
        "Lists what a request can name",
    )
    .gives(Json("ModelList"))
    .errors(&[401]),
    route(
        Get,
        "/v1/models/{id}",
        Client,
        "getModel",
        "Shows one model",
    )
    .gives(Json("ModelCard"))
    .errors(&[401, 404]),
    route(
        Post,
        "/v1/feedback",
        Client,
        "createFeedback",
        "Votes on an answer",
    )
    .takes(Json("FeedbackRequest"))
    .gives(Json("FeedbackResponse"))
    .errors(&[400, 401, 404, 409, 413, 429, 503]),
    route(
        Delete,
        "/v1/feedback/{id}",
        Client,
        "deleteFeedback",
        "Takes a vote back",
    )
    .gives(Json("FeedbackRetracted"))
    .errors(&[401, 404, 503]),
    route(
        Post,
        "/v1/files",
        Admin,
        "createFile",
        "Takes a training file",
    )
    .takes(Form("TrainingFileUpload"))
    .gives(Json("TrainingFile"))
    .errors(&[400, 401, 409, 413, 415, 503]),
    route(Get, "/v1/files", Admin, "listFiles", "Lists training files")
        .query(FILES)
        .gives(Json("FileList"))
        .errors(&[400, 401, 503]),
    route(
        Get,
        "/v1/files/{id}",
        Admin,
        "getFile",
        "Shows a training file",
    )
    .gives(Json("TrainingFile"))
    .errors(&[401, 404, 503]),
    route(
        Delete,
        "/v1/files/{id}",
        Admin,
        "deleteFile",
        "Deletes a training file",
    )
    .gives(Json("FileDeleted"))
    .errors(&[401, 404, 409, 503]),
    route(
        Get,
        "/v1/files/{id}/content",
        Admin,
        "getFileContent",
        "Gives a training file back",
    )
    .gives(Bytes)
    .errors(&[401, 404, 503]),
    route(
        Post,
        "/v1/fine_tuning/jobs",
        Admin,
        "createFineTuningJob",
        "Queues a fine-tuning job",
    )
    .takes(Json("FineTuningJobBody"))
    .gives(Json("FineTuningJob"))
    .errors(&[400, 401, 404, 413, 429, 503]),
    route(
        Get,
        "/v1/fine_tuning/jobs",
        Admin,
        "listFineTuningJobs",
        "Lists fine-tuning jobs, newest first",
    )
    .query(CURSOR)
    .gives(Json("FineTuningJobList"))
    .errors(&[400, 401, 503]),
    route(
        Get,
        "/v1/fine_tuning/jobs/{id}",
        Admin,
        "getFineTuningJob",
        "Shows a fine-tuning job",
    )
    .gives(Json("FineTuningJob"))
    .errors(&[401, 404, 503]),
    route(
        Post,
        "/v1/fine_tuning/jobs/{id}/cancel",
        Admin,
        "cancelFineTuningJob",
        "Gives a job up",
    )
    .gives(Json("FineTuningJob"))
    .errors(&[401, 404, 409, 503]),
    route(
        Post,
        "/v1/fine_tuning/jobs/{id}/pause",
        Admin,
        "pauseFineTuningJob",
        "Holds a job",
    )
    .gives(Json("FineTuningJob"))
    .errors(&[401, 404, 409, 503]),
    route(
        Post,
        "/v1/fine_tuning/jobs/{id}/resume",
        Admin,
        "resumeFineTuningJob",
        "Lets a job go on",
    )
    .gives(Json("FineTuningJob"))
    .errors(&[401, 404, 409, 503]),
    route(
        Get,
        "/v1/fine_tuning/jobs/{id}/events",
        Admin,
        "listFineTuningEvents",
        "Lists what happened to a job, newest first",
    )
    .query(CURSOR)
    .gives(Json("FineTuningEventList"))
    .errors(&[400, 401, 404, 503]),
    route(
        Get,
        "/v1/fine_tuning/jobs/{id}/checkpoints",
        Admin,
        "listFineTuningCheckpoints",
        "Lists a job's checkpoints, newest first",
    )
    .query(CURSOR)
    .gives(Json("FineTuningCheckpointList"))
    .errors(&[400, 401, 404, 503]),
    route(
        Post,
        "/v1/load_lora_adapter",
        Admin,
        "loadLoraAdapter",
        "Loads a folder as an alias",
    )
    .takes(Json("LoadLoraAdapter"))
    .gives(Text)
    .errors(&[400, 401, 404, 409, 503]),
    route(
        Post,
        "/v1/unload_lora_adapter",
        Admin,
        "unloadLoraAdapter",
        "Removes an alias",
    )
    .takes(Json("UnloadLoraAdapter"))
    .gives(Text)
    .errors(&[400, 401, 404, 409, 503]),
    route(
        Get,
        "/admin/v1/adapters",
        Admin,
        "listAdapters",
        "Lists adapter versions",
    )
    .gives(Json("AdapterList"))
    .errors(&[401, 503]),
    route(
        Post,
        "/admin/v1/adapters/load",
        Admin,
        "loadAdapter",
        "Makes a stored version resident",
    )
    .takes(Json("AdapterLoad"))
    .gives(Json("AdapterCard"))
    .errors(&[400, 401, 404, 409, 503]),
    route(
        Delete,
        "/admin/v1/adapters/{digest}",
        Admin,
        "unloadAdapter",
        "Unloads a version",
    )
    .errors(&[400, 401, 404, 409]),
    route(
        Get,
        "/admin/v1/aliases",
        Admin,
        "listAliases",
        "Lists aliases",
    )
    .gives(Json("AliasList"))
    .errors(&[401, 503]),
    route(
        Get,
        "/admin/v1/aliases/{name}",
        Admin,
        "getAlias",
        "Shows an alias",
    )
    .gives(Json("AliasCard"))
    .errors(&[401, 404, 503]),
    route(
        Put,
        "/admin/v1/aliases/{name}",
        Admin,
        "putAlias",
        "Points an alias at a version",
    )
    .takes(Json("AliasPut"))
    .gives(Json("AliasCard"))
    .errors(&[400, 401, 404, 409, 503]),
    route(
        Delete,
        "/admin/v1/aliases/{name}",
        Admin,
        "deleteAlias",
        "Removes an alias",
    )
    .errors(&[401, 404, 409, 503]),
    route(
        Get,
        "/admin/v1/rollouts",
        Admin,
        "listRollouts",
        "Lists rollouts",
    )
    .gives(Json("RolloutList"))
    .errors(&[401, 503]),
    route(
        Get,
        "/admin/v1/rollouts/{id}",
        Admin,
        "getRollout",
        "Shows a rollout",
    )
    .gives(Json("RolloutResource"))
    .errors(&[401, 404, 503]),
    route(
        Put,
        "/admin/v1/rollouts/{id}",
        Admin,
        "putRollout",
        "Creates or changes a rollout",
    )
    .takes(Json("RolloutPut"))
    .gives(Json("RolloutResource"))
    .errors(&[400, 401, 404, 409, 428, 503]),
    route(
        Post,
        "/admin/v1/rollouts/{id}/promote",
        Admin,
        "promoteRollout",
        "Makes the canary stable",
    )
    .gives(Json("RolloutResource"))
    .errors(&[401, 404, 409, 503]),
    route(
        Post,
        "/admin/v1/rollouts/{id}/abort",
        Admin,
        "abortRollout",
        "Moves everyone to stable",
    )
    .takes(Json("RolloutAbort"))
    .gives(Json("RolloutResource"))
    .errors(&[400, 401, 404, 409, 503]),
    route(
        Post,
        "/admin/v1/rollouts/{id}/rollback",
        Admin,
        "rollbackRollout",
        "Restores the previous stable",
    )
    .gives(Json("RolloutResource"))
    .errors(&[401, 404, 409, 503]),
    route(
        Post,
        "/admin/v1/rollouts/{id}/pause",
        Admin,
        "pauseRollout",
        "Holds the share",
    )
    .gives(Json("RolloutResource"))
    .errors(&[401, 404, 409, 503]),
    route(
        Post,
        "/admin/v1/rollouts/{id}/resume",
        Admin,
        "resumeRollout",
        "Lets the schedule go on",
    )
    .gives(Json("RolloutResource"))
    .errors(&[401, 404, 409, 503]),
    route(
        Get,
        "/admin/v1/rollouts/{id}/analysis",
        Admin,
        "analyseRollout",
        "Compares the arms",
    )
    .gives(Json("RolloutAnalysis"))
    .errors(&[401, 404, 503]),
    route(
        Post,
        "/admin/v1/kill",
        Admin,
        "kill",
        "Throws or releases the kill switch",
    )
    .takes(Json("KillRequest"))
    .gives(Json("KillState"))
    .errors(&[400, 401]),
    route(
        Get,
        "/admin/v1/audit",
        Admin,
        "listAudit",
        "Lists changes, oldest first",
    )
    .query(PAGE)
    .gives(Json("AuditList"))
    .errors(&[400, 401, 503]),
    route(
        Get,
        "/admin/v1/feedback/export",
        Admin,
        "exportFeedback",
        "Lists votes, one a line",
    )
    .query(PAGE)
    .gives(JsonLines("FeedbackExportRow"))
    .errors(&[400, 401, 503]),
    route(Get, "/metrics", Open, "metrics", "Metrics for Prometheus").gives(Text),
    route(
        Get,
        "/health/live",
        Open,
        "live",
        "Whether the process runs",
    )
    .gives(AnyJson),
    route(
        Get,
        "/health/ready",
        Open,
        "ready",
        "Whether the model can answer",
    )
    .gives(AnyJson)
    .errors(&[503]),
    route(Get, "/openapi.json", Open, "openapi", "This document").gives(AnyJson),
];
