//! Values in 16 bits, and their products with factors in 8 bits: per block
//! of 32 columns an exact integer product, then `acc ← fma(dot, scale · x.scale,
//! acc)`, over the blocks in order. Every level computes exactly this.
//!
//! The values are a low-rank term's inner products, which are few: sixteen bits leave
//! no error of their own beside that of the factors, and cost little.

use super::cpu::Level;
use super::factor_units::Unit;
use super::multiversion::multiversion;
use crate::quant::{BLOCK, GROUP};

/// Pairs of columns in a block.
pub(super) const PAIRS: usize = BLOCK / 2;

/// How far ahead of its use a factor is fetched, in half units.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 1024 / 16;

/// Results of 16 rows of a factor for some activation rows.
type Tile<const N: usize> = [[f32; GROUP]; N];

/// Rows of values: per row, pairs of codes and a scale for each block.
#[derive(Clone, Copy)]
pub(super) struct WideRows<'a> {
    pub(super) n: usize,
    /// `[n][pairs]`, the first column's code in the low half.
    pub(super) words: &'a [i32],
    /// `[n][blocks]`
    pub(super) scales: &'a [f32],
}

/// Words of a row of so many columns.
pub(super) fn words_of(cols: usize) -> usize {
    cols.div_ceil(2)
}

/// Scales of a row of so many columns.
pub(super) fn scales_of(cols: usize) -> usize {
    cols.div_ceil(BLOCK)
}

multiversion! {
    /// Quantizes a row. A block with a value that is not finite gets a scale that
    /// is not finite.
    pub(super) fn quantize_wide(x: &[f32], words: &mut [i32], scales: &mut [f32]) = quantize_body;
}

#[inline(always)]
fn quantize_body(x: &[f32], words: &mut [i32], scales: &mut [f32]) {
    let words = words.chunks_mut(PAIRS);
    for ((x, words), scale) in x.chunks(BLOCK).zip(words).zip(scales) {
        match (
            <&[f32; BLOCK]>::try_from(x),
            <&mut [i32; PAIRS]>::try_from(&mut *words),
        ) {
            (Ok(x), Ok(words)) => *scale = quantize_block(x, words),
            _ => {
                let mut block = [0.0; BLOCK];
                block[..x.len()].copy_from_slice(x);
                let mut all = [0; PAIRS];
                *scale = quantize_block(&block, &mut all);
                words.copy_from_slice(&all[..words.len()]);
            }
        }
    }
}

#[inline(always)]
fn quantize_block(x: &[f32; BLOCK], words: &mut [i32; PAIRS]) -> f32 {
    /// Adding it leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    const LARGEST: f32 = 32_767.0;
    let bits = x.iter().map(|v| v.to_bits() & 0x7fff_ffff);
    let largest = f32::from_bits(bits.fold(0, u32::max));
    let inverse = if largest > 0.0 {
        LARGEST / largest
    } else {
        0.0
    };
    let mut codes = [0i16; BLOCK];
    for (code, v) in codes.iter_mut().zip(x) {
        *code = ((v * inverse + ROUND)
            .to_bits()
            .wrapping_sub(ROUND.to_bits())) as i16;
    }
    for (word, pair) in words.iter_mut().zip(codes.as_chunks::<2>().0) {
        *word = i32::from(pair[0]) & 0xffff | i32::from(pair[1]) << 16;
    }
    largest / LARGEST
}

/// The codes of a block with that step, as bytes.
#[inline(always)]
pub(super) fn codes_of(weights: &[f32; BLOCK], step: f32, codes: &mut [u8]) {
    /// Adding it leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    // in a loop: `map` is a call that does not have this function's instructions
    for (code, weight) in codes.iter_mut().zip(weights) {
        *code = ((weight * inverse).clamp(-127.0, 127.0) + ROUND).to_bits() as u8;
    }
}

/// `take(row, results)` for each row of `x`, with the products of a group of 16
/// rows of a factor that has `cols` columns.
pub(super) fn multiply_group(
    level: Level,
    units: &[Unit],
    cols: usize,
    x: WideRows<'_>,
    mut take: impl FnMut(usize, &[f32; GROUP]),
) {
    let (words, scales) = (words_of(cols), scales_of(cols));
    assert!(units.len() == words + scales);
    assert!(x.words.len() >= x.n * words && x.scales.len() >= x.n * scales);
    let mut first = 0;
    while first < x.n {
        let rest = WideRows {
            n: x.n - first,
            words: &x.words[first * words..],
            scales: &x.scales[first * scales..],
        };
        let mut give = |tile: &[[f32; GROUP]]| {
            for (i, row) in tile.iter().enumerate() {
                take(first + i, row);
            }
        };
        first += match rest.n {
            4.. => give_tile::<4>(level, units, (words, scales), rest, &mut give),
            2..4 => give_tile::<2>(level, units, (words, scales), rest, &mut give),
            _ => give_tile::<1>(level, units, (words, scales), rest, &mut give),
        };
    }
}

