//! The examples of one stage, in tokens: from the votes and from the rows of
//! files, drawn in the mixture that the stage asks for. What a row of a file
//! may be is `data`'s to know.

use feedback::Message;
use feedback::pairs::Split;
use model::BaseModel;

use crate::TrainerError;
use crate::data::{Format, Kind, Row, SourcedRow};
use crate::evaluate::HeldOutPrompt;
use crate::examples::{chat_message, encode, encode_answer};
use crate::mixture::{Category, Drawn};
use crate::pack::Sequence;
use crate::prepared::Prepared;
use crate::recipe::{Stage, StageKind};
use crate::rows;
use crate::stage_files::StageRows;
use crate::thumbs::RatedAnswer;
use crate::train::{Examples, Items, PlainExample, RatedExample};

/// Every so many conversations of imitation one validates, where there are that
/// many.
const VALIDATION_EVERY: usize = 20;

/// What a stage trains, and what was left out.
#[derive(Debug)]
pub(crate) struct StageData {
    pub(crate) examples: Examples,
    /// Examples left out for their length.
    pub(crate) too_long: usize,
    /// What the mixture came to; none where nothing is mixed.
    pub(crate) drawn: Option<Drawn>,
}

impl StageData {
    /// Collects and encodes.
    ///
    /// # Errors
    /// When a text cannot be encoded.
    pub(crate) fn collect(
        base: &BaseModel,
        prepared: &Prepared,
        stage: &Stage,
        rows: &StageRows,
    ) -> Result<Self, TrainerError> {
        let tokens_max = stage.training.sequence_tokens_max;
        match stage.kind {
            StageKind::Dpo => {
                let (mut examples, too_long) = encode(base, &prepared.dataset, tokens_max)?;
                add_pairs(base, rows, &mut examples)?;
                add_general(base, rows, &mut examples)?;
                Ok(Self::of(examples, too_long))
            }
            StageKind::Kto => {
                let (mut examples, _) = encode(base, &prepared.dataset, tokens_max)?;
                let (train, validation, too_long) = rated(base, &prepared.rated, tokens_max)?;
                (examples.train, examples.validation) = (train, validation);
                add_general(base, rows, &mut examples)?;
                Ok(Self::of(examples, too_long))
            }
            StageKind::Sft => Ok(Pools::fill(base, prepared, stage, rows)?.draw(stage)),
            StageKind::Cpt => {
                let windows = texts(base, &rows.train, tokens_max)?;
                Ok(Self::of(imitate((0..).zip(windows)), 0))
            }
        }
    }

    fn of(examples: Examples, too_long: usize) -> Self {
        Self {
            examples,
            too_long,
            drawn: None,
        }
    }
}

/// Adds the pairs of files to those of the votes.
fn add_pairs(
    base: &BaseModel,
    rows: &StageRows,
    examples: &mut Examples,
) -> Result<(), TrainerError> {
    let both = [
        (&rows.train, &mut examples.train),
        (&rows.held_out, &mut examples.validation),
    ];
    for (rows, into) in both {
        let Items::Pairs(into) = into else { continue };
        for row in rows {
            into.extend(rows::pair(base, row)?);
        }
    }
    Ok(())
}

/// Adds the answers of general files to what is mixed in beside preferences.
fn add_general(
    base: &BaseModel,
    rows: &StageRows,
    examples: &mut Examples,
) -> Result<(), TrainerError> {
    for row in &rows.train {
        if row.row.kind() != Kind::Preference
            && let Some(sequence) = rows::answer(base, &row.row)?
        {
            examples.retained.push(PlainExample { sequence });
        }
    }
    Ok(())
}

/// Examples to imitate, each with the number of its conversation, of which
/// every twentieth validates: a conversation's turns stay together. What the
/// votes praise is among them and need not be retained besides.
fn imitate(sequences: impl Iterator<Item = (usize, Sequence)>) -> Examples {
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    let (mut conversations, mut last) = (0, None);
    for (conversation, sequence) in sequences {
        if last.replace(conversation) != Some(conversation) {
            conversations += 1;
        }
        let into = match conversations % VALIDATION_EVERY {
            0 => &mut validation,
            _ => &mut train,
        };
        into.push(PlainExample { sequence });
    }
    Examples {
        train: Items::Plain(train),
        validation: Items::Plain(validation),
        retained: Vec::new(),
    }
}

