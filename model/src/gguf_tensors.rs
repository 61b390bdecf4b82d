//! The tensors of GGUF files as weights: matrices stay in the mapped files.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use crate::ModelError;
use crate::gguf::{GgufFiles, TensorInfo};
use crate::quant::{Bytes, Format, QuantMatrix};
use crate::weights::TensorSource;

impl TensorSource for GgufFiles {
    fn has(&self, name: &str) -> bool {
        self.tensor(name).is_ok()
    }

    fn names(&self) -> Vec<&str> {
        self.tensors().map(|tensor| tensor.name.as_str()).collect()
    }

    fn rows_of_matrix(
        &self,
        name: &str,
        (all, cols): (usize, usize),
        rows: Range<usize>,
    ) -> Result<QuantMatrix, ModelError> {
        let (tensor, file) = shaped(self, name, &[all, cols])?;
        rows_of(tensor, file, rows)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let (tensor, file) = shaped(self, name, &[len])?;
        let bytes = &file[tensor.range.clone()];
        let pairs = bytes.as_chunks::<2>().0.iter();
        match tensor.kind.name {
            "F32" => Ok(bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect()),
            "F16" => Ok(pairs.map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
            "BF16" => Ok(pairs.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
            _ => Err(unsupported(tensor)),
        }
    }
}

/// A tensor of two dimensions as a matrix.
///
/// # Errors
/// [`ModelError::UnsupportedFormat`].
pub(crate) fn matrix(files: &GgufFiles, tensor: &TensorInfo) -> Result<QuantMatrix, ModelError> {
    let (tensor, file) = files.tensor(&tensor.name)?;
    let rows = tensor.shape.first().copied().unwrap_or(0);
    rows_of(tensor, file, 0..rows)
}

/// Some rows of a tensor that has two dimensions.
fn rows_of(
    tensor: &TensorInfo,
    file: &Arc<Mmap>,
    rows: Range<usize>,
) -> Result<QuantMatrix, ModelError> {
    let [all, cols] = tensor.shape[..] else {
        return Err(ModelError::TensorShape {
            name: tensor.name.clone(),
            expected: vec![rows.len(), 0],
            found: tensor.shape.clone(),
        });
    };
    let format = Format::from_ggml(tensor.kind.id).ok_or_else(|| unsupported(tensor))?;
    let row_bytes = tensor.range.len() / all;
    let start = tensor.range.start + rows.start * row_bytes;
    let range = start..start + rows.len() * row_bytes;
    let bytes = Bytes::mapped(Arc::clone(file), range)
        .ok_or_else(|| ModelError::TensorMissing(tensor.name.clone()))?;
    QuantMatrix::new(format, rows.len(), cols, bytes)
}

fn shaped<'a>(
    files: &'a GgufFiles,
    name: &str,
    shape: &[usize],
) -> Result<(&'a TensorInfo, &'a Arc<Mmap>), ModelError> {
    let (tensor, file) = files.tensor(name)?;
    if tensor.shape != shape {
        return Err(ModelError::TensorShape {
            name: name.to_owned(),
            expected: shape.to_vec(),
            found: tensor.shape.clone(),
        });
    }
    Ok((tensor, file))
}

fn unsupported(tensor: &TensorInfo) -> ModelError {
    let format = tensor.kind.name.to_owned();
    ModelError::UnsupportedFormat {
        tensor: tensor.name.clone(),
        format,
    }
}
