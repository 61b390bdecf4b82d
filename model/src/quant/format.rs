//! The block formats that are read, with their ggml names and sizes.

use super::blocks::{self, BLOCK};
use super::k_blocks::SUPER_BLOCK;

/// A block format of ggml that has kernels here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 32 weights: f16 scale, 4-bit codes around 8.
    Q4_0,
    /// 32 weights: f16 scale, f16 minimum, 4-bit codes.
    Q4_1,
    /// 32 weights: f16 scale, 5-bit codes around 16.
    Q5_0,
    /// 32 weights: f16 scale, f16 minimum, 5-bit codes.
    Q5_1,
    /// 32 weights: f16 scale, signed 8-bit codes.
    Q8_0,
    /// 256 weights: 2-bit codes, 4-bit scale and minimum for each 16.
    Q2K,
    /// 256 weights: 3-bit codes around 4, 6-bit scale for each 16.
    Q3K,
    /// 256 weights: 4-bit codes, 6-bit scale and minimum for each 32.
    Q4K,
    /// 256 weights: 5-bit codes, 6-bit scale and minimum for each 32.
    Q5K,
    /// 256 weights: 6-bit codes around 32, 8-bit scale for each 16.
    Q6K,
}

impl Format {
    /// Every format that is read.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The format of ggml's type number, if it is read here.
    #[must_use]
    pub fn from_ggml(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|format| format.ggml_number() == number)
    }

    /// ggml's type number.
    #[must_use]
    pub fn ggml_number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    /// ggml's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// How many weights of a row are stored together.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => SUPER_BLOCK,
        }
    }

    /// How many bytes a block has.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Whether products with 8-bit activations are computed with it: the
    /// formats in blocks of 32.
    #[must_use]
    pub fn has_int8(self) -> bool {
        self.block_len() == BLOCK
    }

    /// The bytes of weights in this format, by rounding to the nearest code; whole
    /// blocks only. Nothing for formats that are only read.
    #[must_use]
    pub(crate) fn encode(self, weights: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        blocks::quantize(self, weights, &mut bytes);
        bytes
    }

    /// Whether it stores super-blocks.
    pub(super) fn is_k_quant(self) -> bool {
        self.block_len() == SUPER_BLOCK
    }

    /// The bytes of `rows` rows of `cols` weights; `None` where `cols` is no
    /// whole number of blocks or the size overflows.
    #[must_use]
    pub fn byte_len(self, rows: usize, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len())
            .checked_mul(self.block_bytes())?
            .checked_mul(rows)
    }
}
