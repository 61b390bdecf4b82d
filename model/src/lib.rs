//! What a base model is, for whoever computes with it.

pub mod quant;
