//! Splitting work over the thread's team, or over rayon's current pool where it
//! leads none, and outputs that tasks share.

use rayon::prelude::*;

use super::team;

/// Tasks for each thread: more balance better, fewer cost less.
pub(super) const TASKS_PER_THREAD: usize = 4;

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
pub(super) fn run_ranges(count: usize, task: impl Fn(std::ops::Range<usize>) + Sync + Send) {
    let tasks = (threads() * TASKS_PER_THREAD).min(count);
    run(tasks, |i| task(i * count / tasks..(i + 1) * count / tasks));
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
