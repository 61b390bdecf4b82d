//! The f32 micro-kernel: rows of `x` times panels of 16 output columns.
//!
//! A panel is `[k][16]`. Each output is `fma`s over k in order, whatever the
//! tile, so a row's result does not depend on the rows beside it. Rounding grows with
//! k; [`Onto::Adds`] is there to sum a long k in pieces.

use super::cpu::Level;
use super::parallel::{SharedOutput, Tile};
use crate::quant::GROUP;

/// One row of a panel, aligned to a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct PanelRow(pub(super) [f32; GROUP]);

/// Rows of `x` that a product reads: `x[i · stride + offset + k]`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) x: &'a [f32],
    pub(super) n: usize,
    pub(super) stride: usize,
    pub(super) offset: usize,
}

/// What becomes of the values that a product finds in `y`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    /// They are replaced.
    Replaces,
    /// The sum goes on from them.
    Continues,
    /// The product is summed by itself and added to them.
    Adds,
}

/// `y[.., col..col+32] (+)= x · [panels.0 panels.1]`, for all rows of `x`. What
/// the second panel holds does not matter where `y` has no column for it.
///
/// # Safety
/// No other task uses those columns of `y`.
pub(super) unsafe fn panel_product(
    x: Rows<'_>,
    panels: (&[PanelRow], &[PanelRow]),
    y: &SharedOutput<'_>,
    col: usize,
    onto: Onto,
) {
    let k = panels.0.len();
    assert!(k == panels.1.len() && x.offset + k <= x.stride);
    assert!(x.n == 0 || x.x.len() >= x.n * x.stride);
    let level = Level::detect();
    let mut first = 0;
    while first < x.n {
        let job = Job {
            x,
            first,
            panels,
            y,
            col,
            onto,
        };
        first += match x.n - first {
            12.. => job.run::<12>(level),
            6..12 => job.run::<6>(level),
            3..6 => job.run::<3>(level),
            2 => job.run::<2>(level),
            _ => job.run::<1>(level),
        };
    }
}

struct Job<'a, 'y> {
    x: Rows<'a>,
    first: usize,
    panels: (&'a [PanelRow], &'a [PanelRow]),
    y: &'a SharedOutput<'y>,
    col: usize,
    onto: Onto,
}

/// Columns of a tile.
const COLS: usize = 2 * GROUP;

impl Job<'_, '_> {
    /// Computes a tile of `N` rows; returns how many they are.
    #[inline(always)]
    fn run<const N: usize>(&self, level: Level) -> usize {
        let cols = COLS.min(self.y.width() - self.col);
        if cols == COLS {
            // SAFETY: the caller of `panel_product` owns these columns.
            let tile = unsafe { self.y.tile(self.first..self.first + N, self.col, cols) };
            // SAFETY: the tile is whole.
            unsafe { self.compute::<N>(level, tile, cols) };
            return N;
        }
        let mut whole = [[0.0; COLS]; N];
        // SAFETY: as above.
        let part = |i| unsafe { self.y.part(self.first + i, self.col, cols) };
        for (i, row) in whole.iter_mut().enumerate() {
            row[..cols].copy_from_slice(part(i));
        }
        let tile = Tile::of(whole.as_flattened_mut(), COLS);
        // SAFETY: the tile is whole.
        unsafe { self.compute::<N>(level, tile, cols) };
        for (i, row) in whole.iter().enumerate() {
            part(i).copy_from_slice(&row[..cols]);
        }
        N
    }

    /// # Safety
    /// The tile has `N` rows of [`COLS`], which are this job's.
    #[inline(always)]
    unsafe fn compute<const N: usize>(&self, level: Level, y: Tile, cols: usize) {
        let start = self.first * self.x.stride + self.x.offset;
        let x = Strided {
            x: &self.x.x[start..],
            stride: self.x.stride,
        };
        match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level was detected; `panel_product` checked the lengths.
            Level::Avx512 => unsafe { avx512::<N>(x, self.panels, y, self.onto) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe {
                let used = [self.panels.0, self.panels.1].into_iter();
                for (p, panel) in used.take(cols.div_ceil(GROUP)).enumerate() {
                    let y = y.from(0, p * GROUP);
                    if N == 12 {
                        avx2::<6>(x, panel, y, self.onto);
                        avx2::<6>(x.from(6), panel, y.from(6, 0), self.onto);
                    } else {
                        avx2::<N>(x, panel, y, self.onto);
                    }
                }
            },
            // SAFETY: as above.
            _ => unsafe {
                for (p, panel) in [self.panels.0, self.panels.1].into_iter().enumerate() {
                    // few rows at a time, so that the sums stay in registers
                    let (x, y) = (|i| x.from(i), |i| y.from(i, p * GROUP));
                    for i in (0..N - N % 3).step_by(3) {
                        portable::<3>(x(i), panel, y(i), self.onto);
                    }
                    for i in N - N % 3..N {
                        portable::<1>(x(i), panel, y(i), self.onto);
                    }
                }
            },
        }
    }
}

