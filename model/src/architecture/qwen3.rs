//! Qwen3, dense: LLaMA's form with RMS norms of each query and key head.

use super::{Activation, Architecture, RopeOrder, Window};

pub(super) static QWEN3: Architecture = Architecture {
    gguf_name: "qwen3",
    model_types: &["qwen3"],
    rope_order: RopeOrder::Halves,
    qkv_bias: false,
    head_norms: true,
    post_norms: false,
    fused: &[],
    activation: Activation::Silu,
    scales_embedding: false,
    window: Window::None,
    published_norms_lack: 0.0,
    published_defaults: "{}",
};
