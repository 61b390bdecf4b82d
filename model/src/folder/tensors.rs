//! The tensors of safetensors files under their GGUF names, quantized as they
//! are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value as Json};

use super::config::FolderConfig;
use super::{read_json, wrong};
use crate::ModelError;
use crate::architecture::{Architecture, RopeOrder};
use crate::config::ModelConfig;
use crate::lora::interleave_heads;
use crate::projection::Projection;
use crate::quant::{Format, QuantMatrix, quantize};
use crate::weights::TensorSource;

/// The most files that one model's tensors are in.
const SHARDS_MAX: usize = 512;
/// The largest head of a safetensors file.
const HEADER_BYTES_MAX: u64 = 64 << 20;
/// The largest `model.safetensors.index.json`.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// About how many rows one task holds in f32 while they are quantized.
const ROWS_AT_ONCE: usize = 256;

/// How the names of tensors begin that see pictures.
const PICTURE_PARTS: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

/// Where a tensor lies.
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// The tensors of a folder.
pub(super) struct FolderTensors<'a> {
    config: &'a ModelConfig,
    format: Format,
    /// Left out where the head is the embedding.
    tied: bool,
    files: &'a [(String, Arc<Mmap>)],
    places: BTreeMap<String, Place>,
}

/// Maps `model.safetensors`, or the files that its index names, in the order of
/// their names.
pub(super) fn map_files(folder: &Path) -> Result<Vec<(String, Arc<Mmap>)>, ModelError> {
    let index = folder.join("model.safetensors.index.json");
    let names = if index.exists() {
        let json = read_json(&index, INDEX_BYTES_MAX)?;
        let map = json.get("weight_map").and_then(Json::as_object);
        let map = map.ok_or_else(|| wrong("weight_map", "is missing"))?;
        shard_names(map)?
    } else {
        vec!["model.safetensors".to_owned()]
    };
    let map = |name: String| {
        let path = folder.join(&name);
        let io = |source| ModelError::Io {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the mapping is read-only and private; that nobody truncates or
        // rewrites a model file while it is read is the operator's part.
        let file = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok((name, Arc::new(file)))
    };
    names.into_iter().map(map).collect()
}

/// The files of an index: plain names in the same folder.
fn shard_names(map: &Map<String, Json>) -> Result<Vec<String>, ModelError> {
    let key = "weight_map";
    let mut names: Vec<&str> = map.values().filter_map(Json::as_str).collect();
    if names.len() != map.len() {
        return Err(wrong(key, "has a value that is no text"));
    }
    names.sort_unstable();
    names.dedup();
    let plain = |name: &&str| !name.contains(['/', '\\']) && name.ends_with(".safetensors");
    if names.is_empty() || !names.iter().all(plain) {
        return Err(wrong(key, "names no safetensors file of this folder"));
    }
    if names.len() > SHARDS_MAX {
        return Err(ModelError::Limit {
            what: "number of safetensors files",
            found: names.len() as u64,
            max: SHARDS_MAX as u64,
        });
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

impl<'a> FolderTensors<'a> {
    /// Reads the heads of the files; matrices will be of `format`.
    pub(super) fn new(
        config: &'a ModelConfig,
        published: &FolderConfig,
        format: Format,
        files: &'a [(String, Arc<Mmap>)],
    ) -> Result<Self, ModelError> {
        let mut places = BTreeMap::new();
        for (at, (_, file)) in files.iter().enumerate() {
            let failed = |e: safetensors::SafeTensorError| ModelError::Safetensors(e.to_string());
            if let Some(len) = file.first_chunk::<8>().map(|len| u64::from_le_bytes(*len))
                && len > HEADER_BYTES_MAX
            {
                return Err(ModelError::Limit {
                    what: "length of a safetensors head",
                    found: len,
                    max: HEADER_BYTES_MAX,
                });
            }
            let parsed = SafeTensors::deserialize(file).map_err(failed)?;
            for (name, view) in parsed.tensors() {
                let start = view.data().as_ptr() as usize - file.as_ptr() as usize;
                let place = Place {
                    file: at,
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    range: start..start + view.data().len(),
                };
                if name.ends_with(".rotary_emb.inv_freq") {
                    continue; // old files have it, and it follows from config.json
                }
                let architecture = config.architecture;
                let text_name = match published.is_text_part {
                    true if is_of_pictures(&name) => continue,
                    true => text_part_name(&name),
                    false => None,
                };
                let published_name = text_name.as_deref().unwrap_or(&name);
                let Some(name) = gguf_name(published_name, architecture) else {
                    return Err(ModelError::TensorUnexpected(name));
                };
                if places.insert(name.clone(), place).is_some() {
                    return Err(wrong("weight_map", "files have a tensor twice"));
                }
            }
        }
        Ok(Self {
            config,
            format,
            tied: published.tied,
            files,
            places,
        })
    }

    fn place(&self, name: &str, shape: &[usize]) -> Result<(&Place, &[u8]), ModelError> {
        let place = self.places.get(name).filter(|_| self.has(name));
        let place = place.ok_or_else(|| ModelError::TensorMissing(name.to_owned()))?;
        if place.shape != shape {
            return Err(ModelError::TensorShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: place.shape.clone(),
            });
        }
        let file = self.files.get(place.file).map(|(_, file)| &file[..]);
        let bytes = file.and_then(|file| file.get(place.range.clone()));
        bytes
            .map(|bytes| (place, bytes))
            .ok_or_else(|| ModelError::TensorMissing(name.to_owned()))
    }

    /// Heads whose rows GGUF has in another order, for a tensor of q or k.
    fn is_permuted(&self, name: &str) -> bool {
        self.config.architecture.rope_order == RopeOrder::Interleaved
            && (name.ends_with(".attn_q.weight") || name.ends_with(".attn_k.weight"))
    }
}

impl TensorSource for FolderTensors<'_> {
    fn has(&self, name: &str) -> bool {
        self.places.contains_key(name) && !(self.tied && name == "output.weight")
    }

    fn names(&self) -> Vec<&str> {
        let names = self.places.keys().map(String::as_str);
        names.filter(|name| self.has(name)).collect()
    }

    fn rows_of_matrix(
        &self,
        name: &str,
        (all, cols): (usize, usize),
        rows: Range<usize>,
    ) -> Result<QuantMatrix, ModelError> {
        let (place, bytes) = self.place(name, &[all, cols])?;
        let row_bytes = bytes.len() / all;
        let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
        let format = match self.format.byte_len(1, cols) {
            Some(_) => self.format,
            // K-quants need rows of 256
            None => Format::Q8_0,
        };
        // a part has whole heads, so that their rows stay within it
        let head_dim = self.config.head_dim;
        let part_rows = ROWS_AT_ONCE.div_ceil(head_dim) * head_dim;
        let part = |bytes: &[u8]| {
            let mut weights = floats(name, place.dtype, bytes)?;
            if !weights.iter().all(|w| w.is_finite()) {
                let problem = format!("tensor {name:?} has a value that is not finite");
                return Err(ModelError::Safetensors(problem));
            }
            if self.is_permuted(name) {
                weights = interleave_heads(&weights, cols, head_dim);
            }
            let mut blocks = Vec::new();
            quantize(format, &weights, &mut blocks);
            Ok(blocks)
        };
        let parts = bytes.par_chunks(part_rows * row_bytes).map(part);
        let parts = parts.collect::<Result<Vec<_>, ModelError>>()?;
        QuantMatrix::new(format, rows.len(), cols, parts.concat().into())
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let (place, bytes) = self.place(name, &[len])?;
        let mut values = floats(name, place.dtype, bytes)?;
        if name.ends_with("norm.weight") {
            let lack = self.config.architecture.published_norms_lack;
            values.iter_mut().for_each(|value| *value += lack);
        }
        Ok(values)
    }
}

fn floats(name: &str, dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, ModelError> {
    let pairs = bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => Ok(bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()),
        Dtype::F16 => Ok(pairs.map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        Dtype::BF16 => Ok(pairs.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        other => Err(ModelError::UnsupportedFormat {
            tensor: name.to_owned(),
            format: format!("{other:?}"),
        }),
    }
}

/// Whether a tensor belongs to the part of a model that sees pictures.
fn is_of_pictures(name: &str) -> bool {
    let name = name.strip_prefix("model.").unwrap_or(name);
    PICTURE_PARTS.iter().any(|part| name.starts_with(part))
}

/// The name that a tensor of the text part has where there is nothing else.
fn text_part_name(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return Some(format!("model.{rest}"));
    }
    name.strip_prefix("language_model.").map(str::to_owned)
}

/// GGUF's name of a published tensor.
fn gguf_name(name: &str, architecture: &Architecture) -> Option<String> {
    let whole = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(name) = whole {
        return Some(name.to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (module, kind) = rest.rsplit_once('.')?;
    let fused = architecture.fused.iter().find(|f| f.peft_name == module);
    let ours = match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if architecture.post_norms => "post_attention_norm",
        "post_attention_layernorm" => "ffn_norm",
        "pre_feedforward_layernorm" if architecture.post_norms => "ffn_norm",
        "post_feedforward_layernorm" if architecture.post_norms => "post_ffw_norm",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        _ => match fused {
            Some(fused) => fused.gguf_name,
            None => Projection::from_peft_name(module)?.gguf_name(),
        },
    };
    matches!(kind, "weight" | "bias").then(|| format!("blk.{layer}.{ours}.{kind}"))
}
