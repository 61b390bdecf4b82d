//! Phi-3 with 4096 positions, and Phi-4: LLaMA's form with q, k and v in one
//! tensor, gate and up in another, and RoPE over a part of each head in some.
//! Those with LongRoPE are refused: Phi-3 with 131,072 positions, Phi-3.5 mini and
//! Phi-4 mini.

use super::{Activation, Architecture, Fused, RopeOrder, Window};
use crate::projection::Projection;

pub(super) static PHI3: Architecture = Architecture {
    gguf_name: "phi3",
    model_types: &["phi3"],
    rope_order: RopeOrder::Halves,
    qkv_bias: false,
    head_norms: false,
    post_norms: false,
    fused: &[
        Fused {
            gguf_name: "attn_qkv",
            peft_name: "self_attn.qkv_proj",
            peft_leaf: "qkv_proj",
            parts: &[Projection::Q, Projection::K, Projection::V],
        },
        Fused {
            gguf_name: "ffn_up",
            peft_name: "mlp.gate_up_proj",
            peft_leaf: "gate_up_proj",
            parts: &[Projection::Gate, Projection::Up],
        },
    ],
    activation: Activation::Silu,
    scales_embedding: false,
    window: Window::EveryLayer,
    published_norms_lack: 0.0,
    published_defaults: "{}",
};
