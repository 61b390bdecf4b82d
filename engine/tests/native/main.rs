//! The native engine on the real model, and on a tiny one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod architectures;
#[cfg(feature = "candle")]
mod candle;
mod conformance;
mod constraint;
mod folders;
mod golden;
mod lifecycle;
mod peft;
mod prefix;
mod support;
mod tiers;
