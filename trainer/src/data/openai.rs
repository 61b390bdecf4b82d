//! OpenAI's two formats: conversations, and pairs of answers.

use feedback::Message;
use serde::Deserialize;
use serde_json::Value;

use super::format::typed;
use super::row::{Problem, Row};

#[derive(Deserialize)]
struct ChatLine {
    messages: Vec<ChatMessage>,
}

#[derive(Deserialize)]
struct PreferenceLine {
    input: Input,
    preferred_output: Vec<ChatMessage>,
    non_preferred_output: Vec<ChatMessage>,
}

#[derive(Deserialize)]
struct Input {
    messages: Vec<ChatMessage>,
}

#[derive(Deserialize)]
struct ChatMessage {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Value>,
    function_call: Option<Value>,
    /// 0 leaves an answer out of training.
    weight: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

/// Each answer of the conversation whose weight is not 0 is a row.
pub(super) fn chat(value: Value) -> Result<Vec<Row>, Problem> {
    let line: ChatLine = typed(value)?;
    let weights: Vec<f64> = line.messages.iter().map(weight).collect::<Result<_, _>>()?;
    let messages = messages(line.messages)?;
    turns(messages, |index| weights[index] > 0.0)
}

/// The rows of a conversation: one for each wanted answer.
pub(super) fn turns(
    messages: Vec<Message>,
    wanted: impl Fn(usize) -> bool,
) -> Result<Vec<Row>, Problem> {
    check_turns(&messages, true)?;
    let rows: Vec<Row> = messages
        .iter()
        .enumerate()
        .filter(|(index, message)| message.role == "assistant" && wanted(*index))
        .map(|(index, message)| Row::Chat {
            prompt: messages[..index].to_vec(),
            answer: message.content.clone(),
        })
        .collect();
    match rows.is_empty() {
        true => Err(Problem::Schema {
            detail: "no answer has a weight above 0".to_owned(),
        }),
        false => Ok(rows),
    }
}

pub(super) fn preference(value: Value) -> Result<Vec<Row>, Problem> {
    let line: PreferenceLine = typed(value)?;
    let prompt = messages(line.input.messages)?;
    check_turns(&prompt, false)?;
    Ok(vec![Row::Preference {
        prompt,
        chosen: one_answer(line.preferred_output)?,
        rejected: one_answer(line.non_preferred_output)?,
    }])
}

fn one_answer(output: Vec<ChatMessage>) -> Result<String, Problem> {
    let mut output = messages(output)?;
    match (output.pop(), output.is_empty()) {
        (Some(message), true) if message.role == "assistant" => Ok(message.content),
        _ => Err(Problem::Roles {
            detail: "an output is one message of the assistant".to_owned(),
        }),
    }
}

fn weight(message: &ChatMessage) -> Result<f64, Problem> {
    match message.weight {
        None => Ok(1.0),
        Some(weight) if (message.role == "assistant") && (weight == 0.0 || weight == 1.0) => {
            Ok(weight)
        }
        Some(weight) => Err(Problem::Schema {
            detail: format!("the weight {weight} of {} is not 0 or 1", message.role),
        }),
    }
}

fn messages(messages: Vec<ChatMessage>) -> Result<Vec<Message>, Problem> {
    messages.into_iter().map(message).collect()
}

fn message(message: ChatMessage) -> Result<Message, Problem> {
    let refused = |detail: &str| Problem::Schema {
        detail: detail.to_owned(),
    };
    if message.tool_calls.is_some_and(|calls| !calls.is_null())
        || message.function_call.is_some_and(|call| !call.is_null())
    {
        return Err(refused("tool calls are not trained"));
    }
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => parts
            .into_iter()
            .map(|part| match (part.r#type.as_str(), part.text) {
                ("text", Some(text)) => Ok(text),
                _ => Err(refused("only parts of text are trained")),
            })
            .collect::<Result<_, _>>()?,
        None => return Err(refused("a message has no content")),
    };
    Ok(Message::new(message.role, content))
}

/// A conversation has at most one system message, which comes first; then
/// user and assistant take turns. With `answered` the assistant has the last
/// word, else the user.
pub(super) fn check_turns(messages: &[Message], answered: bool) -> Result<(), Problem> {
    let wrong = |detail: String| Err(Problem::Roles { detail });
    let is_system = |m: &Message| matches!(m.role.as_str(), "system" | "developer");
    let turns = match messages.first() {
        Some(first) if is_system(first) => &messages[1..],
        _ => messages,
    };
    for (index, turn) in turns.iter().enumerate() {
        let role = if index % 2 == 0 { "user" } else { "assistant" };
        if turn.role != role {
            return wrong(format!("{:?} where {role:?} has its turn", turn.role));
        }
    }
    let last = if answered { "assistant" } else { "user" };
    match turns.last() {
        Some(turn) if turn.role == last => Ok(()),
        _ => wrong(format!("the last message is not the {last}'s")),
    }
}
