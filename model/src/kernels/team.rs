//! A team of threads for many short parallel regions, one after the other.
//!
//! A decoding step is some two hundred regions of a few microseconds; waking a
//! sleeping thread for each would cost more than the work. A team's helpers
//! therefore spin for a moment between regions before they sleep. Each thread has
//! tasks of its own, the same in every region of as many, so that what it fetched for
//! a region to come is in its own caches. A region never waits for a helper that has
//! not begun: whoever has done its own tasks takes the others', and a helper that the
//! system has put aside holds up nothing but the task it is in. Knows nothing of what
//! the tasks compute.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use super::memory::Span;

/// The most threads of a team.
pub const TEAM_THREADS_MAX: usize = 256;
/// Stack of a helper; grammars recurse on it.
const STACK_BYTES: usize = 8 << 20;
/// Bits of a count in a ticket.
const COUNT_BITS: u32 = 32;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// The most tasks of a region: fewer than a ticket counts, though each thread may
/// count one too many.
const TASKS_MAX: usize = 1 << 20;
/// How often a helper looks for work before it lets others run.
const SPINS: u32 = 2_000;
/// How often it lets others run before it sleeps.
const YIELDS: u32 = 50;

/// Streams of memory that a helper is told of at once.
pub(super) const SPANS: usize = 3;
/// How much of it at a time: it looks for work in between.
const FETCH_STEP: usize = 1 << 10;

/// A region's work: called with the number of each task.
type Job<'a> = &'a (dyn Fn(usize) + Sync);

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(Current::Rayon) };
}

/// What a thread runs its parallel regions on.
#[derive(Clone, Copy)]
enum Current {
    /// Rayon's current pool.
    Rayon,
    /// The team that it leads.
    Leads(*const Team),
    /// Itself: it is in a region already.
    Itself,
}

/// Threads that run parallel regions for the thread that leads them.
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Of each thread, the leader's first.
    queues: Vec<Queue>,
    /// Counts the regions.
    region: AtomicUsize,
    /// Where the region's [`Job`] lies.
    job: AtomicPtr<()>,
    /// Tasks that have ended in this region.
    done: AtomicUsize,
    sleeping: AtomicUsize,
    stop: AtomicBool,
    /// For each helper.
    upcoming: Vec<Upcoming>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A thread's own tasks in a region: the numbers that are its own, modulo the threads.
/// In a cache line, and the one that the hardware fetches with it, of its own.
#[derive(Default)]
#[repr(align(128))]
struct Queue {
    /// Tasks, and tasks taken. Whoever adds one has the task that was next, if there
    /// was one; the region cannot end before that task has.
    ticket: AtomicU64,
}

/// Memory that a helper will read in a region to come. It may be read while it is
/// written: what is fetched then is of no use, and does no harm.
#[derive(Default)]
struct Upcoming {
    /// Counts what was announced.
    version: AtomicUsize,
    /// Starts and lengths in bytes.
    spans: [(AtomicUsize, AtomicUsize); SPANS],
}

/// How far a helper is with its [`Upcoming`].
#[derive(Default)]
struct Fetched {
    version: usize,
    steps_left: usize,
    spans: [Span; SPANS],
}

impl Fetched {
    /// Begins to fetch a little more; false if there is nothing left.
    fn more(&mut self, upcoming: &Upcoming) -> bool {
        let version = upcoming.version.load(Ordering::Acquire);
        if version != self.version {
            let load = |at: &AtomicUsize| at.load(Ordering::Relaxed);
            self.spans = std::array::from_fn(|i| {
                let (start, bytes) = &upcoming.spans[i];
                Span::from_parts((load(start), load(bytes)))
            });
            let bytes: usize = self.spans.iter().map(|span| span.bytes()).sum();
            self.version = version;
            self.steps_left = bytes.div_ceil(FETCH_STEP);
        }
        if self.steps_left == 0 {
            return false;
        }
        for span in &mut self.spans {
            let (now, later) = span.split_at(span.bytes().div_ceil(self.steps_left));
            now.fetch();
            *span = later;
        }
        self.steps_left -= 1;
        true
    }
}

/// The fields of a ticket.
#[derive(Clone, Copy)]
struct Ticket(u64);

impl Ticket {
    fn new(tasks: usize) -> Self {
        Self((tasks as u64) << COUNT_BITS)
    }

    fn next(self) -> usize {
        (self.0 & COUNT_MASK) as usize
    }

    fn has_task(self) -> bool {
        self.0 & COUNT_MASK < self.0 >> COUNT_BITS
    }
}

impl Queue {
    /// Gives the thread other tasks; none of the last ones is left.
    fn fill(&self, tasks: usize) {
        // publishes the job
        self.ticket.store(Ticket::new(tasks).0, Ordering::Release);
    }

    /// Takes the next task, counted among the thread's own.
    fn take(&self) -> Option<usize> {
        if !Ticket(self.ticket.load(Ordering::Relaxed)).has_task() {
            return None;
        }
        let ticket = Ticket(self.ticket.fetch_add(1, Ordering::AcqRel));
        ticket.has_task().then(|| ticket.next())
    }
}

