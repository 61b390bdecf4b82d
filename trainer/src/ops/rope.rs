//! Rotary position embedding in both pair layouts.

use model::{ModelConfig, RopeOrder};

/// Cosines and sines of every position up to a length.
pub(crate) struct RopeTable {
    order: RopeOrder,
    half: usize,
    /// `[position, half]` of (cos, sin).
    angles: Vec<(f32, f32)>,
}

/// Which way to turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// By the position's angle.
    Forward,
    /// Back by it, which is the gradient's way.
    Backward,
}

impl RopeTable {
    /// A model's table for sequences of at most `positions` tokens.
    pub(crate) fn of(config: &ModelConfig, positions: usize) -> Self {
        let order = config.architecture.rope_order;
        Self::new(order, config.head_dim, config.rope.theta, positions)
    }

    pub(crate) fn new(order: RopeOrder, head_dim: usize, theta: f32, positions: usize) -> Self {
        let half = head_dim / 2;
        let frequency = |i: usize| f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64);
        let mut angles = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for i in 0..half {
                let angle = position as f64 * frequency(i);
                angles.push((angle.cos() as f32, angle.sin() as f32));
            }
        }
        Self {
            order,
            half,
            angles,
        }
    }

    /// `[position, half]` of (cos, sin).
    pub(crate) fn angles(&self) -> &[(f32, f32)] {
        &self.angles
    }

    /// Turns one head's values at `position` in place.
    pub(crate) fn rotate(&self, head: &mut [f32], position: usize, turn: Turn) {
        let angles = &self.angles[position * self.half..(position + 1) * self.half];
        for (i, &(cos, sin)) in angles.iter().enumerate() {
            let sin = if turn == Turn::Forward { sin } else { -sin };
            let (first, second) = match self.order {
                RopeOrder::Interleaved => (2 * i, 2 * i + 1),
                RopeOrder::Halves => (i, i + self.half),
            };
            let (x, y) = (head[first], head[second]);
            head[first] = x * cos - y * sin;
            head[second] = x * sin + y * cos;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::random;

    #[test]
    fn turning_back_restores_and_lengths_are_kept() {
        for layout in [RopeOrder::Interleaved, RopeOrder::Halves] {
            let table = RopeTable::new(layout, 8, 10_000.0, 64);
            let before = random(1, 8);
            let mut head = before.clone();
            table.rotate(&mut head, 17, Turn::Forward);
            assert!(head.iter().zip(&before).any(|(a, b)| (a - b).abs() > 0.1));
            table.rotate(&mut head, 17, Turn::Backward);
            assert!(head.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
}
