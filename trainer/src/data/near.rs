//! Rows that say nearly the same, in any language: MinHash over runs of
//! characters, with bands to find candidates.
//!
//! A character run needs no words, so that scripts without spaces are compared
//! as well as others.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

/// Rows whose estimated share of common runs is at least this are the same.
pub const SIMILARITY_MIN: f64 = 0.9;
/// Length of a run, in characters.
const RUN_CHARS: usize = 5;
/// Hashes of a signature, in bands of [`BAND_ROWS`]: at a similarity of 0.9 a
/// pair meets in a band with probability 1 − (1 − 0.9⁸)¹⁶, above 0.9998.
const HASHES: usize = 128;
const BAND_ROWS: usize = 8;
const BANDS: usize = HASHES / BAND_ROWS;
/// The most rows that one band's bucket compares with: a thousand copies of
/// one row are found by the first.
const BUCKET_MAX: usize = 32;

type Signature = [u32; HASHES];

/// Remembers the rows that it was shown.
#[derive(Default)]
pub struct NearDuplicates {
    signatures: Vec<Signature>,
    buckets: HashMap<(usize, u64), Vec<usize>>,
}

impl NearDuplicates {
    /// The first earlier row that says nearly this, and how alike they are
    /// (0 to 1). A row without a like is remembered under the next number,
    /// from 0.
    pub fn insert(&mut self, text: &str) -> Option<(usize, f64)> {
        let signature = signature(text);
        let keys = keys(&signature);
        let mut like: Option<(usize, f64)> = None;
        for key in &keys {
            for earlier in self.buckets.get(key).into_iter().flatten() {
                let alike = similarity(&self.signatures[*earlier], &signature);
                if alike >= SIMILARITY_MIN && like.is_none_or(|(first, _)| *earlier < first) {
                    like = Some((*earlier, alike));
                }
            }
        }
        if like.is_none() {
            let number = self.signatures.len();
            for key in keys {
                let bucket = self.buckets.entry(key).or_default();
                if bucket.len() < BUCKET_MAX {
                    bucket.push(number);
                }
            }
            self.signatures.push(signature);
        }
        like
    }
}

/// The least hash of all runs, for each of [`HASHES`] hash functions.
fn signature(text: &str) -> Signature {
    let chars = folded(text);
    let mut least = [u32::MAX; HASHES];
    let length = RUN_CHARS.min(chars.len()).max(1);
    for run in chars.windows(length) {
        let run_hash = run.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, c| {
            (hash ^ u64::from(u32::from(*c))).wrapping_mul(0x0100_0000_01b3)
        });
        for (function, slot) in (0u64..).zip(&mut least) {
            let mixed = mix(run_hash ^ mix(function.wrapping_add(1)));
            // The upper half of a well-mixed word.
            *slot = (*slot).min((mixed >> 32) as u32);
        }
    }
    least
}

/// SplitMix64's finalizer.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Letters and digits only: case, width, punctuation and spaces are no
/// difference, unless there is nothing else.
fn folded(text: &str) -> Vec<char> {
    let letters: Vec<char> = text
        .nfkc()
        .flat_map(char::to_lowercase)
        .filter(|c| c.is_alphanumeric())
        .collect();
    match letters.is_empty() {
        true => text.chars().filter(|c| !c.is_whitespace()).collect(),
        false => letters,
    }
}

fn keys(signature: &Signature) -> [(usize, u64); BANDS] {
    std::array::from_fn(|band| {
        let rows = &signature[band * BAND_ROWS..(band + 1) * BAND_ROWS];
        let key = rows
            .iter()
            .fold(0u64, |key, hash| mix(key ^ u64::from(*hash)));
        (band, key)
    })
}

#[expect(clippy::cast_precision_loss, reason = "at most 128")]
fn similarity(a: &Signature, b: &Signature) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / HASHES as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_found_in_any_script_and_others_are_not() {
        let texts = [
            "The archive of the northern office keeps every letter that was sent since 1897, in \
             boxes of grey cardboard that nobody has opened for years.",
            "北方办事处的档案馆保存着自一八九七年以来寄出的每一封信，全部放在多年来无人打开的灰色纸板箱里。",
            "Το αρχείο του βόρειου γραφείου φυλάσσει κάθε επιστολή που στάλθηκε από το 1897.",
        ];
        for text in texts {
            let mut seen = NearDuplicates::default();
            assert_eq!(seen.insert(text), None);
            let shouted = format!("  {}!! ", text.to_uppercase().replace(' ', "  "));
            let (first, alike) = seen.insert(&shouted).unwrap_or_default();
            assert!(first == 0 && alike > 0.9, "{alike}");
        }
        let mut seen = NearDuplicates::default();
        assert!(texts.iter().all(|text| seen.insert(text).is_none()));
        // Short rows that differ in one word are not the same.
        assert_eq!(seen.insert("What is the capital of Peru? Lima."), None);
        assert_eq!(seen.insert("What is the capital of Cuba? Havana."), None);
    }

    #[test]
    fn a_thousand_copies_cost_one() {
        let mut seen = NearDuplicates::default();
        let text = "One and the same sentence, again and again and again.";
        assert_eq!(seen.insert(text), None);
        for _ in 0..1000 {
            assert_eq!(seen.insert(text).map(|(first, _)| first), Some(0));
        }
        assert_eq!(seen.signatures.len(), 1);
    }
}
