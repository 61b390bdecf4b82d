//! The bytes that each token stands for.

use std::collections::HashMap;

use super::sentencepiece::{self, SPACE};
use super::vocabulary::{Scheme, TokenKind};

/// The bytes of all tokens, one after the other.
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where the token at each index ends, and whether it steers the model.
    ends: Vec<(usize, bool)>,
}

impl TokenBytes {
    pub(super) fn of(tokens: &[String], kinds: &[TokenKind], scheme: Scheme) -> Self {
        let alphabet: HashMap<char, u8> =
            (0..=u8::MAX).map(|byte| (byte_char(byte), byte)).collect();
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(tokens.len());
        for (token, kind) in tokens.iter().zip(kinds) {
            let control = *kind == TokenKind::Control;
            let start = bytes.len();
            if scheme == Scheme::SentencePiece {
                match sentencepiece::byte_of(token).filter(|_| *kind == TokenKind::Byte) {
                    Some(byte) => bytes.push(byte),
                    None if control => bytes.extend_from_slice(token.as_bytes()),
                    None => bytes.extend_from_slice(token.replace(SPACE, " ").as_bytes()),
                }
                ends.push((bytes.len(), control));
                continue;
            }
            let decoded = |c: char| alphabet.get(&c).copied();
            // A token with a character outside of the alphabet stands for itself.
            if kind.is_added()
                || !token
                    .chars()
                    .all(|c| decoded(c).map(|b| bytes.push(b)).is_some())
            {
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
            }
            ends.push((bytes.len(), control));
        }
        Self { bytes, ends }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, id: u32) -> &[u8] {
        let index = id as usize;
        let Some(&(end, _)) = self.ends.get(index) else {
            return &[];
        };
        let start = if index == 0 {
            0
        } else {
            self.ends[index - 1].0
        };
        &self.bytes[start..end]
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.ends
            .get(id as usize)
            .is_some_and(|(_, special)| *special)
    }
}

/// The character that GPT-2's byte-level alphabet writes a byte with: itself
/// when it is visible, else one from U+0100 on.
pub(super) fn byte_char(byte: u8) -> char {
    match byte {
        0..=0x20 => char_at(0x100 + u32::from(byte)),
        0x7f..=0xa0 => char_at(0x121 + u32::from(byte - 0x7f)),
        0xad => char_at(0x143),
        _ => char::from(byte),
    }
}

fn char_at(code: u32) -> char {
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn the_alphabet_is_gpt2s() {
        let ours: std::collections::HashSet<char> = (0..=u8::MAX).map(byte_char).collect();
        assert_eq!(ours.len(), 256);
        assert!(ByteLevel::alphabet().into_iter().all(|c| ours.contains(&c)));
        assert_eq!(byte_char(b' '), 'Ġ');
        assert_eq!(byte_char(b'\n'), 'Ċ');
        assert_eq!(byte_char(0xad), 'Ń');
    }
}
