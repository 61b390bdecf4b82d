//! Rotary position embedding.

use model::{ModelConfig, RopeOrder};

/// Sines and cosines for every position up to a limit.
pub(super) struct RopeTable {
    order: RopeOrder,
    head_dim: usize,
    /// `[positions][head_dim / 2]`, cosine and sine.
    angles: Vec<(f32, f32)>,
}

impl RopeTable {
    /// The table for positions below `positions`.
    pub(super) fn new(config: &ModelConfig, positions: usize) -> Self {
        let half = config.head_dim / 2;
        let frequency = |i: usize| {
            let exponent = (2 * i) as f64 / config.head_dim as f64;
            (1.0 / f64::from(config.rope_theta).powf(exponent)) as f32
        };
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let angles = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f))
            .map(|angle| (angle.cos(), angle.sin()))
            .collect();
        Self {
            order: config.architecture.rope_order(),
            head_dim: config.head_dim,
            angles,
        }
    }

    /// Turns all heads of a row at a position, and multiplies them by `scale`.
    pub(super) fn turn(&self, row: &mut [f32], position: usize, scale: f32) {
        let half = self.head_dim / 2;
        let angles = &self.angles[position * half..(position + 1) * half];
        for head in row.chunks_exact_mut(self.head_dim) {
            match self.order {
                RopeOrder::Interleaved => {
                    for (pair, &(cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                        let [a, b] = *pair;
                        *pair = [(a * cos - b * sin) * scale, (a * sin + b * cos) * scale];
                    }
                }
                RopeOrder::Halves => {
                    let (first, second) = head.split_at_mut(half);
                    for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                        let (x, y) = (*a, *b);
                        (*a, *b) = ((x * cos - y * sin) * scale, (x * sin + y * cos) * scale);
                    }
                }
            }
        }
    }
}
