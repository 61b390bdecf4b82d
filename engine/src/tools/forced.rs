//! The grammar of an answer that must be a call, or of one in which every call
//! must keep to its schema.

use std::fmt::Write as _;

use model::ToolMarkup;
use serde_json::json;

use super::{CLOSE, HELD_CALLS_MAX, OPEN, Tool, ToolChoice, ToolUse};
use crate::constraint::{Constraint, Grammar, spaced};

impl ToolUse {
    /// What the answer is held to, where it must be a call or a function is
    /// strict.
    pub(crate) fn constraint(&self, markup: ToolMarkup) -> Option<Constraint> {
        let all = || self.tools.iter().collect::<Vec<&Tool>>();
        let (tools, may_be_text) = match &self.choice {
            ToolChoice::Auto if !self.tools.iter().any(|tool| tool.is_strict) => return None,
            ToolChoice::Auto => (all(), true),
            ToolChoice::Required => (all(), false),
            ToolChoice::Named(name) => {
                let named = self.tools.iter().filter(|tool| tool.name == *name);
                (named.collect(), false)
            }
        };
        // Llama's own template refuses a message with several calls.
        let several = self.is_parallel
            && markup == ToolMarkup::Tagged
            && !matches!(self.choice, ToolChoice::Named(_));
        let calls_max = if several { HELD_CALLS_MAX } else { 1 };
        Some(Constraint {
            param: "tools",
            grammar: Grammar::Lark(grammar(&tools, markup, may_be_text, calls_max)),
        })
    }
}

/// Each function's arguments are a document of their own, so that a `$ref` in
/// a schema means what it meant where it was written.
fn grammar(tools: &[&Tool], markup: ToolMarkup, may_be_text: bool, calls_max: u32) -> String {
    let (before, after, key) = match markup {
        ToolMarkup::Tagged => (
            format!("\"{OPEN}\" "),
            format!(" \"\\n{CLOSE}\""),
            "arguments",
        ),
        ToolMarkup::Bare => (String::new(), String::new(), "parameters"),
    };
    let more = match calls_max - 1 {
        0 => String::new(),
        more => format!(" (\"\\n\" call){{0,{more}}}"),
    };
    let mut lark = format!("start: call{more}\n");
    if may_be_text {
        lark = start_with_text(markup, &more);
    }
    let _ = writeln!(lark, "call: {before}body");
    let alternatives: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    let line = match markup {
        ToolMarkup::Tagged => "\"\\n\" ",
        ToolMarkup::Bare => "",
    };
    let _ = writeln!(lark, "body: {line}({}){after}", alternatives.join(" | "));
    for (i, tool) in tools.iter().enumerate() {
        let name = &tool.name;
        let _ = writeln!(
            lark,
            r#"call_{i}: "{{\"name\": \"{name}\", \"{key}\": " arguments_{i} "}}""#
        );
        let is_held = tool.is_strict || !may_be_text;
        let schema = if is_held {
            tool.parameters.clone()
        } else {
            json!({"type": "object"})
        };
        let _ = writeln!(lark, "arguments_{i}: %json {}", spaced(schema));
    }
    lark
}

/// Text in which no call begins; or, where the markup has it, text up to the
/// first call's mark, and calls.
fn start_with_text(markup: ToolMarkup, more: &str) -> String {
    match markup {
        ToolMarkup::Tagged => format!(
            "start: TEXT | before body{more}\n\
             TEXT: /(?s:.*)/ & ~/(?s:.*){OPEN}(?s:.*)/\n\
             before[suffix=\"{OPEN}\"]: /(?s:.*)/\n"
        ),
        ToolMarkup::Bare => {
            "start: TEXT | call\nTEXT: /[ \\n\\t\\r]*([^{ \\n\\t\\r](?s:.*))?/\n".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(choice: ToolChoice, is_parallel: bool) -> ToolUse {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: None,
            parameters: json!({"type": "object", "description": name}),
            is_strict: false,
        };
        ToolUse {
            tools: vec![tool("find"), tool("buy")],
            choice,
            is_parallel,
        }
    }

    fn lark(tools: &ToolUse, markup: ToolMarkup) -> String {
        match tools.constraint(markup) {
            Some(Constraint {
                param: "tools",
                grammar: Grammar::Lark(lark),
            }) => lark,
            _ => String::new(),
        }
    }

    #[test]
    fn forced_calls_have_a_grammar_and_a_named_one_is_one_call() {
        let auto = tools(ToolChoice::Auto, true);
        assert_eq!(auto.constraint(ToolMarkup::Tagged), None);
        let required = tools(ToolChoice::Required, true);
        let found = lark(&required, ToolMarkup::Tagged);
        assert!(
            found.starts_with("start: call (\"\\n\" call){0,7}\n"),
            "{found}"
        );
        assert!(found.contains("(call_0 | call_1)"), "{found}");
        let found = lark(&required, ToolMarkup::Bare);
        assert!(found.starts_with("start: call\ncall: body\n"), "{found}");
        let one = lark(&tools(ToolChoice::Required, false), ToolMarkup::Tagged);
        assert!(one.starts_with("start: call\n"), "{one}");
        let named = tools(ToolChoice::Named("buy".to_owned()), true);
        let named = lark(&named, ToolMarkup::Tagged);
        assert!(named.starts_with("start: call\n"), "{named}");
        assert!(named.contains("buy") && !named.contains("find"), "{named}");
    }

    #[test]
    fn of_the_calls_that_the_model_makes_by_itself_only_strict_ones_are_held() {
        let mut tools = tools(ToolChoice::Auto, true);
        tools.tools[1].is_strict = true;
        for markup in [ToolMarkup::Tagged, ToolMarkup::Bare] {
            let found = lark(&tools, markup);
            assert!(found.starts_with("start: TEXT | "), "{found}");
            assert!(!found.contains("\"description\":\"find\""), "{found}");
            assert!(found.contains("\"description\":\"buy\""), "{found}");
        }
    }
}
