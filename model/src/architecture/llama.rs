//! LLaMA: RMS norms, grouped-query attention with RoPE, SwiGLU, no biases.
//! Mistral, SmolLM2, CodeLlama and others share the form.

use super::{Activation, Architecture, RopeOrder, Window};

pub(super) static LLAMA: Architecture = Architecture {
    gguf_name: "llama",
    rope_order: RopeOrder::Interleaved,
    qkv_bias: false,
    head_norms: false,
    post_norms: false,
    fused: &[],
    activation: Activation::Silu,
    scales_embedding: false,
    // Mistral 7B's first version
    window: Window::EveryLayer,
};
