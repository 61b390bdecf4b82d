//! A published folder, its weights left as they are: what an engine that reads
//! them itself needs to know of it. It may be of any architecture.

use std::path::Path;
use std::sync::Arc;

use ids::{BaseDigest, Sha256Digest};
use memmap2::Mmap;
use serde_json::{Map, Value as Json};

use super::{CONFIG_BYTES_MAX, TOKENIZER_BYTES_MAX, config, digest, parse, read_bytes, read_json};
use super::{name, template, tensors};
use crate::config::ModelConfig;
use crate::{ChatTemplate, ModelError};

/// A folder with `config.json`, safetensors and `tokenizer.json`. Its files must
/// not be changed while it is open.
pub struct PublishedModel {
    /// The folder's name.
    pub name: String,
    /// `config.json`.
    pub config_json: Map<String, Json>,
    template: String,
    bos: String,
    eos: String,
    texts: Sha256Digest,
    files: Vec<(String, Arc<Mmap>)>,
}

impl PublishedModel {
    /// Opens the folder and maps its tensors.
    ///
    /// # Errors
    /// What is missing, too long or no JSON.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let config_bytes = read_bytes(&folder.join("config.json"), CONFIG_BYTES_MAX)?;
        let config_json = parse("config.json", &config_bytes)?;
        let tokenizer = read_bytes(&folder.join("tokenizer.json"), TOKENIZER_BYTES_MAX)?;
        let tokenizer_config = read_json(&folder.join("tokenizer_config.json"), CONFIG_BYTES_MAX)?;
        let template = template(folder, &tokenizer_config)?;
        let token = |key: &str| {
            let value = tokenizer_config.get(key);
            let text =
                value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
            text.unwrap_or_default().to_owned()
        };
        Ok(Self {
            name: name(folder),
            config_json,
            bos: token("bos_token"),
            eos: token("eos_token"),
            texts: Sha256Digest::of_parts(&[
                ("config.json", &config_bytes),
                ("tokenizer.json", &tokenizer),
                ("chat_template", template.as_bytes()),
            ]),
            template,
            files: tensors::map_files(folder)?,
        })
    }

    /// The digest of everything that answers depend on, with the form that the
    /// weights are computed in.
    #[must_use]
    pub fn digest(&self, form: &str) -> BaseDigest {
        let texts = [("texts", self.texts.hex()), ("form", form.to_owned())];
        let texts: Vec<(&str, &[u8])> = texts
            .iter()
            .map(|(name, text)| (*name, text.as_bytes()))
            .collect();
        digest(&texts, &self.files)
    }

    /// Conversations to prompts.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn template(&self) -> Result<ChatTemplate, ModelError> {
        ChatTemplate::new(&self.template, &self.bos, &self.eos)
    }

    /// The shape of the model, if its architecture is one that is known here.
    ///
    /// # Errors
    /// [`ModelError::UnsupportedArchitecture`], or what is wrong with a value.
    pub fn config(&self) -> Result<ModelConfig, ModelError> {
        let published = config::read(&self.config_json)?;
        ModelConfig::read_with_vocab(&published.metadata, published.vocab_size)
    }

    /// The safetensors files: their names and what is in them.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files
            .iter()
            .map(|(name, file)| (name.as_str(), &file[..]))
    }
}
