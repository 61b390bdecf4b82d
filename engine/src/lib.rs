//! Serving: the engine that the gateway sees, and the native implementation
//! with continuous batching and an adapter for each sequence.
//!
//! Deliberately knows no HTTP, no aliases and no rollouts: adapters are
//! content digests here.

mod api;
pub mod bench;
mod check;
pub mod conformance;
mod constraint;
mod image;
pub mod native;
pub mod parts;
mod residents;
pub mod tools;
mod vocabulary;

pub use api::*;
pub use constraint::{Constraint, GRAMMAR_BYTES_MAX, GRAMMAR_NESTING_MAX, Grammar};
pub use image::{IMAGE_BYTES_MAX, IMAGES_MAX, Image, ImageFormat};
pub use model::kernels::give_back_freed_memory;
pub use tools::{Tool, ToolCall, ToolCallDelta, ToolChoice, ToolUse};
