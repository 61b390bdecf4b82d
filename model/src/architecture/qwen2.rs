//! Qwen2 and Qwen2.5: LLaMA's form with biases of queries, keys and values.

use super::{Activation, Architecture, RopeOrder, Window};

pub(super) static QWEN2: Architecture = Architecture {
    gguf_name: "qwen2",
    model_types: &["qwen2"],
    rope_order: RopeOrder::Halves,
    qkv_bias: true,
    head_norms: false,
    post_norms: false,
    fused: &[],
    activation: Activation::Silu,
    scales_embedding: false,
    window: Window::None,
    published_norms_lack: 0.0,
    published_defaults: "{}",
};