#[inline(always)]
fn give_tile<const N: usize>(
    level: Level,
    units: &[Unit],
    sizes: (usize, usize),
    x: WideRows<'_>,
    give: &mut impl FnMut(&[[f32; GROUP]]),
) -> usize {
    let mut tile = [[0.0; GROUP]; N];
    match level {
        // SAFETY: the level is one that this CPU has; `multiply_group` checked
        // the lengths, and that there are `N` rows.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(units, sizes, x, &mut tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(units, sizes, x, &mut tile) },
        // SAFETY: NEON is part of every aarch64 CPU that Rust's target supports;
        // otherwise as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { neon(units, sizes, x, &mut tile) },
        _ => scalar(units, sizes, x, &mut tile),
    }
    give(&tile);
    N
}

/// What the others are tested against.
fn scalar<const N: usize>(
    units: &[Unit],
    (words, scales): (usize, usize),
    x: WideRows<'_>,
    tile: &mut Tile<N>,
) {
    let mut units = units;
    for b in 0..scales {
        let pairs = (words - b * PAIRS).min(PAIRS);
        let (block, rest) = units.split_at(1 + pairs);
        units = rest;
        for (i, acc) in tile.iter_mut().enumerate() {
            let words = &x.words[i * words + b * PAIRS..][..pairs];
            let x_scale = x.scales[i * scales + b];
            for (r, acc) in acc.iter_mut().enumerate() {
                let products = words.iter().zip(&block[1..]).map(|(word, unit)| {
                    let (low, high) = (i32::from(*word as i16), word >> 16);
                    let code = |i: usize| i32::from(unit.0[2 * r + i] as i8);
                    low * code(0) + high * code(1)
                });
                let dot: i32 = products.sum();
                *acc = (dot as f32).mul_add(block[0].scale(r) * x_scale, *acc);
            }
        }
    }
}

/// `y += x · Wᵀ` for one row of `x` of at most a block, and groups of 16 rows of a
/// factor: the B of one sequence in a decoding step, of which there are thousands.
pub(super) fn add_to_row(level: Level, units: &[Unit], x: WideRows<'_>, y: &mut [f32]) {
    let pairs = x.words.len();
    assert!(x.n == 1 && pairs <= PAIRS && x.scales.len() == 1);
    assert!(units.len() * GROUP == y.len() * (1 + pairs));
    match level {
        // SAFETY: the level is one that this CPU has; the sizes are as asserted.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { add_to_row_avx2(units, x, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { add_to_row_avx512(units, x, y) },
        _ => {
            let of_group = units.chunks_exact(1 + pairs);
            for (units, y) in of_group.zip(y.chunks_exact_mut(GROUP)) {
                let add = |_, found: &[f32; GROUP]| {
                    y.iter_mut().zip(found).for_each(|(y, v)| *y += v);
                };
                multiply_group(level, units, 2 * pairs, x, add);
            }
        }
    }
}

/// # Safety
/// The sizes are as `add_to_row` asserts them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_to_row_avx2(units: &[Unit], x: WideRows<'_>, y: &mut [f32]) {
    use std::arch::x86_64::*;
    let x_scale = _mm256_set1_ps(x.scales[0]);
    let groups = units.chunks_exact(1 + x.words.len());
    for (units, y) in groups.zip(y.as_chunks_mut::<GROUP>().0) {
        // SAFETY: a unit is two halves of 16 bytes, and as many as words follow the first.
        unsafe {
            let unit = units.as_ptr().cast::<__m128i>();
            let mut dots = [_mm256_setzero_si256(); 2];
            for (p, word) in x.words.iter().enumerate() {
                let word = _mm256_set1_epi32(*word);
                for (half, dot) in dots.iter_mut().enumerate() {
                    let codes = _mm256_cvtepi8_epi16(_mm_load_si128(unit.add(2 + 2 * p + half)));
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(codes, word));
                }
            }
            for (half, dot) in dots.into_iter().enumerate() {
                let bits = _mm256_cvtepu16_epi32(_mm_load_si128(unit.add(half)));
                let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits));
                let scale = _mm256_mul_ps(scale, x_scale);
                let y = y.as_mut_ptr().add(GROUP / 2 * half);
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), scale);
                _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), product));
            }
        }
    }
}

