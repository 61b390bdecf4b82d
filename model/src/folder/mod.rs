//! A model as it is published: a folder with `config.json`, safetensors and
//! `tokenizer.json`. Its matrices are quantized as they are read.
//!
//! The folder is read as if it were the GGUF file that it could be converted
//! to, so that one set of checks serves both. Reads local files only.

mod config;
mod published;
mod tensors;
mod tokenizer;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ids::{BaseDigest, Sha256Digest};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::base::BaseModel;
use crate::config::ModelConfig;
use crate::quant::Format;
use crate::weights::Weights;
use crate::{ChatTemplate, ModelError};
pub use published::PublishedModel;
use tensors::FolderTensors;

/// The largest `config.json` and `tokenizer_config.json`.
const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// The largest `tokenizer.json`.
const TOKENIZER_BYTES_MAX: u64 = 128 << 20;

fn wrong(key: &str, problem: &'static str) -> ModelError {
    ModelError::Metadata {
        key: key.to_owned(),
        problem,
    }
}

/// What the matrices of a folder are quantized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FolderFormat {
    /// 8 bits: next to no loss.
    #[default]
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4 bits and a half; matrices whose rows are no whole super-blocks of 256
    /// become Q8_0.
    #[serde(rename = "q4_k")]
    Q4K,
}

impl FolderFormat {
    fn format(self) -> Format {
        match self {
            Self::Q8_0 => Format::Q8_0,
            Self::Q4K => Format::Q4K,
        }
    }
}

/// Opens the folder, and quantizes its matrices.
pub(crate) fn open(folder: &Path, quantize: FolderFormat) -> Result<BaseModel, ModelError> {
    let format = quantize.format();
    let config_bytes = read_bytes(&folder.join("config.json"), CONFIG_BYTES_MAX)?;
    let json = parse("config.json", &config_bytes)?;
    let published = config::read(&json)?;
    let config = ModelConfig::read_with_vocab(&published.metadata, published.vocab_size)?;
    let tokenizer_bytes = read_bytes(&folder.join("tokenizer.json"), TOKENIZER_BYTES_MAX)?;
    let tokenizer_config = read_json(&folder.join("tokenizer_config.json"), CONFIG_BYTES_MAX)?;
    let ends = (published.bos, published.eos);
    let rows = config.vocab_size;
    let tokenizer = tokenizer::read(&tokenizer_bytes, &tokenizer_config, ends, rows)?;
    if tokenizer.vocab_size() > config.vocab_size {
        return Err(wrong(
            "vocab_size",
            "is less than tokenizer.json has tokens",
        ));
    }
    let template = template(folder, &tokenizer_config)?;
    let text = |id: Option<u32>| {
        id.and_then(|id| tokenizer.token_text(id))
            .unwrap_or_default()
    };
    let (bos, eos) = (text(tokenizer.bos()), text(Some(tokenizer.eos())));
    let template_digest = Sha256Digest::of(template.as_bytes());
    let template = ChatTemplate::new(&template, &bos, &eos)?;
    let files = tensors::map_files(folder)?;
    let source = FolderTensors::new(&config, &published, format, &files)?;
    let mut weights = Weights::read(&source, &config)?;
    if let Some(scaling) = &published.llama3 {
        weights.rope_factors = Some(scaling.factors(&config.rope.frequencies()));
    }
    let digest = digest(
        &[
            ("config.json", &config_bytes),
            ("tokenizer.json", &tokenizer_bytes),
            ("chat_template", template_digest.hex().as_bytes()),
            ("format", format.name().as_bytes()),
        ],
        &files,
    );
    Ok(BaseModel {
        name: name(folder),
        config,
        digest,
        tokenizer,
        template,
        weights,
    })
}

/// The name of the folder.
fn name(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = full.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Everything that the answers depend on: the files, and what their weights
/// were quantized to.
fn digest(texts: &[(&str, &[u8])], files: &[(String, Arc<Mmap>)]) -> BaseDigest {
    let files = files.iter().map(|(name, file)| (name.as_str(), &file[..]));
    let parts: Vec<(&str, &[u8])> = texts.iter().copied().chain(files).collect();
    BaseDigest(Sha256Digest::of_parts(&parts))
}

/// The chat template: a file of its own, a value of `tokenizer_config.json`, or, where
/// some models that take more than text have it, of `chat_template.json`.
fn template(folder: &Path, config: &Map<String, Json>) -> Result<String, ModelError> {
    let file = folder.join("chat_template.jinja");
    if file.exists() {
        let bytes = read_bytes(&file, crate::TEMPLATE_BYTES_MAX as u64)?;
        let text = String::from_utf8(bytes);
        return text.map_err(|_| wrong("chat_template", "is not UTF-8"));
    }
    let named = |list: &Vec<Json>| {
        let is_default = |entry: &&Json| entry.get("name").is_some_and(|n| n == "default");
        let entry = list.iter().find(is_default)?;
        Some(entry.get("template")?.as_str()?.to_owned())
    };
    let own = match config.get("chat_template") {
        Some(Json::String(text)) => Some(text.clone()),
        Some(Json::Array(list)) => named(list),
        _ => None,
    };
    let file = folder.join("chat_template.json");
    let own = match own {
        None if file.exists() => read_json(&file, CONFIG_BYTES_MAX)?
            .get("chat_template")
            .and_then(Json::as_str)
            .map(str::to_owned),
        own => own,
    };
    own.ok_or_else(|| wrong("chat_template", "is missing"))
}

fn read_bytes(path: &Path, max: u64) -> Result<Vec<u8>, ModelError> {
    let io = |source| ModelError::Io {
        path: PathBuf::from(path),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max {
        return Err(ModelError::Limit {
            what: "length of a file of the folder",
            found: bytes.len() as u64,
            max,
        });
    }
    Ok(bytes)
}

fn parse(name: &str, bytes: &[u8]) -> Result<Map<String, Json>, ModelError> {
    serde_json::from_slice(bytes).map_err(|_| wrong(name, "is no JSON object"))
}

fn read_json(path: &Path, max: u64) -> Result<Map<String, Json>, ModelError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parse(&name, &read_bytes(path, max)?)
}
