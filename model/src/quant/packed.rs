//! Quantized rows interleaved for the vector units.
//!
//! Sixteen rows form a group. For each block of 32 columns a group holds eight
//! steps of 64 bytes: byte `4·r + i` of step `j` is the code of row `r`,
//! column `4·j + i`. With 4-bit codes step `j` lies in the low and step
//! `j + 4` in the high half of the same bytes. A 512-bit register is then one
//! step, and a 32-bit lane one row: no sum ever crosses lanes.

use std::ops::Range;

use half::f16;

use super::blocks::{self, BLOCK};
use super::{Format, QuantMatrix};
use crate::kernels::{Arena, Slice, Span};

/// Rows that are interleaved.
pub(crate) const GROUP: usize = 16;

/// 64 bytes at an address that is a multiple of 64.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// How wide stored codes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeWidth {
    /// Two codes in a byte: 4 lines a block.
    Four,
    /// One code in a byte: 8 lines a block.
    Eight,
}

impl CodeWidth {
    fn of(format: Format) -> Self {
        match format {
            Format::Q4_0 | Format::Q4_1 => Self::Four,
            _ => Self::Eight,
        }
    }

    /// Lines of a group's block.
    pub(crate) fn lines(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// A quantized matrix in groups of 16 interleaved rows; rows past the end are zero.
pub(crate) struct PackedMatrix {
    pub(crate) width: CodeWidth,
    /// The code that means zero.
    pub(crate) zero: i32,
    /// Groups of 16 rows.
    pub(crate) groups: usize,
    /// Blocks of 32 columns.
    pub(crate) blocks: usize,
    /// `[groups][blocks][lines]`
    pub(crate) codes: Slice<Line>,
    /// f16 bits, `[groups][blocks][16]`
    pub(crate) scales: Slice<u16>,
    /// f16 bits, `[groups][blocks][16]`, or empty where the format has none.
    pub(crate) mins: Slice<u16>,
}

impl PackedMatrix {
    /// Where the codes, scales and minima of some groups lie, of the first ones that
    /// together take no more than `bytes_max`.
    pub(crate) fn spans(&self, groups: Range<usize>, bytes_max: usize) -> [Span; 3] {
        let halves = size_of_val::<[u16]>(&self.scales) + size_of_val::<[u16]>(&self.mins);
        let group_bytes = (size_of_val::<[Line]>(&self.codes) + halves) / self.groups.max(1);
        let end = groups.start + bytes_max / group_bytes.max(1);
        let end = end.min(groups.end).min(self.groups);
        let of = |len: usize| {
            let of_group = len / self.groups.max(1);
            groups.start * of_group..end * of_group
        };
        [
            Span::of(&self.codes[of(self.codes.len())]),
            Span::of(&self.scales[of(self.scales.len())]),
            Span::of(&self.mins[of(self.mins.len())]),
        ]
    }

    /// Interleaves a matrix of a quantized format.
    pub(super) fn new(matrix: &QuantMatrix, arena: &mut Arena) -> Self {
        let format = matrix.format();
        let zero = blocks::zero_code(format);
        let padding = match CodeWidth::of(format) {
            CodeWidth::Four => zero | zero << 4,
            CodeWidth::Eight => zero,
        };
        let mut packed = Self::reserved(format, (matrix.rows(), matrix.cols()), arena);
        packed.codes.fill(Line([padding; 64]));
        for row in 0..matrix.rows() {
            for (b, raw) in matrix
                .row_bytes(row)
                .chunks_exact(format.block_bytes())
                .enumerate()
            {
                packed.set_block(row, b, &blocks::decode(format, raw));
            }
        }
        packed
    }

    /// Room for a matrix `[rows, cols]` of a quantized format; its scales are zero.
    pub(crate) fn reserved(
        format: Format,
        (rows, cols): (usize, usize),
        arena: &mut Arena,
    ) -> Self {
        let width = CodeWidth::of(format);
        let (groups, blocks) = (rows.div_ceil(GROUP), cols / BLOCK);
        let at = groups * blocks;
        Self {
            width,
            zero: i32::from(blocks::zero_code(format)),
            groups,
            blocks,
            codes: arena.zeroed(at * width.lines()),
            scales: arena.zeroed(at * GROUP),
            mins: arena.zeroed(if blocks::has_min(format) {
                at * GROUP
            } else {
                0
            }),
        }
    }

    /// Bytes of an arena that [`Self::reserved`] takes.
    pub(crate) fn byte_len_of(format: Format, (rows, cols): (usize, usize)) -> usize {
        let at = rows.div_ceil(GROUP) * (cols / BLOCK);
        let halves = if blocks::has_min(format) { 2 } else { 1 };
        Arena::slice_bytes::<Line>(at * CodeWidth::of(format).lines())
            + halves * Arena::slice_bytes::<u16>(at * GROUP)
    }

    fn set_block(&mut self, row: usize, b: usize, block: &blocks::Block) {
        let (group, r) = (row / GROUP, row % GROUP);
        let at = group * self.blocks + b;
        self.scales[at * GROUP + r] = block.scale.to_bits();
        if !self.mins.is_empty() {
            self.mins[at * GROUP + r] = block.min.to_bits();
        }
        let lines = self.width.lines();
        let lines = &mut self.codes[at * lines..(at + 1) * lines];
        for (j, step) in block.codes.chunks_exact(4).enumerate() {
            for (i, &code) in step.iter().enumerate() {
                let byte = 4 * r + i;
                match self.width {
                    CodeWidth::Eight => lines[j].0[byte] = code,
                    CodeWidth::Four if j < 4 => {
                        lines[j].0[byte] = lines[j].0[byte] & 0xf0 | code;
                    }
                    CodeWidth::Four => {
                        lines[j - 4].0[byte] = lines[j - 4].0[byte] & 0x0f | code << 4;
                    }
                }
            }
        }
    }

    /// The lines of a group's block.
    #[inline(always)]
    pub(crate) fn lines(&self, group: usize, block: usize) -> &[Line] {
        let lines = self.width.lines();
        let at = (group * self.blocks + block) * lines;
        &self.codes[at..at + lines]
    }

    /// The code of row `r` of a group at column `k` of a block.
    #[inline(always)]
    pub(crate) fn code(&self, lines: &[Line], r: usize, k: usize) -> u8 {
        let (j, byte) = (k / 4, 4 * r + k % 4);
        match self.width {
            CodeWidth::Eight => lines[j].0[byte],
            CodeWidth::Four if j < 4 => lines[j].0[byte] & 0x0f,
            CodeWidth::Four => lines[j - 4].0[byte] >> 4,
        }
    }

    /// The scale and minimum of row `r` of a group's block.
    #[inline(always)]
    pub(crate) fn scale_and_min(&self, group: usize, block: usize, r: usize) -> (f32, f32) {
        let at = (group * self.blocks + block) * GROUP + r;
        let min = self
            .mins
            .get(at)
            .map_or(0.0, |&bits| f16::from_bits(bits).to_f32());
        (f16::from_bits(self.scales[at]).to_f32(), min)
    }

    /// Bytes of memory.
    pub(crate) fn byte_len(&self) -> usize {
        self.codes.byte_len() + self.scales.byte_len() + self.mins.byte_len()
    }
}
