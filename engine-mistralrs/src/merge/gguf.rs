//! A GGUF file with an adapter merged: its matrices become Q8_0, which next to
//! the base's own rounding loses next to nothing.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use model::ModelConfig;
use model::lora::ModuleId;

use super::{Deltas, MergeError};

/// The tensor that a module is, or is a part of.
pub(super) fn tensor_name(id: ModuleId, config: &ModelConfig) -> String {
    let fused = config.architecture.fused_with(id.projection);
    let name = fused.map_or(id.projection.gguf_name(), |fused| fused.gguf_name);
    format!("blk.{}.{name}.weight", id.layer)
}

/// Writes the file. All of its tensors are in memory while that is done, about
/// what the instance itself will hold.
pub(super) fn write(
    deltas: &Deltas,
    base: &Path,
    folder: &Path,
) -> Result<Vec<PathBuf>, MergeError> {
    let mut reader = BufReader::new(File::open(base)?);
    let content = Content::read(&mut reader)?;
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort_unstable();
    if let Some(name) = deltas
        .tensors
        .keys()
        .find(|name| !content.tensor_infos.contains_key(*name))
    {
        return Err(MergeError::Missing(name.clone()));
    }
    let mut tensors: Vec<(&str, QTensor)> = Vec::with_capacity(names.len());
    for name in names {
        let tensor = content.tensor(&mut reader, name, &Device::Cpu)?;
        let tensor = if deltas.tensors.contains_key(name) {
            merged(deltas, name, &tensor)?
        } else {
            tensor
        };
        tensors.push((name, tensor));
    }
    let metadata: Vec<(&str, &Value)> = content
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (*name, t)).collect();
    let path = folder.join("merged.gguf");
    let mut writer = BufWriter::new(File::create(&path)?);
    gguf_file::write(&mut writer, &metadata, &tensors)?;
    writer
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    Ok(vec![path])
}

fn merged(deltas: &Deltas, name: &str, tensor: &QTensor) -> Result<QTensor, MergeError> {
    let dense = tensor.dequantize(&Device::Cpu)?;
    let shape = dense.shape().clone();
    let mut values = dense.flatten_all()?.to_vec1::<f32>()?;
    deltas.add(name, &mut values)?;
    let dense = Tensor::from_vec(values, shape, &Device::Cpu)?;
    let format = match tensor.dtype() {
        float @ (GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) => float,
        _ => GgmlDType::Q8_0,
    };
    Ok(QTensor::quantize(&dense, format)?)
}
