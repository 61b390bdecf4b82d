//! The HTTP gateway, the administration client and the demo.
//!
//! The only crate that knows HTTP. Handlers are thin: they check who asks, read
//! the wire's types, ask the crates that know, and translate the answer. Knows
//! neither tensors nor how anything is stored.

mod adapters;
mod app;
mod auth;
mod chat;
pub mod cli;
pub mod config;
pub mod demo;
mod engines;
mod errors;
mod extract;
mod guard;
mod headers;
mod load;
mod metrics;
mod middleware;
mod routes;
mod routing;
mod server;
mod tasks;

pub use config::{Config, ConfigError};
pub use server::{Gateway, StartError, run};
