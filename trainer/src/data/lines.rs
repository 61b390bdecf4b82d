//! Lines of a file that may be anybody's: bounded before they are read.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::row::Problem;
use crate::TrainerError;

/// The longest line that is read.
pub const LINE_BYTES_MAX: usize = 4 << 20;
/// The longest file that is read.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// The most rows of one dataset, over all files.
pub const ROWS_MAX: usize = 1_000_000;

/// How much may be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) line_bytes_max: usize,
    pub(super) file_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes_max: LINE_BYTES_MAX,
            file_bytes_max: FILE_BYTES_MAX,
        }
    }
}

/// Calls `each` with every line's number, from 1, and its text or what is
/// wrong with it. A line that is too long is skipped, never held.
pub(super) fn for_each_line(
    path: &Path,
    limits: Limits,
    mut each: impl FnMut(usize, Result<&str, Problem>) -> Result<(), TrainerError>,
) -> Result<(), TrainerError> {
    let file = File::open(path).map_err(TrainerError::file(path))?;
    let too_large = |bytes: u64| TrainerError::Content {
        path: path.to_owned(),
        line: 0,
        problem: format!("{bytes} bytes are more than {}", limits.file_bytes_max),
    };
    let size = file.metadata().map_err(TrainerError::file(path))?.len();
    if size > limits.file_bytes_max {
        return Err(too_large(size));
    }
    // A pipe has no size, and a file may grow while it is read.
    let mut reader = BufReader::new(file.take(limits.file_bytes_max + 1));
    let (mut read_bytes, mut number) = (0u64, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let cap = limits.line_bytes_max as u64 + 2;
        let mut bytes = (&mut reader)
            .take(cap)
            .read_until(b'\n', &mut line)
            .map_err(TrainerError::file(path))? as u64;
        if bytes == 0 {
            return Ok(());
        }
        number += 1;
        let ended = line.last() == Some(&b'\n');
        while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
            line.pop();
        }
        let long = line.len() > limits.line_bytes_max;
        if !ended && bytes == cap {
            bytes += skip_line(&mut reader).map_err(TrainerError::file(path))?;
        }
        read_bytes += bytes;
        if read_bytes > limits.file_bytes_max {
            return Err(too_large(read_bytes));
        }
        let bytes_max = limits.line_bytes_max;
        let text = match std::str::from_utf8(&line) {
            _ if long => Err(Problem::LineTooLong { bytes_max }),
            // Editors of one system put a mark in front of the first line.
            Ok(text) if number == 1 => Ok(text.trim_start_matches('\u{FEFF}')),
            Ok(text) => Ok(text),
            Err(_) => Err(Problem::Schema {
                detail: "the line is not UTF-8".to_owned(),
            }),
        };
        each(number, text)?;
    }
}

/// Reads to the end of the line without keeping it; how many bytes that were.
fn skip_line(reader: &mut impl BufRead) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(skipped);
        }
        let end = buffer.iter().position(|b| *b == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        skipped += used as u64;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}
