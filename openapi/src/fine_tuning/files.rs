//! `/v1/files`.

use ids::{FileId, Sha256Digest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::models::ListObject;

/// The form of `POST /v1/files`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrainingFileUpload {
    /// `fine-tune`; before the file.
    pub purpose: FilePurpose,
    /// JSON lines, at most 512 MiB.
    #[schema(format = Binary)]
    pub file: String,
}

/// A file as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrainingFile {
    /// Its id.
    #[schema(value_type = String)]
    pub id: FileId,
    /// Always `file`.
    pub object: FileObject,
    /// Its size.
    pub bytes: u64,
    /// Seconds since 1970.
    pub created_at: i64,
    /// What whoever sent it calls it.
    pub filename: String,
    /// What it is for.
    pub purpose: FilePurpose,
    /// Always `processed`: rows are checked when a job reads them.
    pub status: FileStatus,
    /// SHA-256 of its content; not in OpenAI's API.
    #[schema(value_type = String)]
    pub digest: Sha256Digest,
}

/// The `object` of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileObject {
    /// A file.
    #[default]
    File,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum FilePurpose {
    /// Training and validation data.
    #[default]
    #[serde(rename = "fine-tune")]
    FineTune,
    /// What came of a job; only the trainer writes such files.
    #[serde(rename = "fine-tune-results")]
    FineTuneResults,
}

/// A file's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileStatus {
    /// It can be used.
    #[default]
    Processed,
}

/// A page of files, newest first unless asked otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileList {
    /// Always `list`.
    pub object: ListObject,
    /// The files.
    pub data: Vec<TrainingFile>,
    /// The first one's id.
    #[schema(value_type = Option<String>, required = true)]
    pub first_id: Option<FileId>,
    /// The last one's id; the next page is after it.
    #[schema(value_type = Option<String>, required = true)]
    pub last_id: Option<FileId>,
    /// Whether there are more.
    pub has_more: bool,
}

/// A file that is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileDeleted {
    /// Its id.
    #[schema(value_type = String)]
    pub id: FileId,
    /// Always `file`.
    pub object: FileObject,
    /// Always true.
    pub deleted: bool,
}
