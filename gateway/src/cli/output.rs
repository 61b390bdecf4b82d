//! What a command prints: tables for people, JSON lines for programs.

use std::io::Write as _;

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use serde::Serialize;

use super::CliError;

/// How a command prints.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

/// Writes a line; a reader that has gone away is no error of ours to tell.
pub(super) fn line(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "{}", text.trim_end_matches('\n'))?)
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints rows: each as one JSON line, or all as a table.
    pub(super) fn rows<T: Serialize>(
        self,
        items: &[T],
        head: &[&str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<(), CliError> {
        if self.json {
            for item in items {
                let text = serde_json::to_string(item);
                line(&text.map_err(|error| CliError::Protocol(error.to_string()))?)?;
            }
            return Ok(());
        }
        let mut table = Table::new();
        table
            .load_style(UTF8_HORIZONTAL_ONLY)
            .set_header(head.iter().copied());
        for item in items {
            table.add_row(row(item));
        }
        line(&table.to_string())
    }

    /// Prints what was done.
    pub(super) fn done(self, text: &str) -> Result<(), CliError> {
        if self.json {
            line(&serde_json::json!({ "message": text.trim_end() }).to_string())
        } else {
            line(text)
        }
    }
}
