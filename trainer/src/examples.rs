//! Preference pairs as token sequences.

use feedback::Message;
use feedback::pairs::{Dataset, PreferencePair, Split};
use model::{BaseModel, ModelError, TemplateMessage};

use crate::TrainerError;
use crate::evaluate::{Expectation, HeldOutPrompt, Task};
use crate::pack::Sequence;
use crate::train::{Examples, Items, PairExample, PlainExample};

/// The tag whose text a right answer contains.
const EXPECT_TAG: &str = "expect";

/// Encodes a dataset. Examples of more than `tokens_max` tokens are left out;
/// the second result counts them.
///
/// # Errors
/// [`TrainerError::TemplatePrefix`] when what would be trained is not what is
/// served; [`TrainerError::Model`] when a text cannot be encoded.
pub(crate) fn encode(
    base: &BaseModel,
    dataset: &Dataset,
    tokens_max: usize,
) -> Result<(Examples, usize), TrainerError> {
    let mut examples = Examples::default();
    let mut left_out = 0;
    for (pairs, into) in [
        (&dataset.train, &mut examples.train),
        (&dataset.held_out, &mut examples.validation),
    ] {
        let (encoded, long) = encode_pairs(base, pairs, tokens_max)?;
        *into = Items::Pairs(encoded);
        left_out += long;
    }
    for example in dataset
        .upvoted
        .iter()
        .filter(|example| example.split == Split::Train)
    {
        let sequence = encode_answer(base, &example.prompt, &example.answer)?;
        if sequence.tokens.len() <= tokens_max {
            examples.retained.push(PlainExample { sequence });
        } else {
            left_out += 1;
        }
    }
    Ok((examples, left_out))
}

/// Encodes pairs; the second result counts those that are too long.
///
/// # Errors
/// As [`encode`].
pub(crate) fn encode_pairs(
    base: &BaseModel,
    pairs: &[PreferencePair],
    tokens_max: usize,
) -> Result<(Vec<PairExample>, usize), TrainerError> {
    let mut encoded = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let chosen = encode_answer(base, &pair.prompt, &pair.chosen)?;
        let rejected = encode_answer(base, &pair.prompt, &pair.rejected)?;
        if chosen.tokens.len().max(rejected.tokens.len()) <= tokens_max {
            let id = pair
                .provenance
                .inferences
                .first()
                .map_or("", |id| id.as_str())
                .to_owned();
            encoded.push(PairExample {
                id,
                chosen,
                rejected,
            });
        }
    }
    let long = pairs.len() - encoded.len();
    Ok((encoded, long))
}

/// The two given answers of a task as a pair; none without them, or where they
/// are too long.
///
/// # Errors
/// As [`encode`].
pub(crate) fn encode_task_pair(
    base: &BaseModel,
    task: &Task,
    tokens_max: usize,
) -> Result<Option<PairExample>, TrainerError> {
    let Some((chosen, rejected)) = &task.pair else {
        return Ok(None);
    };
    let prompt: Vec<Message> = task
        .messages
        .iter()
        .map(|message| Message::new(message.role.as_str(), message.content.clone()))
        .collect();
    let (chosen, rejected) = (
        encode_answer(base, &prompt, chosen)?,
        encode_answer(base, &prompt, rejected)?,
    );
    let fits = chosen.tokens.len().max(rejected.tokens.len()) <= tokens_max;
    let id = String::new();
    Ok(fits.then_some(PairExample {
        id,
        chosen,
        rejected,
    }))
}

/// An answer after its prompt, in tokens.
///
/// # Errors
/// As [`encode`].
pub(crate) fn encode_answer(
    base: &BaseModel,
    prompt: &[Message],
    answer: &str,
) -> Result<Sequence, TrainerError> {
    let messages: Vec<TemplateMessage<'_>> = prompt
        .iter()
        .map(|message| TemplateMessage {
            role: &message.role,
            content: &message.content,
        })
        .collect();
    let encoded = base
        .encode_completion(&messages, answer)
        .map_err(|error| match error {
            ModelError::Template(problem) => TrainerError::TemplatePrefix(problem),
            other => other.into(),
        })?;
    let completion_start = encoded.prompt.len();
    let tokens = encoded
        .prompt
        .into_iter()
        .chain(encoded.completion)
        .collect();
    Ok(Sequence {
        tokens,
        completion_start,
    })
}

/// The held-out prompts, and what a right answer to each contains: the votes'
/// tag, or else the whole preferred answer.
#[must_use]
pub(crate) fn held_out_prompts(pairs: &[PreferencePair]) -> Vec<HeldOutPrompt> {
    let prompt = |pair: &PreferencePair| {
        let messages = pair.prompt.iter().filter_map(chat_message).collect();
        let expect = match pair.tags.get(EXPECT_TAG) {
            Some(declared) => Expectation::Declared(declared.clone()),
            None => Expectation::Whole(pair.chosen.clone()),
        };
        HeldOutPrompt {
            messages,
            expect: Some(expect),
        }
    };
    let mut prompts: Vec<HeldOutPrompt> = pairs.iter().map(prompt).collect();
    prompts.dedup();
    prompts
}

/// A stored message as the engine takes it; none for a role that it does not know.
pub(crate) fn chat_message(message: &Message) -> Option<engine::ChatMessage> {
    let role = match message.role.as_str() {
        "system" | "developer" => engine::Role::System,
        "user" => engine::Role::User,
        "assistant" => engine::Role::Assistant,
        _ => return None,
    };
    Some(engine::ChatMessage::new(role, message.content.as_str()))
}
