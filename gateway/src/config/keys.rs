//! API keys: who may send requests, and how much.

use std::num::NonZeroU32;

use ids::Sha256Digest;
use subtle::ConstantTimeEq as _;

use super::ConfigError;

/// The shortest secret that is accepted as a key.
pub(super) const KEY_CHARS_MIN: usize = 16;

/// The SHA-256 of a secret; compared in constant time. The secret itself is
/// forgotten at once.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of `secret`.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        Self(*Sha256Digest::of(secret).as_bytes())
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Whether `other` is the same, in a time that does not depend on where
    /// they differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl std::fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Someone who may send requests.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// What logs and metrics call them.
    pub name: String,
    /// The digest of their secret.
    pub digest: KeyDigest,
    /// The most requests in a minute; none is no limit.
    pub requests_per_minute: Option<NonZeroU32>,
    /// The most tokens in a minute, prompts and completion caps together.
    pub tokens_per_minute: Option<NonZeroU32>,
}

impl ApiKey {
    /// A key with this secret.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for a secret that is too short to be one.
    pub fn new(
        name: &str,
        secret: &str,
        requests_per_minute: Option<NonZeroU32>,
        tokens_per_minute: Option<NonZeroU32>,
    ) -> Result<Self, ConfigError> {
        let secret = checked(name, secret)?;
        let digest = KeyDigest::of(secret.as_bytes());
        Ok(Self {
            name: name.to_owned(),
            digest,
            requests_per_minute,
            tokens_per_minute,
        })
    }
}

/// A secret that is long enough and can stand in a header.
pub(super) fn checked<'a>(name: &str, secret: &'a str) -> Result<&'a str, ConfigError> {
    let secret = secret.trim();
    if secret.len() < KEY_CHARS_MIN || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ConfigError::Value {
            name: format!("the key of {name}"),
            reason: format!("it must have at least {KEY_CHARS_MIN} printable ASCII characters"),
        });
    }
    Ok(secret)
}
