//! LLaMA: RMS norms, grouped-query attention with RoPE, SwiGLU, no biases.

use super::{RopeOrder, Spec};
use crate::ModelError;
use crate::gguf::Gguf;

pub(super) const SPEC: Spec = Spec {
    gguf_name: "llama",
    rope_order: RopeOrder::Interleaved,
    check,
};

fn refuse(key: &str, problem: &'static str) -> Result<(), ModelError> {
    Err(ModelError::Metadata {
        key: key.to_owned(),
        problem,
    })
}

fn check(gguf: &Gguf) -> Result<(), ModelError> {
    let key = "llama.expert_count";
    if gguf.optional(key, |value| value.as_u64())?.unwrap_or(0) > 0 {
        return refuse(key, "mixtures of experts are not supported");
    }
    let key = "llama.rope.scaling.type";
    if gguf
        .optional(key, |value| value.as_str())?
        .unwrap_or("none")
        != "none"
    {
        return refuse(key, "scaled RoPE is not supported");
    }
    if gguf.has_tensor("rope_freqs.weight") {
        return refuse("rope_freqs.weight", "scaled RoPE is not supported");
    }
    for name in [
        "blk.0.attn_q.bias",
        "blk.0.attn_output.bias",
        "blk.0.ffn_down.bias",
    ] {
        if gguf.has_tensor(name) {
            return refuse(name, "biases are not supported");
        }
    }
    Ok(())
}