/// # Safety
/// As [`add_to_row_avx2`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn add_to_row_avx512(units: &[Unit], x: WideRows<'_>, y: &mut [f32]) {
    // of rank 16 so often that the compiler is told
    match <&[i32; 8]>::try_from(x.words) {
        // SAFETY: by contract.
        Ok(words) => unsafe { add_words_avx512(units, words, x.scales[0], y) },
        // SAFETY: by contract.
        Err(_) => unsafe { add_words_avx512(units, x.words, x.scales[0], y) },
    }
}

/// # Safety
/// As [`add_to_row_avx2`].
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn add_words_avx512(units: &[Unit], words: &[i32], x_scale: f32, y: &mut [f32]) {
    use std::arch::x86_64::*;
    let x_scale = _mm512_set1_ps(x_scale);
    let groups = units.chunks_exact(1 + words.len());
    for (units, y) in groups.zip(y.as_chunks_mut::<GROUP>().0) {
        // SAFETY: a unit is 32 bytes, and as many as words follow the first.
        unsafe {
            let unit = units.as_ptr().cast::<__m256i>();
            // sums of integers: in which order makes no difference
            let mut dots = [_mm512_setzero_si512(); 2];
            for (p, word) in words.iter().enumerate() {
                let codes = _mm512_cvtepi8_epi16(_mm256_load_si256(unit.add(1 + p)));
                let word = _mm512_set1_epi32(*word);
                dots[p % 2] = _mm512_dpwssd_epi32(dots[p % 2], codes, word);
            }
            let bits = _mm512_cvtepu16_epi32(_mm256_load_si256(unit));
            let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits));
            let scale = _mm512_mul_ps(scale, x_scale);
            let dot = _mm512_add_epi32(dots[0], dots[1]);
            let product = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale);
            let y = y.as_mut_ptr();
            _mm512_storeu_ps(y, _mm512_add_ps(_mm512_loadu_ps(y), product));
        }
    }
}

/// # Safety
/// `units` and `N` rows of `x` have those sizes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const N: usize>(
    units: &[Unit],
    (words, scales): (usize, usize),
    x: WideRows<'_>,
    tile: &mut Tile<N>,
) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    let mut unit = units.as_ptr().cast::<__m128i>();
    for b in 0..scales {
        let pairs = (words - b * PAIRS).min(PAIRS);
        let mut dots = [[_mm256_setzero_si256(); 2]; N];
        // SAFETY: by contract; a unit is two halves of 16 bytes.
        unsafe {
            let scale = [0, 1].map(|half| {
                let bits = _mm256_cvtepu16_epi32(_mm_load_si128(unit.add(half)));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            });
            let x_words = x.words.as_ptr().add(b * PAIRS);
            for p in 0..pairs {
                let codes = unit.add(2 + 2 * p);
                let w = [0, 1].map(|half| _mm256_cvtepi8_epi16(_mm_load_si128(codes.add(half))));
                for (i, dot) in dots.iter_mut().enumerate() {
                    let word = _mm256_set1_epi32(*x_words.add(i * words + p));
                    dot[0] = _mm256_add_epi32(dot[0], _mm256_madd_epi16(w[0], word));
                    dot[1] = _mm256_add_epi32(dot[1], _mm256_madd_epi16(w[1], word));
                }
            }
            // what comes after the next kibibyte's beginning; a long factor is read
            // once, and the hardware begins anew on each page
            for line in 0..PAIRS / 2 {
                _mm_prefetch::<_MM_HINT_T0>(unit.wrapping_add(AHEAD + 4 * line).cast());
            }
            for (i, (acc, dot)) in acc.iter_mut().zip(dots).enumerate() {
                let x_scale = _mm256_set1_ps(*x.scales.as_ptr().add(i * scales + b));
                for half in 0..2 {
                    let scale = _mm256_mul_ps(scale[half], x_scale);
                    acc[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[half]), scale, acc[half]);
                }
            }
            unit = unit.add(2 + 2 * pairs);
        }
    }
    for (row, acc) in tile.iter_mut().zip(acc) {
        // SAFETY: a row is 16 floats.
        unsafe {
            _mm256_storeu_ps(row.as_mut_ptr(), acc[0]);
            _mm256_storeu_ps(row.as_mut_ptr().add(GROUP / 2), acc[1]);
        }
    }
}