/// Sets what the thread runs on, and back again when it is dropped.
struct Restore(Current);

impl Restore {
    fn after(current: Current) -> Self {
        Self(CURRENT.replace(current))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

impl Team {
    /// A team of `threads`, the leading one included.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub fn new(threads: usize, name: &str) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queues: (0..threads.clamp(1, TEAM_THREADS_MAX))
                .map(|_| Queue::default())
                .collect(),
            region: AtomicUsize::new(0),
            job: AtomicPtr::new(ptr::null_mut()),
            done: AtomicUsize::new(0),
            sleeping: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            upcoming: (1..threads.clamp(1, TEAM_THREADS_MAX))
                .map(|_| Upcoming::default())
                .collect(),
            panic: Mutex::new(None),
        });
        let mut team = Self {
            shared,
            helpers: Vec::new(),
        };
        for i in 1..threads.clamp(1, TEAM_THREADS_MAX) {
            let shared = Arc::clone(&team.shared);
            let builder = thread::Builder::new()
                .name(format!("{name}-{i}"))
                .stack_size(STACK_BYTES);
            team.helpers.push(builder.spawn(move || shared.help(i))?);
        }
        Ok(team)
    }

    /// Runs `work`; the parallel regions that this thread starts meanwhile run
    /// on the team.
    pub fn lead<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let _restore = Restore::after(Current::Leads(self));
        work()
    }

    /// Runs a region of at most [`TASKS_MAX`] tasks.
    fn region(&self, tasks: usize, job: Job<'_>) {
        let shared = &*self.shared;
        let _restore = Restore::after(Current::Itself);
        shared.done.store(0, Ordering::Relaxed);
        let at: *const Job<'_> = &raw const job;
        shared.job.store(at.cast_mut().cast(), Ordering::Relaxed);
        let threads = shared.queues.len();
        for (thread, queue) in shared.queues.iter().enumerate() {
            queue.fill((tasks + threads - 1 - thread) / threads);
        }
        // in one order with the sleepers' count, so that either this thread sees a
        // sleeper or the sleeper sees that there is a region
        shared.region.fetch_add(1, Ordering::SeqCst);
        if shared.sleeping.load(Ordering::SeqCst) > 0 {
            self.helpers
                .iter()
                .for_each(|helper| helper.thread().unpark());
        }
        shared.work(0);
        // the job is borrowed until the last task has ended
        let mut spins = 0u32;
        while shared.done.load(Ordering::Acquire) < tasks {
            spins = spins.saturating_add(1);
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        if let Some(panic) = shared.panic.lock().take() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // its tasks' panics were caught
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// Takes tasks of the current region until there is none: a thread's own, then
    /// those of the threads after it.
    fn work(&self, thread: usize) {
        let threads = self.queues.len();
        for of in (thread..threads).chain(0..thread) {
            while let Some(task) = self.queues[of].take() {
                // SAFETY: the task taken keeps its region from ending, and until
                // then the leader keeps the job where the pointer says; the ticket
                // was read after the pointer was written.
                let job = unsafe { *self.job.load(Ordering::Relaxed).cast::<Job<'_>>() };
                let ended = catch_unwind(AssertUnwindSafe(|| job(task * threads + of)));
                if let Err(panic) = ended {
                    self.panic.lock().get_or_insert(panic);
                }
                self.done.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// The life of a helper, which is thread `thread` of the team.
    fn help(&self, thread: usize) {
        let _restore = Restore::after(Current::Itself);
        let mut fetched = Fetched::default();
        while !self.stop.load(Ordering::Relaxed) {
            // a region that begins after this is seen to have begun, whichever of its
            // tasks are taken now
            let region = self.region.load(Ordering::Acquire);
            self.work(thread);
            self.wait(region, &self.upcoming[thread - 1], &mut fetched);
        }
    }

    /// Until there is another region than that.
    fn wait(&self, region: usize, upcoming: &Upcoming, fetched: &mut Fetched) {
        let is_work = |order| self.region.load(order) != region;
        for _ in 0..SPINS {
            if is_work(Ordering::Relaxed) {
                return;
            }
            if !fetched.more(upcoming) {
                std::hint::spin_loop();
            }
        }
        for _ in 0..YIELDS {
            if is_work(Ordering::Relaxed) {
                return;
            }
            thread::yield_now();
        }
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        if !is_work(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs `task(0) … task(count − 1)` on this thread's team, or alone if it is in
/// a region already; false, and nothing done, if it has none.
pub(super) fn run(count: usize, task: Job<'_>) -> bool {
    match CURRENT.get() {
        Current::Rayon => return false,
        Current::Itself => (0..count).for_each(task),
        Current::Leads(team) => {
            // SAFETY: `lead` borrows the team while the thread leads it.
            let team = unsafe { &*team };
            if count <= 1 || team.helpers.is_empty() {
                (0..count).for_each(task);
            } else {
                for first in (0..count).step_by(TASKS_MAX) {
                    let tasks = (count - first).min(TASKS_MAX);
                    team.region(tasks, &|i| task(first + i));
                }
            }
        }
    }
    true
}

/// Tells each of the thread's helpers what it will read in a region to come: it begins
/// to fetch that when it has nothing else to do. `spans` is called with the helpers'
/// numbers, from 1.
pub(super) fn announce(spans: impl Fn(usize) -> [Span; SPANS]) {
    let Current::Leads(team) = CURRENT.get() else {
        return;
    };
    // SAFETY: as in `run`.
    let team = unsafe { &*team };
    for (helper, upcoming) in team.shared.upcoming.iter().enumerate() {
        for ((start, bytes), span) in upcoming.spans.iter().zip(spans(helper + 1)) {
            let (at, len) = span.parts();
            start.store(at, Ordering::Relaxed);
            bytes.store(len, Ordering::Relaxed);
        }
        upcoming.version.fetch_add(1, Ordering::Release);
    }
}

/// Threads that this thread's regions run on; `None` if it has no team.
pub(super) fn threads() -> Option<usize> {
    match CURRENT.get() {
        Current::Rayon => None,
        Current::Itself => Some(1),
        // SAFETY: as in `run`.
        Current::Leads(team) => Some(unsafe { &*team }.helpers.len() + 1),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_task_runs_once_in_every_region() {
        let mut team = Team::new(3, "test").unwrap();
        team.lead(|| {
            for region in 0..20_000usize {
                let count = region % 17;
                let ran: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                assert!(run(count, &|i| {
                    ran[i].fetch_add(1, Ordering::Relaxed);
                }));
                assert!(ran.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        });
    }

    #[test]
    fn helpers_wake_up_after_a_rest() {
        let mut team = Team::new(2, "test").unwrap();
        team.lead(|| {
            for _ in 0..20 {
                thread::sleep(Duration::from_millis(5));
                let leader = thread::current().id();
                let helped = AtomicBool::new(false);
                // the leader's task ends only when the helper has had one
                run(2, &|_| {
                    if thread::current().id() == leader {
                        while !helped.load(Ordering::Relaxed) {
                            thread::yield_now();
                        }
                    } else {
                        helped.store(true, Ordering::Relaxed);
                    }
                });
            }
        });
    }

    #[test]
    fn a_task_is_the_same_threads_in_every_region() {
        let mut team = Team::new(3, "test").unwrap();
        team.lead(|| {
            let mut before = None;
            for _ in 0..200 {
                let began = AtomicUsize::new(0);
                let threads = [(); 3].map(|()| Mutex::new(None));
                // none ends before all have begun, so that no thread has time for two
                run(3, &|i| {
                    *threads[i].lock() = Some(thread::current().id());
                    began.fetch_add(1, Ordering::Relaxed);
                    while began.load(Ordering::Relaxed) < 3 {
                        thread::yield_now();
                    }
                });
                let threads = threads.map(Mutex::into_inner);
                assert_eq!(*before.get_or_insert(threads), threads);
            }
        });
    }

    #[test]
    fn what_is_announced_is_fetched_once() {
        let mut team = Team::new(2, "test").unwrap();
        let values = [0u16; 2500];
        let spans = || [2500, 0, 1].map(|len| Span::of(&values[..len]));
        team.lead(|| announce(|helper| [spans(), Default::default()][helper - 1]));
        let shared = Arc::clone(&team.shared);
        let upcoming = &shared.upcoming[0];
        let mut fetched = Fetched::default();
        assert!(fetched.more(upcoming));
        assert_eq!(fetched.spans[0].bytes(), 4000);
        assert!((1..5).all(|_| fetched.more(upcoming)));
        assert!(fetched.spans.iter().all(|span| span.bytes() == 0));
        assert!(!fetched.more(upcoming));
        team.lead(|| announce(|_| spans()));
        assert!(fetched.more(upcoming));
    }

    #[test]
    fn regions_within_regions_run_alone_and_no_team_is_rayons_matter() {
        assert!(!run(1, &|_| panic!("there is no team")));
        assert_eq!(threads(), None);
        let mut team = Team::new(2, "test").unwrap();
        let inner = AtomicUsize::new(0);
        team.lead(|| {
            assert_eq!(threads(), Some(2));
            run(4, &|_| {
                assert_eq!(threads(), Some(1));
                run(3, &|_| {
                    inner.fetch_add(1, Ordering::Relaxed);
                });
            });
        });
        assert_eq!(inner.into_inner(), 12);
        assert_eq!(threads(), None);
    }

    #[test]
    fn a_panic_reaches_the_leader_and_the_team_goes_on() {
        let mut team = Team::new(2, "test").unwrap();
        team.lead(|| {
            for bad in 0..8 {
                let region = || run(8, &|i| assert!(i != bad));
                assert!(catch_unwind(AssertUnwindSafe(region)).is_err());
                let sum = AtomicUsize::new(0);
                run(8, &|i| {
                    sum.fetch_add(i, Ordering::Relaxed);
                });
                assert_eq!(sum.into_inner(), 28);
            }
        });
    }
}
