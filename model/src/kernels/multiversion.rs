//! Plain loops compiled once for each level, so that the compiler vectorizes
//! them for the CPU at hand.

use crate::quant::Format;

/// Defines a safe function that runs `$body` compiled for the CPU's level.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path;) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
                match $crate::kernels::cpu::Level::detect() {
                    // SAFETY: the level was detected.
                    $crate::kernels::cpu::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: the level was detected.
                    $crate::kernels::cpu::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::kernels::cpu::Level::Scalar | $crate::kernels::cpu::Level::Neon => {}
                }
            }
            $body($($arg),*)
        }
    };
}
pub(super) use multiversion;

multiversion! {
    /// Writes the weights of `bytes` to `out`.
    pub(crate) fn dequantize(format: Format, bytes: &[u8], out: &mut [f32])
        = crate::quant::dequantize_body;
}
