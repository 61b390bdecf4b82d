//! What nobody handles, in the same words as everything else.

use actix_web::HttpRequest;

use crate::errors::{ApiError, HttpProblem};

/// The longest path that is repeated in an error.
const PATH_CHARS_MAX: usize = 200;

fn path(request: &HttpRequest) -> String {
    request.path().chars().take(PATH_CHARS_MAX).collect()
}

pub(crate) async fn no_route(request: HttpRequest) -> Result<&'static str, ApiError> {
    Err(HttpProblem::NoRoute(path(&request)).into())
}

pub(crate) async fn method_not_allowed(request: HttpRequest) -> Result<&'static str, ApiError> {
    let method = request
        .method()
        .as_str()
        .chars()
        .take(PATH_CHARS_MAX)
        .collect();
    Err(HttpProblem::Method {
        method,
        path: path(&request),
    }
    .into())
}
