//! LLaMA: RMS norms, grouped-query attention with RoPE, SwiGLU, no biases.
//! Mistral, SmolLM2, CodeLlama and others share the form.

use super::{Activation, Architecture, RopeOrder, Window};

pub(super) static LLAMA: Architecture = Architecture {
    gguf_name: "llama",
    model_types: &["llama", "mistral"],
    rope_order: RopeOrder::Interleaved,
    qkv_bias: false,
    head_norms: false,
    post_norms: false,
    fused: &[],
    activation: Activation::Silu,
    scales_embedding: false,
    // Mistral 7B's first version
    window: Window::EveryLayer,
    published_norms_lack: 0.0,
    published_defaults: "{}",
};
