//! The [`engine::Engine`] trait on the crate `mistralrs`: whatever model it
//! computes, in GGUF files and published folders, from local files alone.
//!
//! `mistralrs` runs the model, the batch and its cache. Prompts, the choice of
//! tokens, their text and calls, and grammars are the same parts that the native
//! engine is made of, so that a request means the same on both. The crate has no adapter
//! of a request: each adapter version is a model of its own, its weights merged
//! before they are loaded. Knows no HTTP and no gateway.
//!
//! All of it is behind the feature `mistralrs`.

#![cfg(feature = "mistralrs")]
#![forbid(unsafe_code)]

mod admission;
mod base;
mod choice;
mod decoding;
mod engine;
mod fair;
mod instance;
mod kinds;
mod loading;
mod merge;
mod older;
mod options;
mod pictures;
mod prompt;
mod request;
mod sides;
mod sight;
mod sizes;
mod spelling;
mod words;

pub use engine::{MistralEngine, OpenError};
pub use options::{MistralOptions, PREFIX_SEQUENCES_MAX};