/// Rows of inputs, `stride` apart.
#[derive(Clone, Copy)]
struct Strided<'a> {
    x: &'a [f32],
    stride: usize,
}

impl Strided<'_> {
    /// The rows from `i` on.
    #[inline(always)]
    fn from(self, i: usize) -> Self {
        Self {
            x: &self.x[i * self.stride..],
            ..self
        }
    }

    /// # Safety
    /// There is such a row, and it is so long.
    #[inline(always)]
    unsafe fn at(self, i: usize, k: usize) -> f32 {
        // SAFETY: by contract.
        unsafe { *self.x.get_unchecked(i * self.stride + k) }
    }
}

/// # Safety
/// `x` has `N` rows, each at least as long as the panel, and so has `y`, of
/// [`GROUP`] columns.
#[inline(always)]
unsafe fn portable<const N: usize>(x: Strided<'_>, panel: &[PanelRow], y: Tile, onto: Onto) {
    let row = |i| y.at(i, 0).cast::<[f32; GROUP]>();
    let mut sums = [[0.0f32; GROUP]; N];
    for (i, sum) in sums.iter_mut().enumerate() {
        if onto == Onto::Continues {
            // SAFETY: by contract; an array of floats is aligned as one.
            *sum = unsafe { row(i).read() };
        }
    }
    for (k, w) in panel.iter().enumerate() {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: by contract.
            let x = unsafe { x.at(i, k) };
            for (sum, w) in sum.iter_mut().zip(&w.0) {
                *sum = x.mul_add(*w, *sum);
            }
        }
    }
    for (i, sum) in sums.iter_mut().enumerate() {
        // SAFETY: as above.
        unsafe {
            if onto == Onto::Adds {
                let before = row(i).read();
                sum.iter_mut().zip(before).for_each(|(sum, y)| *sum += y);
            }
            row(i).write(*sum);
        }
    }
}

/// Six rows and a panel fill the registers: twelve sums, two of the panel, one
/// of `x`.
///
/// # Safety
/// As [`portable`].
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const N: usize>(x: Strided<'_>, panel: &[PanelRow], y: Tile, onto: Onto) {
    use std::arch::x86_64::*;
    const HALF: usize = GROUP / 2;
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    if onto == Onto::Continues {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: by contract.
            *sum = unsafe { [0, HALF].map(|col| _mm256_loadu_ps(y.at(i, col))) };
        }
    }
    for (k, w) in panel.iter().enumerate() {
        // SAFETY: panel rows are 16 aligned floats.
        let w = unsafe { [0, HALF].map(|col| _mm256_load_ps(w.0.as_ptr().add(col))) };
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: by contract.
            let x = _mm256_set1_ps(unsafe { x.at(i, k) });
            sum[0] = _mm256_fmadd_ps(x, w[0], sum[0]);
            sum[1] = _mm256_fmadd_ps(x, w[1], sum[1]);
        }
    }
    for (i, sum) in sums.iter_mut().enumerate() {
        for (half, sum) in sum.iter_mut().enumerate() {
            let y = y.at(i, half * HALF);
            // SAFETY: by contract.
            unsafe {
                if onto == Onto::Adds {
                    *sum = _mm256_add_ps(_mm256_loadu_ps(y), *sum);
                }
                _mm256_storeu_ps(y, *sum);
            }
        }
    }
}

