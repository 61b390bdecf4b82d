//! Makes an adapter bad on purpose, so that the demo can show that it is
//! refused, and stopped when it is forced in.

use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::DemoError;

/// By how much each B matrix is turned around and overdriven. The result is a
/// well-formed adapter of the right shape whose answers are rubbish.
const FACTOR: f32 = -10_000.0;

/// Writes a PEFT folder with the given configuration and with every B matrix of
/// `weights` times [`FACTOR`].
pub(super) fn write_bad_adapter(
    config_json: &[u8],
    weights: &[u8],
    folder: &Path,
) -> Result<(), DemoError> {
    let damaged = |error: safetensors::SafeTensorError| {
        DemoError::Protocol(format!("the stored adapter cannot be read: {error}"))
    };
    let tensors = SafeTensors::deserialize(weights).map_err(damaged)?;
    let spoiled: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, view)| {
            let factor = if name.contains("lora_B") { FACTOR } else { 1.0 };
            (
                name.to_owned(),
                view.shape().to_vec(),
                scaled(view.data(), factor),
            )
        })
        .collect();
    let views = spoiled.iter().map(|(name, shape, bytes)| {
        TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
    });
    let views: Vec<_> = views.collect::<Result<_, _>>().map_err(damaged)?;
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let bytes = safetensors::serialize(views, metadata).map_err(damaged)?;
    let io = |source| DemoError::Io {
        what: format!("writing {}", folder.display()),
        source,
    };
    std::fs::create_dir_all(folder).map_err(io)?;
    std::fs::write(folder.join("adapter_config.json"), config_json).map_err(io)?;
    std::fs::write(folder.join("adapter_model.safetensors"), bytes).map_err(io)
}

fn scaled(bytes: &[u8], factor: f32) -> Vec<u8> {
    bytes
        .chunks_exact(4)
        .flat_map(|four| {
            (f32::from_le_bytes([four[0], four[1], four[2], four[3]]) * factor).to_le_bytes()
        })
        .collect()
}
