//! The f32 micro-kernel: rows of `x` times panels of 16 output columns.
//!
//! A panel is `[k][16]`. Each output is `fma`s over k in order, whatever the
//! tile, so a row's result does not depend on the rows beside it. Rounding grows with
//! k; [`Onto::Adds`] is there to sum a long k in pieces.

use super::cpu::Level;
use super::parallel::SharedOutput;
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

/// `y[.., col..col+32] (+)= x · [panels.0 panels.1]`, for all rows of `x`. The
/// second panel is not read where `y` has no column for it.
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

type Acc<const N: usize> = [[[f32; GROUP]; 2]; N];

impl Job<'_, '_> {
    #[inline(always)]
    fn run<const N: usize>(&self, level: Level) -> usize {
        let mut acc: Acc<N> = [[[0.0; GROUP]; 2]; N];
        if self.onto == Onto::Continues {
            self.each_part(&mut acc, |part, acc| copy(part, acc));
        }
        let start = self.first * self.x.stride + self.x.offset;
        let (x, stride) = (&self.x.x[start..], self.x.stride);
        match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level was detected; `panel_product` checked the lengths.
            Level::Avx512 => unsafe { avx512::<N>(x, stride, self.panels, &mut acc) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe {
                for (p, panel) in self.panels_used().into_iter().flatten().enumerate() {
                    if N == 12 {
                        for (i, acc) in acc.as_chunks_mut::<6>().0.iter_mut().enumerate() {
                            avx2::<6>(&x[6 * i * stride..], stride, panel, p, acc);
                        }
                    } else {
                        avx2::<N>(x, stride, panel, p, &mut acc);
                    }
                }
            },
            // SAFETY: `panel_product` checked the lengths.
            _ => unsafe { portable::<N>(x, stride, self.panels, &mut acc) },
        }
        match self.onto {
            Onto::Adds => self.each_part(&mut acc, |part, acc| {
                part.iter_mut().zip(acc).for_each(|(y, sum)| *y += *sum);
            }),
            _ => self.each_part(&mut acc, |part, acc| copy(acc, part)),
        }
        N
    }

    /// The panels that `y` has columns for.
    #[inline(always)]
    fn panels_used(&self) -> [Option<&[PanelRow]>; 2] {
        let second = self.col + GROUP < self.y.width();
        [Some(self.panels.0), second.then_some(self.panels.1)]
    }

    /// Calls `f` with each part of `y` in this tile and the sums for it.
    #[inline(always)]
    fn each_part<const N: usize>(&self, acc: &mut Acc<N>, f: impl Fn(&mut [f32], &mut [f32])) {
        for (i, row) in acc.iter_mut().enumerate() {
            for (p, acc) in row.iter_mut().enumerate() {
                let col = self.col + p * GROUP;
                if col < self.y.width() {
                    // SAFETY: the caller of `panel_product` owns these columns.
                    let part = unsafe { self.y.part(self.first + i, col, GROUP) };
                    let len = part.len();
                    f(part, &mut acc[..len]);
                }
            }
        }
    }
}

/// Copies results of a row, mostly a whole panel's.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    match (from.first_chunk::<GROUP>(), to.first_chunk_mut::<GROUP>()) {
        (Some(from), Some(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}

/// # Safety
/// `x` has `N` rows of `stride`, the last at least as long as the panels.
#[inline(always)]
unsafe fn portable<const N: usize>(
    x: &[f32],
    stride: usize,
    panels: (&[PanelRow], &[PanelRow]),
    acc: &mut Acc<N>,
) {
    for (p, panel) in [panels.0, panels.1].into_iter().enumerate() {
        // few rows at a time, so that the sums stay in registers
        for first in (0..N).step_by(4) {
            let rows = (N - first).min(4);
            let mut sums = [[0.0f32; GROUP]; 4];
            for i in 0..rows {
                sums[i] = acc[first + i][p];
            }
            for (k, w) in panel.iter().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let row = first + i.min(rows - 1);
                    // SAFETY: by contract.
                    let x = unsafe { *x.get_unchecked(row * stride + k) };
                    for (sum, w) in sum.iter_mut().zip(&w.0) {
                        *sum = x.mul_add(*w, *sum);
                    }
                }
            }
            for i in 0..rows {
                acc[first + i][p] = sums[i];
            }
        }
    }
}

