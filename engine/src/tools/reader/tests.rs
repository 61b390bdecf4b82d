use super::super::Tool;
use super::*;

fn tools(is_parallel: bool) -> ToolUse {
    let tool = |name: &str| Tool {
        name: name.to_owned(),
        description: None,
        parameters: Value::Null,
        is_strict: false,
    };
    ToolUse {
        tools: vec![tool("find"), tool("buy")],
        choice: ToolChoice::Auto,
        is_parallel,
    }
}

fn call(name: &str, arguments: &str) -> (String, String) {
    (name.to_owned(), arguments.to_owned())
}

/// The text and the calls of `text`, which comes in pieces of `size` characters.
fn read_as(markup: ToolMarkup, text: &str, size: usize) -> (String, Vec<(String, String)>) {
    let mut reader = ToolReader::new(&tools(true), markup);
    let characters: Vec<char> = text.chars().collect();
    let mut pieces: Vec<Read> = characters
        .chunks(size)
        .map(|piece| reader.push(&piece.iter().collect::<String>()))
        .collect();
    pieces.push(reader.finish());
    let (mut said, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for piece in pieces {
        said.push_str(&piece.text);
        for delta in piece.calls {
            if let Some(name) = delta.name {
                calls.push((name, String::new()));
            }
            assert_eq!(delta.index as usize + 1, calls.len());
            if let Some(last) = calls.last_mut() {
                last.1.push_str(&delta.arguments);
            }
        }
    }
    assert_eq!(calls.len(), reader.calls() as usize);
    (said, calls)
}

fn read(text: &str, size: usize) -> (String, Vec<(String, String)>) {
    read_as(ToolMarkup::Tagged, text, size)
}

#[test]
fn calls_are_found_however_the_text_is_cut() {
    let braces = r#"{"a": "}\"{", "b": [{}, "é🙂"]}"#;
    let two = format!(
        "Let me see. \n<tool_call>\n{{\"name\": \"find\", \"arguments\": {braces}}}\n</tool_call>\n<tool_call>{{ \"name\":\"buy\" , \"arguments\" : {{}} }}</tool_call>\n"
    );
    for size in 1..20 {
        let (said, calls) = read(&two, size);
        assert_eq!(said, "Let me see.", "{size}");
        assert_eq!(calls, [call("find", braces), call("buy", "{}")], "{size}");
    }
}

#[test]
fn a_list_of_calls_as_smollm_writes_it() {
    let list = "<tool_call>[{\"name\": \"find\", \"arguments\": {\"a\": [1]}, \"id\": \"]\"},\n {\"name\": \"buy\", \"arguments\": {}}]</tool_call> Done.";
    let odd = "<tool_call>[{\"name\": \"find\", \"arguments\": {}}, {\"arguments\": {\"b\":2}, \"name\": \"buy\"}]</tool_call>";
    for size in 1..20 {
        let expected = vec![call("find", "{\"a\": [1]}"), call("buy", "{}")];
        assert_eq!(read(list, size), (" Done.".to_owned(), expected), "{size}");
        let expected = vec![call("find", "{}"), call("buy", "{\"b\":2}")];
        assert_eq!(read(odd, size), (String::new(), expected), "{size}");
    }
}

#[test]
fn fields_in_another_order_or_form_are_a_call_too() {
    for (odd, arguments) in [
        (
            "{\"arguments\": {\"x\": 1}, \"name\": \"buy\"}",
            "{\"x\":1}",
        ),
        (
            "{\"name\": \"buy\", \"arguments\": \"{\\\"x\\\": 1}\"}",
            "{\"x\":1}",
        ),
        ("{\"name\": \"buy\"}", "{}"),
        ("[{\"name\": \"buy\"}]", "{}"),
    ] {
        for size in 1..20 {
            let expected = (String::new(), vec![call("buy", arguments)]);
            let closed = format!("<tool_call>\n{odd}\n</tool_call>");
            assert_eq!(read(&closed, size), expected, "{odd}, {size}");
            let cut_off = format!("<tool_call>{odd}");
            assert_eq!(read(&cut_off, size), expected, "{odd}, {size}");
        }
    }
}

#[test]
fn what_is_no_call_stays_text() {
    let texts = [
        "plain text, 1 < 2, <tool, <tool_cal",
        "ends with space \n",
        "<tool_call>{\"name\": \"sell\", \"arguments\": {}}</tool_call> and more",
        "<tool_call>nothing</tool_call>",
        "<tool_call>[]</tool_call>",
        "<tool_call>{\"name\": \"find\", \"arguments\": 5}</tool_call>",
        "<tool_call>\n{\"name\": \"fi",
        "<tool_call>",
        "{\"name\": \"find\", \"arguments\": {}}",
    ];
    for text in texts {
        for size in 1..12 {
            assert_eq!(read(text, size), (text.to_owned(), Vec::new()), "{size}");
        }
    }
}

#[test]
fn bare_calls_are_the_whole_text_or_none_of_it() {
    let one = " {\"name\": \"find\", \"parameters\": {\"a\": \"}\"}}";
    let two = format!("{one}; {{\"name\": \"buy\", \"parameters\": {{}}}}");
    let texts = [
        "plain, {\"name\": \"find\", \"parameters\": {}}",
        "{\"name\": \"sell\", \"parameters\": {}}",
        "{\"some\": \"JSON\"}",
        "{",
        " \n",
    ];
    for size in 1..20 {
        let read = |text| read_as(ToolMarkup::Bare, text, size);
        let first = call("find", "{\"a\": \"}\"}");
        assert_eq!(read(one), (String::new(), vec![first.clone()]), "{size}");
        let both = vec![first, call("buy", "{}")];
        assert_eq!(read(&two), (String::new(), both), "{size}");
        for text in texts {
            assert_eq!(read(text), (text.to_owned(), Vec::new()), "{size}");
        }
    }
}

#[test]
fn arguments_are_told_as_they_come() {
    let mut reader = ToolReader::new(&tools(true), ToolMarkup::Tagged);
    let first = reader.push("<tool_call>\n{\"name\": \"find\", \"arguments\": {\"to");
    assert_eq!(first.calls[0].name.as_deref(), Some("find"));
    assert_eq!(first.calls[0].arguments, "{\"to");
    let second = reader.push("wn\": ");
    assert_eq!(second.calls[0].name, None);
    assert_eq!(second.calls[0].arguments, "wn\": ");
    // cut off in the middle, nothing is made up
    assert_eq!(reader.finish(), Read::default());
}

#[test]
fn where_one_call_may_be_nothing_follows_it() {
    let mut reader = ToolReader::new(&tools(false), ToolMarkup::Tagged);
    let call = "<tool_call>{\"name\": \"find\", \"arguments\": {}";
    assert_eq!(reader.push(call).calls.len(), 1);
    assert!(!reader.is_done(), "the call is not closed");
    let after = "}</tool_call> And more, <tool_call>{\"name\": \"buy\", \"arguments\": {}}";
    assert_eq!(reader.push(after), Read::default());
    assert!(reader.is_done());
    assert_eq!(reader.finish(), Read::default());
    assert_eq!(reader.calls(), 1);
    let mut reader = ToolReader::new(&tools(false), ToolMarkup::Tagged);
    let list =
        "<tool_call>[{\"arguments\": {}, \"name\": \"buy\"}, {\"name\": \"find\"}]</tool_call>";
    assert_eq!(reader.push(list).calls.len(), 1);
    let named = ToolUse {
        choice: ToolChoice::Named("buy".to_owned()),
        ..tools(true)
    };
    let mut reader = ToolReader::new(&named, ToolMarkup::Tagged);
    reader.push("<tool_call>{\"name\": \"buy\", \"arguments\": {}}");
    assert!(reader.is_done(), "a named function is called once");
}
