//! A base model: everything that one GGUF file, split or not, holds.

use std::path::Path;

use ids::BaseDigest;
use serde_json::Value as Json;

use crate::ModelError;
use crate::chat_template::{ChatTemplate, TemplateMessage};
use crate::config::ModelConfig;
use crate::escape::{ESCAPE, escape, escape_json};
use crate::folder::{self, FolderFormat};
use crate::gguf::{Gguf, GgufFiles, Value};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// A base model, its weights mapped from its file.
pub struct BaseModel {
    /// The file's name without its extension.
    pub name: String,
    /// Sizes and constants.
    pub config: ModelConfig,
    /// The digest of the file, or of all of its parts.
    pub digest: BaseDigest,
    /// Texts to tokens and back.
    pub tokenizer: Tokenizer,
    /// Conversations to prompts.
    pub template: ChatTemplate,
    /// The weights.
    pub weights: Weights,
}

impl BaseModel {
    /// Opens a GGUF file, or the first part of one that was split, and checks all
    /// of its head. The whole file is read once for its digest. It must not be changed while it is open: the
    /// weights stay in it.
    ///
    /// # Errors
    /// Everything that [`ModelError`] knows of files.
    ///
    /// A folder as models are published in (`config.json`, safetensors and
    /// `tokenizer.json`) is opened too; its matrices are quantized to Q8_0.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::open_quantized(path, FolderFormat::default())
    }

    /// As [`Self::open`], with the matrices of a folder quantized as given. A
    /// GGUF file stays as it is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_quantized(path: &Path, quantize: FolderFormat) -> Result<Self, ModelError> {
        if path.is_dir() {
            return folder::open(path, quantize);
        }
        let files = GgufFiles::open(path)?;
        let gguf = files.metadata();
        let config = ModelConfig::read(gguf)?;
        let tokenizer = Tokenizer::read(gguf)?;
        let template = read_template(gguf, &tokenizer)?;
        let weights = Weights::read(&files, &config)?;
        let (name, digest) = (files.name().to_owned(), files.digest());
        let digest = BaseDigest(digest);
        tracing::debug!(%name, %digest, layers = config.layer_count, "opened base model");
        Ok(Self {
            name,
            config,
            digest,
            tokenizer,
            template,
            weights,
        })
    }

    /// The prompt tokens of a conversation.
    ///
    /// Control tokens come from the template alone: what looks like one in a
    /// message is encoded as text, so that no message can end its own turn and
    /// begin another's. (transformers takes it for the token. For all other
    /// conversations the ids are the same. Tokens that were put into the
    /// vocabulary by hand and steer nothing are found in messages too.)
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`Tokenizer::encode`].
    pub fn encode_chat(
        &self,
        messages: &[TemplateMessage<'_>],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, ModelError> {
        let escaped: Vec<(String, String)> = messages
            .iter()
            .map(|m| (self.escape(m.role), self.escape(m.content)))
            .collect();
        let messages: Vec<TemplateMessage<'_>> = escaped
            .iter()
            .map(|(role, content)| TemplateMessage { role, content })
            .collect();
        let prompt = self.template.render(&messages, add_generation_prompt)?;
        self.tokenizer.encode_escaped(&prompt, true, Some(ESCAPE))
    }

    /// Like [`Self::encode_chat`] for messages with calls and results, and with
    /// functions; for a template that [takes tools](ChatTemplate::tool_markup).
    ///
    /// # Errors
    /// As [`Self::encode_chat`].
    pub fn encode_chat_with_tools(
        &self,
        messages: &[Json],
        tools: Option<&[Json]>,
    ) -> Result<Vec<u32>, ModelError> {
        let escaped = |values: &[Json]| -> Vec<Json> {
            let escape = |text: &str| self.escape(text);
            let values = values.iter();
            values.map(|value| escape_json(value, &escape)).collect()
        };
        let (messages, tools) = (escaped(messages), tools.map(escaped));
        let prompt = self
            .template
            .render_json(&messages, tools.as_deref(), true)?;
        self.tokenizer.encode_escaped(&prompt, true, Some(ESCAPE))
    }

    /// The tokens of `answer` after the prompt of `messages`, with the end mark
    /// that the template puts behind it: what a model is to learn.
    ///
    /// # Errors
    /// [`ModelError::Template`] when the prompt is not how the conversation
    /// with the answer begins, since what was learned would then never be asked
    /// for; else as [`Self::encode_chat`].
    pub fn encode_completion(
        &self,
        messages: &[TemplateMessage<'_>],
        answer: &str,
    ) -> Result<PromptAndCompletion, ModelError> {
        let prompt = self.encode_chat(messages, true)?;
        let answer = TemplateMessage {
            role: "assistant",
            content: answer,
        };
        let conversation: Vec<_> = messages.iter().copied().chain([answer]).collect();
        let whole = self.encode_chat(&conversation, false)?;
        let Some(rest) = whole.strip_prefix(prompt.as_slice()) else {
            let problem = "the prompt is no prefix of the conversation with its answer";
            return Err(ModelError::Template(problem.to_owned()));
        };
        // What follows the end mark (often a line break) is never generated.
        let end = rest
            .iter()
            .rposition(|id| self.tokenizer.is_end_of_generation(*id));
        let mut completion = rest[..end.map_or(rest.len(), |end| end + 1)].to_vec();
        if end.is_none() {
            completion.push(self.tokenizer.eos());
        }
        Ok(PromptAndCompletion { prompt, completion })
    }

    fn escape(&self, text: &str) -> String {
        escape(text, self.tokenizer.control_texts())
    }
}

/// A prompt and the answer that follows it, in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptAndCompletion {
    /// What the model is given.
    pub prompt: Vec<u32>,
    /// What it answers, with the end token.
    pub completion: Vec<u32>,
}

fn read_template(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<ChatTemplate, ModelError> {
    let source = gguf.required("tokenizer.chat_template", Value::as_str)?;
    let text = |id: Option<u32>| {
        id.and_then(|id| tokenizer.token_text(id))
            .unwrap_or_default()
    };
    ChatTemplate::new(source, &text(tokenizer.bos()), &text(Some(tokenizer.eos())))
}