/// Six rows and a panel fill the registers: twelve sums, two of the panel, one
/// of `x`.
///
/// # Safety
/// `x` has `N` rows of `stride`, the last at least as long as the panel.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const N: usize>(
    x: &[f32],
    stride: usize,
    panel: &[PanelRow],
    p: usize,
    acc: &mut Acc<N>,
) {
    use std::arch::x86_64::*;
    const HALF: usize = GROUP / 2;
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    for (sum, acc) in sums.iter_mut().zip(acc.iter()) {
        let acc = acc[p].as_ptr();
        // SAFETY: rows of 16 floats.
        *sum = unsafe { [_mm256_loadu_ps(acc), _mm256_loadu_ps(acc.add(HALF))] };
    }
    for (k, w) in panel.iter().enumerate() {
        // SAFETY: panel rows are 16 aligned floats.
        let (w0, w1) = unsafe {
            (
                _mm256_load_ps(w.0.as_ptr()),
                _mm256_load_ps(w.0.as_ptr().add(HALF)),
            )
        };
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: by contract.
            let x = _mm256_set1_ps(unsafe { *x.get_unchecked(i * stride + k) });
            sum[0] = _mm256_fmadd_ps(x, w0, sum[0]);
            sum[1] = _mm256_fmadd_ps(x, w1, sum[1]);
        }
    }
    for (sum, acc) in sums.iter().zip(acc) {
        let acc = acc[p].as_mut_ptr();
        // SAFETY: rows of 16 floats.
        unsafe {
            _mm256_storeu_ps(acc, sum[0]);
            _mm256_storeu_ps(acc.add(HALF), sum[1]);
        }
    }
}

/// # Safety
/// As [`portable`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const N: usize>(
    x: &[f32],
    stride: usize,
    panels: (&[PanelRow], &[PanelRow]),
    acc: &mut Acc<N>,
) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm512_setzero_ps(); 2]; N];
    for (sum, acc) in sums.iter_mut().zip(acc.iter()) {
        // SAFETY: rows of 16 floats.
        *sum = unsafe {
            [
                _mm512_loadu_ps(acc[0].as_ptr()),
                _mm512_loadu_ps(acc[1].as_ptr()),
            ]
        };
    }
    for (k, (w0, w1)) in panels.0.iter().zip(panels.1).enumerate() {
        // SAFETY: panel rows are 16 aligned floats.
        let (w0, w1) = unsafe { (_mm512_load_ps(w0.0.as_ptr()), _mm512_load_ps(w1.0.as_ptr())) };
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: by contract.
            let x = _mm512_set1_ps(unsafe { *x.get_unchecked(i * stride + k) });
            sum[0] = _mm512_fmadd_ps(x, w0, sum[0]);
            sum[1] = _mm512_fmadd_ps(x, w1, sum[1]);
        }
    }
    for (sum, acc) in sums.iter().zip(acc) {
        // SAFETY: rows of 16 floats.
        unsafe {
            _mm512_storeu_ps(acc[0].as_mut_ptr(), sum[0]);
            _mm512_storeu_ps(acc[1].as_mut_ptr(), sum[1]);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_noise::noise;

    const COLS: usize = 2 * GROUP;

    fn panels(values: &[f32]) -> Vec<PanelRow> {
        let rows = values.as_chunks::<GROUP>().0;
        rows.iter().map(|row| PanelRow(*row)).collect()
    }

    /// Sums with one rounding for each product, in order.
    fn expected(
        x: &[f32],
        k: usize,
        panels: [&[PanelRow]; 2],
        before: &[f32],
        onto: Onto,
    ) -> Vec<f32> {
        let cell = |at: usize| {
            let (row, col) = (at / COLS, at % COLS);
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

    fn product<const N: usize>(
        level: Level,
        x: &[f32],
        panels: [&[PanelRow]; 2],
        before: &[f32],
        onto: Onto,
    ) -> Vec<f32> {
        let mut y = before.to_vec();
        let job = Job {
            x: Rows {
                x,
                n: N,
                stride: panels[0].len(),
                offset: 0,
            },
            first: 0,
            panels: (panels[0], panels[1]),
            y: &SharedOutput::new(&mut y, COLS),
            col: 0,
            onto,
        };
        job.run::<N>(level);
        y
    }

    proptest! {
        #[test]
        fn every_level_and_tile_has_the_bits_of_the_scalar_sum(k in 1usize..150, seed: u64, onto in 0usize..3) {
            let onto = [Onto::Replaces, Onto::Continues, Onto::Adds][onto];
            let (first, second) = (panels(&noise(seed, k * GROUP)), panels(&noise(seed ^ 1, k * GROUP)));
            let panels = [first.as_slice(), second.as_slice()];
            let (x, before) = (noise(seed ^ 2, 12 * k), noise(seed ^ 3, 12 * COLS));
            let expected = expected(&x, k, panels, &before, onto);
            for &level in Level::available() {
                let found = [
                    product::<12>(level, &x, panels, &before, onto),
                    product::<6>(level, &x[..6 * k], panels, &before[..6 * COLS], onto),
                    product::<3>(level, &x[..3 * k], panels, &before[..3 * COLS], onto),
                    product::<2>(level, &x[..2 * k], panels, &before[..2 * COLS], onto),
                    product::<1>(level, &x[..k], panels, &before[..COLS], onto),
                ];
                for found in found {
                    prop_assert_eq!(&found, &expected[..found.len()], "{:?}", level);
                }
            }
        }
    }
}
