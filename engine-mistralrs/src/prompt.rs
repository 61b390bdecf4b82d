//! Conversations to prompt tokens.
//!
//! Special tokens come from the template alone: what looks like one in a message
//! is encoded as text, so that no message can end its own turn. Beside images it is
//! refused: the crate reads such a prompt as text, twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::parts::{encode_chat, template_json, tool_markup};
use engine::{ChatMessage, EngineError, ToolUse};
use model::escape::{ESCAPE, escape, escape_json};
use model::{BaseModel, ChatTemplate, ToolMarkup};
use serde_json::{Value, json};

use crate::kinds::Handed;
use crate::sides::Size;
use crate::sight::Sight;

/// Encodes a text; `Err` says why not.
pub(crate) type Encode = Box<dyn Fn(&str) -> Result<Vec<u32>, String> + Send + Sync>;

/// Writes tokens as text, special ones too.
pub(crate) type Decode = Box<dyn Fn(&[u32]) -> Result<String, String> + Send + Sync>;

/// A prompt, up to where the answer begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    /// Its tokens, those of images among them.
    pub(crate) tokens: Vec<u32>,
    /// Where it has images: the text that the crate makes these tokens of.
    pub(crate) text: Option<String>,
    /// Bytes that its images take as the crate is given them.
    pub(crate) pictures_bytes: u64,
}

impl Prompt {
    fn without_images(tokens: Vec<u32>) -> Self {
        Self {
            tokens,
            text: None,
            pictures_bytes: 0,
        }
    }
}

/// How a model's prompts are made.
pub(crate) enum Prompts {
    /// By our own reader of GGUF files, which knows the tokenizers of its
    /// architectures; mistralrs guesses one way to cut texts for all of them.
    Known(Arc<BaseModel>),
    /// By the tokenizer that mistralrs read.
    Foreign(Box<Foreign>),
}

/// A published template with a tokenizer.
pub(crate) struct Foreign {
    pub(crate) template: ChatTemplate,
    /// Takes special tokens for what they are.
    pub(crate) encode: Encode,
    /// Takes them for text.
    pub(crate) encode_text: Encode,
    pub(crate) decode: Decode,
    /// Writes tokens so that the crate reads the same.
    pub(crate) spell: Decode,
    /// The texts of special tokens.
    pub(crate) specials: BTreeMap<String, u32>,
    /// Whether the template shows nothing of a message that is no list of parts.
    pub(crate) takes_parts_alone: bool,
    /// How the model looks at images, if it does.
    pub(crate) sight: Option<Arc<Sight>>,
}

impl Prompts {
    /// The prompt of a conversation, up to where the answer begins.
    pub(crate) fn encode(
        &self,
        messages: &[ChatMessage],
        tools: Option<&ToolUse>,
    ) -> Result<Prompt, EngineError> {
        let prompt = match self {
            Self::Known(model) => encode_chat(model, messages, tools)
                .map(Prompt::without_images)
                .map_err(|error| error.to_string()),
            Self::Foreign(foreign) => foreign.encode(messages, tools),
        };
        prompt.map_err(|reason| EngineError::InvalidRequest {
            param: "messages",
            reason,
        })
    }

    /// How the model looks at images, if it does.
    pub(crate) fn sight(&self) -> Option<&Arc<Sight>> {
        match self {
            Self::Known(_) => None,
            Self::Foreign(foreign) => foreign.sight.as_ref(),
        }
    }

    /// How the model writes calls.
    pub(crate) fn tool_markup(&self) -> ToolMarkup {
        tool_markup(match self {
            Self::Known(model) => &model.template,
            Self::Foreign(foreign) => &foreign.template,
        })
    }
}

impl Foreign {
    fn encode(&self, messages: &[ChatMessage], tools: Option<&ToolUse>) -> Result<Prompt, String> {
        let mut sizes = Vec::new();
        for image in messages.iter().flat_map(|message| &message.images) {
            sizes.push(self.looking()?.size(image)?);
        }
        let (mut messages, tools) = template_json(&self.template, messages, tools);
        if self.takes_parts_alone {
            messages.iter_mut().for_each(text_to_part);
        }
        if !sizes.is_empty() {
            return self.encode_images(&messages, tools.as_deref(), &sizes);
        }
        let break_specials = |text: &str| escape(text, self.specials.keys().map(String::as_str));
        let escaped = |values: &[Value]| -> Vec<Value> {
            let values = values.iter();
            values
                .map(|value| escape_json(value, &break_specials))
                .collect()
        };
        let (messages, tools) = (escaped(&messages), tools.as_deref().map(escaped));
        let prompt = self.template.render_json(&messages, tools.as_deref(), true);
        let prompt = prompt.map_err(|error| error.to_string())?;
        let tokens = if prompt.contains(ESCAPE) {
            self.encode_escaped(&prompt)?
        } else {
            (self.encode)(&prompt)?
        };
        Ok(Prompt::without_images(tokens))
    }

