//! The grammar of an answer that must be a call.

use std::fmt::Write as _;

use super::{CLOSE, FORCED_CALLS_MAX, OPEN, Tool, ToolChoice, ToolUse};
use crate::constraint::{Constraint, Grammar};

impl ToolUse {
    /// What the answer is held to, where it must be a call.
    pub(crate) fn constraint(&self) -> Option<Constraint> {
        let (tools, several): (Vec<&Tool>, bool) = match &self.choice {
            ToolChoice::Auto => return None,
            ToolChoice::Required => (self.tools.iter().collect(), self.is_parallel),
            ToolChoice::Named(name) => {
                let named = self.tools.iter().filter(|tool| tool.name == *name);
                (named.collect(), false)
            }
        };
        Some(Constraint {
            param: "tools",
            grammar: Grammar::Lark(grammar(&tools, several)),
        })
    }
}

/// Each function's arguments are a document of their own, so that a `$ref` in
/// a schema means what it meant where it was written.
fn grammar(tools: &[&Tool], several: bool) -> String {
    let mut lark = String::from("start: call");
    if several {
        let _ = write!(lark, " (\"\\n\" call){{0,{}}}", FORCED_CALLS_MAX - 1);
    }
    let _ = write!(lark, "\ncall: \"{OPEN}\\n\" (");
    for i in 0..tools.len() {
        let _ = write!(lark, "{}call_{i}", if i == 0 { "" } else { " | " });
    }
    let _ = writeln!(lark, ") \"\\n{CLOSE}\"");
    for (i, tool) in tools.iter().enumerate() {
        let name = &tool.name;
        let _ = writeln!(
            lark,
            r#"call_{i}: "{{\"name\": \"{name}\", \"arguments\": " arguments_{i} "}}""#
        );
        let schema = crate::constraint::spaced(tool.parameters.clone());
        let _ = writeln!(lark, "arguments_{i}: %json {schema}");
    }
    lark
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tools(choice: ToolChoice, is_parallel: bool) -> ToolUse {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: None,
            parameters: json!({"type": "object"}),
        };
        ToolUse {
            tools: vec![tool("find"), tool("buy")],
            choice,
            is_parallel,
        }
    }

    #[test]
    fn only_forced_calls_have_a_grammar_and_a_named_one_is_one_call() {
        let lark = |tools: ToolUse| match tools.constraint() {
            Some(Constraint {
                param: "tools",
                grammar: Grammar::Lark(lark),
            }) => lark,
            _ => String::new(),
        };
        assert_eq!(tools(ToolChoice::Auto, true).constraint(), None);
        let required = lark(tools(ToolChoice::Required, true));
        assert!(
            required.starts_with("start: call (\"\\n\" call){0,7}\n"),
            "{required}"
        );
        assert!(required.contains("(call_0 | call_1)"), "{required}");
        let one = lark(tools(ToolChoice::Required, false));
        assert!(one.starts_with("start: call\n"), "{one}");
        let named = lark(tools(ToolChoice::Named("buy".to_owned()), true));
        assert!(named.starts_with("start: call\n"), "{named}");
        assert!(named.contains("buy") && !named.contains("find"), "{named}");
    }
}
