//! `If-Match` and `If-None-Match`: on which state a change is based.

use actix_web::HttpRequest;
use control::Expected;
use ids::Revision;

use crate::errors::{ApiError, HttpProblem, Stale, Thing};

/// What the request expects, where it says so.
pub(super) fn expected(request: &HttpRequest) -> Result<Option<Expected>, ApiError> {
    let text = |name: &'static str| match request.headers().get(name) {
        None => Ok(None),
        Some(value) => {
            let text = value.to_str().map_err(|_| HttpProblem::Header(name))?;
            Ok::<_, ApiError>(Some(text.trim().trim_matches('"').to_owned()))
        }
    };
    match (text("if-match")?, text("if-none-match")?) {
        (None, None) => Ok(None),
        (Some(revision), None) => match revision.parse() {
            Ok(revision) => Ok(Some(Expected::Revision(Revision(revision)))),
            Err(_) => Err(HttpProblem::Header("If-Match").into()),
        },
        (None, Some(star)) if star == "*" => Ok(Some(Expected::Absent)),
        _ => Err(HttpProblem::Header("If-None-Match").into()),
    }
}

/// Compares what is expected with what is there.
pub(super) fn check(
    what: Thing,
    name: &str,
    expected: Expected,
    found: Option<Revision>,
) -> Result<(), ApiError> {
    let same = match expected {
        Expected::Any => true,
        Expected::Absent => found.is_none(),
        Expected::Revision(revision) => found == Some(revision),
    };
    if same {
        return Ok(());
    }
    let expected = match expected {
        Expected::Revision(revision) => format!("at revision {revision}"),
        _ => "absent".to_owned(),
    };
    let found = found.map_or_else(
        || "absent".to_owned(),
        |found| format!("at revision {found}"),
    );
    Err(Stale::Changed {
        what,
        name: name.to_owned(),
        expected,
        found,
    }
    .into())
}
