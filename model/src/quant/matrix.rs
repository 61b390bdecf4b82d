//! A matrix of weights in one of the block formats, and products with it.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::blocks;
use super::packed::PackedMatrix;
use super::{Bytes, Format};
use crate::ModelError;
use crate::kernels::{self, Arena, Passes, Terms};

/// How a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Activations quantized to 8 bits per block of 32. Formats without such
    /// products ([`Format::has_int8`]) are computed as with [`Precision::F32`].
    Int8,
    /// As [`Precision::Int8`], and what that leaves of each activation quantized
    /// again: twice the work, and next to no error.
    Int8Twice,
    /// Weights dequantized, everything in f32.
    F32,
}

/// A row-major matrix: one row for each output feature, one column for each
/// input feature. Cloning is cheap; the weights are shared.
#[derive(Clone)]
pub struct QuantMatrix(Arc<Inner>);

struct Inner {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Bytes,
    packed: OnceLock<PackedMatrix>,
}

impl QuantMatrix {
    /// A matrix over bytes that must be exactly as many as its shape needs.
    ///
    /// # Errors
    /// [`ModelError::MatrixSize`] for an empty shape, a row that is no whole
    /// number of blocks, or another number of bytes.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: Bytes) -> Result<Self, ModelError> {
        let error = |problem| ModelError::MatrixSize {
            format: format.name(),
            rows,
            cols,
            found: bytes.len(),
            problem,
        };
        if rows == 0 || cols == 0 {
            return Err(error("it is empty"));
        }
        let expected = format
            .byte_len(rows, cols)
            .ok_or_else(|| error("a row is no whole number of blocks, or the size overflows"))?;
        if expected != bytes.len() {
            return Err(error("the length differs"));
        }
        Ok(Self(Arc::new(Inner {
            format,
            rows,
            cols,
            bytes,
            packed: OnceLock::new(),
        })))
    }

    /// Quantizes f32 weights by rounding to the nearest code.
    ///
    /// # Errors
    /// [`ModelError::MatrixSize`] as for [`QuantMatrix::new`], and for a format
    /// that is only read.
    pub fn quantize_from_f32(
        format: Format,
        rows: usize,
        cols: usize,
        weights: &[f32],
    ) -> Result<Self, ModelError> {
        let mut bytes = Vec::new();
        if rows.checked_mul(cols) == Some(weights.len()) {
            blocks::quantize(format, weights, &mut bytes);
        }
        Self::new(format, rows, cols, bytes.into())
    }

    /// Output features.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// Input features.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.0.cols
    }

    /// The block format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.0.format
    }

    /// The file's bytes, row by row.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Bytes in the file.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.0.bytes.len()
    }

    /// Bytes of memory beside the file's: the interleaved copy, once it exists.
    #[must_use]
    pub fn packed_byte_len(&self) -> usize {
        self.0.packed.get().map_or(0, PackedMatrix::byte_len)
    }

    /// Writes the weights of some rows to `out`, `[rows.len(), cols]`.
    ///
    /// # Panics
    /// If `rows` reaches past the end or `out` has another length.
    pub fn dequantize_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        assert!(rows.end <= self.rows() && out.len() == rows.len() * self.cols());
        for (row, out) in rows.zip(out.chunks_exact_mut(self.cols())) {
            kernels::dequantize(self.format(), self.row_bytes(row), out);
        }
    }

    /// `y[n, rows] = x[n, cols] · Wᵀ`, parallel on rayon's current pool.
    ///
    /// A row of `y` depends on its row of `x` alone, bit for bit: not on `n`,
    /// nor on its place, nor on the number of threads.
    ///
    /// # Panics
    /// If a slice has another length than its shape.
    pub fn matmul(&self, x: &[f32], n: usize, y: &mut [f32], precision: Precision) {
        matmul_many(&[self], (x, n), &mut [y], precision, Terms::default());
    }

    /// `dx[n, cols] = dy[n, rows] · W` in f32, parallel on rayon's current pool.
    ///
    /// # Panics
    /// If a slice has another length than its shape.
    pub fn matmul_transposed_f32(&self, dy: &[f32], n: usize, dx: &mut [f32]) {
        assert!(dy.len() == n * self.rows() && dx.len() == n * self.cols());
        kernels::matmul_transposed_f32(self, dy, n, dx);
    }

    /// The interleaved copy for products with 8-bit activations, made at the
    /// first call.
    pub(crate) fn packed(&self) -> Option<&PackedMatrix> {
        self.format().has_int8().then(|| {
            self.0.packed.get_or_init(|| {
                let bytes = PackedMatrix::byte_len_of(self.format(), (self.rows(), self.cols()));
                PackedMatrix::new(self, &mut Arena::with_capacity(bytes))
            })
        })
    }

    /// Bytes that an interleaved copy takes which there is not yet.
    pub(crate) fn bytes_to_pack(&self) -> usize {
        if self.format().has_int8() && self.0.packed.get().is_none() {
            PackedMatrix::byte_len_of(self.format(), (self.rows(), self.cols()))
        } else {
            0
        }
    }

    /// Makes the interleaved copy, if there is to be one, in an arena.
    pub(crate) fn pack_in(&self, arena: &mut Arena) {
        if self.format().has_int8() {
            self.0.packed.get_or_init(|| PackedMatrix::new(self, arena));
        }
    }

    /// The bytes of one row.
    #[inline]
    pub(crate) fn row_bytes(&self, row: usize) -> &[u8] {
        let len = self.cols() / self.format().block_len() * self.format().block_bytes();
        &self.0.bytes[row * len..(row + 1) * len]
    }
}

impl std::fmt::Debug for QuantMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "QuantMatrix({}×{} {})",
            self.rows(),
            self.cols(),
            self.format().name()
        )
    }
}

/// Products of several matrices with the same input, and what adapters add to
/// them: `ys[i][n, rows_i] = x[n, cols] · W_iᵀ`, and every term.
///
/// A row of an output depends on its row of `x` and its own terms alone, bit for bit.
///
/// # Panics
/// If a slice has another length than its shape, or a term does not fit.
pub fn matmul_many(
    matrices: &[&QuantMatrix],
    (x, n): (&[f32], usize),
    ys: &mut [&mut [f32]],
    precision: Precision,
    terms: Terms<'_>,
) {
    assert_eq!(matrices.len(), ys.len());
    for (matrix, y) in matrices.iter().zip(ys.iter()) {
        assert!(x.len() == n * matrix.cols() && y.len() == n * matrix.rows());
    }
    if n == 0 {
        return;
    }
    let has_int8 = matrices.iter().all(|matrix| matrix.format().has_int8());
    let passes = match precision {
        Precision::Int8 if has_int8 => Some(Passes::One),
        Precision::Int8Twice if has_int8 => Some(Passes::Two),
        _ => None,
    };
    kernels::project(matrices, (x, n), ys, passes, terms);
}
