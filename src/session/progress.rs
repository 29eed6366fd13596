//! What a waiting person may be told.

use crate::engine::Counts;
use crate::unit::{Nanos, Tokens};

/// Told at most so often.
const EVERY: Nanos = Nanos(100_000_000);

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Weights are loaded.
    Load,
    /// The profiler measures kernels, or itself.
    Calibrate,
    /// A first request that nobody sent.
    WarmUp,
    /// The workload.
    Play,
    /// It is over.
    Done,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Requests it will play.
    pub requests_total: u64,
    /// What has been done.
    pub counts: Counts,
    /// Requests in the system.
    pub live: u64,
    /// Time since the workload's beginning.
    pub elapsed: Nanos,
    /// Tokens of prompts and answers per second, over that time.
    pub tokens_per_s: f64,
    /// Time left, as far as can be told.
    pub remaining: Option<Nanos>,
}

/// Tells progress, but not too often.
pub(super) struct Teller<'a> {
    listener: &'a mut dyn FnMut(&Progress),
    told: Option<Nanos>,
    /// Requests, and tokens of their prompts and answers.
    total: (u64, Tokens),
}

impl<'a> Teller<'a> {
    pub(super) fn new(listener: &'a mut dyn FnMut(&Progress), total: (u64, Tokens)) -> Self {
        Self { listener, told: None, total }
    }

    /// A stage begins, or all is over.
    pub(super) fn stage(&mut self, stage: Stage, counts: Counts, elapsed: Nanos) {
        self.told = None;
        let progress = self.progress(stage, counts, elapsed, Nanos::ZERO);
        (self.listener)(&progress);
    }

    /// The workload goes on. `coming` is the time until its last known arrival.
    pub(super) fn play(&mut self, counts: Counts, elapsed: Nanos, coming: Nanos) {
        if self.told.is_some_and(|told| elapsed.saturating_sub(told) < EVERY) {
            return;
        }
        self.told = Some(elapsed);
        let progress = self.progress(Stage::Play, counts, elapsed, coming);
        (self.listener)(&progress);
    }

    fn progress(&self, stage: Stage, counts: Counts, elapsed: Nanos, coming: Nanos) -> Progress {
        let (requests_total, total) = self.total;
        let done = counts.prompt_tokens + counts.output_tokens_sampled;
        let seconds = elapsed.as_secs_f64();
        let tokens_per_s = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let left = total.0.saturating_sub(done) as f64;
        // No faster than it has been, and not before the last request has come.
        let work = (done > 0).then(|| Nanos::from_secs_f64(left / tokens_per_s));
        let remaining = match stage {
            Stage::Play => work.map(|work| work.max(coming)),
            _ => None,
        };
        let live = counts.arrived - counts.finished;
        Progress { stage, requests_total, counts, live, elapsed, tokens_per_s, remaining }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(prompt_tokens: u64, output_tokens_sampled: u64) -> Counts {
        Counts { prompt_tokens, output_tokens_sampled, ..Counts::default() }
    }

    #[test]
    fn it_tells_ten_times_a_second_and_estimates_from_work_and_arrivals() {
        let mut told = Vec::new();
        let mut listener = |progress: &Progress| told.push(*progress);
        let mut teller = Teller::new(&mut listener, (3, Tokens(1000)));
        teller.stage(Stage::Play, counts(0, 0), Nanos::ZERO);
        for milliseconds in 1..=1000 {
            let elapsed = Nanos(milliseconds * 1_000_000);
            let coming = Nanos(2_000_000_000).saturating_sub(elapsed);
            teller.play(counts(milliseconds / 2, milliseconds / 10), elapsed, coming);
        }
        assert_eq!(told.len(), 1 + 10);
        let last = told[10];
        assert_eq!(last.elapsed, Nanos(901_000_000));
        assert!((last.tokens_per_s - 540.0 / 0.901).abs() < 1e-6);
        assert_eq!(last.remaining, Some(Nanos(1_099_000_000)), "the last arrival decides");
        assert_eq!(told[0].remaining, None);
    }
}
