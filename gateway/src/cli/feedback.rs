//! `flywheel feedback`.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;

use super::CliError;
use super::client::Client;
use super::output::line;

/// Votes in one request.
const PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Prints all votes as JSON lines, superseded and retracted ones too.
    Export {
        /// Goes on after this cursor.
        #[arg(long)]
        after: Option<String>,
    },
}

#[derive(Deserialize)]
struct Row {
    cursor: String,
}

pub(super) async fn run(command: Command, client: &Client) -> Result<ExitCode, CliError> {
    let Command::Export { mut after } = command;
    loop {
        let from = after
            .as_ref()
            .map(|after| format!("&after={after}"))
            .unwrap_or_default();
        let page = client
            .get_text(&format!("/admin/v1/feedback/export?limit={PAGE}{from}"))
            .await?;
        let rows: Vec<&str> = page.lines().collect();
        for row in &rows {
            line(row)?;
        }
        let Some(last) = rows.last().filter(|_| rows.len() == PAGE) else {
            return Ok(ExitCode::SUCCESS);
        };
        let last: Row =
            serde_json::from_str(last).map_err(|error| CliError::Protocol(error.to_string()))?;
        after = Some(last.cursor);
    }
}
