//! Fetching what adapters' products will read, while a matrix's product computes.
//!
//! With an adapter for each sequence, a decoding step reads half as much for adapters
//! as for the base, in thousands of short runs that the hardware does not foresee; the
//! matrices' products leave the memory idle meanwhile. Knows no products, only what
//! they will read.

use super::factor::Unit;
use super::memory::prefetch_far;

/// The most that is fetched beside one stretch of columns: a part of what a core's
/// second cache holds.
const BYTES_MAX: usize = 128 << 10;

/// What is to be fetched, little by little.
#[derive(Default)]
pub(super) struct Ahead<'a> {
    /// The last ones first.
    slices: Vec<&'a [Unit]>,
    units: usize,
}

impl<'a> Ahead<'a> {
    /// Something else instead, in this order.
    pub(super) fn set(&mut self, slices: impl Iterator<Item = &'a [Unit]>) {
        self.units = 0;
        self.slices.clear();
        let fits = |slice: &&[Unit]| {
            self.units += slice.len();
            self.units * size_of::<Unit>() <= BYTES_MAX
        };
        self.slices.extend(slices.take_while(fits));
        self.slices.reverse();
        self.units = self.slices.iter().map(|slice| slice.len()).sum();
    }

    /// Begins to fetch what is due when so many of such calls are left, this one
    /// counted.
    pub(super) fn fetch(&mut self, calls_left: usize) {
        let mut due = self.units.div_ceil(calls_left.max(1));
        self.units -= due;
        while let Some(slice) = self.slices.last_mut().filter(|_| due > 0) {
            let (now, later) = slice.split_at(due.min(slice.len()));
            prefetch_far(now);
            due -= now.len();
            if later.is_empty() {
                self.slices.pop();
            } else {
                *slice = later;
            }
        }
    }
}

/// What goes with some of `count` parts of a product, if all that the slices hold is
/// spread over them evenly.
pub(super) fn share<'a>(
    slices: impl Iterator<Item = &'a [Unit]> + Clone,
    parts: std::ops::Range<usize>,
    count: usize,
) -> impl Iterator<Item = &'a [Unit]> {
    let all: usize = slices.clone().map(<[Unit]>::len).sum();
    let start = |part: usize| all * part / count.max(1);
    let (mut skipped, mut wanted) = (start(parts.start), start(parts.end) - start(parts.start));
    slices.filter_map(move |slice| {
        let from = skipped.min(slice.len());
        skipped -= from;
        let slice = &slice[from..];
        let slice = &slice[..wanted.min(slice.len())];
        wanted -= slice.len();
        (!slice.is_empty()).then_some(slice)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_whole_and_all_of_it_is_fetched() {
        let units = [Unit([0; 32]); 30];
        let slices = [&units[..7], &units[7..7], &units[7..30]];
        let mut next = 0;
        for parts in [0..3, 3..4, 4..11] {
            let mut ahead = Ahead::default();
            ahead.set(share(slices.iter().copied(), parts.clone(), 11));
            next += ahead.units;
            assert_eq!(next, 30 * parts.end / 11);
            for left in (1..=5).rev() {
                ahead.fetch(left);
            }
            assert_eq!((ahead.units, ahead.slices.len()), (0, 0));
        }
        let mut ahead = Ahead::default();
        ahead.set(slices.iter().copied().cycle());
        assert!(ahead.units * size_of::<Unit>() <= BYTES_MAX);
    }
}
