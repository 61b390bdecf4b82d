//! The native engine on the real model, and on a tiny one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;
mod golden;
mod lifecycle;
mod peft;
mod prefix;
mod support;
mod tiers;
