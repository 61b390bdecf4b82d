//! A model's own chat template, rendered as transformers does.
//!
//! The template comes with the model file, so it is run with limits on its
//! size, on its steps and on what it writes. It sees no files and no network;
//! the one thing of the world it can ask for is the date.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use ids::{Clock, SystemClock};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;

use crate::ModelError;
use crate::python_json::{python_json, python_json_indented};

/// The longest template, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// The most steps of one rendering.
pub const TEMPLATE_FUEL: u64 = 2_000_000;
/// The longest rendered prompt, in bytes.
pub const PROMPT_BYTES_MAX: usize = crate::tokenizer::TEXT_BYTES_MAX;

const NAME: &str = "chat";
/// The most spaces of one level of indented JSON.
const INDENT_MAX: usize = 8;
/// What a template has that writes calls as [`ToolMarkup::Tagged`].
const TAGGED_MARK: &str = "<tool_call>";
/// What Llama's templates have: the key of a call's arguments, and the role of
/// results.
const BARE_MARKS: [&str; 2] = ["\"parameters\": ", "ipython"];

/// How a model writes its calls of functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolMarkup {
    /// Hermes, Qwen, SmolLM: `<tool_call>`, an object with `name` and
    /// `arguments`, `</tool_call>`; text may come before.
    Tagged,
    /// Llama 3.1 and later: the whole answer is an object with `name` and
    /// `parameters`.
    Bare,
}

/// One message as templates see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TemplateMessage<'a> {
    /// `system`, `user` or `assistant`.
    pub role: &'a str,
    /// The text.
    pub content: &'a str,
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
    tool_markup: Option<ToolMarkup>,
}

impl ChatTemplate {
    /// Compiles a template; dates in prompts are those of the system's clock.
    ///
    /// # Errors
    /// [`ModelError::Limit`] for a template that is too long,
    /// [`ModelError::Template`] for one that does not compile.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, ModelError> {
        Self::with_clock(source, bos_token, eos_token, Arc::new(SystemClock))
    }

    /// Like [`Self::new`], with the dates of `clock`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_clock(
        source: &str,
        bos_token: &str,
        eos_token: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ModelError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            let (found, max) = (source.len() as u64, TEMPLATE_BYTES_MAX as u64);
            return Err(ModelError::Limit {
                what: "length of the chat template",
                found,
                max,
            });
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(TEMPLATE_FUEL));
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|e| template_error(&e))?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", move |format: String| {
            strftime(clock.as_ref(), &format)
        });
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|e| template_error(&e))?;
        let takes_tools = environment
            .get_template(NAME)
            .is_ok_and(|template| template.undeclared_variables(false).contains("tools"));
        let tool_markup = markup_of(source).filter(|_| takes_tools);
        let (bos_token, eos_token) = (bos_token.to_owned(), eos_token.to_owned());
        Ok(Self {
            environment,
            bos_token,
            eos_token,
            tool_markup,
        })
    }

    /// The prompt of a conversation; with `add_generation_prompt` it ends where
    /// the assistant's next answer begins.
    ///
    /// # Errors
    /// [`ModelError::Template`] when the template refuses the conversation, fails
    /// or takes too long, [`ModelError::Limit`] when it writes too much.
    pub fn render(
        &self,
        messages: &[TemplateMessage<'_>],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let messages = Value::from(Serde(messages));
        self.render_values(messages, Value::from(()), add_generation_prompt)
    }

    /// How the template writes calls, where it describes functions and its
    /// markup is known, so that they can be given to [`Self::render_json`].
    #[must_use]
    pub fn tool_markup(&self) -> Option<ToolMarkup> {
        self.tool_markup
    }

    /// Like [`Self::render`], of messages with any fields, and of functions.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_json(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&[serde_json::Value]>,
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let tools = tools.map_or(Value::from(()), |tools| Value::from(Serde(tools)));
        let messages = Value::from(Serde(messages));
        self.render_values(messages, tools, add_generation_prompt)
    }

    fn render_values(
        &self,
        messages: Value,
        tools: Value,
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|e| template_error(&e))?;
        let variables = context! {
            messages => messages,
            tools => tools,
            documents => (),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
        };
        let mut prompt = Prompt {
            bytes: Vec::new(),
            full: false,
        };
        if let Err(error) = template.render_captured_to(variables, &mut prompt) {
            if prompt.full {
                let max = PROMPT_BYTES_MAX as u64;
                let what = "length of the rendered prompt in bytes";
                return Err(ModelError::Limit {
                    what,
                    found: max + 1,
                    max,
                });
            }
            return Err(template_error(&error));
        }
        String::from_utf8(prompt.bytes)
            .map_err(|_| ModelError::Template("it wrote what is no UTF-8".to_owned()))
    }
}

