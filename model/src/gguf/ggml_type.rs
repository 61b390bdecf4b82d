//! The tensor types that ggml numbers, with their block sizes.

/// A tensor type of ggml.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    /// ggml's number for it.
    pub id: u32,
    /// ggml's name for it.
    pub name: &'static str,
    /// Elements in one block.
    pub block_elements: usize,
    /// Bytes of one block.
    pub block_bytes: usize,
}

const fn of(id: u32, name: &'static str, block_elements: usize, block_bytes: usize) -> GgmlType {
    GgmlType {
        id,
        name,
        block_elements,
        block_bytes,
    }
}

/// All types of ggml that are still in use, so that one that no code here
/// computes with is refused by its name.
const TYPES: [GgmlType; 34] = [
    of(0, "F32", 1, 4),
    of(1, "F16", 1, 2),
    of(2, "Q4_0", 32, 18),
    of(3, "Q4_1", 32, 20),
    of(6, "Q5_0", 32, 22),
    of(7, "Q5_1", 32, 24),
    of(8, "Q8_0", 32, 34),
    of(9, "Q8_1", 32, 36),
    of(10, "Q2_K", 256, 84),
    of(11, "Q3_K", 256, 110),
    of(12, "Q4_K", 256, 144),
    of(13, "Q5_K", 256, 176),
    of(14, "Q6_K", 256, 210),
    of(15, "Q8_K", 256, 292),
    of(16, "IQ2_XXS", 256, 66),
    of(17, "IQ2_XS", 256, 74),
    of(18, "IQ3_XXS", 256, 98),
    of(19, "IQ1_S", 256, 50),
    of(20, "IQ4_NL", 32, 18),
    of(21, "IQ3_S", 256, 110),
    of(22, "IQ2_S", 256, 82),
    of(23, "IQ4_XS", 256, 136),
    of(24, "I8", 1, 1),
    of(25, "I16", 1, 2),
    of(26, "I32", 1, 4),
    of(27, "I64", 1, 8),
    of(28, "F64", 1, 8),
    of(29, "IQ1_M", 256, 56),
    of(30, "BF16", 1, 2),
    of(34, "TQ1_0", 256, 54),
    of(35, "TQ2_0", 256, 66),
    of(39, "MXFP4", 32, 17),
    of(40, "NVFP4", 64, 36),
    of(41, "Q1_0", 128, 18),
];

impl GgmlType {
    /// The type with ggml's number `id`.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().copied().find(|kind| kind.id == id)
    }

    /// Bytes of a tensor with `rows` rows of `cols` elements, when rows are
    /// whole blocks and the size does not overflow.
    #[must_use]
    pub fn byte_len(&self, rows: usize, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_elements) {
            return None;
        }
        (cols / self.block_elements)
            .checked_mul(self.block_bytes)?
            .checked_mul(rows)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_blocks_and_never_overflow() {
        let q4_1 = GgmlType::from_id(3).unwrap();
        assert_eq!(q4_1.byte_len(2, 64), Some(80));
        assert_eq!(q4_1.byte_len(2, 65), None);
        assert_eq!(q4_1.byte_len(usize::MAX, 64), None);
        assert_eq!(GgmlType::from_id(4), None, "Q4_2 is gone from ggml");
    }
}
