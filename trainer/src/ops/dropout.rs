//! Dropout on the input of a low-rank term, with masks that can be replayed.
//!
//! Whether an element is dropped is a function of a key and its index, and of
//! nothing else: the backward pass, a layer that is recomputed and a run that
//! goes on after an interruption see the mask of the first time.

use rayon::prelude::*;

use super::PARALLEL_ELEMENTS_MIN;

/// The masks of one forward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dropout {
    /// Share of the elements that are dropped; below 1.
    rate: f64,
    key: u64,
}

/// The mask of one module in one pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mask {
    key: u64,
    /// Dropped when the element's number is below this.
    threshold: u64,
    /// What is kept is multiplied by this, so that the mean stays.
    scale: f32,
}

impl Dropout {
    /// Masks for the pass that these numbers name; none when nothing is dropped.
    pub(crate) fn new(rate: f64, pass: [u64; 4]) -> Option<Self> {
        let key = pass.into_iter().fold(0, |key, part| mix(key ^ part));
        (rate > 0.0).then_some(Self { rate, key })
    }

    /// The mask of one module.
    pub(crate) fn mask(&self, layer: usize, group: usize, part: usize) -> Mask {
        let place = (layer as u64) << 16 | (group as u64) << 8 | part as u64;
        Mask {
            key: mix(self.key ^ mix(place)),
            threshold: (self.rate * 2f64.powi(32)) as u64,
            scale: (1.0 / (1.0 - self.rate)) as f32,
        }
    }
}

impl Mask {
    /// Drops elements in place.
    pub(crate) fn apply(&self, values: &mut [f32]) {
        values
            .par_chunks_mut(PARALLEL_ELEMENTS_MIN)
            .enumerate()
            .for_each(|(chunk, values)| {
                let start = (chunk * PARALLEL_ELEMENTS_MIN) as u64;
                for (index, value) in (start..).zip(values) {
                    let is_dropped = mix(self.key ^ index) >> 32 < self.threshold;
                    *value *= if is_dropped { 0.0 } else { self.scale };
                }
            });
    }

    /// A copy with elements dropped.
    pub(crate) fn applied(&self, values: &[f32]) -> Vec<f32> {
        let mut values = values.to_vec();
        self.apply(&mut values);
        values
    }
}

/// SplitMix64: a well-mixed number for each one.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_dropped_the_mean_stays_and_the_mask_can_be_replayed() {
        let n = 3 * PARALLEL_ELEMENTS_MIN + 7;
        let dropout = Dropout::new(0.1, [7, 1, 0, 0]).unwrap();
        let mask = dropout.mask(3, 0, 2);
        let once = mask.applied(&vec![1.0; n]);
        let dropped = once.iter().filter(|&&v| v == 0.0).count() as f64 / n as f64;
        assert!((dropped - 0.1).abs() < 0.01, "{dropped}");
        let mean = once.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        assert_eq!(once, mask.applied(&vec![1.0; n]));
        let others = [
            dropout.mask(3, 0, 1),
            dropout.mask(3, 1, 2),
            dropout.mask(4, 0, 2),
            Dropout::new(0.1, [7, 2, 0, 0]).unwrap().mask(3, 0, 2),
            Dropout::new(0.1, [8, 1, 0, 0]).unwrap().mask(3, 0, 2),
        ];
        for other in others {
            let other = other.applied(&vec![1.0; n]);
            let both = once
                .iter()
                .zip(&other)
                .filter(|(a, b)| **a == 0.0 && **b == 0.0)
                .count() as f64
                / n as f64;
            assert!(
                (both - 0.01).abs() < 0.005,
                "masks are not independent: {both}"
            );
        }
        assert_eq!(Dropout::new(0.0, [0; 4]), None);
    }
}