    fn looking(&self) -> Result<&Sight, String> {
        let sight = self.sight.as_deref();
        sight.ok_or_else(|| "the model takes no images".to_owned())
    }

    /// A prompt with images of these sizes. The crate encodes its text, writes that as
    /// text again, puts in what stands for images and encodes the whole: as is done
    /// here, so that the tokens are known before anything is queued. Nothing is escaped
    /// on that way, and no message may have what would have to be.
    fn encode_images(
        &self,
        messages: &[Value],
        tools: Option<&[Value]>,
        sizes: &[Size],
    ) -> Result<Prompt, String> {
        let sight = self.looking()?;
        let marks = [sight.marker, sight.seat];
        let mut specials = self.specials.keys().map(String::as_str).chain(marks);
        let is_said = |special: &&str| {
            let mut values = messages.iter().chain(tools.unwrap_or_default());
            values.any(|value| holds(value, special))
        };
        let special = specials.find(is_said);
        if let Some(special) = special {
            return Err(format!(
                "beside images no text may contain {special:?}, which controls the model"
            ));
        }
        let prompt = self.template.render_json(messages, tools, true);
        let prompt = prompt.map_err(|error| error.to_string())?;
        let tokens = (self.encode)(&prompt)?;
        let text = (self.decode)(&tokens)?;
        // a text that the tokenizer changes may have become a special token by it
        if (self.encode)(&text)? != tokens {
            return Err("beside images no text may change as it is written anew".to_owned());
        }
        let more = |special: &&String| {
            text.matches(special.as_str()).count() > prompt.matches(special.as_str()).count()
        };
        if let Some(special) = self.specials.keys().find(more) {
            return Err(format!(
                "beside images no text may become {special:?}, which controls the model"
            ));
        }
        let mut pieces = text.split(sight.marker);
        let mut expanded = pieces.next().unwrap_or_default().to_owned();
        let (shown, images) = (pieces.clone().count(), sizes.len());
        if shown != images {
            return Err(format!(
                "the model's template shows {shown} of {images} images"
            ));
        }
        for (piece, &size) in pieces.zip(sizes) {
            expanded += &sight.expansion(size);
            expanded += piece;
        }
        Ok(Prompt {
            tokens: (self.encode)(&expanded)?,
            text: Some(match sight.handed {
                Handed::Marked => text,
                Handed::Expanded => expanded,
                Handed::Spelled => (self.spell)(&tokens)?,
            }),
            pictures_bytes: sizes.iter().map(|&size| sight.seen_bytes(size)).sum(),
        })
    }

    /// Whether the template shows nothing of a message that is no list of parts.
    pub(crate) fn wants_parts(template: &ChatTemplate) -> bool {
        const PROBE: &str = "flywheel";
        let mut message = json!({"role": "user", "content": PROBE});
        let is_shown = |message: &Value| {
            let prompt = template.render_json(std::slice::from_ref(message), None, true);
            prompt.is_ok_and(|prompt| prompt.contains(PROBE))
        };
        let is_text_shown = is_shown(&message);
        text_to_part(&mut message);
        !is_text_shown && is_shown(&message)
    }

    /// Why images cannot be shown to the model by this template and tokenizer.
    pub(crate) fn blind(&self) -> Option<String> {
        let sight = self.sight.as_ref()?;
        let message = json!({"role": "user", "content": [{"type": "image"}]});
        let size = sight.some_size();
        let prompt = match self.encode_images(&[message], None, &[size]) {
            Ok(prompt) => prompt,
            Err(reason) => return Some(reason),
        };
        let token = |text: &str| match (self.encode)(text).unwrap_or_default()[..] {
            [token] => Ok(token),
            _ => Err(format!("{text:?} is not a token")),
        };
        let looked = || {
            let seat = token(sight.seat)?;
            let seats = prompt.tokens.iter().filter(|&&token| token == seat).count();
            let expected = sight.seat_count(size);
            if seats != expected {
                return Err(format!("an image has {seats} tokens, not {expected}"));
            }
            for &(text, number) in &sight.known {
                let found = token(text)?;
                if found != number {
                    return Err(format!("{text:?} is the token {found}, not {number}"));
                }
            }
            let Some(between) = sight.between else {
                return Ok(());
            };
            let [before, after] = between.map(token);
            let image = [vec![before?], vec![seat; seats], vec![after?]].concat();
            let mut parts = prompt.tokens.windows(image.len());
            let is_there = parts.any(|part| part == image);
            is_there
                .then_some(())
                .ok_or_else(|| format!("the model's template has no {between:?} around an image"))
        };
        looked().err()
    }

