//! Threads that stay, and a fork-join over them that costs about a microsecond.
//!
//! A step of a small model forks some hundred times, so workers spin for a moment after each
//! task: the next one is most often already on its way. Then they park, so that an idle engine
//! burns no processor time. The pool knows nothing of matrices.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The system gave no thread.
    #[error("start worker thread {worker} of {workers}: {source}")]
    Spawn {
        /// Which worker.
        worker: usize,
        /// How many there were to be.
        workers: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What every worker runs: its own index and the number of workers.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What every worker runs: its own index and its chunks.
type SharedTask<'a> = dyn Fn(usize, Chunks<'_>) + Sync + 'a;

/// How long a worker looks for the next task before it parks. Longer than what lies between two
/// operations of a step, and than what lies between two steps of a busy engine.
const SPIN: Duration = Duration::from_micros(200);

/// Looks at the clock once in so many looks at the task.
const LOOKS_PER_CLOCK: u32 = 64;

/// Looks before the core is offered to someone else, once per clock reading.
const LOOKS_BEFORE_YIELD: u32 = 1024;

/// A fixed number of threads that run one task at a time together.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// One fork at a time, whoever asks.
    turn: Mutex<()>,
    /// One per worker; in use while [`Pool::share`] runs.
    shares: Vec<Share>,
}

struct Shared {
    workers: usize,
    /// Counts forks; a change is the signal to start.
    fork: AtomicU64,
    /// Valid from the change of `fork` until `running` is zero.
    task: UnsafeCell<Option<*const Task<'static>>>,
    /// Workers, besides the caller, that have not ended the task.
    running: AtomicUsize,
    stop: AtomicBool,
    /// One per worker besides the caller: whether it is parked or about to be.
    parked: Vec<AtomicBool>,
    caller_parked: AtomicBool,
    caller: Mutex<Option<Thread>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `task` is written only by the thread that holds `turn`, while no worker runs; workers
// read it after they saw `fork` change (acquire) and before they lower `running` (release). The
// task itself is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is used by no one outside a fork.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread runs a task of some pool.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// Starts `threads - 1` threads; the caller of [`Pool::run`] is the first worker. Zero is
    /// taken as one.
    ///
    /// # Errors
    /// [`PoolError::Spawn`] if the system gives no thread.
    pub fn new(threads: usize) -> Result<Self, PoolError> {
        let workers = threads.max(1);
        let shared = Arc::new(Shared {
            workers,
            fork: AtomicU64::new(0),
            task: UnsafeCell::new(None),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            parked: (1..workers).map(|_| AtomicBool::new(false)).collect(),
            caller_parked: AtomicBool::new(false),
            caller: Mutex::new(None),
            panic: Mutex::new(None),
        });
        // Made first, so that its drop joins the threads already started if one fails.
        let shares = (0..workers).map(|_| Share::of(0..0)).collect();
        let mut pool = Self { shared, threads: Vec::new(), turn: Mutex::new(()), shares };
        for worker in 1..workers {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("gemba-{worker}"))
                .spawn(move || shared.work(worker))
                .map_err(|source| PoolError::Spawn { worker, workers, source })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Workers, the caller included.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.workers
    }

