//! A form with a file in it, streamed to where files are kept.

use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::HttpRequest;
use actix_web::web::Payload;
use fine_tuning::{FileRecord, Files, Purpose, Upload};
use futures::StreamExt as _;
use ids::Clock;
use openapi::{RequestError, code};

use crate::errors::{ApiError, HttpProblem};

/// The longest text of a field that is no file.
const FIELD_BYTES_MAX: usize = 256;
/// The name of a file that was sent without one.
const NAMELESS: &str = "file.jsonl";

/// Reads the form and keeps its file; nothing is kept where anything is wrong.
pub(super) async fn receive(
    files: &Files,
    clock: &dyn Clock,
    request: &HttpRequest,
    payload: Payload,
) -> Result<FileRecord, ApiError> {
    let mut form = Form {
        files,
        clock,
        purpose: None,
        upload: None,
    };
    let mut fields = Multipart::new(request.headers(), payload);
    let read = form.read(&mut fields).await;
    let Form {
        purpose, upload, ..
    } = form;
    let Some(upload) = upload else {
        read?;
        return Err(missing("file"));
    };
    match read.and_then(|()| purpose.ok_or_else(|| missing("purpose"))) {
        Ok(_) => Ok(upload.finish(clock.now()).await?),
        Err(error) => {
            upload.abort().await;
            Err(error)
        }
    }
}

struct Form<'a> {
    files: &'a Files,
    clock: &'a dyn Clock,
    purpose: Option<Purpose>,
    upload: Option<Upload>,
}

impl Form<'_> {
    /// Clients send the fields in either order.
    async fn read(&mut self, fields: &mut Multipart) -> Result<(), ApiError> {
        while let Some(field) = fields.next().await {
            let mut field = field.map_err(|error| broken(&error))?;
            match field.name().unwrap_or_default() {
                "purpose" => self.purpose = Some(purpose(&mut field).await?),
                "file" if self.upload.is_some() => {
                    return Err(ApiError::invalid("file", "file: one at a time"));
                }
                "file" => self.file(&mut field).await?,
                other => {
                    let name: String = other.chars().take(64).collect();
                    let message = format!("unknown field: {name}");
                    return Err(RequestError::new(code::UNKNOWN, name, message).into());
                }
            }
        }
        Ok(())
    }

    async fn file(&mut self, field: &mut Field) -> Result<(), ApiError> {
        let name = field
            .content_disposition()
            .and_then(|disposition| disposition.get_filename())
            .unwrap_or(NAMELESS);
        let now = self.clock.now();
        let upload = self.files.begin(name, Purpose::FineTune, now).await?;
        let upload = self.upload.insert(upload);
        while let Some(piece) = field.next().await {
            upload.write(piece.map_err(|error| broken(&error))?).await?;
        }
        Ok(())
    }
}

async fn purpose(field: &mut Field) -> Result<Purpose, ApiError> {
    let mut text = Vec::new();
    while let Some(piece) = field.next().await {
        text.extend_from_slice(&piece.map_err(|error| broken(&error))?);
        if text.len() > FIELD_BYTES_MAX {
            let message = format!("purpose: at most {FIELD_BYTES_MAX} bytes");
            return Err(ApiError::invalid("purpose", message));
        }
    }
    match text.as_slice() {
        b"fine-tune" => Ok(Purpose::FineTune),
        _ => {
            let message = "purpose: only fine-tune is supported by this server";
            Err(RequestError::new(code::UNSUPPORTED, "purpose", message).into())
        }
    }
}

fn missing(name: &str) -> ApiError {
    let message = format!("the required field {name} is missing");
    RequestError::new(code::MISSING, name, message).into()
}

fn broken(error: &MultipartError) -> ApiError {
    match error {
        MultipartError::ContentTypeMissing
        | MultipartError::ContentTypeParse
        | MultipartError::ContentTypeIncompatible
        | MultipartError::BoundaryMissing => HttpProblem::FormType.into(),
        _ => HttpProblem::Broken.into(),
    }
}
