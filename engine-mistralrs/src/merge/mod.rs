//! An adapter version merged into the base's weights, as files that mistralrs
//! loads like any other.
//!
//! The crate's own merging is not used: it reads adapters from the hub's cache,
//! passes over rank and alpha patterns, rslora and DoRA without a word, and keeps
//! what is applied in a variable of the loading thread that in-situ quantization's
//! threads do not see. Here the adapter is checked by the same reader as the
//! native engine's, and what is loaded holds it whatever the loader does.

mod folder;
mod gguf;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use engine::{AdapterPackage, EngineError};
use ids::AdapterDigest;
use model::ModelConfig;
use model::lora::{LoraAdapter, ModuleId};

use crate::base::{Base, Form};

/// What an adapter adds to each tensor of the base.
pub(crate) struct Deltas {
    pub(crate) rank: u32,
    tensors: BTreeMap<String, Vec<Part>>,
}

/// `scale · B · A`, added to the rows from `row` on.
struct Part {
    row: usize,
    rows: usize,
    cols: usize,
    rank: usize,
    scale: f32,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Deltas {
    /// Checks an adapter against the base.
    pub(crate) fn read(package: &AdapterPackage, base: &Base) -> Result<Self, EngineError> {
        let rejected = |reason: String| EngineError::AdapterRejected(reason);
        let digest = AdapterDigest::of_files(&package.config_json, &package.safetensors);
        if digest != package.digest {
            let expected = package.digest;
            return Err(rejected(format!(
                "its files have the digest {digest}, not {expected}"
            )));
        }
        let config = base.config.as_ref().map_err(|reason| {
            rejected(format!("no adapter can be merged into this base: {reason}"))
        })?;
        let adapter = LoraAdapter::from_peft(&package.config_json, &package.safetensors, config)
            .map_err(|error| rejected(error.to_string()))?;
        let mut tensors: BTreeMap<String, Vec<Part>> = BTreeMap::new();
        for (&id, pair) in &adapter.modules {
            let (rows, cols) = config.projection_shape(id.projection);
            let (name, b) = match &base.form {
                Form::Gguf { .. } => (gguf::tensor_name(id, config), Some(pair.b.clone())),
                Form::Folder(_) => (
                    format!("{}.weight", id.peft_path(config.architecture)),
                    adapter.published_b(id, config),
                ),
            };
            tensors.entry(name).or_default().push(Part {
                row: first_row(id, config),
                rows,
                cols,
                rank: pair.rank,
                scale: pair.scale,
                a: pair.a.clone(),
                b: b.unwrap_or_default(),
            });
        }
        let rank = u32::try_from(adapter.max_rank()).unwrap_or(u32::MAX);
        Ok(Self { rank, tensors })
    }

    /// The names of the tensors that change.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Writes the merged weights into `folder`; the files to load, in the place
    /// of the base's.
    pub(crate) fn write(&self, base: &Base, folder: &Path) -> Result<Vec<PathBuf>, MergeError> {
        match &base.form {
            Form::Gguf { .. } => gguf::write(self, &base.path, folder),
            Form::Folder(published) => folder::write(self, published, &base.path, folder),
        }
    }

    /// Adds to a tensor's values, `[rows, cols]`.
    fn add(&self, name: &str, values: &mut [f32]) -> Result<(), MergeError> {
        for part in self.tensors.get(name).into_iter().flatten() {
            let device = Device::Cpu;
            let b = Tensor::from_slice(&part.b, (part.rows, part.rank), &device)?;
            let a = Tensor::from_slice(&part.a, (part.rank, part.cols), &device)?;
            let product = b.matmul(&a)?.flatten_all()?.to_vec1::<f32>()?;
            let start = part.row * part.cols;
            let changed = values.get_mut(start..start + product.len());
            let changed = changed.ok_or_else(|| MergeError::Shape(name.to_owned()))?;
            for (value, delta) in changed.iter_mut().zip(product) {
                *value += part.scale * delta;
            }
        }
        Ok(())
    }
}

/// Where a projection begins in the tensor that it is, or is a part of.
fn first_row(id: ModuleId, config: &ModelConfig) -> usize {
    config.rows_in_module(id.projection).1.start
}

/// Why weights could not be merged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeError {
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Safetensors(#[from] safetensors::SafeTensorError),
    #[error("{0} has another shape than the adapter's part")]
    Shape(String),
    #[error("{0} is not there")]
    Missing(String),
    #[error("{name} is of type {found}, and adapters are merged into F32, F16 and BF16")]
    Type { name: String, found: String },
}