/// # Safety
/// As [`avx2`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn avx512<const N: usize>(
    units: &[Unit],
    (words, scales): (usize, usize),
    x: WideRows<'_>,
    tile: &mut Tile<N>,
) {
    use std::arch::x86_64::*;
    let mut acc = [_mm512_setzero_ps(); N];
    let mut unit = units.as_ptr().cast::<__m256i>();
    for b in 0..scales {
        let pairs = (words - b * PAIRS).min(PAIRS);
        // of every other pair, so that few rows are not one chain of sums
        let mut even = [_mm512_setzero_si512(); N];
        let mut odd = even;
        // SAFETY: by contract.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_load_si256(unit));
            let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits));
            let x_words = x.words.as_ptr().add(b * PAIRS);
            let add = |dots: &mut [__m512i; N], p: usize| {
                let w = _mm512_cvtepi8_epi16(_mm256_load_si256(unit.add(1 + p)));
                for (i, dot) in dots.iter_mut().enumerate() {
                    let word = _mm512_set1_epi32(*x_words.add(i * words + p));
                    *dot = _mm512_dpwssd_epi32(*dot, w, word);
                }
            };
            for p in (0..pairs - pairs % 2).step_by(2) {
                add(&mut even, p);
                add(&mut odd, p + 1);
            }
            if pairs % 2 == 1 {
                add(&mut even, pairs - 1);
            }
            for (i, (acc, (even, odd))) in acc.iter_mut().zip(even.into_iter().zip(odd)).enumerate()
            {
                let dot = _mm512_add_epi32(even, odd);
                let x_scale = _mm512_set1_ps(*x.scales.as_ptr().add(i * scales + b));
                let scale = _mm512_mul_ps(scale, x_scale);
                *acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, *acc);
            }
            unit = unit.add(1 + pairs);
        }
    }
    for (row, acc) in tile.iter_mut().zip(acc) {
        // SAFETY: a row is 16 floats.
        unsafe { _mm512_storeu_ps(row.as_mut_ptr(), acc) };
    }
}

