//! Gemma 3, the text part: scaled embeddings, norms of query and key heads and
//! after each block, GELU, and a sliding window in five layers of six, which
//! have a RoPE of their own. (The files have 1 added to the norms' weights.)

use super::{Activation, Architecture, RopeOrder, Window};

pub(super) static GEMMA3: Architecture = Architecture {
    gguf_name: "gemma3",
    model_types: &["gemma3", "gemma3_text"],
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
    published_norms_lack: 1.0,
    published_defaults: r#"{
        "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256,
        "sliding_window": 4096, "tie_word_embeddings": true
    }"#,
};
