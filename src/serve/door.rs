//! Between clients and the engine: who is let in, and how they speak to each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::api::ApiError;
use super::metrics::Metrics;
use super::speaker::Speaker;
use super::words::Words;
use super::{Limits, Served};
use crate::backend::Sampling;
use crate::event::{Clock, WallClock};
use crate::schedule;
use crate::unit::Nanos;

/// What the server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The model is loaded and measured.
    Starting,
    /// Requests are served.
    Serving,
    /// What runs is finished, and nothing new is taken.
    Draining,
    /// The device failed.
    Failed,
}

/// What clients want of the engine.
#[derive(Debug)]
pub(super) enum Command {
    /// Answer this.
    Submit(Box<Job>),
    /// A request was turned away, of this class and of so many tokens at most.
    TurnedAway { arrived: Nanos, class: &'static str, max_tokens: u32 },
    /// The client of this job has gone, or has all it wanted.
    Leave(u64),
    /// Finish what runs, and end.
    Drain,
}

/// The answers that one HTTP request asks for.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ticket: u64,
    pub(super) arrived: Nanos,
    pub(super) deadline: Nanos,
    pub(super) class: &'static str,
    pub(super) max_tokens: u32,
    /// Each answer: its prompt, how its tokens are chosen, who speaks it.
    pub(super) answers: Vec<(Vec<u32>, Sampling, Speaker)>,
}

/// The door. Shared by all connections and the engine's thread.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) served: Served,
    pub(super) limits: Limits,
    pub(super) memory: schedule::KvMemory,
    pub(super) words: Arc<Words>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: WallClock,
    commands: Sender<Command>,
    stage: AtomicU8,
    /// Answers that run or wait, and how many may.
    open: AtomicU32,
    capacity: u32,
    tickets: AtomicU64,
    /// When serving began.
    since: AtomicU64,
    /// When the server was made, in seconds since 1970.
    pub(super) started: u64,
}

/// A place in the engine or its queue, for one answer. Dropping it frees it.
#[derive(Debug)]
pub(super) struct Seat(Arc<Door>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A job in the engine. Dropping it tells the engine that nobody waits for it.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    door: Arc<Door>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // An engine that has ended has no job left.
        let _ = self.door.commands.send(Command::Leave(self.number));
    }
}

impl Door {
    pub(super) fn new(
        (served, limits): (Served, Limits),
        options: &schedule::Options,
        words: Arc<Words>,
        clock: WallClock,
        commands: Sender<Command>,
    ) -> Self {
        Self {
            served,
            capacity: options.batching.max_num_seqs.saturating_add(limits.queue),
            limits,
            memory: options.memory,
            words,
            metrics: Arc::new(Metrics::new()),
            clock,
            commands,
            stage: AtomicU8::new(Stage::Starting as u8),
            open: AtomicU32::new(0),
            tickets: AtomicU64::new(0),
            since: AtomicU64::new(0),
            started: super::http::seconds_since_1970(),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        let all = [Stage::Starting, Stage::Serving, Stage::Draining, Stage::Failed];
        all[usize::from(self.stage.load(Ordering::Acquire)).min(3)]
    }

    /// Goes on to `stage`; never back.
    pub(super) fn enter(&self, stage: Stage) {
        if stage == Stage::Serving {
            self.since.store(self.clock.now().0, Ordering::Release);
        }
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// Asks the engine to finish what runs, and to end.
    pub(super) fn drain(&self) {
        self.enter(Stage::Draining);
        // An engine that has ended need not be asked.
        let _ = self.commands.send(Command::Drain);
    }

    /// Whether requests are taken.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_open(&self) -> Result<(), ApiError> {
        match self.stage() {
            Stage::Serving => Ok(()),
            Stage::Starting => Err(ApiError::unavailable("the model is being loaded")),
            Stage::Draining => Err(ApiError::unavailable("it is shutting down")),
            Stage::Failed => Err(ApiError::unavailable("the device failed")),
        }
    }

    /// Places for `count` answers.
    ///
    /// # Errors
    /// If there are not so many.
    pub(super) fn sit(self: &Arc<Self>, count: u32) -> Result<Vec<Seat>, ApiError> {
        if count > self.capacity {
            let message = format!(
                "Invalid 'n': {count} answers were asked for in one request, and at most {} may \
                 run or wait.",
                self.capacity
            );
            return Err(ApiError::invalid("n", "integer_above_max_value", message));
        }
        let free = |open: u32| Some(open + count).filter(|open| *open <= self.capacity);
        match self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, free) {
            Ok(_) => Ok((0..count).map(|_| Seat(Arc::clone(self))).collect()),
            Err(open) => Err(ApiError::crowded(open, self.capacity, self.retry_after(open))),
        }
    }

    /// Answers that run or wait.
    pub(super) fn open(&self) -> u32 {
        self.open.load(Ordering::Acquire)
    }

    /// Seconds in which the queue of now would be served, at the rate so far; at most a minute.
    fn retry_after(&self, open: u32) -> u64 {
        let since = Nanos(self.since.load(Ordering::Acquire));
        let elapsed = Duration::from_nanos(self.clock.now().saturating_sub(since).0);
        let queued = u64::from(open.min(self.limits.queue));
        let seconds = elapsed.as_secs() * queued / self.metrics.completed().max(1);
        seconds.clamp(1, 60)
    }

    /// A request was turned away.
    pub(super) fn turn_away(&self, arrived: Nanos, class: &'static str, max_tokens: u32) {
        self.metrics.refused();
        // An engine that has ended records nothing.
        let _ = self.commands.send(Command::TurnedAway { arrived, class, max_tokens });
    }

    /// A number for a job.
    pub(super) fn number(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands a job to the engine.
    ///
    /// # Errors
    /// If the engine has ended.
    pub(super) fn submit(self: &Arc<Self>, job: Job) -> Result<Ticket, ApiError> {
        let number = job.ticket;
        match self.commands.send(Command::Submit(Box::new(job))) {
            Ok(()) => Ok(Ticket { number, door: Arc::clone(self) }),
            Err(_) => Err(ApiError::unavailable("the engine has ended")),
        }
    }
}
