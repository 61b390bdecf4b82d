//! The native engine on the real model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;
mod constraint;
mod golden;
mod lifecycle;
mod peft;
mod support;
