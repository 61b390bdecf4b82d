//! f32 products with quantized matrices: weights are dequantized into panels
//! of 16 output columns, a few at a time, and used while they are in cache. Sums are
//! made in pieces of [`SUMMED_AT_ONCE`], so that their rounding hardly grows with their
//! length: training differentiates through them.

use std::cell::RefCell;

use super::gemm::{self, Onto, PanelRow, Rows};
use super::multiversion::multiversion;
use super::parallel::{self, SharedOutput};
use crate::quant::{BLOCK, CodeWidth, GROUP, PackedMatrix, QuantMatrix, dequantize_columns};

/// Weight rows that a transposed product holds dequantized at once.
const ROWS_AT_ONCE: usize = 1024;

/// Products that are summed before the sum is added to others.
const SUMMED_AT_ONCE: usize = 128;

thread_local! {
    static SCRATCH: RefCell<Vec<PanelRow>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with two panels of `k` rows, contents unspecified.
pub(super) fn with_panels(k: usize, f: impl FnOnce(&mut [PanelRow], &mut [PanelRow])) {
    let mut panels = SCRATCH.take();
    panels.resize(2 * k, PanelRow([0.0; GROUP]));
    let (first, second) = panels.split_at_mut(k);
    f(first, second);
    SCRATCH.replace(panels);
}

/// Columns `32 · pair` and on of `y[n, rows] = x[n, cols] · Wᵀ`, 32 at most.
///
/// # Safety
/// No other task uses those columns of `y`.
pub(super) unsafe fn multiply_columns_f32(
    matrix: &QuantMatrix,
    x: &[f32],
    n: usize,
    pair: usize,
    y: &SharedOutput<'_>,
) {
    let cols = matrix.cols();
    let packed = matrix.packed();
    let groups = matrix.rows().div_ceil(GROUP);
    with_panels(cols, |first, second| {
        for (group, panel) in [(2 * pair, &mut *first), (2 * pair + 1, &mut *second)] {
            match packed {
                _ if group >= groups => {}
                Some(packed) => unpack_panel(packed, group, panel),
                None => transpose_panel(matrix, group, panel),
            }
        }
        let x = Rows {
            x,
            n,
            stride: cols,
            offset: 0,
        };
        // SAFETY: by contract.
        unsafe { sum_in_pieces(x, (first, second), y, pair * 2 * GROUP, Onto::Replaces) };
    });
}

/// [`gemm::panel_product`] in pieces of [`SUMMED_AT_ONCE`].
///
/// # Safety
/// As there.
unsafe fn sum_in_pieces(
    x: Rows<'_>,
    (first, second): (&[PanelRow], &[PanelRow]),
    y: &SharedOutput<'_>,
    col: usize,
    mut onto: Onto,
) {
    let pieces = first
        .chunks(SUMMED_AT_ONCE)
        .zip(second.chunks(SUMMED_AT_ONCE));
    for (i, panels) in pieces.enumerate() {
        let offset = x.offset + i * SUMMED_AT_ONCE;
        // SAFETY: by contract.
        unsafe { gemm::panel_product(Rows { offset, ..x }, panels, y, col, onto) };
        onto = Onto::Adds;
    }
}

/// `dx[n, cols] = dy[n, rows] · W`
pub(crate) fn matmul_transposed_f32(matrix: &QuantMatrix, dy: &[f32], n: usize, dx: &mut [f32]) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let dx = SharedOutput::new(dx, cols);
    parallel::run(cols.div_ceil(BLOCK), |b| {
        for first_row in (0..rows).step_by(ROWS_AT_ONCE) {
            let k = (rows - first_row).min(ROWS_AT_ONCE);
            with_panels(k, |first, second| {
                column_panels(matrix, first_row, b, first, second);
                let x = Rows {
                    x: dy,
                    n,
                    stride: rows,
                    offset: first_row,
                };
                let onto = match first_row {
                    0 => Onto::Replaces,
                    _ => Onto::Adds,
                };
                // SAFETY: these 32 columns belong to this task.
                unsafe { sum_in_pieces(x, (first, second), &dx, b * BLOCK, onto) };
            });
        }
    });
}

multiversion! {
    /// The panel of a group of packed rows: `[cols][16]`.
    fn unpack_panel(packed: &PackedMatrix, group: usize, panel: &mut [PanelRow]) = unpack_panel_body;
}

#[inline(always)]
fn unpack_panel_body(packed: &PackedMatrix, group: usize, panel: &mut [PanelRow]) {
    for (b, rows) in panel.chunks_exact_mut(BLOCK).enumerate() {
        let mut scale = [0.0f32; GROUP];
        let mut min = [0.0f32; GROUP];
        for r in 0..GROUP {
            (scale[r], min[r]) = packed.scale_and_min(group, b, r);
        }
        for (j, line) in packed.lines(group, b).iter().enumerate() {
            let mut words = [0u32; GROUP];
            for (word, bytes) in words.iter_mut().zip(line.0.chunks_exact(4)) {
                *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            for i in 0..4 {
                let mut decode = |row: usize, shift: usize, mask: u32| {
                    for (r, weight) in rows[row].0.iter_mut().enumerate() {
                        let code = ((words[r] >> shift) & mask) as i32;
                        *weight = code.wrapping_sub(packed.zero) as f32 * scale[r] + min[r];
                    }
                };
                match packed.width {
                    CodeWidth::Eight => decode(4 * j + i, 8 * i, 0xff),
                    CodeWidth::Four => {
                        decode(4 * j + i, 8 * i, 0x0f);
                        decode(4 * (j + 4) + i, 8 * i + 4, 0x0f);
                    }
                }
            }
        }
    }
}

/// The panel of a group of rows of a format that is not packed.
fn transpose_panel(matrix: &QuantMatrix, group: usize, panel: &mut [PanelRow]) {
    let mut row = vec![0.0; matrix.cols()];
    for r in 0..GROUP {
        if group * GROUP + r < matrix.rows() {
            super::dequantize(
                matrix.format(),
                matrix.row_bytes(group * GROUP + r),
                &mut row,
            );
        } else {
            row.fill(0.0);
        }
        for (out, weight) in panel.iter_mut().zip(&row) {
            out.0[r] = *weight;
        }
    }
}

multiversion! {
    /// The panels of 32 columns, for as many rows from `first_row` as they are long.
    fn column_panels(matrix: &QuantMatrix, first_row: usize, b: usize, first: &mut [PanelRow], second: &mut [PanelRow])
        = column_panels_body;
}

#[inline(always)]
fn column_panels_body(
    matrix: &QuantMatrix,
    first_row: usize,
    b: usize,
    first: &mut [PanelRow],
    second: &mut [PanelRow],
) {
    let format = matrix.format();
    let cols = (matrix.cols() - b * BLOCK).min(BLOCK);
    let mut weights = [0.0; BLOCK];
    for (i, (first, second)) in first.iter_mut().zip(second).enumerate() {
        let row = matrix.row_bytes(first_row + i);
        dequantize_columns(format, row, b, &mut weights[..cols]);
        first.0.copy_from_slice(&weights[..GROUP]);
        second.0.copy_from_slice(&weights[GROUP..]);
    }
}
