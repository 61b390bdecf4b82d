//! The attribution token of an answer: HMAC-SHA256 over what a vote is
//! credited to and when the token ends.
//!
//! Form: `v1.` payload `.` tag, both base64url without padding; the tag is over
//! all before it. Knows no clock; the time is passed in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use ids::UnixMillis;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::Attribution;

/// The shortest key.
pub const KEY_BYTES_MIN: usize = 32;
/// The longest token.
pub const TOKEN_BYTES_MAX: usize = 2048;
const VERSION: &str = "v1";

/// Why a token does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The key is shorter than [`KEY_BYTES_MIN`].
    #[error("the token key has fewer than 32 bytes")]
    ShortKey,
    /// Not a token, or one that was not signed with this key.
    #[error("the feedback token is not valid")]
    Invalid,
    /// Its time is over.
    #[error("the feedback token has expired")]
    Expired,
    /// It was made for another answer.
    #[error("the feedback token belongs to another inference")]
    OtherInference,
}

/// Signs tokens and verifies them.
#[derive(Clone)]
pub struct Signer(Hmac<Sha256>);

#[derive(Serialize, Deserialize)]
struct Payload {
    #[serde(flatten)]
    attribution: Attribution,
    expires: UnixMillis,
}

impl Signer {
    /// A signer with this secret key.
    ///
    /// # Errors
    /// [`TokenError::ShortKey`].
    pub fn new(key: &[u8]) -> Result<Self, TokenError> {
        if key.len() < KEY_BYTES_MIN {
            return Err(TokenError::ShortKey);
        }
        Hmac::new_from_slice(key)
            .map(Self)
            .map_err(|_| TokenError::ShortKey)
    }

    /// A token that speaks for `attribution` until `expires`.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] where it would be longer than
    /// [`TOKEN_BYTES_MAX`].
    pub fn sign(
        &self,
        attribution: &Attribution,
        expires: UnixMillis,
    ) -> Result<String, TokenError> {
        let payload = Payload {
            attribution: attribution.clone(),
            expires,
        };
        let json = serde_json::to_vec(&payload).map_err(|_| TokenError::Invalid)?;
        let signed = format!("{VERSION}.{}", URL_SAFE_NO_PAD.encode(json));
        let tag = self
            .0
            .clone()
            .chain_update(signed.as_bytes())
            .finalize()
            .into_bytes();
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid);
        }
        Ok(token)
    }

    /// What the token says. The tag is compared in constant time and before
    /// anything in the token is read.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] or [`TokenError::Expired`].
    pub fn verify(&self, token: &str, now: UnixMillis) -> Result<Attribution, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid);
        }
        let (signed, tag) = token.rsplit_once('.').ok_or(TokenError::Invalid)?;
        let tag = URL_SAFE_NO_PAD
            .decode(tag)
            .map_err(|_| TokenError::Invalid)?;
        self.0
            .clone()
            .chain_update(signed.as_bytes())
            .verify_slice(&tag)
            .map_err(|_| TokenError::Invalid)?;
        let payload = signed
            .strip_prefix(VERSION)
            .and_then(|rest| rest.strip_prefix('.'));
        let json = URL_SAFE_NO_PAD
            .decode(payload.ok_or(TokenError::Invalid)?)
            .map_err(|_| TokenError::Invalid)?;
        let payload: Payload = serde_json::from_slice(&json).map_err(|_| TokenError::Invalid)?;
        if payload.expires <= now {
            return Err(TokenError::Expired);
        }
        Ok(payload.attribution)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(***)")
    }
}
