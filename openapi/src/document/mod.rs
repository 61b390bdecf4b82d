//! The OpenAPI document, built from one table of routes.

mod build;
mod schemas;
mod table;

pub use build::{document, document_json};
pub use table::{Access, Method, Route, routes};
