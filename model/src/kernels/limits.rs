//! What this machine can do at most, measured: bytes of memory that all threads
//! together read in a second, and products of 8-bit numbers on registers alone.
//!
//! These are what a benchmark's figures are held against. Knows no model.

use std::time::Instant;

use super::cpu::Level;
use super::memory::{Arena, Slice};
use super::parallel;
use super::team::Team;
use crate::quant::Line;

/// Bytes that are read: more than caches hold.
const BYTES: usize = 96 << 20;
/// The best of so many is what counts: whatever else runs only slows it down.
const TRIES: usize = 20;
/// Products in each of the independent chains.
const STEPS: usize = 100_000;
/// Chains, enough to hide the time that one product takes.
const CHAINS: usize = 12;
/// Products of 8-bit numbers that one step of a scalar chain stands for.
const SCALAR_LANES: usize = 16;

/// Limits of a machine, with a certain number of threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineLimits {
    /// Bytes a second that are read from memory in large pages.
    pub read_bytes_per_second: f64,
    /// Multiplications of 8-bit numbers a second.
    pub int8_macs_per_second: f64,
}

impl MachineLimits {
    /// Measures for a second or so.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub fn measure(threads: usize) -> std::io::Result<Self> {
        let mut team = Team::new(threads, "limits")?;
        let lines: Slice<Line> = {
            let mut arena = Arena::with_capacity(BYTES);
            let mut lines: Slice<Line> = arena.zeroed(BYTES / size_of::<Line>());
            // a page that nothing was written to may be read from no memory at all
            lines.iter_mut().for_each(|line| line.0[0] = 1);
            lines
        };
        Ok(team.lead(|| Self {
            read_bytes_per_second: rate(BYTES, |part, parts| {
                let range = part * lines.len() / parts..(part + 1) * lines.len() / parts;
                std::hint::black_box(sum(&lines[range]));
            }),
            int8_macs_per_second: {
                let level = Level::detect();
                let macs = parallel::threads() * STEPS * CHAINS * lanes(level);
                rate(macs, |_, _| multiply(level))
            },
        }))
    }
}

/// How much a second, if all parts together are `amount`.
fn rate(amount: usize, part: impl Fn(usize, usize) + Sync + Send) -> f64 {
    let parts = parallel::threads();
    let once = |_| {
        let from = Instant::now();
        parallel::run(parts, |i| part(i, parts));
        amount as f64 / from.elapsed().as_secs_f64()
    };
    (0..TRIES).map(once).fold(0.0, f64::max)
}

/// Adds all words up, which reads every byte.
fn sum(lines: &[Line]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // One core reads all that it can so. With AVX-512 the compiler gathers words
        // one by one, at a tenth of the speed.
        #[target_feature(enable = "avx2")]
        fn avx2(lines: &[Line]) -> u64 {
            sum_body(lines)
        }
        if matches!(Level::detect(), Level::Avx2 | Level::Avx512) {
            // SAFETY: both levels have it.
            return unsafe { avx2(lines) };
        }
    }
    sum_body(lines)
}

#[inline(always)]
fn sum_body(lines: &[Line]) -> u64 {
    let mut sums = [0u64; 8];
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line.0.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().copied().fold(0, u64::wrapping_add)
}

/// Products that one instruction of the level makes.
fn lanes(level: Level) -> usize {
    match level {
        Level::Avx512 => 64,
        Level::Avx2 => 32,
        Level::Neon => 8,
        Level::Scalar => SCALAR_LANES,
    }
}

/// Runs the level's chains of products.
fn multiply(level: Level) {
    match level {
        // SAFETY: the level is this CPU's.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { multiply_avx512() },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { multiply_avx2() },
        // SAFETY: NEON is part of every aarch64 CPU that Rust's target supports.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { multiply_neon() },
        _ => multiply_scalar(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_avx2() {
    use std::arch::x86_64::*;
    let y = std::hint::black_box(_mm256_set1_epi8(3));
    let mut chains = [_mm256_set1_epi8(5); CHAINS];
    for _ in 0..STEPS {
        for chain in &mut chains {
            *chain = _mm256_maddubs_epi16(*chain, y);
        }
    }
    std::hint::black_box(chains);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply_avx512() {
    use std::arch::x86_64::*;
    let y = std::hint::black_box(_mm512_set1_epi8(3));
    let mut chains = [_mm512_set1_epi8(5); CHAINS];
    for _ in 0..STEPS {
        for chain in &mut chains {
            *chain = _mm512_dpbusd_epi32(*chain, *chain, y);
        }
    }
    std::hint::black_box(chains);
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn multiply_neon() {
    use std::arch::aarch64::*;
    let y = std::hint::black_box(vdup_n_s8(3));
    let mut chains = [vdupq_n_s32(5); CHAINS];
    for _ in 0..STEPS {
        for chain in &mut chains {
            let x = vget_low_s8(vreinterpretq_s8_s32(*chain));
            *chain = vpadalq_s16(*chain, vmull_s8(x, y));
        }
    }
    std::hint::black_box(chains);
}

fn multiply_scalar() {
    let y = std::hint::black_box([3i32; SCALAR_LANES]);
    let mut chains = [[5i32; SCALAR_LANES]; CHAINS];
    for _ in 0..STEPS {
        for chain in &mut chains {
            for (x, y) in chain.iter_mut().zip(&y) {
                *x = x.wrapping_mul(*y).wrapping_add(1);
            }
        }
    }
    std::hint::black_box(chains);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_a_machine() {
        let limits = MachineLimits::measure(1).unwrap();
        // from a slow board to far beyond today's servers
        assert!((1e8..1e13).contains(&limits.read_bytes_per_second));
        assert!((1e8..1e14).contains(&limits.int8_macs_per_second));
    }

    #[test]
    fn every_byte_is_read() {
        let mut lines = vec![Line([0; 64]); 7];
        for (i, line) in lines.iter_mut().enumerate() {
            line.0[8 * i] = 1 << i;
        }
        assert_eq!(sum(&lines), 127);
    }
}
