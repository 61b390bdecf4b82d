//! Immutable adapter versions by content digest, over `object_store`.
//!
//! A version is its two PEFT files. They are written under their digests, then
//! a manifest is created, and the manifest is the commit: a version is absent
//! or whole, whenever the process is killed. Everything is verified when it is
//! read.
//!
//! Deliberately knows neither what is in the files nor which alias names a
//! version: shapes are the model's business, aliases the control state's.

mod error;
pub mod folder;
mod manifest;
mod open;
mod store;
mod sweep;

pub use error::AdapterStoreError;
pub use manifest::{
    BaseMatch, FileEntry, Lineage, MANIFEST_BYTES_MAX, Manifest, Source, check_base,
};
pub use store::{
    AdapterFiles, AdapterStore, CONFIG_BYTES_MAX, CONFIG_NAME, SAFETENSORS_BYTES_MAX,
    SAFETENSORS_NAME, StoredAdapter, VERSIONS_MAX,
};
pub use sweep::{SWEEP_AGE_MIN, Swept};
