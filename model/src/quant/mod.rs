//! Quantized matrices: ggml's block formats and products with them.
//!
//! A [`QuantMatrix`] keeps the file's bytes and, from its first product on, a
//! copy whose rows are interleaved for the vector units. How a product is
//! computed on a given CPU is in [`crate::kernels`]. Knows nothing of layers.

mod blocks;
mod bytes;
mod format;
mod k_blocks;
mod k_quantize;
mod matrix;
mod packed;

pub use bytes::Bytes;
pub use format::Format;
pub use matrix::{Precision, QuantMatrix, matmul_many};

pub(crate) use blocks::{BLOCK, dequantize as dequantize_body, dequantize_columns, quantize};
pub(crate) use packed::{CodeWidth, GROUP, Line, PackedMatrix};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
