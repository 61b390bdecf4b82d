//! Reads files and keeps the rows that may be trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::{BaseModel, ModelError, TemplateMessage};

use super::format::{Format, parse_line};
use super::lines::{Limits, ROWS_MAX, for_each_line};
use super::near::NearDuplicates;
use super::overlap::EvaluationSet;
use super::report::{DataReport, FileReport};
use super::row::{Kind, Problem, Row, SourcedRow};
use crate::TrainerError;

/// Bytes of a plain text after which a blank line begins the next row; at twice
/// as many any line does.
const DOCUMENT_BYTES_MIN: usize = 4000;

/// What rows are held against.
#[derive(Default)]
pub struct DataOptions<'a> {
    /// Counts tokens and renders the template; without one neither is checked,
    /// and the report says so.
    pub base: Option<&'a BaseModel>,
    /// The most tokens of a sequence.
    pub tokens_max: usize,
    /// The format, where it is not to be told from the first row of each file.
    pub format: Option<Format>,
    /// The kinds of rows that are of use; without them all are.
    pub kinds: Option<&'a [Kind]>,
    /// Texts are counted, and not cut to `tokens_max`.
    pub whole_texts: bool,
    /// Prompts that must not be trained.
    pub evaluation: EvaluationSet,
}

/// The rows that passed, and the report on all.
pub struct Checked {
    /// What may be trained, in the order of files and lines.
    pub rows: Vec<SourcedRow>,
    /// What was found.
    pub report: DataReport,
}

/// Reads and checks `files` as one dataset.
///
/// # Errors
/// [`TrainerError::File`] or [`TrainerError::Content`] when a file cannot be
/// read at all; a bad row is no error but a line of the report.
pub fn check_files(files: &[PathBuf], options: &DataOptions<'_>) -> Result<Checked, TrainerError> {
    let mut reader = Reader {
        options,
        near: NearDuplicates::default(),
        remembered: Vec::new(),
        rows: Vec::new(),
        report: DataReport::new(options),
    };
    for path in files {
        reader.file(path)?;
    }
    let Reader {
        rows, mut report, ..
    } = reader;
    report.finish(&rows);
    Ok(Checked { rows, report })
}

impl Checked {
    /// Refuses rows that were kept, each line as a whole, for what is known only
    /// now.
    pub(crate) fn refuse(&mut self, problem: impl Fn(&SourcedRow) -> Option<Problem>) {
        let place = |row: &SourcedRow| Some((row.file.clone()?, row.line));
        let refused = self.rows.iter();
        let refused: BTreeMap<(PathBuf, usize), Problem> = refused
            .filter_map(|row| problem(row).and_then(|problem| Some((place(row)?, problem))))
            .collect();
        if refused.is_empty() {
            return;
        }
        let report = &mut self.report;
        self.rows.retain(|row| {
            let kept = !place(row).is_some_and(|place| refused.contains_key(&place));
            let mut files = report.files.iter_mut();
            if !kept && let Some(file) = files.find(|file| Some(&file.path) == row.file.as_ref()) {
                file.kept = file.kept.saturating_sub(1);
            }
            kept
        });
        for ((path, line), problem) in refused {
            if let Some(file) = report.files.iter_mut().find(|file| file.path == path) {
                file.refused += 1;
            }
            report.refuse(&path, line, problem);
        }
        report.finish(&self.rows);
    }
}

/// What is wrong with one row besides its content: it answers an image, overlaps the
/// evaluation, or the model's template or context does not take it.
///
/// # Errors
/// The problem.
pub(crate) fn check_row(row: &Row, options: &DataOptions<'_>) -> Result<(), Problem> {
    if row
        .prompt()
        .iter()
        .any(|message| !message.images.is_empty())
    {
        return Err(Problem::HasImage);
    }
    match options.evaluation.holds(row) {
        true => Err(Problem::InEvaluation),
        false => fit(row.clone(), options).map(|_| ()),
    }
}

