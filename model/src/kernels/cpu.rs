//! Which vector instructions this CPU has.

use std::sync::OnceLock;

/// A set of instructions that there are kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Portable code.
    Scalar,
    /// x86 with AVX2, FMA and F16C.
    Avx2,
    /// x86 with AVX-512 F, BW, VL and VNNI.
    Avx512,
    /// 64-bit Arm.
    Neon,
}

impl Level {
    /// The best level of this CPU.
    #[must_use]
    #[inline]
    pub fn detect() -> Self {
        // asked for by every small product
        static BEST: OnceLock<Level> = OnceLock::new();
        let best = || Self::available().last().copied();
        *BEST.get_or_init(|| best().unwrap_or(Self::Scalar))
    }

    /// Every level that this CPU can run, the best last.
    #[must_use]
    pub fn available() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            match (avx2, avx512) {
                (true, true) => &[Self::Scalar, Self::Avx2, Self::Avx512],
                (true, false) => &[Self::Scalar, Self::Avx2],
                _ => &[Self::Scalar],
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            &[Self::Scalar, Self::Neon]
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            &[Self::Scalar]
        }
    }
}
