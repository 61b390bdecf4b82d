//! A base with an adapter's product added to its weights, as a GGUF file of its
//! own: what runs wherever the base does, and knows no adapters.
//!
//! Everything but the matrices is the base's, byte for byte.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;

use crate::ModelError;
use crate::config::ModelConfig;
use crate::gguf::{
    Announced, Entry, GgufFiles, GgufWriter, TensorInfo, metadata_entries, unsigned,
};
use crate::gguf_tensors::matrix;
use crate::lora::{LoraAdapter, LoraPair, check_pair, tensor_name};
use crate::quant::{Format, QuantMatrix};

/// How the matrices of a merged model are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergedFormat {
    /// As they are computed.
    F32,
    /// Rounded to half precision.
    F16,
    /// In blocks of 32 with 8-bit codes.
    Q8_0,
}

impl MergedFormat {
    fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::Q8_0 => Format::Q8_0,
        }
    }

    /// llama.cpp's number for a file of such matrices.
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }
}

/// Rows that are in memory at a time.
const ROWS_AT_ONCE: usize = 1024;
/// What says how a file's tensors are stored.
const FILE_TYPE: &str = "general.file_type";
/// Where tensors are aligned to; files are written with the default.
const ALIGNMENT: &str = "general.alignment";
/// The beginning of what says that a file is a part of one.
const SPLIT: &str = "split.";

/// What is added to some rows of a matrix.
struct Addition<'a> {
    first_row: usize,
    pair: &'a LoraPair,
}

/// Writes the GGUF model at `base` with `adapter` in its weights to `to`; without
/// one, the base in another format.
///
/// # Errors
/// As opening the base; [`crate::lora::LoraError`] for an adapter that does not fit it;
/// [`ModelError::Write`].
pub fn merge(
    base: &Path,
    adapter: Option<&LoraAdapter>,
    format: MergedFormat,
    to: &Path,
) -> Result<(), ModelError> {
    let files = GgufFiles::open(base)?;
    let config = ModelConfig::read(files.metadata())?;
    let additions = additions(adapter, &config)?;
    let mut tensors: Vec<&TensorInfo> = files.tensors().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let announced = tensors
        .iter()
        .map(|tensor| announced(tensor, format.format()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut metadata: Vec<Entry> = metadata_entries(files.first_bytes())?;
    metadata.retain(|(key, _)| key != FILE_TYPE && !key.starts_with(SPLIT) && key != ALIGNMENT);
    metadata.push((FILE_TYPE.to_owned(), unsigned(format.file_type())));
    let mut writer = GgufWriter::begin(to, &metadata, &announced)?;
    for tensor in tensors {
        writer.next_tensor()?;
        if tensor.shape.len() == 2 {
            let matrix = matrix(&files, tensor)?;
            let added = additions.get(&tensor.name).map_or(&[][..], Vec::as_slice);
            write_matrix(&matrix, added, format.format(), &mut writer)?;
        } else {
            let (_, file) = files.tensor(&tensor.name)?;
            writer.add(&file[tensor.range.clone()])?;
        }
    }
    writer.finish()
}

/// What is added to each tensor of the base.
fn additions<'a>(
    adapter: Option<&'a LoraAdapter>,
    config: &ModelConfig,
) -> Result<HashMap<String, Vec<Addition<'a>>>, ModelError> {
    let mut additions: HashMap<String, Vec<Addition<'a>>> = HashMap::new();
    for (&id, pair) in adapter.iter().flat_map(|adapter| &adapter.modules) {
        let name = tensor_name(id, config);
        if id.layer >= config.layer_count {
            return Err(ModelError::TensorMissing(name));
        }
        check_pair(&name, pair, config.projection_shape(id.projection))?;
        let first_row = config.rows_in_module(id.projection).1.start;
        let added = additions.entry(name).or_default();
        added.push(Addition { first_row, pair });
    }
    Ok(additions)
}

fn announced(tensor: &TensorInfo, format: Format) -> Result<Announced, ModelError> {
    let (number, byte_len) = match tensor.shape[..] {
        [rows, cols] => {
            let len = format.byte_len(rows, cols).ok_or_else(|| {
                let format = format.name().to_owned();
                ModelError::UnsupportedFormat {
                    tensor: tensor.name.clone(),
                    format,
                }
            })?;
            (format.ggml_number(), len)
        }
        _ => (tensor.kind.id, tensor.range.len()),
    };
    Ok(Announced {
        name: tensor.name.clone(),
        format: number,
        shape: tensor.shape.clone(),
        byte_len,
    })
}

fn write_matrix(
    matrix: &QuantMatrix,
    additions: &[Addition<'_>],
    format: Format,
    writer: &mut GgufWriter,
) -> Result<(), ModelError> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    for first in (0..rows).step_by(ROWS_AT_ONCE) {
        let chunk = first..rows.min(first + ROWS_AT_ONCE);
        let mut weights = vec![0.0; chunk.len() * cols]; // [chunk, cols]
        matrix.dequantize_rows(chunk.clone(), &mut weights);
        for addition in additions {
            let own = addition.pair.b.len() / addition.pair.rank;
            weights
                .par_chunks_exact_mut(cols)
                .zip(chunk.clone())
                .for_each(|(weights, row)| {
                    if let Some(row) = row.checked_sub(addition.first_row).filter(|r| *r < own) {
                        add_row(addition.pair, row, weights);
                    }
                });
        }
        writer.add(&format.encode(&weights))?;
    }
    Ok(())
}

/// Adds `scale · B[row] · A`, in f64, so that it is rounded once.
fn add_row(pair: &LoraPair, row: usize, weights: &mut [f32]) {
    let b = &pair.b[row * pair.rank..(row + 1) * pair.rank];
    let mut sums: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
    for (b, a) in b.iter().zip(pair.a.chunks_exact(weights.len())) {
        let factor = f64::from(pair.scale) * f64::from(*b);
        for (sum, a) in sums.iter_mut().zip(a) {
            *sum += factor * f64::from(*a);
        }
    }
    for (weight, sum) in weights.iter_mut().zip(sums) {
        *weight = sum as f32;
    }
}
