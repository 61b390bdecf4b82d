//! `?after=…&limit=…`.

use actix_web::HttpRequest;

use crate::errors::ApiError;

/// The most rows in one page, and how many there are by default.
pub(crate) const ROWS_MAX: usize = 1000;

/// Which rows a listing asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) after: Option<u64>,
    pub(crate) limit: usize,
}

impl Page {
    pub(crate) fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let mut page = Self {
            after: None,
            limit: ROWS_MAX,
        };
        for pair in request
            .query_string()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "after" => {
                    let after = value.parse();
                    page.after = Some(
                        after.map_err(|_| ApiError::invalid("after", "after: must be a number"))?,
                    );
                }
                "limit" => {
                    let limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=ROWS_MAX).contains(limit));
                    page.limit = limit.ok_or_else(|| {
                        ApiError::invalid(
                            "limit",
                            format!("limit: must be between 1 and {ROWS_MAX}"),
                        )
                    })?;
                }
                other => {
                    let other: String = other.chars().take(64).collect();
                    return Err(ApiError::invalid(
                        &other,
                        format!("unknown query parameter: {other}"),
                    ));
                }
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn pages_are_read_strictly() {
        let page = |uri: &str| Page::of(&TestRequest::with_uri(uri).to_http_request());
        assert_eq!(
            page("/x").unwrap(),
            Page {
                after: None,
                limit: ROWS_MAX
            }
        );
        assert_eq!(
            page("/x?after=7&limit=3").unwrap(),
            Page {
                after: Some(7),
                limit: 3
            }
        );
        for bad in ["/x?limit=0", "/x?limit=1001", "/x?after=-1", "/x?offset=1"] {
            assert!(page(bad).is_err(), "{bad}");
        }
    }
}
