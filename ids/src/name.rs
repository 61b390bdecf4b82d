//! Names and opaque ids, each checked for length and alphabet when it is made.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::IdError;

fn check(kind: &'static str, value: &str, max: usize, extra: &'static str) -> Result<(), IdError> {
    let good = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
    if value.is_empty() || value.chars().count() > max || !value.chars().all(good) {
        let value = value.chars().take(64).collect();
        return Err(IdError::Name {
            kind,
            value,
            max,
            extra,
        });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes `value` when its length and characters are allowed.
            ///
            /// # Errors
            /// [`IdError::Name`] otherwise.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                check($kind, &value, $max, $extra)?;
                Ok(Self(value))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A moving name for an adapter version.
    AliasName, "adapter alias", 128, "-_.:/"
);
name!(
    /// A public model name, which maps to a base and a rollout.
    ModelName, "model name", 128, "-_.:/"
);
name!(
    /// One answer; what a vote names.
    InferenceId, "inference id", 96, "-_"
);
name!(
    /// One vote.
    FeedbackId, "feedback id", 96, "-_"
);
name!(
    /// A training file.
    FileId, "file id", 64, "-_"
);
name!(
    /// A fine-tuning job.
    JobId, "fine-tuning job id", 64, "-_"
);

/// Who voted: opaque, any text of 1 to 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RaterId(String);

/// The unit of assignment and of statistics, for example an end user: opaque,
/// any text of 1 to 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitId(String);

macro_rules! opaque {
    ($name:ident, $kind:literal) => {
        impl $name {
            /// Takes `value` when it has 1 to 256 bytes.
            ///
            /// # Errors
            /// [`IdError::Name`] otherwise.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                if value.is_empty() || value.len() > 256 {
                    let value = value.chars().take(64).collect();
                    return Err(IdError::Name {
                        kind: $kind,
                        value,
                        max: 256,
                        extra: "any other",
                    });
                }
                Ok(Self(value))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(value: String) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

opaque!(RaterId, "rater");
opaque!(UnitId, "unit");

/// Whose requests share a part of the engine, for example all that come with one
/// API key: any text of 1 to 256 bytes. Cheap to copy, since every request has one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Takes `value` when it has 1 to 256 bytes.
    ///
    /// # Errors
    /// [`IdError::Name`] otherwise.
    pub fn new(value: &str) -> Result<Self, IdError> {
        if value.is_empty() || value.len() > 256 {
            return Err(IdError::Name {
                kind: "tenant",
                value: value.chars().take(64).collect(),
                max: 256,
                extra: "any other",
            });
        }
        Ok(Self(value.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl InferenceId {
    /// A new id, `chatcmpl-` and a time-ordered UUID.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("chatcmpl-{}", uuid::Uuid::now_v7().simple()))
    }
}

impl FeedbackId {
    /// A new id, `fb-` and a time-ordered UUID.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("fb-{}", uuid::Uuid::now_v7().simple()))
    }
}

impl FileId {
    /// A new id, `file-` and a time-ordered UUID.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("file-{}", uuid::Uuid::now_v7().simple()))
    }
}

impl JobId {
    /// A new id, `ftjob-` and a time-ordered UUID.
    #[must_use]
    pub fn generate() -> Self {
        Self(format!("ftjob-{}", uuid::Uuid::now_v7().simple()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_when_read_too() {
        assert!(AliasName::new("support/v2").is_ok());
        assert!(AliasName::new("a b").is_err());
        assert!(AliasName::new("x".repeat(129)).is_err());
        assert!(serde_json::from_str::<InferenceId>("\"\"").is_err());
        assert!(serde_json::from_str::<RaterId>("\"\"").is_err());
        assert!(TenantId::new("").is_err() && TenantId::new(&"x".repeat(257)).is_err());
        assert_eq!(TenantId::new("billing").unwrap().as_str(), "billing");
        assert_ne!(InferenceId::generate(), InferenceId::generate());
    }
}
