//! What a base model is, for whoever computes with it: GGUF files and folders, the
//! configuration, the tokenizer, the chat template, quantized weights with
//! their CPU kernels, and adapters in PEFT's format.
//!
//! Deliberately knows no batching, no sampling, no HTTP and no gradients.

mod architecture;
mod base;
mod chat_template;
mod config;
#[cfg(feature = "candle")]
mod device_matrix;
mod error;
pub mod escape;
mod folder;
pub mod gguf;
mod gguf_tensors;
pub mod kernels;
pub mod lora;
mod merge;
mod projection;
mod python_json;
pub mod quant;
mod rope;
#[cfg(test)]
mod test_noise;
mod tokenizer;
mod weights;

pub use architecture::{Activation, Architecture, Fused, RopeOrder, Window};
pub use base::{BaseModel, PromptAndCompletion};
pub use chat_template::{
    ChatTemplate, PROMPT_BYTES_MAX, TEMPLATE_BYTES_MAX, TEMPLATE_FUEL, TemplateMessage, ToolMarkup,
};
pub use config::{ModelConfig, SlidingWindow};
#[cfg(feature = "candle")]
pub use device_matrix::DeviceMatrix;
pub use error::ModelError;
pub use folder::{FolderFormat, PublishedModel};
pub use merge::{MergedFormat, merge};
pub use projection::Projection;
pub use python_json::python_json;
pub use rope::RopeConfig;
pub use tokenizer::{TEXT_BYTES_MAX, Tokenizer};
pub use weights::{LayerWeights, TokenCost, Weights};