struct Reader<'a> {
    options: &'a DataOptions<'a>,
    near: NearDuplicates,
    /// The file and line of each row that `near` remembers.
    remembered: Vec<(String, usize)>,
    rows: Vec<SourcedRow>,
    report: DataReport,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path) -> Result<(), TrainerError> {
        let plain = Format::is_plain_text(path);
        let mut format = match plain {
            true => Some(Format::Text),
            false => self.options.format,
        };
        let mut file = FileReport::new(path);
        let mut document = Document::default();
        for_each_line(path, Limits::default(), |number, line| {
            if plain {
                match line {
                    Ok(line) => {
                        if let Some((first, text)) = document.line(number, line) {
                            self.line(path, first, Ok(vec![Row::Text { text }]), &mut file)?;
                        }
                    }
                    Err(problem) => self.line(path, number, Err(problem), &mut file)?,
                }
                return Ok(());
            }
            match line {
                Ok(line) if line.trim().is_empty() => Ok(()),
                line => {
                    let rows = line.and_then(|line| parse_line(line, &mut format));
                    self.line(path, number, rows, &mut file)
                }
            }
        })?;
        if let Some((first, text)) = document.end() {
            self.line(path, first, Ok(vec![Row::Text { text }]), &mut file)?;
        }
        file.format = format;
        self.report.files.push(file);
        Ok(())
    }

    /// Keeps the rows of a line, or says why not; a line is kept as a whole.
    fn line(
        &mut self,
        path: &Path,
        line: usize,
        rows: Result<Vec<Row>, Problem>,
        file: &mut FileReport,
    ) -> Result<(), TrainerError> {
        file.lines += 1;
        match rows.and_then(|rows| self.check(path, line, rows)) {
            Ok(rows) if self.rows.len() + rows.len() > ROWS_MAX => Err(TrainerError::Content {
                path: path.to_owned(),
                line,
                problem: format!("a dataset has at most {ROWS_MAX} rows"),
            }),
            Ok(rows) => {
                file.kept += rows.len();
                self.rows.extend(rows);
                Ok(())
            }
            Err(problem) => {
                file.refused += 1;
                self.report.refuse(path, line, problem);
                Ok(())
            }
        }
    }

    fn check(
        &mut self,
        path: &Path,
        line: usize,
        rows: Vec<Row>,
    ) -> Result<Vec<SourcedRow>, Problem> {
        let mut checked = Vec::with_capacity(rows.len());
        for row in rows {
            let (kind, wanted) = (row.kind(), self.options.kinds);
            if wanted.is_some_and(|kinds| !kinds.contains(&kind)) {
                return Err(Problem::OtherKind { kind });
            }
            check_content(&row)?;
            if self.options.evaluation.holds(&row) {
                return Err(Problem::InEvaluation);
            }
            for (row, tokens) in fit(row, self.options)? {
                checked.push(SourcedRow {
                    file: Some(path.to_owned()),
                    line,
                    row,
                    tokens,
                });
            }
        }
        self.check_new(path, line, &checked)?;
        Ok(checked)
    }

    /// The last row of a conversation has all of it.
    fn check_new(&mut self, path: &Path, line: usize, rows: &[SourcedRow]) -> Result<(), Problem> {
        let Some(last) = rows.last() else {
            return Ok(());
        };
        let row = match &last.row {
            Row::Text { .. } => rows.iter().flat_map(|r| r.row.completions()).collect(),
            row => whole(row),
        };
        match self.near.insert(&row) {
            None => {
                self.remembered.push((path.display().to_string(), line));
                Ok(())
            }
            Some((earlier, alike)) => {
                let (file, line) = self.remembered.get(earlier).cloned().unwrap_or_default();
                // A share of 0 to 1.
                let percent = (100.0 * alike).round() as u32;
                Err(Problem::NearDuplicate {
                    file,
                    line,
                    percent,
                })
            }
        }
    }
}

/// Everything that a row says.
pub(crate) fn whole(row: &Row) -> String {
    let mut text = String::new();
    for message in row.prompt().iter().filter(|m| m.role != "system") {
        text.push_str(&message.content);
        text.push('\n');
    }
    text.extend(row.completions());
    text
}

fn check_content(row: &Row) -> Result<(), Problem> {
    let filled = |field: &str, text: &str| match text.trim().is_empty() {
        true => Err(Problem::Empty {
            field: field.to_owned(),
        }),
        false => Ok(()),
    };
    for message in row.prompt().iter().filter(|m| m.role != "system") {
        filled("prompt", &message.content)?;
    }
    match row {
        Row::Text { text } => filled("text", text),
        Row::Chat { answer, .. } => filled("answer", answer),
        Row::Reasoning {
            thinking, answer, ..
        } => {
            filled("thinking", thinking)?;
            filled("answer", answer)
        }
        Row::Preference {
            chosen, rejected, ..
        } => {
            filled("preferred answer", chosen)?;
            filled("other answer", rejected)?;
            match normal(chosen) == normal(rejected) {
                true => Err(Problem::Equal),
                false => Ok(()),
            }
        }
    }
}

