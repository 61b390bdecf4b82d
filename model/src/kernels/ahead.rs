//! Fetching what adapters' products will read, while a matrix's product computes.
//!
//! With an adapter for each sequence, a decoding step reads half as much for adapters
//! as for the base, in thousands of short runs that the hardware does not foresee; the
//! matrices' products leave the memory idle meanwhile. A few lines at a time: a core
//! has no more than some dozen on their way, and waits with all else when there are
//! more. Knows no products, only what they will read.

use std::cell::Cell;
use std::ops::Range;

use super::memory::{ALIGN, Span};

/// The most that is fetched beside one stretch of columns: a part of what a core's
/// second cache holds.
const BYTES_MAX: usize = 128 << 10;

thread_local! {
    /// Kept from one task to the next.
    static SPANS: Cell<Vec<Span>> = const { Cell::new(Vec::new()) };
}

/// How many blocks ahead of its use one of a matrix is fetched, which comes from memory.
const DISTANCE: usize = 16;
/// The same of a factor, which is short and mostly comes from a cache.
const DISTANCE_IN_FACTOR: usize = 4;

/// What is to be fetched, little by little.
#[derive(Default)]
pub(super) struct Ahead {
    in_factor: bool,
    /// The last ones first.
    spans: Vec<Span>,
    /// The one that is being fetched.
    now: Span,
    /// What is left of it and of all the others.
    bytes: usize,
    /// How much of that comes first and is of no use after this stretch.
    read: usize,
    /// What is to be fetched of them in this stretch, at least.
    due: usize,
    /// How much of it a step fetches: whole lines.
    step: usize,
}

impl Ahead {
    /// What is fetched evenly with all stretches of a task, in this order.
    pub(super) fn of(spans: impl Iterator<Item = Span>) -> Self {
        let mut ahead = Self::default();
        ahead.spans = SPANS.take();
        ahead.spans.clear();
        ahead.put_first(spans);
        ahead
    }

    /// Nothing, beside a factor's product.
    pub(super) fn in_factor() -> Self {
        let mut ahead = Self::default();
        ahead.in_factor = true;
        ahead
    }

    /// How many blocks ahead of its use one is to be fetched of what is multiplied.
    pub(super) fn distance(&self) -> usize {
        match self.in_factor {
            true => DISTANCE_IN_FACTOR,
            false => DISTANCE,
        }
    }

    /// Puts these before all the others.
    fn put_first(&mut self, spans: impl Iterator<Item = Span>) {
        self.spans
            .extend(Some(self.now).filter(|now| now.bytes() > 0));
        let others = self.spans.len();
        self.spans.extend(spans);
        let bytes = |span: &Span| span.bytes();
        self.bytes += self.spans[others..].iter().map(bytes).sum::<usize>();
        self.spans[others..].reverse();
        self.now = Span::default();
    }

    /// A stretch begins, which is `parts` of those that the task has left; what is read
    /// at its end comes first.
    pub(super) fn begin(&mut self, read: impl Iterator<Item = Span>, parts: usize, left: usize) {
        self.drop_read();
        let evenly = self.bytes * parts / left.max(1);
        let others = self.bytes;
        self.put_first(read);
        self.read = self.bytes - others;
        self.due = (self.read + evenly).min(BYTES_MAX);
    }

    /// Forgets what the last stretch read and did not fetch.
    fn drop_read(&mut self) {
        self.bytes -= self.read;
        while self.read > 0 {
            self.read -= self.now.bytes();
            self.now = Span::default();
            if self.read > 0 {
                match self.spans.pop() {
                    Some(span) => self.now = span,
                    None => self.read = 0,
                }
            }
        }
    }

