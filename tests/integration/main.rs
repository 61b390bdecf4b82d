//! The one integration binary: the real gateway on the real model.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

mod adapters;
mod app;
mod architecture;
mod chat;
mod cli;
mod crash;
mod durability;
mod errors;
mod feedback;
mod fine_tuning;
mod fixtures;
mod limits;
mod rollouts;
mod start;
mod structured;
mod tools;
