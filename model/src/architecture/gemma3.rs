//! Gemma 3, the text part: scaled embeddings, norms of query and key heads and
//! after each block, GELU, and a sliding window in five layers of six, which
//! have a RoPE of their own. (The files have 1 added to the norms' weights.)

use super::{Activation, Architecture, RopeOrder, Window};

pub(super) static GEMMA3: Architecture = Architecture {
    gguf_name: "gemma3",
    rope_order: RopeOrder::Halves,
    qkv_bias: false,
    head_norms: true,
    post_norms: true,
    fused: &[],
    activation: Activation::GeluTanh,
    scales_embedding: true,
    window: Window::AllButEvery {
        layers: 6,
        rope_theta: 10_000.0,
    },
};
