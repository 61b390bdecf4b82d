//! The tokens of a model whose tokenizer mistralrs read.

use engine::parts::Vocabulary;
use mistralrs::core::llguidance::toktrie::TokTrie;

/// Every token's bytes.
pub(crate) struct Words {
    words: Vec<Word>,
    /// In order.
    ends: Vec<u32>,
    eos: u32,
}

struct Word {
    bytes: Vec<u8>,
    is_special: bool,
}

impl Words {
    /// The tokens of `trie`; `ends` end an answer.
    pub(crate) fn new(trie: &TokTrie, mut ends: Vec<u32>) -> Self {
        let count = u32::try_from(trie.vocab_size()).unwrap_or(u32::MAX);
        let word = |id| match trie.token(id).split_first() {
            Some((&TokTrie::SPECIAL_TOKEN_MARKER, text)) => Word {
                bytes: text.to_vec(),
                is_special: true,
            },
            _ => Word {
                bytes: trie.token(id).to_vec(),
                is_special: false,
            },
        };
        ends.sort_unstable();
        let eos = ends.first().copied().unwrap_or(trie.eos_token());
        Self {
            words: (0..count).map(word).collect(),
            ends,
            eos,
        }
    }

    fn word(&self, id: u32) -> Option<&Word> {
        self.words.get(id as usize)
    }
}

impl Vocabulary for Words {
    fn len(&self) -> usize {
        self.words.len()
    }

    fn token_bytes(&self, id: u32) -> &[u8] {
        self.word(id).map_or(&[], |word| &word.bytes)
    }

    fn is_special(&self, id: u32) -> bool {
        self.word(id).is_some_and(|word| word.is_special)
    }

    fn is_end_of_generation(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    fn eos(&self) -> u32 {
        self.eos
    }
}

#[cfg(test)]
mod tests {
    use mistralrs::core::llguidance::toktrie::TokRxInfo;

    use super::*;

    #[test]
    fn marks_are_no_text_and_ends_are_found() {
        let words: [&[u8]; 4] = [b"a", b"\xff<end>", b"\xe6", b"\xff<stop>"];
        let trie = TokTrie::from(&TokRxInfo::new(4, 1), &words.map(<[u8]>::to_vec));
        let words = Words::new(&trie, vec![3, 1]);
        assert_eq!((words.len(), words.eos()), (4, 1));
        assert_eq!(words.token_bytes(2), b"\xe6");
        assert_eq!(words.token_bytes(3), b"<stop>");
        assert_eq!(words.token_bytes(4), b"");
        let special = [0, 1, 2, 3, 4].map(|id| words.is_special(id));
        assert_eq!(special, [false, true, false, true, false]);
        let ends = [0, 1, 2, 3, 4].map(|id| words.is_end_of_generation(id));
        assert_eq!(ends, special);
    }
}
