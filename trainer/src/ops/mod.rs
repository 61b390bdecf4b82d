//! Differentiable operations over frozen quantized weights, as candle custom
//! operations with backward passes of their own.
//!
//! candle's fused operations (rms norm, softmax over the last dimension, rope)
//! silently give no gradient, and its matmul also computes the gradient of the
//! frozen weight, so none of them is used here. Every operation runs on
//! rayon's current pool and is held by finite differences in its tests.
//! Knows nothing of losses, optimizers or datasets.

pub(crate) mod attention;
pub(crate) mod dropout;
pub(crate) mod fused;
pub(crate) mod gemm;
pub(crate) mod head;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod swiglu;

#[cfg(test)]
pub(crate) mod check;

use candle_core::{CpuStorage, Device, Error, Layout, Result, Shape, Storage, Tensor};
use rayon::prelude::*;

/// Elements that one rayon task handles at least, so that small tensors are
/// not split.
const PARALLEL_ELEMENTS_MIN: usize = 1 << 14;

/// The values behind a storage, which must be contiguous f32.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        return Err(Error::RequiresContiguous {
            op: "a trainer operation",
        }
        .bt());
    };
    Ok(&storage.as_slice::<f32>()?[from..to])
}

/// Runs `read` on the values of a contiguous f32 tensor without copying them.
pub(crate) fn with_values<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => read(values(cpu, layout)?),
        _ => Err(Error::Msg("the trainer computes on the CPU".into()).bt()),
    }
}

/// A tensor of these values on the CPU.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape: Shape = shape.into();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// The result of a custom operation's forward pass.
pub(crate) fn output(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// `into[i] += from[i]`.
pub(crate) fn add_into(into: &mut [f32], from: &[f32]) {
    into.par_chunks_mut(PARALLEL_ELEMENTS_MIN)
        .zip(from.par_chunks(PARALLEL_ELEMENTS_MIN))
        .for_each(|(into, from)| into.iter_mut().zip(from).for_each(|(a, b)| *a += b));
}
