//! The memory that an instance will hold, before it is loaded.
//!
//! Weights only: keys and values of sequences are the cache's.

use std::collections::BTreeSet;

use model::ModelError;
use safetensors::SafeTensors;

use crate::base::{Base, Form};

/// What mistralrs computes in where it is not quantized, on a CPU.
const FLOAT_BYTES: u64 = 4;
/// Bytes of 32 weights in Q8_0, which merged matrices of GGUF files become.
const Q8_0_BYTES: u64 = 34;
const Q8_0_WEIGHTS: u64 = 32;
/// More bits than any of mistralrs' quantized forms takes for a weight, by the
/// number in its name.
const ISQ_SCALES_BITS: u64 = 2;

impl Base {
    /// The bytes of an instance of this base. The tensors `merged` are changed by
    /// an adapter.
    pub(crate) fn instance_bytes(
        &self,
        merged: &BTreeSet<String>,
        isq: Option<&str>,
    ) -> Result<u64, ModelError> {
        match &self.form {
            Form::Gguf { files, .. } => {
                let is_tied = files.tensors().all(|tensor| tensor.name != "output.weight");
                let bytes = files.tensors().map(|tensor| {
                    let weights = tensor.shape.iter().product::<usize>() as u64;
                    let stored = (tensor.range.end - tensor.range.start) as u64;
                    let is_float = matches!(tensor.kind.name, "F32" | "F16" | "BF16");
                    match tensor.name.as_str() {
                        // the embedding becomes floats, and is the head as it is
                        "token_embd.weight" if is_tied => weights * FLOAT_BYTES + stored,
                        "token_embd.weight" => weights * FLOAT_BYTES,
                        _ if is_float => weights * FLOAT_BYTES,
                        name if merged.contains(name) => {
                            weights.div_ceil(Q8_0_WEIGHTS) * Q8_0_BYTES
                        }
                        _ => stored,
                    }
                });
                Ok(bytes.sum())
            }
            Form::Folder(folder) => {
                let bits = isq.map(isq_bits);
                let mut bytes = 0;
                for (_, file) in folder.files() {
                    let parsed = SafeTensors::deserialize(file)
                        .map_err(|error| ModelError::Safetensors(error.to_string()))?;
                    for (name, view) in parsed.iter() {
                        let weights = view.shape().iter().product::<usize>() as u64;
                        let is_quantized = view.shape().len() == 2 && !name.contains("embed");
                        bytes += match bits.filter(|_| is_quantized) {
                            Some(bits) => (weights * bits).div_ceil(8),
                            None => weights * FLOAT_BYTES,
                        };
                    }
                }
                Ok(bytes)
            }
        }
    }

    /// The tensors that an adapter of every module changes: for the most that a
    /// version can hold.
    pub(crate) fn all_merged(&self) -> BTreeSet<String> {
        match &self.form {
            Form::Gguf { files, .. } => {
                let matrices = files.tensors().filter(|tensor| tensor.shape.len() == 2);
                matrices.map(|tensor| tensor.name.clone()).collect()
            }
            Form::Folder(_) => BTreeSet::new(),
        }
    }
}

/// The bits of a weight, from the first number in a name such as `q4k`.
fn isq_bits(name: &str) -> u64 {
    let digits: String = name
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits
        .parse::<u64>()
        .map_or(8 * FLOAT_BYTES, |bits| bits.min(16) + ISQ_SCALES_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_from_the_name() {
        let found = ["q4k", "8", "Q8_0", "afq2", "mystery"].map(isq_bits);
        assert_eq!(found, [6, 10, 10, 4, 32]);
    }
}
