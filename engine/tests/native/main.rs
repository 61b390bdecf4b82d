//! The native engine on the real model, and on a tiny one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod architectures;
mod candle;
mod conformance;
mod constraint;
mod folders;
mod generation;
mod golden;
mod kv_cache;
mod lifecycle;
mod peft;
mod prefix;
mod support;
mod swaps;
mod tenants;
mod tiers;
mod tools;
