#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use feedback::Message;

use super::lines::{Limits, for_each_line};
use super::*;
use crate::tests::tiny;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, lines: &[&str]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, lines.join("\n")).unwrap();
        path
    }
}

fn check(path: &PathBuf) -> Checked {
    check_files(std::slice::from_ref(path), &DataOptions::default()).unwrap()
}

fn problems(checked: &Checked) -> Vec<(usize, String)> {
    let refused = checked.report.refused_rows.iter();
    refused
        .map(|refused| (refused.line, refused.problem.to_string()))
        .collect()
}

#[test]
fn each_format_is_told_by_its_keys() {
    let folder = Folder::new();
    let cases = [
        (
            r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
            Format::OpenaiChat,
            Kind::Chat,
        ),
        (
            r#"{"input": {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}, "preferred_output": [{"role": "assistant", "content": "a"}], "non_preferred_output": [{"role": "assistant", "content": "b"}]}"#,
            Format::OpenaiPreference,
            Kind::Preference,
        ),
        (
            r#"{"instruction": "q", "input": "", "output": "a"}"#,
            Format::Alpaca,
            Kind::Chat,
        ),
        (
            r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#,
            Format::Sharegpt,
            Kind::Chat,
        ),
        (
            r#"{"question": "q", "thinking": "t", "answer": "a"}"#,
            Format::Reasoning,
            Kind::Reasoning,
        ),
        (r#"{"text": "t"}"#, Format::Text, Kind::Text),
    ];
    for (line, format, kind) in cases {
        let checked = check(&folder.file("rows.jsonl", &[line]));
        assert_eq!(problems(&checked), [], "{line}");
        assert_eq!(checked.report.files[0].format, Some(format));
        assert_eq!(checked.rows[0].row.kind(), kind);
        if kind != Kind::Text {
            assert_eq!(checked.rows[0].row.prompt().last().unwrap().content, "q");
        }
    }
    let thought = Row::Reasoning {
        prompt: Vec::new(),
        thinking: "t".into(),
        answer: "a".into(),
    };
    assert_eq!(thought.completions(), ["<think>\nt\n</think>\n\na"]);
}

#[test]
fn refused_lines_are_listed_with_their_reasons() {
    let folder = Folder::new();
    let path = folder.file(
        "chat.jsonl",
        &[
            r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
            "",
            "not json",
            r#"{"messages": [{"role": "assistant", "content": "a"}]}"#,
            r#"{"messages": [{"role": "user", "content": "one"}]}"#,
            r#"{"messages": [{"role": "user", "content": "two"}, {"role": "assistant", "content": "  "}]}"#,
            r#"{"messages": [{"role": "user", "content": "Q!"}, {"role": "assistant", "content": "A."}]}"#,
            r#"{"instruction": "x", "output": "y"}"#,
            r#"{"messages": [{"role": "user", "content": "z"}, {"role": "assistant", "tool_calls": [{}]}]}"#,
            r#"{"messages": [{"role": "user", "content": "z"}, {"role": "assistant", "content": "y", "weight": 0}]}"#,
        ],
    );
    let checked = check(&path);
    let found = problems(&checked);
    let expected = [
        (3, "no JSON"),
        (4, "has its turn"),
        (5, "not the assistant's"),
        (6, "answer is empty"),
        (7, "nearly what line 1"),
        (8, "in a file of"),
        (9, "tool calls"),
        (10, "no answer has a weight"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((line, problem), (at, word)) in found.iter().zip(expected) {
        assert!(*line == at && problem.contains(word), "{line}: {problem}");
    }
    assert_eq!((checked.report.kept, checked.report.refused), (1, 8));
    let text = checked.report.text();
    assert!(text.contains("chat.jsonl:4: ") && text.contains("dataset sha256:"));
}

#[test]
fn a_conversation_makes_a_row_of_each_wanted_answer() {
    let folder = Folder::new();
    let path = folder.file(
        "turns.jsonl",
        &[
            r#"{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "a", "weight": 0}, {"role": "user", "content": "2"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "3"}, {"role": "assistant", "content": "c"}]}"#,
        ],
    );
    let rows = check(&path).rows;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].row.completions(), ["b"]);
    assert_eq!(rows[1].row.prompt().len(), 5);
}

#[test]
fn answers_that_say_the_same_are_no_pair() {
    let folder = Folder::new();
    let line = |a: &str, b: &str| {
        format!(
            r#"{{"input": {{"messages": [{{"role": "user", "content": "q"}}]}}, "preferred_output": [{{"role": "assistant", "content": "{a}"}}], "non_preferred_output": [{{"role": "assistant", "content": "{b}"}}]}}"#
        )
    };
    let (same, empty) = (line("the same", "the  same "), line("some", ""));
    let checked = check(&folder.file("pairs.jsonl", &[&same, &empty]));
    let problems = problems(&checked);
    assert!(problems[0].1.contains("the same"), "{problems:?}");
    assert!(problems[1].1.contains("empty"), "{problems:?}");
}

#[test]
fn tokens_are_counted_and_long_texts_cut() {
    let folder = Folder::new();
    let long = "word ".repeat(400);
    let chat = format!(
        r#"{{"messages": [{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "{long}"}}]}}"#
    );
    let options = || DataOptions {
        base: Some(tiny()),
        tokens_max: 64,
        ..DataOptions::default()
    };
    let path = folder.file("chat.jsonl", &[&chat]);
    let checked = check_files(&[path], &options()).unwrap();
    let problem = &checked.report.refused_rows[0].problem;
    assert!(
        matches!(problem, Problem::TooLong { tokens_max: 64, tokens } if *tokens > 64),
        "{problem}"
    );
    let path = folder.file("text.txt", &[&long, "", "end"]);
    let checked = check_files(&[path], &options()).unwrap();
    assert_eq!(problems(&checked), []);
    assert!(checked.rows.len() > 6, "{}", checked.rows.len());
    assert!(checked.rows.iter().all(|row| row.tokens.unwrap() <= 64));
    let joined: Vec<String> = checked
        .rows
        .iter()
        .flat_map(|row| row.row.completions())
        .collect();
    let words = joined.join(" ");
    assert_eq!(words.split_whitespace().count(), 401, "no word is lost");
    assert!(checked.report.tokens.unwrap().max <= 64);
}

#[test]
fn what_the_evaluation_asks_is_not_trained() {
    let folder = Folder::new();
    let path = folder.file(
        "alpaca.jsonl",
        &[
            r#"{"instruction": "Which bird is on the seal of the northern archive?", "output": "A heron."}"#,
            r#"{"instruction": "Which bird is on the seal of the southern archive?", "output": "A swan."}"#,
        ],
    );
    let mut options = DataOptions::default();
    options.evaluation.add(&[Message::new(
        "user",
        "which bird is on the seal of the NORTHERN archive",
    )]);
    let checked = check_files(&[path], &options).unwrap();
    assert_eq!(problems(&checked).len(), 1);
    assert_eq!(
        checked.report.refused_rows[0].problem,
        Problem::InEvaluation
    );
    assert_eq!(checked.report.refused_rows[0].line, 1);
}

#[test]
fn the_digest_names_rows_in_their_order() {
    let folder = Folder::new();
    let (a, b) = (r#"{"text": "first"}"#, r#"{"text": "second"}"#);
    let name = |name: &str, lines: &[&str]| check(&folder.file(name, lines)).report.digest;
    let first = name("a.jsonl", &[a, b]);
    assert!(first.is_some());
    assert_eq!(first, name("b.jsonl", &[r#" {"text":"first"} "#, "", b]));
    assert_ne!(first, name("c.jsonl", &[b, a]));
    assert_ne!(first, name("d.jsonl", &[a]));
}

#[test]
fn lines_and_files_are_bounded() {
    let folder = Folder::new();
    let path = folder.file("lines", &["1234", "12345", "", "1", "123456789"]);
    let read = |limits| {
        let mut lines = Vec::new();
        let result = for_each_line(&path, limits, |number, line| {
            lines.push((number, line.map(str::to_owned).ok()));
            Ok(())
        });
        (lines, result.is_ok())
    };
    let of = |line_bytes_max, file_bytes_max| Limits {
        line_bytes_max,
        file_bytes_max,
    };
    let kept = |text: &str| Some(text.to_owned());
    let size = std::fs::metadata(&path).unwrap().len();
    let expected = vec![
        (1, kept("1234")),
        (2, None),
        (3, kept("")),
        (4, kept("1")),
        (5, None),
    ];
    assert_eq!(read(of(4, size)), (expected, true));
    assert_eq!(read(of(4, size - 1)), (Vec::new(), false));
}
