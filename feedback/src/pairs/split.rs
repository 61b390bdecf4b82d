//! Which rows are held out, decided for each answer before anything is paired.

use ids::Sha256Digest;

use super::{PairOptions, Split, hygiene};
use crate::Inference;

/// The metadata key by which a set declares its own split: `train` or
/// `held_out`.
pub const SPLIT_KEY: &str = "split";
/// The metadata key of a session, which is never split.
pub const SESSION_KEY: &str = "session_id";

const BUCKETS: u64 = 10_000;

/// What the rows of this answer are for.
#[must_use]
pub fn of(inference: &Inference, options: &PairOptions) -> Split {
    match inference.metadata.get(SPLIT_KEY).map(String::as_str) {
        Some("train") => return Split::Train,
        Some("held_out") => return Split::HeldOut,
        _ => {}
    }
    let cluster = match inference.metadata.get(SESSION_KEY) {
        Some(session) => format!("session {session}"),
        None => format!("prompt {}", hygiene::prompt_hash(&inference.messages)),
    };
    if bucket(&options.split_salt, &cluster) < u64::from(options.held_out.get()) {
        Split::HeldOut
    } else {
        Split::Train
    }
}

fn bucket(salt: &str, cluster: &str) -> u64 {
    let digest = Sha256Digest::of(format!("{salt}\0{cluster}").as_bytes());
    let first = digest.as_bytes().iter().take(8);
    first.fold(0u64, |sum, &byte| (sum << 8) | u64::from(byte)) % BUCKETS
}
