//! The tokens of a model, for what is computed over all of them.

use model::BaseModel;

/// A model's tokens by their ids, from 0 to below [`Vocabulary::len`].
pub trait Vocabulary: Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a token stands for; nothing for an id that there is not.
    fn token_bytes(&self, id: u32) -> &[u8];

    /// Whether a token is a mark, and no text.
    fn is_special(&self, id: u32) -> bool;

    /// Whether a token ends an answer.
    fn is_end_of_generation(&self, id: u32) -> bool;

    /// The token that ends a sequence.
    fn eos(&self) -> u32;
}

impl Vocabulary for BaseModel {
    fn len(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn token_bytes(&self, id: u32) -> &[u8] {
        self.tokenizer.token_bytes(id)
    }

    fn is_special(&self, id: u32) -> bool {
        self.tokenizer.is_special(id)
    }

    fn is_end_of_generation(&self, id: u32) -> bool {
        self.tokenizer.is_end_of_generation(id)
    }

    fn eos(&self) -> u32 {
        self.tokenizer.eos()
    }
}
