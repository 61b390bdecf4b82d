//! The engine on real and tiny models: in the suite that every engine passes,
//! and beside the native engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod limits;
mod same_answers;
mod suite;
mod support;
mod vision;