/// # Safety
/// As [`avx2`].
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon<const N: usize>(
    units: &[Unit],
    (words, scales): (usize, usize),
    x: WideRows<'_>,
    tile: &mut Tile<N>,
) {
    use std::arch::aarch64::*;
    for quarter in 0..4 {
        let mut acc = [vdupq_n_f32(0.0); N];
        let mut unit = units.as_ptr().cast::<i8>();
        for b in 0..scales {
            let pairs = (words - b * PAIRS).min(PAIRS);
            let (mut low, mut high) = ([vdupq_n_s32(0); N], [vdupq_n_s32(0); N]);
            // SAFETY: by contract; a quarter of a unit is 8 bytes.
            unsafe {
                let bits = vld1_u16(unit.add(8 * quarter).cast());
                let scale = vreinterpretq_f32_u32(vshll_n_u16::<16>(bits));
                let x_words = x.words.as_ptr().add(b * PAIRS);
                for p in 0..pairs {
                    let w = vmovl_s8(vld1_s8(unit.add(size_of::<Unit>() * (1 + p) + 8 * quarter)));
                    for i in 0..N {
                        let word = vreinterpret_s16_s32(vdup_n_s32(*x_words.add(i * words + p)));
                        low[i] = vmlal_s16(low[i], vget_low_s16(w), word);
                        high[i] = vmlal_s16(high[i], vget_high_s16(w), word);
                    }
                }
                for i in 0..N {
                    let dot = vcvtq_f32_s32(vpaddq_s32(low[i], high[i]));
                    let scale = vmulq_n_f32(scale, *x.scales.as_ptr().add(i * scales + b));
                    acc[i] = vfmaq_f32(acc[i], dot, scale);
                }
                unit = unit.add(size_of::<Unit>() * (1 + pairs));
            }
        }
        for (row, acc) in tile.iter_mut().zip(acc) {
            // SAFETY: a row is 16 floats, and a quarter 4.
            unsafe { vst1q_f32(row.as_mut_ptr().add(4 * quarter), acc) };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::factor::{Factor, FactorFormat};
    use crate::kernels::factor_units::Units;
    use crate::kernels::memory::Arena;
    use crate::test_noise::noise;

    fn int8(shape: (usize, usize), weights: &[f32]) -> Factor<Units> {
        let arena = &mut Arena::with_capacity(0);
        Factor::new(shape, weights, FactorFormat::Int8, arena)
    }

    fn product(level: Level, cols: usize, weights: &[f32], x: &[f32]) -> Vec<[f32; GROUP]> {
        let n = x.len() / cols;
        let factor = int8((GROUP, cols), weights);
        let units = factor.codes().unwrap().all();
        let (mut words, mut scales) = (vec![0; n * words_of(cols)], vec![0.0; n * scales_of(cols)]);
        let rows = words
            .chunks_mut(words_of(cols))
            .zip(scales.chunks_mut(scales_of(cols)));
        for (x, (words, scales)) in x.chunks(cols).zip(rows) {
            quantize_wide(x, words, scales);
        }
        let rows = WideRows {
            n,
            words: &words,
            scales: &scales,
        };
        let mut found = vec![[f32::NAN; GROUP]; n];
        multiply_group(level, units, cols, rows, |row, y| found[row] = *y);
        found
    }

    proptest! {
        #[test]
        fn every_level_gives_the_bits_of_the_scalar_one(cols in 1usize..200, n in 1usize..12, seed: u64) {
            let (weights, x) = (noise(seed, GROUP * cols), noise(seed ^ 1, n * cols));
            let expected = product(Level::Scalar, cols, &weights, &x);
            for &level in Level::available() {
                prop_assert_eq!(&product(level, cols, &weights, &x), &expected, "{:?}", level);
            }
            for (i, row) in expected.iter().enumerate() {
                let alone = product(Level::detect(), cols, &weights, &x[i * cols..(i + 1) * cols]);
                prop_assert_eq!(&alone[0], row, "a row does not depend on its batch");
            }
        }

        #[test]
        fn products_are_within_half_a_step_of_the_factors(cols in 1usize..200, scale in -30i32..20, seed: u64) {
            let scale = 2f32.powi(scale);
            let weights: Vec<f32> = noise(seed, GROUP * cols).iter().map(|w| w * scale).collect();
            let x = noise(seed ^ 1, cols);
            let found = product(Level::detect(), cols, &weights, &x);
            for (w, found) in weights.chunks(cols).zip(&found[0]) {
                let exact: f64 = w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                let magnitude: f64 = x.iter().map(|x| f64::from(x.abs())).sum();
                let step = f64::from(scale) / 126.0;
                prop_assert!((exact - f64::from(*found)).abs() <= magnitude * step / 2.0 * 1.02);
            }
        }
    }

    proptest! {
        #[test]
        fn several_groups_of_a_row_have_the_bits_of_each_alone(
            pairs in 1usize..=PAIRS, groups in 1usize..5, seed: u64,
        ) {
            let cols = 2 * pairs;
            let (weights, x) = (noise(seed, groups * GROUP * cols), noise(seed ^ 1, cols));
            let before = noise(seed ^ 2, groups * GROUP);
            let factor = int8((groups * GROUP, cols), &weights);
            let (mut words, mut scales) = (vec![0; pairs], [0.0]);
            quantize_wide(&x, &mut words, &mut scales);
            let rows = WideRows { n: 1, words: &words, scales: &scales };
            for &level in Level::available() {
                let mut y = before.clone();
                add_to_row(level, factor.codes().unwrap().all(), rows, &mut y);
                for (group, weights) in weights.chunks(GROUP * cols).enumerate() {
                    let alone = product(Level::Scalar, cols, weights, &x)[0];
                    for (r, alone) in alone.iter().enumerate() {
                        let at = group * GROUP + r;
                        prop_assert_eq!(y[at], before[at] + alone, "{:?}", level);
                    }
                }
            }
        }
    }

    #[test]
    fn extreme_codes_do_not_overflow() {
        let (weights, x) = ([1.0; GROUP * 64], [-3.0; 64]);
        for &level in Level::available() {
            let found = product(level, 64, &weights, &x);
            assert!(
                found[0].iter().all(|y| (y + 192.0).abs() < 2.0),
                "{level:?}"
            );
        }
    }

    #[test]
    fn a_value_that_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = vec![0.5; 40];
            x[7] = bad;
            let found = product(Level::detect(), 40, &noise(3, GROUP * 40), &x);
            assert!(found[0].iter().all(|y| !y.is_finite()));
        }
    }
}