/// Both panels at once: with twelve rows the sums take 24 registers of 32.
///
/// # Safety
/// As [`portable`], but of [`COLS`] columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const N: usize>(
    x: Strided<'_>,
    panels: (&[PanelRow], &[PanelRow]),
    y: Tile,
    onto: Onto,
) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm512_setzero_ps(); 2]; N];
    if onto == Onto::Continues {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: by contract.
            *sum = unsafe { [0, GROUP].map(|col| _mm512_loadu_ps(y.at(i, col))) };
        }
    }
    for (k, (w0, w1)) in panels.0.iter().zip(panels.1).enumerate() {
        // SAFETY: panel rows are 16 aligned floats.
        let (w0, w1) = unsafe { (_mm512_load_ps(w0.0.as_ptr()), _mm512_load_ps(w1.0.as_ptr())) };
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: by contract.
            let x = _mm512_set1_ps(unsafe { x.at(i, k) });
            sum[0] = _mm512_fmadd_ps(x, w0, sum[0]);
            sum[1] = _mm512_fmadd_ps(x, w1, sum[1]);
        }
    }
    for (i, sum) in sums.iter_mut().enumerate() {
        for (p, sum) in sum.iter_mut().enumerate() {
            let y = y.at(i, p * GROUP);
            // SAFETY: by contract.
            unsafe {
                if onto == Onto::Adds {
                    *sum = _mm512_add_ps(_mm512_loadu_ps(y), *sum);
                }
                _mm512_storeu_ps(y, *sum);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_noise::noise;

    fn panels(values: &[f32]) -> Vec<PanelRow> {
        let rows = values.as_chunks::<GROUP>().0;
        rows.iter().map(|row| PanelRow(*row)).collect()
    }

    /// Sums with one rounding for each product, in order.
    fn expected(
        x: &[f32],
        k: usize,
        panels: [&[PanelRow]; 2],
        (before, cols): (&[f32], usize),
        onto: Onto,
    ) -> Vec<f32> {
        let cell = |at: usize| {
            let (row, col) = (at / cols, at % cols);
            let weights = panels[col / GROUP].iter().map(|w| w.0[col % GROUP]);
            let from = match onto {
                Onto::Continues => before[at],
                Onto::Replaces | Onto::Adds => 0.0,
            };
            let products = x[row * k..][..k].iter().zip(weights);
            let sum = products.fold(from, |sum, (x, w)| x.mul_add(w, sum));
            match onto {
                Onto::Adds => before[at] + sum,
                Onto::Replaces | Onto::Continues => sum,
            }
        };
        (0..before.len()).map(cell).collect()
    }

    /// The product as a tile among others: of rows after a first one, columns after
    /// 32 others, and inputs after three.
    fn product<const N: usize>(
        level: Level,
        x: &[f32],
        panels: [&[PanelRow]; 2],
        (before, cols): (&[f32], usize),
        onto: Onto,
    ) -> Vec<f32> {
        let (k, width) = (panels[0].len(), COLS + cols + 16);
        let stride = k + 5;
        let mut inputs = vec![f32::NAN; (N + 1) * stride];
        for (row, x) in inputs
            .chunks_exact_mut(stride)
            .skip(1)
            .zip(x.chunks_exact(k))
        {
            row[3..3 + k].copy_from_slice(x);
        }
        let mut all = vec![7.0; (N + 1) * width];
        let parts = all.chunks_exact_mut(width).skip(1);
        for (row, before) in parts.zip(before.chunks_exact(cols)) {
            row[COLS..COLS + cols].copy_from_slice(before);
        }
        let outputs = SharedOutput::new(&mut all, width);
        let job = Job {
            x: Rows {
                x: &inputs,
                n: N + 1,
                stride,
                offset: 3,
            },
            first: 1,
            panels: (panels[0], panels[1]),
            y: &outputs.window(0, width, COLS + cols),
            col: COLS,
            onto,
        };
        job.run::<N>(level);
        let parts = all.chunks_exact_mut(width).skip(1);
        let found = parts.flat_map(|row| {
            let found = row[COLS..COLS + cols].to_vec();
            row[COLS..COLS + cols].fill(7.0);
            found
        });
        let found = found.collect();
        assert!(all.iter().all(|y| *y == 7.0), "nothing else is written");
        found
    }

    proptest! {
        #[test]
        fn every_level_and_tile_has_the_bits_of_the_scalar_sum(
            k in 1usize..150, cols in 1usize..=COLS, seed: u64, onto in 0usize..3,
        ) {
            let onto = [Onto::Replaces, Onto::Continues, Onto::Adds][onto];
            let (first, second) = (panels(&noise(seed, k * GROUP)), panels(&noise(seed ^ 1, k * GROUP)));
            let panels = [first.as_slice(), second.as_slice()];
            let (x, before) = (noise(seed ^ 2, 12 * k), noise(seed ^ 3, 12 * COLS));
            // whole tiles, and such as are cut off
            for cols in [COLS, cols] {
                let before = (&before[..12 * cols], cols);
                let expected = expected(&x, k, panels, before, onto);
                for &level in Level::available() {
                    let found = [
                        product::<12>(level, &x, panels, before, onto),
                        product::<6>(level, &x[..6 * k], panels, before, onto),
                        product::<3>(level, &x[..3 * k], panels, before, onto),
                        product::<2>(level, &x[..2 * k], panels, before, onto),
                        product::<1>(level, &x[..k], panels, before, onto),
                    ];
                    for found in found {
                        prop_assert_eq!(&found, &expected[..found.len()], "{:?}", level);
                    }
                }
            }
        }
    }
}
