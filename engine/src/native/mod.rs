//! The native engine: the base model's forward pass on this machine's CPU,
//! many sequences in one batch, each with its own adapter.
//!
//! One thread owns the device and its cache (`worker`); everything else
//! talks to it through a bounded inbox. What runs next is `scheduler`'s
//! decision and has no tensor in it; `forward` has no queue in it.

mod adapters;
mod blocks;
mod cache;
pub(crate) mod constraint;
mod engine;
mod forward;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]
mod fuzz;
mod inbox;
mod loading;
mod lora;
mod open;
mod options;
mod prefix;
mod request;
mod rope;
pub(crate) mod sampler;
mod scheduler;
mod scoring;
mod sequence;
mod shares;
mod synthetic;
pub(crate) mod text;
mod worker;

pub use engine::NativeEngine;
pub use model::FolderFormat;
pub use open::OpenError;
pub use options::NativeOptions;
pub use scoring::{TokenScore, logits, score};
