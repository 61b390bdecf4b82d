//! Adapters to llama.cpp's GGUF file.
//!
//! llama.cpp multiplies with one alpha by a tensor's rank; what a module's scale
//! is beside that (patterns) goes into its B. Rows are in the order of the
//! model's GGUF file in memory already.

use std::path::Path;

use super::{LoraAdapter, LoraError, LoraPair, ModuleId};
use crate::ModelError;
use crate::config::ModelConfig;
use crate::gguf::{Announced, GgufWriter, float, text};
use crate::projection::Projection;
use crate::quant::Format;

/// The parts of one tensor of the base: several where projections are fused.
struct Module<'a> {
    name: String,
    pairs: Vec<&'a LoraPair>,
}

impl LoraAdapter {
    /// Writes the adapter to `to` as llama.cpp loads it beside the base.
    ///
    /// # Errors
    /// [`LoraError`] for a module that does not fit `model`, that is not finite,
    /// or that is fused with others which are missing or have another A;
    /// [`ModelError::Write`].
    pub fn write_gguf(&self, model: &ModelConfig, to: &Path) -> Result<(), ModelError> {
        let modules = self.by_tensor(model)?;
        let Some(first) = modules.first().and_then(|module| module.pairs.first()) else {
            return Err(LoraError::NoModule.into());
        };
        let alpha = first.scale * rank_of(first);
        let metadata = [
            ("general.type", text("adapter")),
            ("general.architecture", text(model.architecture.gguf_name)),
            ("adapter.type", text("lora")),
            ("adapter.lora.alpha", float(alpha)),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        let tensors: Vec<Announced> = modules.iter().flat_map(Module::announced).collect();
        let mut writer = GgufWriter::begin(to, &metadata, &tensors)?;
        for module in &modules {
            writer.next_tensor()?;
            writer.add(&bytes(&module.pairs[0].a, 1.0))?;
            writer.next_tensor()?;
            for pair in &module.pairs {
                writer.add(&bytes(&pair.b, pair.scale / (alpha / rank_of(pair))))?;
            }
        }
        writer.finish()
    }

    fn by_tensor(&self, model: &ModelConfig) -> Result<Vec<Module<'_>>, LoraError> {
        let mut modules: Vec<Module<'_>> = Vec::new();
        for (&id, pair) in &self.modules {
            let name = tensor_name(id, model);
            check_pair(&name, pair, model.projection_shape(id.projection))?;
            let Some(fused) = model.architecture.fused_with(id.projection) else {
                let pairs = vec![pair];
                modules.push(Module { name, pairs });
                continue;
            };
            let part = |projection: &Projection| {
                let projection = *projection;
                self.modules.get(&ModuleId { projection, ..id })
            };
            let Some(pairs) = fused.parts.iter().map(part).collect::<Option<Vec<_>>>() else {
                return Err(LoraError::TensorMissing(name));
            };
            if pairs
                .iter()
                .any(|p| p.a != pairs[0].a || p.scale != pairs[0].scale)
            {
                return Err(LoraError::PartsDiffer(name));
            }
            if fused.parts.first() == Some(&id.projection) {
                modules.push(Module { name, pairs });
            }
        }
        Ok(modules)
    }
}

impl Module<'_> {
    fn announced(&self) -> [Announced; 2] {
        let rank = self.pairs[0].rank;
        let cols = self.pairs[0].a.len() / rank;
        let rows = self.pairs.iter().map(|pair| pair.b.len() / rank).sum();
        let tensor = |part: &str, shape: [usize; 2]| Announced {
            name: format!("{}.{part}", self.name),
            format: Format::F32.ggml_number(),
            byte_len: shape[0] * shape[1] * size_of::<f32>(),
            shape: shape.to_vec(),
        };
        [
            tensor("lora_a", [rank, cols]),
            tensor("lora_b", [rows, rank]),
        ]
    }
}

/// The tensor of the base's file that a module is, or is a part of.
pub(crate) fn tensor_name(id: ModuleId, model: &ModelConfig) -> String {
    let fused = model.architecture.fused_with(id.projection);
    let name = fused.map_or(id.projection.gguf_name(), |fused| fused.gguf_name);
    format!("blk.{}.{name}.weight", id.layer)
}

/// Refuses what does not fit the base, or is not finite.
pub(crate) fn check_pair(
    name: &str,
    pair: &LoraPair,
    (rows, cols): (usize, usize),
) -> Result<(), LoraError> {
    for (values, expected) in [(&pair.a, [pair.rank, cols]), (&pair.b, [rows, pair.rank])] {
        if pair.rank == 0 || values.len() != expected[0] * expected[1] {
            return Err(LoraError::TensorShape {
                name: name.to_owned(),
                expected,
                found: vec![values.len()],
            });
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(LoraError::NotFinite(name.to_owned()));
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "at most RANK_MAX")]
fn rank_of(pair: &LoraPair) -> f32 {
    pair.rank as f32
}

fn bytes(values: &[f32], factor: f32) -> Vec<u8> {
    let scaled = values.iter().map(|value| value * factor);
    scaled.flat_map(f32::to_le_bytes).collect()
}