    /// Runs `task(worker, workers)` once on every worker and returns when all have ended. A task
    /// that forks again runs the inner task alone, as worker 0 of 1.
    ///
    /// # Panics
    /// If the task panicked on any worker, with the same payload, after all have ended.
    pub fn run(&self, task: &Task<'_>) {
        if self.shared.workers == 1 || INSIDE.get() {
            task(0, 1);
            return;
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.fork(task, turn);
    }

    /// Cuts `0..items` into one range per worker and runs `task(worker, chunks)` on every
    /// worker: `chunks` gives what is to be done, at most `chunk` items at a time, first of the
    /// worker's own range in order and then of the ends of others' ranges. So a worker walks
    /// through memory in one direction, and none waits for one that has been held up.
    ///
    /// # Panics
    /// As [`Pool::run`], and if there are more than `u32::MAX` items.
    pub fn share(&self, items: usize, chunk: usize, task: &SharedTask<'_>) {
        assert!(u32::try_from(items).is_ok(), "{items} items");
        let chunk = chunk.max(1);
        if self.shared.workers == 1 || INSIDE.get() {
            let shares = [Share::of(0..items)];
            task(0, Chunks { shares: &shares, worker: 0, chunk });
            return;
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = self.shared.workers;
        for (worker, share) in self.shares.iter().enumerate() {
            share.set(items * worker / workers..items * (worker + 1) / workers);
        }
        let task = |worker, _| task(worker, Chunks { shares: &self.shares, worker, chunk });
        self.fork(&task, turn);
    }

    fn fork(&self, task: &Task<'_>, turn: MutexGuard<'_, ()>) {
        self.shared.start(task, &self.threads);
        INSIDE.set(true);
        let mine = catch_unwind(AssertUnwindSafe(|| task(0, self.shared.workers)));
        INSIDE.set(false);
        self.shared.join();
        let theirs = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Some(payload) = mine.err().or(theirs) {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.fork.fetch_add(1, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A worker catches what its tasks throw, so it ends well.
            let _ended = thread.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pool").field("workers", &self.shared.workers).finish()
    }
}

impl Shared {
    fn start(&self, task: &Task<'_>, threads: &[JoinHandle<()>]) {
        let task: *const Task<'_> = task;
        // SAFETY: only the lifetime changes; `run` does not return before every worker ended the
        // task.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: no worker runs, and the caller holds `turn`.
        unsafe { *self.task.get() = Some(task) };
        self.running.store(self.workers - 1, Ordering::Relaxed);
        self.fork.fetch_add(1, Ordering::SeqCst);
        for (parked, thread) in self.parked.iter().zip(threads) {
            // A worker says that it parks, then looks at `fork` once more; so either it sees
            // this fork, or it is seen here.
            if parked.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
    }

    fn join(&self) {
        if spin(|| self.running.load(Ordering::Acquire) == 0) {
            return;
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        self.caller_parked.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) != 0 {
            std::thread::park();
        }
        self.caller_parked.store(false, Ordering::SeqCst);
    }

    fn work(&self, worker: usize) {
        let mut seen = 0;
        INSIDE.set(true);
        while !self.stop.load(Ordering::SeqCst) {
            self.wait(worker, seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // A fork begins only when the one before has ended on all workers, so none is missed.
            seen = self.fork.load(Ordering::Acquire);
            // SAFETY: `fork` changed, so the task is set and lives until `running` is lowered.
            let task = unsafe { *self.task.get() };
            if let Some(task) = task {
                // SAFETY: as above.
                let task = unsafe { &*task };
                let result = catch_unwind(AssertUnwindSafe(|| task(worker, self.workers)));
                if let Err(payload) = result {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
                }
            }
            self.end();
        }
    }

    /// Returns when `fork` differs from `seen`.
    fn wait(&self, worker: usize, seen: u64) {
        if spin(|| self.fork.load(Ordering::Acquire) != seen) {
            return;
        }
        let parked = &self.parked[worker - 1];
        parked.store(true, Ordering::SeqCst);
        while self.fork.load(Ordering::SeqCst) == seen {
            std::thread::park();
        }
        parked.store(false, Ordering::SeqCst);
    }

    fn end(&self) {
        if self.running.fetch_sub(1, Ordering::SeqCst) == 1
            && self.caller_parked.load(Ordering::SeqCst)
        {
            let caller = self.caller.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(caller) = caller {
                caller.unpark();
            }
        }
    }
}

/// What is left of a worker's range, on a cache line of its own.
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    fn of(range: Range<usize>) -> Self {
        let share = Self(AtomicU64::new(0));
        share.set(range);
        share
    }

    fn set(&self, range: Range<usize>) {
        // The fork that follows makes it visible.
        self.0.store((range.start as u64) << 32 | range.end as u64, Ordering::Relaxed);
    }

    /// Takes at most `chunk` items of the beginning, or of the end.
    fn take(&self, chunk: usize, from_end: bool) -> Option<Range<usize>> {
        let mut left = self.0.load(Ordering::Relaxed);
        loop {
            let (start, end) = ((left >> 32) as usize, (left & u64::from(u32::MAX)) as usize);
            if start >= end {
                return None;
            }
            let taken = chunk.min(end - start);
            let (range, rest) = if from_end {
                (end - taken..end, (start, end - taken))
            } else {
                (start..start + taken, (start + taken, end))
            };
            let rest = (rest.0 as u64) << 32 | rest.1 as u64;
            match self.0.compare_exchange_weak(left, rest, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(range),
                Err(now) => left = now,
            }
        }
    }
}

/// What a worker of [`Pool::share`] is to do.
pub struct Chunks<'a> {
    shares: &'a [Share],
    worker: usize,
    chunk: usize,
}

impl Iterator for Chunks<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        self.shares[self.worker].take(self.chunk, false).or_else(|| {
            let others = self.shares[self.worker + 1..].iter().chain(&self.shares[..self.worker]);
            others.into_iter().find_map(|share| share.take(self.chunk, true))
        })
    }
}

/// Looks until `done`, for a while; whether it became so.
fn spin(done: impl Fn() -> bool) -> bool {
    let mut began = None;
    let mut looks: u32 = 0;
    loop {
        if done() {
            return true;
        }
        std::hint::spin_loop();
        looks += 1;
        if looks.is_multiple_of(LOOKS_PER_CLOCK) {
            let began = began.get_or_insert_with(Instant::now);
            if began.elapsed() > SPIN {
                return false;
            }
            if looks > LOOKS_BEFORE_YIELD {
                std::thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_once_per_fork() {
        for threads in [0, 1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> =
                (0..pool.workers()).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..500 {
                pool.run(&|worker, workers| {
                    assert_eq!(workers, counts.len());
                    counts[worker].fetch_add(1, Ordering::Relaxed);
                });
            }
            for count in &counts {
                assert_eq!(count.load(Ordering::Relaxed), 500);
            }
        }
    }

    #[test]
    fn every_item_is_shared_out_once() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            for (items, chunk) in [(0, 1), (1, 0), (2, 5), (7, 1), (100, 3), (1000, 16)] {
                let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.share(items, chunk, &|_, chunks| {
                    for range in chunks {
                        assert!(range.len() <= chunk.max(1));
                        for count in &counts[range] {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn who_is_done_takes_over_from_who_is_held_up() {
        let pool = Pool::new(2).unwrap();
        let done = [const { AtomicUsize::new(0) }; 2];
        pool.share(10, 1, &|worker, chunks| {
            for range in chunks {
                if worker == 1 {
                    while done[0].load(Ordering::SeqCst) < 9 {
                        std::hint::spin_loop();
                    }
                }
                done[worker].fetch_add(range.len(), Ordering::SeqCst);
            }
        });
        let [first, second] = done.map(AtomicUsize::into_inner);
        assert_eq!(first + second, 10);
        assert!(first >= 9);
    }

    #[test]
    fn parked_workers_wake() {
        let pool = Pool::new(3).unwrap();
        let count = AtomicUsize::new(0);
        for _ in 0..5 {
            std::thread::sleep(SPIN * 10);
            pool.run(&|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.load(Ordering::Relaxed), 15);
    }

    #[test]
    fn a_parked_caller_wakes() {
        let pool = Pool::new(2).unwrap();
        let ended = AtomicBool::new(false);
        pool.run(&|worker, _| {
            if worker == 1 {
                std::thread::sleep(SPIN * 20);
                ended.store(true, Ordering::SeqCst);
            }
        });
        assert!(ended.load(Ordering::SeqCst));
    }

    #[test]
    fn a_panic_of_any_worker_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for guilty in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|worker, _| assert!(worker != guilty, "worker {worker} fell"));
            }));
            let payload = result.unwrap_err();
            let message = payload.downcast_ref::<String>().unwrap();
            assert_eq!(message, &format!("worker {guilty} fell"));
            let count = AtomicUsize::new(0);
            pool.run(&|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 3);
        }
    }

    #[test]
    fn a_fork_within_a_fork_runs_alone() {
        let pool = Pool::new(2).unwrap();
        let count = AtomicUsize::new(0);
        pool.run(&|_, _| {
            pool.run(&|worker, workers| {
                assert_eq!((worker, workers), (0, 1));
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(2).unwrap();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(&|worker, _| {
                            if worker == 0 {
                                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                                inside.fetch_sub(1, Ordering::SeqCst);
                            }
                        });
                    }
                });
            }
        });
    }
}
