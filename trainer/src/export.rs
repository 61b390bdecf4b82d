//! `flywheel-trainer export`: an adapter for use elsewhere, as a PEFT folder, as
//! llama.cpp's adapter, or merged into its base as a GGUF file.
//!
//! Takes an adapter from a PEFT folder or, by its digest, from a store. Changes
//! neither store nor base.

use std::path::{Path, PathBuf};

use adapter_store::folder::read_peft_folder;
use adapter_store::{AdapterFiles, AdapterStore, CONFIG_NAME, SAFETENSORS_NAME};
use ids::{AdapterDigest, BaseDigest};
use model::lora::LoraAdapter;
use model::{BaseModel, MergedFormat, merge};

use crate::TrainerError;
use crate::journal::replace;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// A folder with PEFT's two files.
    Peft,
    /// A GGUF file that llama.cpp loads beside the base (`--lora`).
    GgufLora,
    /// A GGUF file of the base with the adapter in its weights; of the base
    /// alone where no adapter is given.
    MergedGguf,
}

/// How a merged model's matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportValues {
    /// In single precision: exactly what was computed.
    F32,
    /// In half precision.
    F16,
    /// In blocks of 32 with 8-bit codes.
    #[value(name = "q8_0")]
    Q8_0,
}

/// What `flywheel-trainer export` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    /// The GGUF file that the adapter was trained on.
    #[arg(long, env = "FLYWHEEL_MODEL")]
    model: PathBuf,
    /// A PEFT folder, or the digest (`sha256:…`) of a version in the store.
    #[arg(long, required_unless_present = "base_alone")]
    adapter: Option<String>,
    /// Write the base alone, in other values (`merged-gguf`).
    #[arg(long, conflicts_with = "adapter")]
    base_alone: bool,
    /// The store's folder, for a digest: `DATA/adapters`.
    #[arg(long, env = "FLYWHEEL_ADAPTERS")]
    adapters: Option<PathBuf>,
    /// What to write.
    #[arg(long, value_enum)]
    format: ExportFormat,
    /// How a merged model's matrices are stored.
    #[arg(long, value_enum, default_value = "f32")]
    values: ExportValues,
    /// Where: a file, or a folder for PEFT; neither may exist.
    #[arg(long)]
    out: PathBuf,
}

/// Writes what was asked for.
///
/// # Errors
/// When the adapter cannot be read or does not fit the base, or something is at
/// the place already.
pub async fn export(args: ExportArgs) -> Result<(), TrainerError> {
    if args.out.exists() {
        let problem = format!("{} exists", args.out.display());
        return Err(wrong("out", problem));
    }
    let found = match &args.adapter {
        Some(adapter) => Some(read(adapter, args.adapters.as_deref()).await?),
        None => None,
    };
    crate::blocking(move || write(&args, found)).await
}

/// An adapter's files, and its base where a store knows it.
type Found = (AdapterFiles, Option<BaseDigest>);

fn write(args: &ExportArgs, found: Option<Found>) -> Result<(), TrainerError> {
    let base = BaseModel::open(&args.model)?;
    let read = |(files, made_for): &Found| {
        if let Some(other) = made_for.filter(|other| *other != base.digest) {
            let problem = format!("is for the base {other}, not {}", base.digest);
            return Err(wrong("adapter", problem));
        }
        let (config, weights) = (&files.config_json, &files.safetensors);
        Ok(LoraAdapter::from_peft(config, weights, &base.config)?)
    };
    let adapter = found.as_ref().map(read).transpose()?;
    match (args.format, adapter, found) {
        (ExportFormat::Peft, Some(_), Some((files, _))) => {
            std::fs::create_dir_all(&args.out).map_err(TrainerError::file(&args.out))?;
            replace(&args.out.join(CONFIG_NAME), &files.config_json)?;
            replace(&args.out.join(SAFETENSORS_NAME), &files.safetensors)
        }
        (ExportFormat::GgufLora, Some(adapter), _) => {
            Ok(adapter.write_gguf(&base.config, &args.out)?)
        }
        (ExportFormat::MergedGguf, adapter, _) => {
            if args.model.is_dir() {
                let problem = "only a GGUF file can be merged into, not a folder".to_owned();
                return Err(wrong("model", problem));
            }
            let format = match args.values {
                ExportValues::F32 => MergedFormat::F32,
                ExportValues::F16 => MergedFormat::F16,
                ExportValues::Q8_0 => MergedFormat::Q8_0,
            };
            Ok(merge(&args.model, adapter.as_ref(), format, &args.out)?)
        }
        _ => Err(wrong("adapter", "is needed for this format".to_owned())),
    }
}

/// The adapter's files, from a store for a digest and from a folder otherwise.
async fn read(adapter: &str, store: Option<&Path>) -> Result<Found, TrainerError> {
    if let Ok(digest) = adapter.parse::<AdapterDigest>() {
        let Some(store) = store.filter(|store| store.is_dir()) else {
            let problem = "must be the store's folder, for a digest".to_owned();
            return Err(wrong("adapters", problem));
        };
        let stored = AdapterStore::local(store)?.get(&digest).await?;
        return Ok((stored.files, stored.manifest.lineage.base));
    }
    let folder = Path::new(adapter);
    let folder = folder.canonicalize().map_err(TrainerError::file(folder))?;
    match (folder.parent(), folder.file_name().and_then(|n| n.to_str())) {
        (Some(root), Some(name)) => Ok((read_peft_folder(root, name)?, None)),
        _ => Err(wrong("adapter", "is no folder with a name".to_owned())),
    }
}

fn wrong(key: &'static str, problem: String) -> TrainerError {
    TrainerError::Config { key, problem }
}
