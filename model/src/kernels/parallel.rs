//! Splitting work over the thread's team, or over rayon's current pool where it
//! leads none, and outputs that tasks share.

use std::ops::Range;

use rayon::prelude::*;

use super::memory::Span;
use super::team;

/// Where a thread's tasks begin, in eighths of its share: large ones first, since
/// each costs a little, small ones last, since a thread may wait for the other's.
const STARTS: [usize; 5] = [0, 4, 6, 7, 8];
const TASKS_PER_THREAD: usize = STARTS.len() - 1;

/// Runs `task(0) … task(count − 1)`, in parallel where there are threads.
pub(super) fn run(count: usize, task: impl Fn(usize) + Sync + Send) {
    if team::run(count, &task) {
        return;
    }
    if count <= 1 || rayon::current_num_threads() == 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// How many threads a region has.
pub(super) fn threads() -> usize {
    team::threads().unwrap_or_else(rayon::current_num_threads)
}

/// Runs `task` over contiguous ranges that together are `0..count`.
pub(super) fn run_ranges(count: usize, task: impl Fn(Range<usize>) + Sync + Send) {
    run_shares(|share| {
        let range = share.of(count);
        if !range.is_empty() {
            task(range);
        }
    });
}

/// Runs `task` for every share of a region. The same thread takes the same shares in
/// one region as in the next, but for what it has no time for.
pub(super) fn run_shares(task: impl Fn(Share) + Sync + Send) {
    let threads = threads();
    let tasks = match threads {
        1 => 1,
        threads => threads * TASKS_PER_THREAD,
    };
    run(tasks, |number| task(Share { number, threads }));
}

/// One task's share of whatever a region does.
#[derive(Clone, Copy)]
pub(super) struct Share {
    number: usize,
    threads: usize,
}

impl Share {
    /// Its part of `0..count`.
    pub(super) fn of(self, count: usize) -> Range<usize> {
        match self.threads {
            1 => 0..count,
            threads => {
                range_start(self.number, threads, count)
                    ..range_start(self.number + 1, threads, count)
            }
        }
    }

    /// Threads of the region.
    pub(super) fn threads(self) -> usize {
        self.threads
    }

    /// Whether its thread is the one that mostly takes a task of that number in a region
    /// where tasks are no shares.
    pub(super) fn takes_task(self, number: usize) -> bool {
        number % self.threads == self.number % self.threads
    }

    /// Where it begins and ends in all that is its thread's, in eighths.
    pub(super) fn eighths_of_thread(self) -> Range<usize> {
        match self.threads {
            1 => 0..8,
            threads => {
                let start = |round| STARTS.get(round).copied().unwrap_or(8);
                let round = self.number / threads;
                start(round)..start(round + 1)
            }
        }
    }
}

/// Tells a team's helpers what they will read first of a product with `count` parts.
pub(super) fn announce_ranges(count: usize, spans: impl Fn(Range<usize>) -> [Span; team::SPANS]) {
    let threads = threads();
    team::announce(|number| spans(Share { number, threads }.of(count)));
}

/// Where task `i` of `threads · TASKS_PER_THREAD` begins in `0..count`.
fn range_start(i: usize, threads: usize, count: usize) -> usize {
    let (round, thread) = (i / threads, i % threads);
    let start = STARTS.get(round).copied().unwrap_or(8);
    let len = STARTS.get(round + 1).map_or(0, |end| end - start);
    (start * threads + len * thread) * count / (8 * threads)
}

/// Calls `f` with each row's number and elements, on several threads where the
/// rows are many. `x` is whole rows of `width`.
pub fn for_rows(x: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
    /// From how many elements on it is worth it.
    const PARALLEL_FROM: usize = 32 * 1024;
    if x.len() < PARALLEL_FROM {
        x.chunks_exact_mut(width)
            .enumerate()
            .for_each(|(i, row)| f(i, row));
        return;
    }
    let rows = x.len() / width;
    let shared = SharedOutput::new(x, width);
    run_ranges(rows, |range| {
        for i in range {
            // SAFETY: each row belongs to one task.
            f(i, unsafe { shared.part(i, 0, width) });
        }
    });
}

/// Calls `f` with each item, on several threads.
pub fn for_each_mut<T: Send>(items: &mut [T], f: impl Fn(&mut T) + Sync + Send) {
    let count = items.len();
    let shared = SharedOutput::new(items, count);
    run(count, |i| {
        // SAFETY: each item belongs to one task.
        unsafe { shared.part(0, i, 1) }.iter_mut().for_each(&f);
    });
}

/// An output matrix whose columns several tasks write at once.
#[derive(Clone, Copy)]
pub(super) struct SharedOutput<'a, T = f32> {
    start: *mut T,
    len: usize,
    stride: usize,
    width: usize,
    lifetime: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer comes from an exclusive borrow that the marker keeps
// alive, and `write`'s callers write disjoint places.
unsafe impl<T: Send> Send for SharedOutput<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedOutput<'_, T> {}

impl<'a, T> SharedOutput<'a, T> {
    /// A row-major matrix with rows of `stride`.
    pub(super) fn new(matrix: &'a mut [T], stride: usize) -> Self {
        Self {
            start: matrix.as_mut_ptr(),
            len: matrix.len(),
            stride,
            width: stride,
            lifetime: std::marker::PhantomData,
        }
    }

    /// The matrix of `width` columns, its rows `stride` apart, that begins at
    /// element `start` of this one.
    pub(super) fn window(&self, start: usize, stride: usize, width: usize) -> Self {
        assert!(start <= self.len && width <= stride);
        // SAFETY: within the same allocation by the assertion.
        let first = unsafe { self.start.add(start) };
        Self {
            start: first,
            len: self.len - start,
            stride,
            width,
            lifetime: self.lifetime,
        }
    }

    /// Columns.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Part of a row, from `col`, at most `len` long and within the row.
    ///
    /// # Safety
    /// No other task uses that part while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps parts disjoint")]
    pub(super) unsafe fn part(&self, row: usize, col: usize, len: usize) -> &mut [T] {
        let len = len.min(self.width - col);
        let at = row * self.stride + col;
        assert!(at + len <= self.len);
        // SAFETY: within the matrix by the assertion; exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

impl SharedOutput<'_> {
    /// `cols` columns from `col` on of some rows.
    ///
    /// # Safety
    /// No other task uses that part while the tile is used.
    pub(super) unsafe fn tile(&self, rows: Range<usize>, col: usize, cols: usize) -> Tile {
        assert!(col + cols <= self.width);
        assert!(rows.is_empty() || (rows.end - 1) * self.stride + col + cols <= self.len);
        Tile {
            // SAFETY: within the matrix by the assertions.
            start: unsafe { self.start.add(rows.start * self.stride + col) },
            stride: self.stride,
        }
    }
}

/// Some rows and columns of an output, by where they begin.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    start: *mut f32,
    stride: usize,
}

impl Tile {
    /// All of a matrix with rows of `stride`.
    pub(super) fn of(matrix: &mut [f32], stride: usize) -> Self {
        Self::new(matrix.as_mut_ptr(), stride)
    }

    /// What begins there, with rows of `stride`.
    pub(super) fn new(start: *mut f32, stride: usize) -> Self {
        Self { start, stride }
    }

    /// Where its rows from `i` on and columns from `col` on begin.
    #[inline(always)]
    pub(super) fn from(self, i: usize, col: usize) -> Self {
        Self {
            start: self.start.wrapping_add(i * self.stride + col),
            ..self
        }
    }

    /// Where columns of row `i` from `col` on begin.
    #[inline(always)]
    pub(super) fn at(self, i: usize, col: usize) -> *mut f32 {
        self.from(i, col).start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_whole_and_become_smaller() {
        for threads in [2, 3, 8] {
            for count in [0, 1, 7, 36, 1000] {
                let start = |i| range_start(i, threads, count);
                let tasks = threads * TASKS_PER_THREAD;
                assert_eq!((start(0), start(tasks)), (0, count));
                assert!((0..tasks).all(|i| start(i) <= start(i + 1)));
            }
            let len = |i| range_start(i + 1, threads, 4800) - range_start(i, threads, 4800);
            assert_eq!(len(0), 2400 / threads);
            assert_eq!(len(threads * TASKS_PER_THREAD - 1), 600 / threads);
        }
    }
}
