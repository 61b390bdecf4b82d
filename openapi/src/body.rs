//! Reads plain bodies, those without a field-by-field reader of their own.

use serde::de::DeserializeOwned;

use crate::RequestError;
use crate::error::code;

/// Reads a JSON body; a field that is unknown or missing is named.
///
/// # Errors
/// A [`RequestError`] that says what is wrong.
pub fn parse_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, RequestError> {
    serde_json::from_slice(body).map_err(|error| {
        let message = error.to_string();
        let code = match error.classify() {
            serde_json::error::Category::Data => data_code(&message),
            _ => code::INVALID_JSON,
        };
        RequestError {
            param: named_field(&message),
            message,
            code,
        }
    })
}

fn data_code(message: &str) -> &'static str {
    if message.starts_with("unknown field") {
        code::UNKNOWN
    } else if message.starts_with("missing field") {
        code::MISSING
    } else if message.starts_with("invalid type") {
        code::TYPE
    } else {
        code::VALUE
    }
}

/// The field that serde names between the first two backticks.
fn named_field(message: &str) -> Option<String> {
    let named = message.starts_with("unknown field") || message.starts_with("missing field");
    let mut pieces = message.splitn(3, '`').skip(1);
    pieces.next().filter(|_| named).map(str::to_owned)
}
