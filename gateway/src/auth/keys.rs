//! Bearer keys. Every configured key is compared with the presented one in
//! constant time, so that the time says neither which key nor how much of it
//! is right.

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;

use ids::TenantId;

use super::Budget;
use crate::config::{ApiKey, KeyDigest};
use crate::errors::ApiError;

/// Someone whose key was accepted.
#[derive(Debug)]
pub(crate) struct Caller {
    /// What logs and metrics call them.
    pub(crate) name: String,
    /// What the engine calls them.
    pub(crate) tenant: Option<TenantId>,
    /// What they may still send.
    pub(crate) budget: Budget,
}

/// All keys of this gateway.
pub(crate) struct KeyRing {
    callers: Vec<(KeyDigest, Arc<Caller>)>,
    admin: KeyDigest,
}

impl KeyRing {
    pub(crate) fn new(keys: &[ApiKey], admin: KeyDigest) -> Self {
        let caller = |key: &ApiKey| {
            let budget = Budget::new(key.requests_per_minute, key.tokens_per_minute);
            (
                key.digest.clone(),
                Arc::new(Caller {
                    name: key.name.clone(),
                    tenant: TenantId::new(&key.name).ok(),
                    budget,
                }),
            )
        };
        Self {
            callers: keys.iter().map(caller).collect(),
            admin,
        }
    }

    /// Who sends `request`; none where no keys are configured, which the
    /// configuration allows on loopback only.
    pub(crate) fn caller(&self, request: &HttpRequest) -> Result<Option<Arc<Caller>>, ApiError> {
        if self.callers.is_empty() {
            return Ok(None);
        }
        let presented = presented(request)?;
        let mut found = None;
        for (digest, caller) in &self.callers {
            if digest.matches(&presented) {
                found = Some(caller.clone());
            }
        }
        found.map(Some).ok_or(ApiError::WrongKey)
    }

    /// Lets only the administrator pass.
    pub(crate) fn admin(&self, request: &HttpRequest) -> Result<(), ApiError> {
        if self.admin.matches(&presented(request)?) {
            Ok(())
        } else {
            Err(ApiError::WrongKey)
        }
    }
}

fn presented(request: &HttpRequest) -> Result<KeyDigest, ApiError> {
    let header = request
        .headers()
        .get(AUTHORIZATION)
        .ok_or(ApiError::MissingKey)?;
    let (scheme, key) = header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or(ApiError::MissingKey)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(ApiError::MissingKey);
    }
    Ok(KeyDigest::of(key.trim().as_bytes()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn with(value: &str) -> HttpRequest {
        TestRequest::default()
            .insert_header((AUTHORIZATION, value))
            .to_http_request()
    }

    #[test]
    fn only_the_right_key_under_the_right_scheme_passes() {
        let keys = [
            ApiKey::new("one", "secret-of-number-one", None, None).unwrap(),
            ApiKey::new("two", "secret-of-number-two", None, None).unwrap(),
        ];
        let ring = KeyRing::new(&keys, KeyDigest::of(b"secret-of-the-admin"));
        let name = |value: &str| {
            ring.caller(&with(value))
                .map(|caller| caller.unwrap().name.clone())
        };
        assert_eq!(name("Bearer secret-of-number-two").unwrap(), "two");
        assert_eq!(name("bearer secret-of-number-one").unwrap(), "one");
        assert!(matches!(
            name("Bearer secret-of-number-three"),
            Err(ApiError::WrongKey)
        ));
        assert!(matches!(
            name("Bearer secret-of-the-admin"),
            Err(ApiError::WrongKey)
        ));
        assert!(matches!(
            name("Basic secret-of-number-one"),
            Err(ApiError::MissingKey)
        ));
        let nothing = TestRequest::default().to_http_request();
        assert!(matches!(ring.caller(&nothing), Err(ApiError::MissingKey)));
        assert!(ring.admin(&with("Bearer secret-of-the-admin")).is_ok());
        assert!(ring.admin(&with("Bearer secret-of-number-one")).is_err());
    }

    #[test]
    fn without_keys_everyone_passes_but_nobody_is_admin() {
        let ring = KeyRing::new(&[], KeyDigest::of(b"secret-of-the-admin"));
        assert!(ring.caller(&with("Bearer anything")).unwrap().is_none());
        assert!(ring.admin(&with("Bearer anything")).is_err());
    }
}