/// The rated answers that were held out, in tokens, where the recipe learns from
/// thumbs alone.
///
/// # Errors
/// As [`StageData::collect`].
pub(crate) fn rated_held_out(
    base: &BaseModel,
    prepared: &Prepared,
) -> Result<Vec<RatedExample>, TrainerError> {
    let kto = |stage: &&Stage| stage.kind == StageKind::Kto;
    let Some(stage) = prepared.stages.iter().rfind(kto) else {
        return Ok(Vec::new());
    };
    let tokens_max = stage.training.sequence_tokens_max;
    match rated(base, &prepared.rated, tokens_max)?.1 {
        Items::Rated(held_out) => Ok(held_out),
        _ => Ok(Vec::new()),
    }
}

/// Their prompts. What an answer must contain nobody said.
pub(crate) fn rated_prompts(prepared: &Prepared) -> Vec<HeldOutPrompt> {
    let is_learned = prepared.stages.iter().any(|s| s.kind == StageKind::Kto);
    let held_out = prepared
        .rated
        .iter()
        .filter(|row| row.split == Split::HeldOut);
    let mut prompts: Vec<HeldOutPrompt> = held_out
        .filter(|_| is_learned)
        .map(|row| HeldOutPrompt {
            messages: row.prompt.iter().filter_map(chat_message).collect(),
            expect: None,
        })
        .collect();
    prompts.dedup();
    prompts
}

fn rated(
    base: &BaseModel,
    rows: &[RatedAnswer],
    tokens_max: usize,
) -> Result<(Items, Items, usize), TrainerError> {
    let (mut train, mut validation, mut long) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        let sequence = encode_answer(base, &row.prompt, &row.answer)?;
        if sequence.tokens.len() > tokens_max {
            long += 1;
            continue;
        }
        let into = match row.split {
            Split::Train => &mut train,
            Split::HeldOut => &mut validation,
        };
        into.push(RatedExample {
            sequence,
            is_good: row.is_good,
        });
    }
    Ok((Items::Rated(train), Items::Rated(validation), long))
}

/// Answers to imitate, by category, each with its conversation's number.
#[derive(Default)]
struct Pools {
    of: [Vec<(usize, Sequence)>; 3],
    conversations: usize,
    too_long: usize,
}

impl Pools {
    /// The votes' good answers are dialogue; what a file's are it may say.
    fn fill(
        base: &BaseModel,
        prepared: &Prepared,
        stage: &Stage,
        rows: &StageRows,
    ) -> Result<Self, TrainerError> {
        let mut pools = Self::default();
        let tokens_max = stage.training.sequence_tokens_max;
        let dataset = &prepared.dataset;
        let pairs = dataset
            .train
            .iter()
            .map(|pair| (&pair.prompt, &pair.chosen));
        let praised = dataset.upvoted.iter().filter(|e| e.split == Split::Train);
        let praised = praised.map(|example| (&example.prompt, &example.answer));
        for (prompt, answer) in pairs.chain(praised) {
            pools.conversations += 1;
            pools.vote(base, prompt, answer, tokens_max)?;
        }
        let mut last = None;
        for row in &rows.train {
            let place = (&row.file, row.line);
            if last.replace(place) != Some(place) {
                pools.conversations += 1;
            }
            if let Some(sequence) = rows::answer(base, &row.row)? {
                pools.push(category(stage, row), sequence);
            }
        }
        Ok(pools)
    }

    fn vote(
        &mut self,
        base: &BaseModel,
        prompt: &[Message],
        answer: &str,
        tokens_max: usize,
    ) -> Result<(), TrainerError> {
        let sequence = encode_answer(base, prompt, answer)?;
        match sequence.tokens.len() > tokens_max {
            true => self.too_long += 1,
            false => self.push(Category::Dialogue, sequence),
        }
        Ok(())
    }

    fn push(&mut self, category: Category, sequence: Sequence) {
        let pool = match category {
            Category::Reasoning => 0,
            Category::Dialogue => 1,
            Category::General => 2,
        };
        self.of[pool].push((self.conversations, sequence));
    }

    /// What the mixture takes of them.
    fn draw(self, stage: &Stage) -> StageData {
        let sizes = self.of.each_ref().map(Vec::len);
        let (indices, drawn) = stage.mixture.draw(sizes, stage.training.seed);
        let picked = self.of.iter().zip(&indices);
        let picked =
            picked.flat_map(|(pool, indices)| indices.iter().map(|&index| pool[index].clone()));
        StageData {
            examples: imitate(picked),
            too_long: self.too_long,
            drawn: Some(drawn),
        }
    }
}

/// What the row's file counts as, or what the row itself is.
fn category(stage: &Stage, row: &SourcedRow) -> Category {
    let of_kind = || match row.row.kind() {
        Kind::Reasoning => Category::Reasoning,
        Kind::Chat | Kind::Preference | Kind::Text => Category::Dialogue,
    };
    stage.category_of(row).unwrap_or_else(of_kind)
}

