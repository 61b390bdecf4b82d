//! Templates with functions, calls and results, as transformers renders them
//! (`make_tools_golden.py`).

use model::{ChatTemplate, ToolMarkup};
use serde_json::Value;

use crate::{golden, real_model};

fn conversations() -> Value {
    serde_json::from_slice(&std::fs::read(golden("tool_templates.json")).unwrap()).unwrap()
}

fn template(golden: &Value, name: &str) -> ChatTemplate {
    ChatTemplate::new(golden["templates"][name].as_str().unwrap(), "", "").unwrap()
}

#[test]
fn conversations_with_functions_are_rendered_as_by_transformers() {
    let golden = conversations();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let template = template(&golden, case["template"].as_str().unwrap());
        let messages = case["messages"].as_array().unwrap();
        let tools = case["tools"].as_array().map(Vec::as_slice);
        match (template.render_json(messages, tools, true), &case["prompt"]) {
            (Ok(prompt), Value::String(expected)) => assert_eq!(&prompt, expected),
            (Err(error), Value::Null) => {
                let words = case["refused"].as_str().unwrap();
                assert!(error.to_string().contains(words), "{error}");
            }
            (found, expected) => panic!("{found:?} is not {expected}"),
        }
    }
}

#[test]
fn each_template_says_how_its_model_writes_calls() {
    let golden = conversations();
    for (name, markup) in [("qwen", ToolMarkup::Tagged), ("llama", ToolMarkup::Bare)] {
        assert_eq!(
            template(&golden, name).tool_markup(),
            Some(markup),
            "{name}"
        );
    }
    assert_eq!(real_model().template.tool_markup(), None);
}
