//! The native engine: the base model's forward pass on this machine's CPU or,
//! with the cargo feature `cuda`, on a GPU; many sequences in one batch, each with
//! its own adapter.
//!
//! One thread owns the device and its cache (`worker`); everything else
//! talks to it through a bounded inbox. What runs next is `scheduler`'s
//! decision and has no tensor in it; what computes is behind `backend`, and has
//! no queue in it: `forward` by our own kernels, `candle` by candle's.

mod adapters;
mod backend;
mod background;
mod blocks;
mod cache;
#[cfg(feature = "candle")]
mod candle;
pub(crate) mod completion;
pub(crate) mod constraint;
mod device;
pub(crate) mod encoders;
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
mod pace;
mod prefix;
pub(crate) mod prompt;
mod queue;
mod reading;
mod request;
mod rope;
mod sampler;
mod scheduler;
mod scoring;
mod sequence;
mod shares;
mod synthetic;
mod text;
mod worker;

pub use device::{Device, UnknownDevice};
pub use engine::NativeEngine;
pub use model::FolderFormat;
pub use model::TokenCost;
pub use model::kernels::{KvFormat, MachineLimits};
pub use open::OpenError;
pub use options::{NativeOptions, THREADS_MAX};
pub use scoring::{TokenScore, logits, logits_on, logits_with_cache, score};
