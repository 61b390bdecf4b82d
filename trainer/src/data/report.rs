//! What was found in training data, for machines and for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ids::DatasetDigest;
use serde::{Deserialize, Serialize};

use super::check::DataOptions;
use super::digest::digest;
use super::format::Format;
use super::row::{Kind, Problem, SourcedRow};

/// The most refused rows that a report lists; the rest is counted.
pub const REFUSED_LISTED_MAX: usize = 1000;

/// Everything about a dataset's check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataReport {
    /// Names the kept rows in their order.
    pub digest: Option<DatasetDigest>,
    /// Kept rows.
    pub kept: usize,
    /// Refused lines.
    pub refused: usize,
    /// Kept rows of each kind.
    pub kinds: BTreeMap<Kind, usize>,
    /// Lengths of the kept rows; none without a model to count them with.
    pub tokens: Option<TokenCounts>,
    /// The most tokens allowed.
    pub tokens_max: usize,
    /// Prompts of the evaluation set that rows were held against.
    pub evaluation_prompts: usize,
    /// Mean length of preferred answers by that of the others, in characters;
    /// far from 1, length is what is learned.
    pub length_ratio_mean: Option<f64>,
    /// Each file.
    pub files: Vec<FileReport>,
    /// Refused lines, the first [`REFUSED_LISTED_MAX`].
    pub refused_rows: Vec<Refused>,
}

/// Lengths in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCounts {
    /// Of all rows.
    pub total: usize,
    /// Half of the rows are at most this long.
    pub median: usize,
    /// Nineteen of twenty are.
    pub p95: usize,
    /// The longest.
    pub max: usize,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its format; none where no line could be read.
    pub format: Option<Format>,
    /// Lines with something in them (of a plain text, its pieces).
    pub lines: usize,
    /// Rows kept; a conversation with several answers makes several.
    pub kept: usize,
    /// Lines refused.
    pub refused: usize,
}

/// A refused line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// Why.
    pub problem: Problem,
}

impl FileReport {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            format: None,
            lines: 0,
            kept: 0,
            refused: 0,
        }
    }
}

impl DataReport {
    pub(super) fn new(options: &DataOptions<'_>) -> Self {
        Self {
            digest: None,
            kept: 0,
            refused: 0,
            kinds: BTreeMap::new(),
            tokens: None,
            tokens_max: options.tokens_max,
            evaluation_prompts: options.evaluation.prompts(),
            length_ratio_mean: None,
            files: Vec::new(),
            refused_rows: Vec::new(),
        }
    }

    pub(super) fn refuse(&mut self, path: &Path, line: usize, problem: Problem) {
        self.refused += 1;
        if self.refused_rows.len() < REFUSED_LISTED_MAX {
            let path = path.to_owned();
            self.refused_rows.push(Refused {
                path,
                line,
                problem,
            });
        }
    }

    pub(super) fn finish(&mut self, rows: &[SourcedRow]) {
        self.kept = rows.len();
        self.kinds.clear();
        self.digest = (!rows.is_empty()).then(|| digest(rows));
        for sourced in rows {
            *self.kinds.entry(sourced.row.kind()).or_default() += 1;
        }
        let counted: Option<Vec<usize>> = rows.iter().map(|sourced| sourced.tokens).collect();
        self.tokens = counted.and_then(TokenCounts::of);
        self.length_ratio_mean = length_ratio_mean(rows);
    }

    /// The report as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for file in &self.files {
            let format = file
                .format
                .map_or("unknown format".to_owned(), |f| format!("{f:?}"));
            let _ = writeln!(
                text,
                "{}: {format}, {} lines, {} rows kept, {} lines refused",
                file.path.display(),
                file.lines,
                file.kept,
                file.refused
            );
        }
        for refused in &self.refused_rows {
            let (path, line) = (refused.path.display(), refused.line);
            let _ = writeln!(text, "{path}:{line}: {}", refused.problem);
        }
        let unlisted = self.refused - self.refused_rows.len();
        if unlisted > 0 {
            let _ = writeln!(text, "… and {unlisted} more");
        }
        for (kind, rows) in &self.kinds {
            let _ = writeln!(text, "{rows} rows of kind {kind:?}");
        }
        let _ = match self.tokens {
            Some(t) => writeln!(
                text,
                "{} tokens; a row has {} (median), {} (95%), {} at most; {} are allowed",
                t.total, t.median, t.p95, t.max, self.tokens_max
            ),
            None => writeln!(
                text,
                "tokens and template not checked: without a model, or without a row"
            ),
        };
        if let Some(ratio) = self.length_ratio_mean {
            let _ = writeln!(text, "preferred answers are {ratio:.2} times as long");
        }
        let _ = match self.evaluation_prompts {
            0 => writeln!(text, "overlap not checked: no evaluation set given"),
            n => writeln!(text, "held against {n} prompts of the evaluation set"),
        };
        if let Some(digest) = self.digest {
            let _ = writeln!(text, "dataset {digest}");
        }
        text
    }
}

impl TokenCounts {
    fn of(mut counts: Vec<usize>) -> Option<Self> {
        counts.sort_unstable();
        let at = |percent: usize| counts.get((counts.len() * percent / 100).min(counts.len() - 1));
        Some(Self {
            total: counts.iter().sum(),
            max: *counts.last()?,
            median: *at(50)?,
            p95: *at(95)?,
        })
    }
}

fn length_ratio_mean(rows: &[SourcedRow]) -> Option<f64> {
    let ratios: Vec<f64> = rows
        .iter()
        .filter_map(|sourced| match &sourced.row {
            super::row::Row::Preference {
                chosen, rejected, ..
            } => {
                let (chosen, rejected) = (chosen.chars().count(), rejected.chars().count());
                Some(chosen as f64 / rejected.max(1) as f64)
            }
            _ => None,
        })
        .collect();
    (!ratios.is_empty()).then(|| ratios.iter().sum::<f64>() / ratios.len() as f64)
}
