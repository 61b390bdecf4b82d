//! Whether a row asks what the evaluation asks.

use std::path::Path;

use feedback::Message;
use feedback::pairs::Overlap;

use super::row::Row;
use crate::TrainerError;
use crate::evaluate::read_tasks;

/// The prompts of evaluations, by runs of 13 words; in scripts without spaces
/// each character is a word.
#[derive(Default)]
pub struct EvaluationSet {
    prompts: usize,
    overlap: Overlap,
}

impl EvaluationSet {
    /// Adds the prompts of an evaluation file.
    ///
    /// # Errors
    /// As [`read_tasks`].
    pub fn add_file(&mut self, path: &Path) -> Result<(), TrainerError> {
        for task in read_tasks(path)?.tasks {
            let messages: Vec<Message> = task
                .messages
                .iter()
                .map(|message| Message::new(message.role.as_str(), message.content.clone()))
                .collect();
            self.add(&messages);
        }
        Ok(())
    }

    /// Adds one prompt.
    pub fn add(&mut self, prompt: &[Message]) {
        self.prompts += 1;
        self.overlap.add(prompt);
    }

    /// How many prompts it has.
    #[must_use]
    pub fn prompts(&self) -> usize {
        self.prompts
    }

    /// Whether the row's prompt, or its text, shares 13 words in a row with a
    /// prompt of the set, or, being shorter, is the same.
    #[must_use]
    pub fn holds(&self, row: &Row) -> bool {
        match row {
            Row::Text { text } => {
                let (role, content) = ("user".to_owned(), text.clone());
                self.overlap.holds(&[Message::new(role, content)])
            }
            other => self.overlap.holds(other.prompt()),
        }
    }
}