    /// Bytes that are not fetched yet.
    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.bytes
    }

    /// What is due now, when so many of such pieces of the stretch are left, this one
    /// counted, is fetched by the next `steps` steps; where there are more steps than
    /// lines, each still fetches one.
    pub(super) fn spread(&mut self, pieces_left: usize, steps: usize) {
        let due = self.due.div_ceil(pieces_left.max(1));
        self.step = due.div_ceil(ALIGN).div_ceil(steps.max(1)) * ALIGN;
    }

    /// Begins to fetch the next few lines.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        if self.now.bytes() < self.step {
            return self.step_over();
        }
        let (lines, later) = self.now.split_at(self.step);
        lines.fetch();
        self.now = later;
        self.count(self.step);
    }

    /// A step that goes over the end of a span.
    #[inline(never)]
    fn step_over(&mut self) {
        let mut left = self.step;
        while left > 0 {
            if self.now.bytes() == 0 {
                match self.spans.pop() {
                    Some(span) => self.now = span,
                    None => return,
                }
            }
            let (line, later) = self.now.split_at(ALIGN);
            line.fetch();
            self.now = later;
            self.count(line.bytes());
            left -= ALIGN;
        }
    }

    /// So much is fetched.
    #[inline(always)]
    fn count(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.read = self.read.saturating_sub(bytes);
        self.due = self.due.saturating_sub(bytes);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // a task's, not one that never had any
        if self.spans.capacity() > 0 {
            SPANS.set(std::mem::take(&mut self.spans));
        }
    }
}

/// What goes with some of `count` parts of a product, if all bytes that the spans hold
/// are spread over them evenly.
pub(super) fn share(
    (spans, all): (impl Iterator<Item = Span>, usize),
    parts: Range<usize>,
    count: usize,
) -> impl Iterator<Item = Span> {
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
            let all = (spans.iter().copied(), 4800);
            let mut ahead = Ahead::of(share(all, parts.clone(), 11));
            next += ahead.bytes;
            assert_eq!(next, 4800 * parts.end / 11);
            let read = [&bytes[3..8], &bytes[20..29]].map(Span::of);
            let mut parts_left = parts.len();
            while parts_left > 0 {
                let stretch = parts_left.min(2);
                let evenly = ahead.bytes * stretch / parts_left;
                let others = ahead.bytes - evenly;
                ahead.begin(read.iter().copied(), stretch, parts_left);
                assert_eq!(ahead.due, 14 * 16 + evenly);
                let all = ahead.due;
                for left in (1..=5).rev() {
                    ahead.spread(left, 3);
                    for _ in 0..3 {
                        let before = ahead.bytes;
                        ahead.step();
                        // a fifth of a third, in whole lines
                        assert!(before - ahead.bytes <= all.div_ceil(15).next_multiple_of(ALIGN));
                    }
                }
                assert!(ahead.due == 0 && ahead.bytes <= others);
                parts_left -= stretch;
            }
            assert_eq!((ahead.bytes, ahead.spans.len()), (0, 0));
        }
    }

    #[test]
    fn no_more_is_due_than_a_cache_holds_a_part_of() {
        let bytes = vec![[0i8; 16]; 2 * BYTES_MAX / 16];
        let mut ahead = Ahead::of(std::iter::empty());
        ahead.begin(std::iter::once(Span::of(&bytes)), 1, 1);
        assert_eq!((ahead.due, ahead.left()), (BYTES_MAX, 2 * BYTES_MAX));
        ahead.spread(1, 1);
        ahead.step();
        assert_eq!((ahead.due, ahead.left()), (0, BYTES_MAX));
        ahead.spread(1, 1);
        ahead.step();
        assert_eq!(ahead.left(), BYTES_MAX, "nothing is due");
    }

    #[test]
    fn what_a_stretch_read_is_forgotten_when_the_next_begins() {
        let bytes = [[0i8; 16]; 120];
        let mut ahead = Ahead::of(std::iter::once(Span::of(&bytes[..100])));
        // not fetched at all, in part, and all of it with some of the rest
        for (fetched, left) in [(0, 1600), (64, 1600), (384, 1600 - 64)] {
            let read = [&bytes[100..110], &bytes[110..116]].map(Span::of);
            ahead.begin(read.into_iter(), 1, 4);
            assert_eq!(ahead.left(), 1600 + 256);
            ahead.step = fetched;
            ahead.step();
            ahead.begin(std::iter::empty(), 1, 4);
            assert_eq!(ahead.left(), left);
            let spans = ahead.spans.iter().chain([&ahead.now]);
            assert_eq!(spans.map(|span| span.bytes()).sum::<usize>(), left);
        }
    }
}
