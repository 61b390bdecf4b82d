//! `?after=ID&limit=…` over a list.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use actix_web::web::Query;

use crate::errors::ApiError;

/// The most rows in one page of jobs, events or checkpoints.
pub(super) const ROWS_MAX: usize = 100;
/// How many there are unless asked otherwise, as in OpenAI's API.
pub(super) const ROWS_DEFAULT: usize = 20;

/// The query's parameters that nobody took yet.
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let query = Query::<BTreeMap<String, String>>::from_query(request.query_string());
        let query = query.map_err(|error| ApiError::invalid("query", error.to_string()))?;
        Ok(Self(query.into_inner()))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    pub(super) fn limit(&mut self, default: usize, max: usize) -> Result<usize, ApiError> {
        let Some(text) = self.take("limit") else {
            return Ok(default);
        };
        let limit = text.parse().ok().filter(|limit| (1..=max).contains(limit));
        limit.ok_or_else(|| {
            ApiError::invalid("limit", format!("limit: must be between 1 and {max}"))
        })
    }

    /// Refuses whatever nobody took.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                let message = format!("unknown query parameter: {name}");
                Err(ApiError::invalid(&name, message))
            }
        }
    }
}

/// Rows after the one that `is_last` finds, at most `limit`, and whether there
/// are more. Where there is no such row, the page is empty.
pub(super) fn page<T>(
    rows: Vec<T>,
    after: Option<impl Fn(&T) -> bool>,
    limit: usize,
) -> (Vec<T>, bool) {
    let first = match after {
        None => 0,
        Some(is_last) => rows
            .iter()
            .position(is_last)
            .map_or(rows.len(), |last| last + 1),
    };
    let mut rest = rows.into_iter().skip(first);
    let page: Vec<T> = rest.by_ref().take(limit).collect();
    (page, rest.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_meet_without_a_gap() {
        let after = |last: u32| Some(move |row: &u32| *row == last);
        let rows = || vec![1, 2, 3];
        assert_eq!(
            page(rows(), None::<fn(&u32) -> bool>, 2),
            (vec![1, 2], true)
        );
        assert_eq!(page(rows(), after(2), 2), (vec![3], false));
        assert_eq!(page(rows(), after(9), 2), (vec![], false));
    }
}
