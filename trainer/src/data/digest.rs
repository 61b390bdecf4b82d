//! The name of a dataset.

use ids::{DatasetDigest, Sha256Digest};

use super::row::SourcedRow;

/// Names exactly these rows in this order, since the order decides what is
/// drawn when. Where they come from does not count: the same rows in another
/// file are the same dataset, and so are they in another format or with other
/// white space between their JSON tokens.
#[must_use]
pub fn digest(rows: &[SourcedRow]) -> DatasetDigest {
    let digests: Vec<u8> = rows
        .iter()
        .flat_map(|sourced| *row_digest(sourced).as_bytes())
        .collect();
    DatasetDigest(Sha256Digest::of_parts(&[("rows", &digests)]))
}

fn row_digest(sourced: &SourcedRow) -> Sha256Digest {
    let row = &sourced.row;
    let completions = row.completions();
    let kind = format!("{:?}", row.kind());
    let mut parts: Vec<(&str, &[u8])> = vec![("kind", kind.as_bytes())];
    for message in row.prompt() {
        parts.push(("role", message.role.as_bytes()));
        parts.push(("content", message.content.as_bytes()));
    }
    parts.extend(
        completions
            .iter()
            .map(|text| ("completion", text.as_bytes())),
    );
    Sha256Digest::of_parts(&parts)
}
