//! The base model's files: what they are called, which weights they hold, and
//! what an adapter must fit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ids::BaseDigest;
use model::gguf::{GgufFiles, Value};
use model::{BaseModel, ChatTemplate, ModelConfig, ModelError, PublishedModel};

use crate::kinds::{Handed, fails_here};
use crate::older::{lost_scaling, older};
use crate::options::MistralOptions;
use crate::sight::Sight;
use crate::spelling::{bare, spelled};

/// A base model on disk.
pub(crate) struct Base {
    pub(crate) name: String,
    pub(crate) digest: BaseDigest,
    pub(crate) path: PathBuf,
    pub(crate) form: Form,
    /// Its shape, or why adapters cannot be merged into it.
    pub(crate) config: Result<ModelConfig, String>,
    /// How it looks at images, or why it is shown none.
    pub(crate) sight: Result<Arc<Sight>, String>,
}

/// In which form a model comes.
pub(crate) enum Form {
    /// One GGUF file. `known` where our own reader knows the architecture, and
    /// with it the tokenizer.
    Gguf {
        files: GgufFiles,
        known: Option<Arc<BaseModel>>,
    },
    /// A folder as published.
    Folder(PublishedModel),
}

impl Base {
    /// Opens a GGUF file or a published folder.
    pub(crate) fn open(path: &Path, options: &MistralOptions) -> Result<Self, ModelError> {
        let path = path.to_owned();
        let isq = options.isq.as_deref();
        if path.is_dir() {
            let folder = PublishedModel::open(&path)?;
            let sight = sight(&folder, &path, options);
            let mut form = format!("mistralrs {}", isq.unwrap_or("unquantized"));
            if let Ok(sight) = &sight {
                form += &sight.form();
            }
            return Ok(Self {
                name: folder.name.clone(),
                digest: folder.digest(&form),
                config: match takes_more_than_text(&folder) {
                    true => Err("the model takes more than text".to_owned()),
                    false => folder.config().map_err(|error| error.to_string()),
                },
                sight,
                form: Form::Folder(folder),
                path,
            });
        }
        let files = GgufFiles::open(&path)?;
        // an architecture that only mistralrs knows is served without adapters
        let known = match BaseModel::open(&path) {
            Ok(model) => Ok(Arc::new(model)),
            Err(error @ ModelError::UnsupportedArchitecture(_)) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        let config = match &known {
            Ok(_) if parts(&files) > 1 => Err("the file is in parts".to_owned()),
            Ok(model) => Ok(model.config.clone()),
            Err(reason) => Err(reason.clone()),
        };
        Ok(Self {
            name: files.name().to_owned(),
            digest: BaseDigest(files.digest()),
            config,
            sight: Err("images are not passed on to GGUF files".to_owned()),
            form: Form::Gguf {
                files,
                known: known.ok(),
            },
            path,
        })
    }

    /// Why mistralrs would fail, or compute something else than the files say, if it
    /// would.
    pub(crate) fn unserved(&self) -> Option<String> {
        let scaling = match &self.form {
            Form::Folder(folder) => {
                if let Some(name) = fails_here(&folder.config_json) {
                    return Some(format!("the crate fails with {name} on a CPU"));
                }
                lost_scaling(&older(&folder.config_json))?.to_owned()
            }
            Form::Gguf { files, .. } => gguf_scaling(files)?,
        };
        Some(format!(
            "the crate passes over this model's scaling of positions ({scaling})"
        ))
    }

    /// The files that the base's weights are loaded from.
    pub(crate) fn weights(&self) -> Vec<PathBuf> {
        match &self.form {
            Form::Gguf { files, .. } => match parts(files) {
                1 => vec![self.path.clone()],
                count => (1..=count)
                    .map(|part| format!("{}-{part:05}-of-{count:05}.gguf", self.name))
                    .map(|name| self.path.with_file_name(name))
                    .collect(),
            },
            Form::Folder(folder) => {
                let names = folder.files().map(|(name, _)| self.path.join(name));
                names.collect()
            }
        }
    }

    /// Conversations to prompts, for a model whose tokenizer mistralrs reads.
    pub(crate) fn template(&self) -> Result<ChatTemplate, ModelError> {
        let files = match &self.form {
            Form::Folder(folder) => return folder.template(),
            Form::Gguf { files, .. } => files,
        };
        let gguf = files.metadata();
        let tokens = gguf
            .value("tokenizer.ggml.tokens")
            .and_then(Value::as_array);
        let text = |key: &str| {
            let id = gguf.value(key).and_then(Value::as_u64)?;
            tokens?.get(usize::try_from(id).ok()?)?.as_str()
        };
        let source = gguf.required("tokenizer.chat_template", Value::as_str)?;
        ChatTemplate::new(
            source,
            text("tokenizer.ggml.bos_token_id").unwrap_or_default(),
            text("tokenizer.ggml.eos_token_id").unwrap_or_default(),
        )
    }
}

/// Whether a folder's model takes more than text, by itself.
pub(crate) fn takes_more_than_text(folder: &PublishedModel) -> bool {
    let has = |key| folder.config_json.contains_key(key);
    has("vision_config") || has("audio_config")
}

/// How a folder's model looks at images.
fn sight(
    folder: &PublishedModel,
    path: &Path,
    options: &MistralOptions,
) -> Result<Arc<Sight>, String> {
    // it finds what it keeps by the pixels' hashes alone
    if options.prefix_cache {
        return Err("there are no images with a prefix cache".to_owned());
    }
    let sight = Sight::of(&folder.config_json, path)?;
    if sight.handed == Handed::Spelled {
        spelled(&bare(path)?)?;
    }
    Ok(Arc::new(sight))
}

/// How a file's positions are scaled; the crate reads neither form of it.
fn gguf_scaling(files: &GgufFiles) -> Option<String> {
    let gguf = files.metadata();
    let is_factors = |name: &str| name.starts_with("rope_f");
    if let Some(tensor) = files.tensors().find(|tensor| is_factors(&tensor.name)) {
        return Some(tensor.name.clone());
    }
    let architecture = gguf.value("general.architecture")?.as_str()?;
    let kind = gguf.value(&format!("{architecture}.rope.scaling.type"))?;
    kind.as_str()
        .filter(|&kind| kind != "none")
        .map(str::to_owned)
}

/// In how many files a model is.
fn parts(files: &GgufFiles) -> u64 {
    let count = files.metadata().value("split.count");
    count.and_then(Value::as_u64).unwrap_or(1).max(1)
}
