//! Documents as the types that they hold.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{ControlError, DocKey};

pub(crate) fn read<T: DeserializeOwned>(key: &DocKey, body: Value) -> Result<T, ControlError> {
    serde_json::from_value(body).map_err(|error| corrupt(key, &error))
}

pub(crate) fn written<T: Serialize>(key: &DocKey, value: &T) -> Result<Value, ControlError> {
    serde_json::to_value(value).map_err(|error| corrupt(key, &error))
}

pub(crate) fn corrupt(key: &DocKey, reason: &impl ToString) -> ControlError {
    ControlError::Corrupt {
        key: key.clone(),
        reason: reason.to_string(),
    }
}
