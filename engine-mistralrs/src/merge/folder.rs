//! The safetensors of a published folder with an adapter merged: what it changes
//! becomes F32, so that nothing is lost before mistralrs takes it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use model::PublishedModel;
use safetensors::tensor::{TensorView, View};
use safetensors::{Dtype, SafeTensors, serialize_to_file};

use super::{Deltas, MergeError};

/// Writes the files that change; the others stay where they are.
pub(super) fn write(
    deltas: &Deltas,
    base: &PublishedModel,
    base_folder: &Path,
    folder: &Path,
) -> Result<Vec<PathBuf>, MergeError> {
    let mut left = deltas.names();
    let mut paths = Vec::new();
    for (name, file) in base.files() {
        let parsed = SafeTensors::deserialize(file)?;
        if !parsed.names().iter().any(|tensor| left.contains(*tensor)) {
            paths.push(base_folder.join(name));
            continue;
        }
        let mut pieces = Vec::new();
        for (tensor, view) in parsed.iter() {
            let piece = if left.remove(tensor) {
                Piece::Merged(view.shape().to_vec(), merged(deltas, tensor, &view)?)
            } else {
                Piece::Same(view)
            };
            pieces.push((tensor.to_owned(), piece));
        }
        let path = folder.join(name);
        serialize_to_file(pieces, None, &path)?;
        paths.push(path);
    }
    match left.pop_first() {
        None => Ok(paths),
        Some(name) => Err(MergeError::Missing(name)),
    }
}

/// A tensor of the new file.
enum Piece<'a> {
    Same(TensorView<'a>),
    Merged(Vec<usize>, Vec<u8>),
}

impl View for Piece<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Same(view) => view.dtype(),
            Self::Merged(..) => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Same(view) => view.shape(),
            Self::Merged(shape, _) => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Same(view) => view.data().into(),
            Self::Merged(_, bytes) => bytes.into(),
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Same(view) => view.data().len(),
            Self::Merged(_, bytes) => bytes.len(),
        }
    }
}

fn merged(deltas: &Deltas, name: &str, view: &TensorView<'_>) -> Result<Vec<u8>, MergeError> {
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => {
            return Err(MergeError::Type {
                name: name.to_owned(),
                found: format!("{other:?}"),
            });
        }
    };
    let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
    let dense = tensor.to_dtype(DType::F32)?.flatten_all()?;
    let mut values = dense.to_vec1::<f32>()?;
    deltas.add(name, &mut values)?;
    Ok(values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect())
}
