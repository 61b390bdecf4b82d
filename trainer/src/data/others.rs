//! Formats that others made common: Alpaca, ShareGPT, reasoning rows, texts.

use feedback::Message;
use serde::Deserialize;
use serde_json::Value;

use super::format::typed;
use super::openai::turns;
use super::row::{Problem, Row};

#[derive(Deserialize)]
struct Alpaca {
    instruction: String,
    #[serde(default)]
    input: String,
    output: String,
    system: Option<String>,
    /// Earlier turns, as LLaMA-Factory writes them.
    #[serde(default)]
    history: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct ShareGpt {
    conversations: Vec<Turn>,
    system: Option<String>,
}

#[derive(Deserialize)]
struct Turn {
    from: String,
    value: String,
}

#[derive(Deserialize)]
struct Reasoning {
    question: String,
    thinking: String,
    answer: String,
    system: Option<String>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

pub(super) fn alpaca(value: Value) -> Result<Vec<Row>, Problem> {
    let line: Alpaca = typed(value)?;
    let mut prompt = system(line.system);
    for (asked, answered) in line.history {
        prompt.extend([message("user", asked), message("assistant", answered)]);
    }
    let question = match line.input.trim().is_empty() {
        true => line.instruction,
        false => format!("{}\n{}", line.instruction, line.input),
    };
    prompt.push(message("user", question));
    let answer = line.output;
    Ok(vec![Row::Chat { prompt, answer }])
}

pub(super) fn sharegpt(value: Value) -> Result<Vec<Row>, Problem> {
    let line: ShareGpt = typed(value)?;
    let mut messages = system(line.system);
    for turn in line.conversations {
        let role = match turn.from.as_str() {
            "human" | "user" => "user",
            "gpt" | "assistant" | "chatgpt" => "assistant",
            "system" => "system",
            other => {
                let detail = format!("{other:?} is no role of a conversation");
                return Err(Problem::Roles { detail });
            }
        };
        messages.push(message(role, turn.value));
    }
    turns(messages, |_| true)
}

pub(super) fn reasoning(value: Value) -> Result<Vec<Row>, Problem> {
    let line: Reasoning = typed(value)?;
    let mut prompt = system(line.system);
    prompt.push(message("user", line.question));
    Ok(vec![Row::Reasoning {
        prompt,
        thinking: line.thinking,
        answer: line.answer,
    }])
}

pub(super) fn text(value: Value) -> Result<Vec<Row>, Problem> {
    let Text { text } = typed(value)?;
    Ok(vec![Row::Text { text }])
}

fn system(text: Option<String>) -> Vec<Message> {
    let text = text.filter(|text| !text.trim().is_empty());
    text.map(|text| message("system", text))
        .into_iter()
        .collect()
}

fn message(role: &str, content: String) -> Message {
    Message::new(role, content)
}
