//! Training data from files, and what is wrong with it.
//!
//! Reads OpenAI's chat and preference lines, Alpaca, ShareGPT, reasoning rows
//! and plain text. Each row is checked before it may be trained; a refused one is
//! listed with its line and its reason. Knows no votes, no stage, no loss and no
//! mixture: it hands on [`Row`]s and the digest that names them.

mod check;
mod digest;
mod format;
mod lines;
mod near;
mod openai;
mod others;
mod overlap;
mod report;
mod row;
#[cfg(test)]
mod tests;

pub use check::{Checked, DataOptions, check_files};
pub(crate) use check::{check_row, whole};
pub use digest::digest;
pub use format::Format;
pub use lines::{FILE_BYTES_MAX, LINE_BYTES_MAX, ROWS_MAX};
pub use near::{NearDuplicates, SIMILARITY_MIN};
pub use overlap::EvaluationSet;
pub use report::{DataReport, FileReport, REFUSED_LISTED_MAX, Refused, TokenCounts};
pub use row::{Kind, Problem, Row, SourcedRow};
