//! Fetching what adapters' products will read, while a matrix's product computes.
//!
//! With an adapter for each sequence, a decoding step reads half as much for adapters
//! as for the base, in thousands of short runs that the hardware does not foresee; the
//! matrices' products leave the memory idle meanwhile. A few lines at a time: a core
//! has no more than some dozen on their way, and waits with all else when there are
//! more. Knows no products, only what they will read.

use super::memory::{ALIGN, Span};

/// The most that is fetched beside one stretch of columns: a part of what a core's
/// second cache holds.
const BYTES_MAX: usize = 128 << 10;

/// What is to be fetched, little by little.
#[derive(Default)]
pub(super) struct Ahead {
    /// The last ones first.
    spans: Vec<Span>,
    /// The one that is being fetched.
    now: Span,
    /// What is left of all of them.
    bytes: usize,
    /// How much of it a step fetches.
    lines: usize,
}

impl Ahead {
    /// Something else instead, in this order.
    pub(super) fn set(&mut self, spans: impl Iterator<Item = Span>) {
        let mut all = 0;
        let fits = |span: &Span| {
            all += span.bytes();
            all <= BYTES_MAX
        };
        self.spans.clear();
        self.spans.extend(spans.take_while(fits));
        self.spans.reverse();
        self.now = Span::default();
        self.bytes = self.spans.iter().map(|span| span.bytes()).sum();
    }

    /// Bytes that are not fetched yet.
    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.bytes
    }

    /// What is due now, when so many of such stretches are left, this one counted, is
    /// fetched by the next `steps` steps.
    pub(super) fn spread(&mut self, stretches_left: usize, steps: usize) {
        let due = self.bytes.div_ceil(stretches_left.max(1));
        self.lines = due.div_ceil(ALIGN).div_ceil(steps.max(1));
    }

    /// Begins to fetch the next few lines.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        for _ in 0..self.lines {
            if self.now.bytes() == 0 {
                match self.spans.pop() {
                    Some(span) => self.now = span,
                    None => return,
                }
            }
            let (line, later) = self.now.split_at(ALIGN);
            line.fetch();
            self.now = later;
            self.bytes -= line.bytes();
        }
    }
}

/// What goes with some of `count` parts of a product, if all that the spans hold is
/// spread over them evenly.
pub(super) fn share(
    spans: impl Iterator<Item = Span> + Clone,
    parts: std::ops::Range<usize>,
    count: usize,
) -> impl Iterator<Item = Span> {
    let all: usize = spans.clone().map(Span::bytes).sum();
    let start = |part: usize| all * part / count.max(1);
    let (mut skipped, mut wanted) = (start(parts.start), start(parts.end) - start(parts.start));
    spans.filter_map(move |span| {
        let (before, span) = span.split_at(skipped);
        let (span, _) = span.split_at(wanted);
        skipped -= before.bytes();
        wanted -= span.bytes();
        (span.bytes() > 0).then_some(span)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_whole_and_all_of_it_is_fetched() {
        let bytes = [[0i8; 16]; 300];
        let spans = [&bytes[..70], &bytes[70..70], &bytes[70..300]].map(Span::of);
        let mut next = 0;
        for parts in [0..3, 3..4, 4..11] {
            let mut ahead = Ahead::default();
            ahead.set(share(spans.iter().copied(), parts.clone(), 11));
            next += ahead.bytes;
            assert_eq!(next, 4800 * parts.end / 11);
            let all = ahead.bytes;
            for left in (1..=5).rev() {
                ahead.spread(left, 3);
                for _ in 0..3 {
                    let before = ahead.bytes;
                    ahead.step();
                    // a fifth of a third, in whole lines
                    assert!(before - ahead.bytes <= all.div_ceil(15).next_multiple_of(ALIGN));
                }
                assert!(ahead.bytes <= all * (left - 1) / 5);
            }
            assert_eq!((ahead.bytes, ahead.spans.len()), (0, 0));
        }
        let mut ahead = Ahead::default();
        ahead.set(spans.iter().copied().cycle());
        assert!(ahead.bytes <= BYTES_MAX);
    }
}