/// Texts end to end with an end token behind each document, cut to the context:
/// a line of JSON is a document, and so is a whole file of plain text, whose
/// rows are its paragraphs. Each window begins with the last token of the one
/// before, so that every token but the very first is predicted once.
fn texts(
    base: &BaseModel,
    rows: &[SourcedRow],
    tokens_max: usize,
) -> Result<Vec<Sequence>, TrainerError> {
    let mut stream: Vec<u32> = base.tokenizer.bos().into_iter().collect();
    let mut rows = rows.iter().peekable();
    while let Some(row) = rows.next() {
        let Row::Text { text } = &row.row else {
            continue;
        };
        let plain = |row: &SourcedRow| row.file.as_deref().is_some_and(Format::is_plain_text);
        let goes_on = plain(row) && rows.peek().is_some_and(|next| next.file == row.file);
        if goes_on {
            let paragraph = format!("{text}\n\n");
            stream.extend(base.tokenizer.encode(&paragraph, false)?);
        } else {
            stream.extend(base.tokenizer.encode(text, false)?);
            stream.push(base.tokenizer.eos());
        }
    }
    let step = tokens_max.saturating_sub(1).max(1);
    let window = |start: usize| Sequence {
        tokens: stream[start..stream.len().min(start + step + 1)].to_vec(),
        completion_start: 1,
    };
    let last = stream.len().saturating_sub(1);
    Ok((0..last).step_by(step).map(window).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::{DataOptions, check_files};

    #[test]
    fn text_is_cut_to_the_context_and_every_token_is_predicted_once() {
        let base = crate::tests::tiny();
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        // one file of several rows, and two documents of another
        let paragraph = |word: &str| format!("{word} ").repeat(900);
        let long = ["alpha", "beta", "gamma"].map(paragraph).join("\n\n");
        let documents = "{\"text\": \"one fine day\"}\n{\"text\": \"quite another story\"}\n";
        let files = [of("a.txt", &long), of("b.jsonl", documents)];
        let options = DataOptions {
            base: Some(base),
            tokens_max: 16,
            whole_texts: true,
            ..DataOptions::default()
        };
        let checked = check_files(&files, &options).unwrap();
        assert_eq!(checked.report.refused, 0);
        assert!(checked.rows.len() > 3, "the long file is several rows");
        let windows = texts(base, &checked.rows, 16).unwrap();
        assert!(windows.len() > 2 && windows.iter().all(|w| w.tokens.len() <= 16));
        for pair in windows.windows(2) {
            assert_eq!(pair[0].tokens.last(), pair[1].tokens.first());
        }
        let predicted: usize = windows.iter().map(Sequence::completion_len).sum();
        let whole: usize = windows.iter().map(|w| w.tokens.len() - 1).sum();
        assert_eq!(predicted, whole);
        let ends = windows
            .iter()
            .flat_map(|w| &w.tokens[1..])
            .filter(|&&t| t == base.tokenizer.eos())
            .count();
        assert_eq!(ends, 3, "one behind each document");
    }

    #[test]
    fn a_conversation_is_trained_or_validates_as_a_whole() {
        let sequence = |token: u32| Sequence {
            tokens: vec![token; 3],
            completion_start: 1,
        };
        // 40 conversations of three answers each
        let sequences = (0..120u32).map(|i| ((i / 3) as usize, sequence(i / 3)));
        let examples = imitate(sequences);
        let tokens = |items: &Items| -> Vec<u32> {
            (0..items.len())
                .map(|i| items.sequences(i)[0].tokens[0])
                .collect()
        };
        assert_eq!(tokens(&examples.validation), [19, 19, 19, 39, 39, 39]);
        assert_eq!(examples.train.len(), 114);
    }

    #[test]
    fn a_file_may_say_what_it_counts_as() {
        let config = crate::Config::parse(
            "[[stage]]\nkind = \"sft\"\n[[stage.file]]\npath = \"a\"\n\
             [[stage.file]]\npath = \"b\"\ncategory = \"general\"\n",
        );
        let stage = &config.unwrap().stages().unwrap()[0];
        let row = |file: &str, row| SourcedRow {
            file: Some(Path::new(file).to_owned()),
            line: 1,
            row,
            tokens: None,
        };
        let (prompt, answer) = (Vec::new(), "a".to_owned());
        let chat = Row::Chat {
            prompt: prompt.clone(),
            answer: answer.clone(),
        };
        let reasoning = Row::Reasoning {
            prompt,
            thinking: "t".to_owned(),
            answer,
        };
        for (row, expected) in [
            (row("a", chat.clone()), Category::Dialogue),
            (row("a", reasoning.clone()), Category::Reasoning),
            (row("b", chat), Category::General),
            (row("b", reasoning), Category::General),
        ] {
            assert_eq!(category(stage, &row), expected);
        }
    }
}