fn normal(text: &str) -> String {
    use unicode_normalization::UnicodeNormalization;
    let unified: String = text.nfkc().collect();
    unified.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The row with its tokens counted; a text that is too long as several.
fn fit(row: Row, options: &DataOptions<'_>) -> Result<Vec<(Row, Option<usize>)>, Problem> {
    let Some(base) = options.base else {
        return Ok(vec![(row, None)]);
    };
    let tokens_max = options.tokens_max;
    if let Row::Text { text } = row {
        if options.whole_texts {
            let tokens = text_tokens(base, &text)?;
            return Ok(vec![(Row::Text { text }, Some(tokens))]);
        }
        let mut pieces = Vec::new();
        cut(base, &text, tokens_max, &mut pieces)?;
        return Ok(pieces);
    }
    let prompt: Vec<TemplateMessage<'_>> = row
        .prompt()
        .iter()
        .map(|message| TemplateMessage {
            role: &message.role,
            content: &message.content,
        })
        .collect();
    let mut longest = 0;
    for completion in row.completions() {
        let encoded = base
            .encode_completion(&prompt, &completion)
            .map_err(template_problem)?;
        longest = longest.max(encoded.prompt.len() + encoded.completion.len());
    }
    drop(prompt);
    if longest > tokens_max {
        let tokens = longest;
        return Err(Problem::TooLong { tokens, tokens_max });
    }
    Ok(vec![(row, Some(longest))])
}

fn template_problem(error: ModelError) -> Problem {
    match error {
        ModelError::Template(problem) if problem.contains("prefix") => Problem::TemplatePrefix,
        other => Problem::Template {
            detail: other.to_string(),
        },
    }
}

/// With the end mark that is trained behind a text.
fn text_tokens(base: &BaseModel, text: &str) -> Result<usize, Problem> {
    let encoded = base.tokenizer.encode(text, false);
    Ok(encoded.map_err(template_problem)?.len() + 1)
}

/// Halves a text at white space near its middle until each piece fits.
fn cut(
    base: &BaseModel,
    text: &str,
    tokens_max: usize,
    pieces: &mut Vec<(Row, Option<usize>)>,
) -> Result<(), Problem> {
    let tokens = text_tokens(base, text)?;
    if tokens <= tokens_max {
        let text = text.to_owned();
        pieces.push((Row::Text { text }, Some(tokens)));
        return Ok(());
    }
    let middle = (text.len() / 2..text.len())
        .find(|place| text.is_char_boundary(*place))
        .unwrap_or(text.len());
    let place = text[..middle]
        .rfind(char::is_whitespace)
        .filter(|place| *place > text.len() / 4)
        .unwrap_or(middle);
    let (left, right) = (text[..place].trim_end(), text[place..].trim_start());
    if left.is_empty() || right.is_empty() {
        return Err(Problem::TooLong { tokens, tokens_max });
    }
    cut(base, left, tokens_max, pieces)?;
    cut(base, right, tokens_max, pieces)
}

/// Gathers the lines of a plain text into rows.
#[derive(Default)]
struct Document {
    first: usize,
    text: String,
}

impl Document {
    /// Takes a line; a full row comes out at a blank line once there is much,
    /// and at any line once there is twice as much.
    fn line(&mut self, number: usize, line: &str) -> Option<(usize, String)> {
        let blank = line.trim().is_empty();
        let full = self.text.len() >= DOCUMENT_BYTES_MIN;
        let done = match full && (blank || self.text.len() >= 2 * DOCUMENT_BYTES_MIN) {
            true => self.end(),
            false => None,
        };
        if self.text.is_empty() && blank {
            return done;
        }
        if self.text.is_empty() {
            self.first = number;
        } else {
            self.text.push('\n');
        }
        self.text.push_str(line);
        done
    }

    fn end(&mut self) -> Option<(usize, String)> {
        let text = std::mem::take(&mut self.text);
        let text = text.trim_end();
        (!text.is_empty()).then(|| (self.first, text.to_owned()))
    }
}