/// What a template writes, up to the limit.
struct Prompt {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for &mut Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > PROMPT_BYTES_MAX {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As transformers has it: Python's spaces, and nothing escaped for HTML.
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let value = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
    Ok(match options.get::<Option<usize>>("indent")? {
        None => python_json(&value),
        Some(indent) => python_json_indented(&value, indent.min(INDENT_MAX)),
    })
}

fn markup_of(source: &str) -> Option<ToolMarkup> {
    if source.contains(TAGGED_MARK) {
        Some(ToolMarkup::Tagged)
    } else if BARE_MARKS.iter().all(|mark| source.contains(mark)) {
        Some(ToolMarkup::Bare)
    } else {
        None
    }
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime(clock: &dyn Clock, format: &str) -> Result<String, Error> {
    let wrong = |what| Error::new(ErrorKind::InvalidOperation, what);
    let now = chrono::DateTime::from_timestamp_millis(clock.now().0)
        .ok_or_else(|| wrong("the clock is out of range"))?;
    let mut text = String::new();
    write!(text, "{}", now.format(format)).map_err(|_| wrong("a bad date format"))?;
    Ok(text)
}

/// What a person needs of the error: its kind, message and line.
fn template_error(error: &Error) -> ModelError {
    let message = match error.kind() {
        ErrorKind::OutOfFuel => "it takes too many steps".to_owned(),
        _ => error.to_string(),
    };
    ModelError::Template(message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use ids::{ManualClock, UnixMillis};

    use super::*;

    const HELLO: [TemplateMessage<'_>; 1] = [TemplateMessage {
        role: "user",
        content: "hello",
    }];

    fn render(source: &str) -> Result<String, ModelError> {
        let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
        ChatTemplate::with_clock(source, "<s>", "</s>", clock)?.render(&HELLO, true)
    }

    #[test]
    fn templates_run_as_in_transformers() {
        let cases = [
            (
                "{{ bos_token }}{{ messages[0].content.strip().upper() }}",
                "<s>HELLO",
            ),
            (
                "{% if tools is none %}\n  {% set a = 1 %}\nnone{% endif %}\n",
                "none",
            ),
            ("{{ strftime_now('%d %b %Y') }}", "14 Nov 2023"),
            (
                "{% for m in messages[::-1] %}{{ m['role'] }}|{{ loop.last }}{% endfor %}",
                "user|True",
            ),
            ("{{ messages[0].get('name', 'nobody') }}", "nobody"),
            ("{{ messages | length | string + eos_token }}", "1</s>"),
            (
                "{{ {'a': [1, '<é>']} | tojson }}{{ [] | tojson(indent=4) }}",
                "{\"a\": [1, \"<é>\"]}[]",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn a_template_is_stopped_at_its_limits() {
        let refused = |source: &str| match render(source) {
            Err(ModelError::Template(message)) => message,
            other => panic!("{source} gave {other:?}"),
        };
        assert!(refused("{{ raise_exception('no system role') }}").contains("no system role"));
        assert!(
            refused(
                "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
            )
            .contains("steps")
        );
        assert!(refused("{{ strftime_now('%!') }}").contains("date"));
        assert!(refused("{% if %}").contains("syntax"));
        let long = "x".repeat(TEMPLATE_BYTES_MAX + 1);
        assert!(matches!(render(&long), Err(ModelError::Limit { .. })));
        assert!(render(&long[1..]).is_ok());
        let much = "{% for i in range(10000) %}{{ 'xxxxxxxxxx' * 10 }}{% endfor %}";
        assert!(matches!(render(much), Err(ModelError::Limit { .. })));
    }

    #[test]
    fn a_template_that_takes_tools_gets_them_with_any_fields_of_messages() {
        let source = "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}\
            {% for m in messages %}[{{ m.role }}]{% for c in m.tool_calls or [] %}\
            <tool_call>{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}{% endfor %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        assert_eq!(template.tool_markup(), Some(ToolMarkup::Tagged));
        let call = serde_json::json!({"function": {"name": "f", "arguments": {"a": "b"}}});
        let messages = [
            serde_json::json!({"role": "assistant", "content": "", "tool_calls": [call]}),
            serde_json::json!({"role": "tool", "content": "1"}),
        ];
        let tools = [serde_json::json!({"name": "f"})];
        let prompt = template.render_json(&messages, Some(&tools), true).unwrap();
        let expected = "{\"name\": \"f\"}[assistant]<tool_call>f {\"a\": \"b\"}[tool]";
        assert_eq!(prompt, expected);
        let llama = "{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}\
            {% if messages[0].role == 'ipython' %}{% endif %}{\"name\": \"f\", {{ '\"parameters\": ' }}{}}";
        for (source, markup) in [
            (llama, Some(ToolMarkup::Bare)),
            ("{{ messages }}<tool_call>", None),
            ("{{ tools }}", None),
        ] {
            let template = ChatTemplate::new(source, "", "").unwrap();
            assert_eq!(template.tool_markup(), markup, "{source}");
        }
    }
}