    /// Encodes the special tokens that are whole, and what is between them as
    /// text.
    fn encode_escaped(&self, prompt: &str) -> Result<Vec<u32>, String> {
        let mut tokens = Vec::new();
        let mut rest = prompt;
        while !rest.is_empty() {
            let found = self
                .specials
                .iter()
                .filter_map(|(text, id)| Some((rest.find(text)?, text, *id)))
                .min_by_key(|(at, text, _)| (*at, usize::MAX - text.len()));
            let end = found.map_or(rest.len(), |(at, _, _)| at);
            let text = rest[..end].replace(ESCAPE, "");
            if !text.is_empty() {
                tokens.extend((self.encode_text)(&text)?);
            }
            let Some((at, text, id)) = found else { break };
            tokens.push(id);
            rest = &rest[at + text.len()..];
        }
        Ok(tokens)
    }
}

/// A message's text as its only part.
fn text_to_part(message: &mut Value) {
    if let Some(content) = message.get_mut("content")
        && content.is_string()
    {
        *content = json!([{"type": "text", "text": content.take()}]);
    }
}

/// Whether a text in `value`, keys included, contains `special`.
fn holds(value: &Value, special: &str) -> bool {
    match value {
        Value::String(text) => text.contains(special),
        Value::Array(items) => items.iter().any(|item| holds(item, special)),
        Value::Object(map) => map
            .iter()
            .any(|(key, value)| key.contains(special) || holds(value, special)),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use engine::Role;

    use super::*;
    use crate::sides::Sides;

    const SPECIALS: [(&str, u32); 4] = [
        ("<s>", 1000),
        ("<ss>", 1001),
        ("<image>", 1002),
        ("<around>", 1003),
    ];

    /// A byte is its value; what was read as `[s]` is written as `<s>`.
    fn foreign(source: &str) -> Foreign {
        handed(source, Handed::Marked)
    }

    fn handed(source: &str, handed: Handed) -> Foreign {
        let bytes = |text: &str| Ok(text.bytes().map(u32::from).collect());
        let encode = |text: &str| {
            let (mut tokens, mut rest) = (Vec::new(), text);
            while let Some(byte) = rest.bytes().next() {
                let special = SPECIALS.iter().find(|(text, _)| rest.starts_with(text));
                let (token, length) =
                    special.map_or((byte.into(), 1), |(text, id)| (*id, text.len()));
                tokens.push(token);
                rest = &rest[length..];
            }
            Ok(tokens)
        };
        let decode = |tokens: &[u32]| {
            let mut text = String::new();
            for &token in tokens {
                match SPECIALS.iter().find(|(_, id)| *id == token) {
                    Some((special, _)) => text.push_str(special),
                    None => text.push(char::from(u8::try_from(token).unwrap())),
                }
            }
            // as a tokenizer that unifies forms does
            Ok(text.replace("[s]", "<s>"))
        };
        let sides = Sides::Area {
            unit: 8,
            least: 64,
            most: 1024,
        };
        let sight = Sight::for_tests(sides, handed);
        Foreign {
            template: ChatTemplate::new(source, "", "").unwrap(),
            encode: Box::new(encode),
            encode_text: Box::new(bytes),
            decode: Box::new(decode),
            spell: Box::new(|tokens| Ok(format!("{tokens:?}"))),
            specials: SPECIALS.map(|(text, id)| (text.to_owned(), id)).into(),
            takes_parts_alone: false,
            sight: Some(Arc::new(sight)),
        }
    }

    const TEXTS: &str = "{% for m in messages %}<s>{{ m.content }}{% endfor %}<ss>";
    const PARTS: &str = "{% for m in messages %}<s>{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}{% endfor %}<ss>";

    fn encode(content: &str) -> Vec<u32> {
        let messages = [ChatMessage::new(Role::User, content)];
        let prompt = foreign(TEXTS).encode(&messages, None).unwrap();
        assert_eq!(prompt.text, None);
        prompt.tokens
    }

    fn text(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    #[test]
    fn a_message_cannot_have_special_tokens() {
        assert_eq!(
            encode("hello"),
            [vec![1000], text("hello"), vec![1001]].concat()
        );
        let expected = [vec![1000], text("a<s>b<ss>"), vec![1001]].concat();
        assert_eq!(encode("a<s>b<ss>"), expected);
        // an escape of the message's own goes, and cannot hide a token
        assert_eq!(
            encode("<\u{FDD0}s>"),
            [vec![1000], text("<s>"), vec![1001]].concat()
        );
    }

    /// A user's message with images at these bytes, each 8 pixels wide and so high.
    fn with_images(content: &str, images: &[(usize, u32)]) -> ChatMessage {
        let image = |&(at, height): &(usize, u32)| {
            let mut file = std::io::Cursor::new(Vec::new());
            let picture = image::DynamicImage::new_rgb8(8, height);
            picture
                .write_to(&mut file, image::ImageFormat::Png)
                .unwrap();
            engine::Image {
                at,
                format: engine::ImageFormat::Png,
                data: file.into_inner().into(),
            }
        };
        ChatMessage {
            images: images.iter().map(image).collect(),
            ..ChatMessage::new(Role::User, content)
        }
    }

    #[test]
    fn images_stand_where_the_message_has_them_in_their_sizes() {
        let messages = [
            with_images("ab", &[(0, 16), (1, 8), (1, 16)]),
            ChatMessage::new(Role::Assistant, "c"),
        ];
        let prompt = |handing: Handed| {
            let foreign = Foreign {
                takes_parts_alone: true,
                ..handed(PARTS, handing)
            };
            assert_eq!(foreign.blind(), None);
            foreign.encode(&messages, None).unwrap()
        };
        let (two, one) = ([1003, 1002, 1002, 1003], [1003, 1002, 1003]);
        let (two, one) = (two.as_slice(), one.as_slice());
        let (a, b, c) = ([97].as_slice(), [98].as_slice(), [99].as_slice());
        let (s, e) = ([1000].as_slice(), [1001].as_slice());
        let expected = [s, two, a, one, two, b, s, c, e].concat();
        let (image, around) = ("<image>", "<around>");
        let (two, one) = (
            format!("{around}{image}{image}{around}"),
            format!("{around}{image}{around}"),
        );
        let marked = [s, &[1002], a, &[1002, 1002], b, s, c, e].concat();
        for (handing, text) in [
            (
                Handed::Marked,
                "<s><image>a<image><image>b<s>c<ss>".to_owned(),
            ),
            (Handed::Expanded, format!("<s>{two}a{one}{two}b<s>c<ss>")),
            (Handed::Spelled, format!("{marked:?}")),
        ] {
            let prompt = prompt(handing);
            assert_eq!(prompt.tokens, expected, "{handing:?}");
            assert_eq!(prompt.text, Some(text));
            assert_eq!(prompt.pictures_bytes, 8 * (16 + 8 + 16) * 4);
        }
    }

    #[test]
    fn beside_images_no_text_becomes_a_control_token() {
        let refused = |source: &str, message: ChatMessage| {
            foreign(source).encode(&[message], None).unwrap_err()
        };
        for special in ["<s>", "<ss>", "<image>", "<around>"] {
            let message = with_images(&format!("a{special}b"), &[(0, 8)]);
            let reason = refused(PARTS, message);
            assert!(reason.contains(special), "{reason}");
        }
        // nor by way of what the tokenizer makes of it
        let reason = refused(PARTS, with_images("a[s]b", &[(0, 8)]));
        assert!(reason.contains("written anew"), "{reason}");
        // a template that shows no images, or others than there are
        let reason = refused(TEXTS, with_images("ab", &[(0, 8)]));
        assert!(reason.contains("0 of 1"), "{reason}");
        assert!(foreign(TEXTS).blind().is_some());
        // an image that cannot be read, or is too long
        let mut broken = with_images("ab", &[(0, 8)]);
        broken.images[0].data.truncate(20);
        let reason = refused(PARTS, broken);
        assert!(reason.contains("cannot be decoded"), "{reason}");
        let reason = refused(PARTS, with_images("ab", &[(0, 1601)]));
        assert!(reason.contains("too long"), "{reason}");
    }

    #[test]
    fn a_template_that_loses_texts_is_given_parts() {
        let template = |source: &str| ChatTemplate::new(source, "", "").unwrap();
        assert!(!Foreign::wants_parts(&template(TEXTS)));
        assert!(Foreign::wants_parts(&template(PARTS)));
        assert!(!Foreign::wants_parts(&template("nothing at all")));
    }
}
