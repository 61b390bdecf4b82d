//! The pairs that are measured: token ids from a file, or made up.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::BenchArgs;
use crate::TrainerError;
use crate::pack::Sequence;
use crate::train::PairExample;

/// The longest file, and the most tokens of a sequence.
const FILE_BYTES_MAX: u64 = 64 << 20;
const TOKENS_MAX: usize = 16_384;

/// One line of the file, by TRL's names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt_ids: Vec<u32>,
    chosen_ids: Vec<u32>,
    rejected_ids: Vec<u32>,
}

/// The file's pairs, or as many made-up ones as `args` say.
pub(super) fn read_or_make(
    args: &BenchArgs,
    vocabulary: usize,
) -> Result<Vec<PairExample>, TrainerError> {
    let prompt = args.prompt_tokens.unwrap_or(args.tokens / 2);
    match &args.pairs_file {
        Some(path) => read(path, vocabulary),
        None if prompt == 0 || prompt >= args.tokens => Err(TrainerError::Config {
            key: "prompt-tokens",
            problem: format!("{prompt} is not within 1 and the tokens of a sequence"),
        }),
        None => {
            let lengths = (usize::from(args.tokens), usize::from(prompt));
            Ok(made_up(usize::from(args.pairs), lengths, vocabulary))
        }
    }
}

fn read(path: &Path, vocabulary: usize) -> Result<Vec<PairExample>, TrainerError> {
    let wrong = |line: usize, problem: String| TrainerError::Content {
        path: path.to_owned(),
        line,
        problem,
    };
    let size = std::fs::metadata(path)
        .map_err(TrainerError::file(path))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(wrong(
            1,
            format!("the file is longer than {FILE_BYTES_MAX} bytes"),
        ));
    }
    let text = std::fs::read_to_string(path).map_err(TrainerError::file(path))?;
    let mut pairs = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line: Line =
            serde_json::from_str(line).map_err(|error| wrong(index + 1, error.to_string()))?;
        let all = [&line.prompt_ids, &line.chosen_ids, &line.rejected_ids];
        let longest = all[0].len() + all[1].len().max(all[2].len());
        if all.iter().any(|ids| ids.is_empty()) || longest > TOKENS_MAX {
            let problem = format!("a part is empty, or there are more than {TOKENS_MAX} tokens");
            return Err(wrong(index + 1, problem));
        }
        if all
            .into_iter()
            .flatten()
            .any(|&id| id as usize >= vocabulary)
        {
            let problem = format!("a token is not below {vocabulary}");
            return Err(wrong(index + 1, problem));
        }
        pairs.push(pair(
            index,
            &line.prompt_ids,
            &line.chosen_ids,
            &line.rejected_ids,
        ));
    }
    Ok(pairs)
}

/// Random tokens: nothing is shared but each pair's prompt.
fn made_up(count: usize, (tokens, prompt): (usize, usize), vocabulary: usize) -> Vec<PairExample> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut random = |n: usize| -> Vec<u32> {
        let id = |rng: &mut ChaCha8Rng| rng.random_range(0..vocabulary as u32);
        (0..n).map(|_| id(&mut rng)).collect()
    };
    (0..count)
        .map(|index| {
            let answer = tokens - prompt;
            pair(index, &random(prompt), &random(answer), &random(answer))
        })
        .collect()
}

fn pair(index: usize, prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> PairExample {
    let sequence = |answer: &[u32]| Sequence {
        tokens: [prompt, answer].concat(),
        completion_start: prompt.len(),
    };
    PairExample {
        id: format!("pair-{index}"),
        chosen: sequence(chosen),
        rejected: sequence(rejected),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_and_bad_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        let good = r#"{"prompt_ids":[1,2],"chosen_ids":[3],"rejected_ids":[4,5]}"#;
        std::fs::write(&path, format!("{good}\n")).unwrap();
        let pairs = read(&path, 6).unwrap();
        assert_eq!(pairs[0].rejected.tokens, [1, 2, 4, 5]);
        assert_eq!((pairs.len(), pairs[0].chosen.completion_start), (1, 2));
        for bad in [
            r#"{"prompt_ids":[1,6],"chosen_ids":[3],"rejected_ids":[4]}"#,
            r#"{"prompt_ids":[],"chosen_ids":[3],"rejected_ids":[4]}"#,
            r#"{"prompt_ids":[1],"chosen_ids":[3]}"#,
        ] {
            std::fs::write(&path, format!("{good}\n{bad}\n")).unwrap();
            let error = read(&path, 6).unwrap_err();
            assert!(
                matches!(error, TrainerError::Content { line: 2, .. }),
                "{bad}"
            );
        }
    }

    #[test]
    fn made_up_pairs_have_the_lengths_asked_for() {
        let pairs = made_up(3, (16, 4), 100);
        assert_eq!(pairs.len(), 3);
        assert!(pairs.iter().all(|pair| pair.tokens() == 32
            && pair.chosen.completion_len() == 12
            && pair.chosen.tokens[..4] == pair.rejected.tokens[..4]));
    }
}
