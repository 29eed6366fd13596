//! The recent past, interval by interval: what sparklines and charts are drawn from.

use std::collections::VecDeque;

use super::tally::{ByCause, CAUSE_COUNT};
use crate::unit::Nanos;
use crate::waste::catalogue::Cause;

/// Intervals that are kept.
pub const INTERVALS: usize = 240;

/// What happened in an interval.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Device time by cause, in the order of the catalogue; open work as if it were delivered.
    causes: ByCause,
    /// Prompt tokens computed for the first time.
    pub prompt_tokens: u64,
    /// Tokens that requests were given.
    pub output_tokens: u64,
    /// Tokens that requests which came may generate.
    pub asked_tokens: u64,
    /// Requests that came.
    pub arrived: u64,
    /// Requests that left.
    pub finished: u64,
    /// Of these, requests that broke the promise.
    pub broke_promise: u64,
    /// Steps.
    pub steps: u64,
    /// The longest queue that a step saw.
    pub queued: u32,
    /// The most requests in a step.
    pub running: u32,
    /// The most KV blocks in use.
    pub kv_blocks_used: u32,
    /// KV blocks there are.
    pub kv_blocks_total: u32,
    /// Rows computed again after a request lost its memory.
    pub preempted_rows: u64,
    /// Rows computed for a consumer that had gone.
    pub orphaned_rows: u64,
    /// The longest gap between two tokens of a request, in nanoseconds.
    pub worst_gap: u64,
    /// Readings of a meter below its reference clock for power or heat.
    pub throttled: u64,
    /// Power as last read, in milliwatts.
    pub power_mw: u64,
}

impl Default for Interval {
    fn default() -> Self {
        Self {
            causes: [0; CAUSE_COUNT],
            prompt_tokens: 0,
            output_tokens: 0,
            asked_tokens: 0,
            arrived: 0,
            finished: 0,
            broke_promise: 0,
            steps: 0,
            queued: 0,
            running: 0,
            kv_blocks_used: 0,
            kv_blocks_total: 0,
            preempted_rows: 0,
            orphaned_rows: 0,
            worst_gap: 0,
            throttled: 0,
            power_mw: 0,
        }
    }
}

impl Interval {
    /// Device nanoseconds of a cause.
    #[must_use]
    pub const fn cause(&self, cause: Cause) -> u64 {
        self.causes[cause as usize]
    }

    /// All device nanoseconds.
    #[must_use]
    pub fn device_nanos(&self) -> u64 {
        self.causes.iter().sum()
    }

    pub(super) fn add(&mut self, causes: &ByCause) {
        for (sum, amount) in self.causes.iter_mut().zip(causes) {
            *sum += amount;
        }
    }
}

/// The last intervals, oldest first. Nothing changes in one older than these.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    length: u64,
    first: u64,
    items: VecDeque<Interval>,
}

impl Recent {
    pub(super) fn new(length: Nanos) -> Self {
        Self { length: length.0.max(1), first: 0, items: VecDeque::from([Interval::default()]) }
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// The interval of a moment. A moment before all of them counts to the oldest.
    pub(super) fn at(&mut self, at: u64) -> &mut Interval {
        let wanted = (at / self.length).max(self.first);
        let last = self.first + self.items.len() as u64 - 1;
        if wanted > last + INTERVALS as u64 {
            self.items.clear();
            self.items.push_back(Interval::default());
            self.first = wanted;
        }
        while self.first + self.items.len() as u64 <= wanted {
            self.items.push_back(Interval::default());
            if self.items.len() > INTERVALS {
                self.items.pop_front();
                self.first += 1;
            }
        }
        let place = (wanted.max(self.first) - self.first) as usize;
        &mut self.items[place]
    }

    pub(super) fn items(&self) -> impl DoubleEndedIterator<Item = &Interval> + ExactSizeIterator {
        self.items.iter()
    }

    /// When the oldest begins.
    pub(super) const fn since(&self) -> Nanos {
        Nanos(self.first * self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_intervals_are_dropped() {
        let mut recent = Recent::new(Nanos(10));
        for at in 0..INTERVALS as u64 * 10 + 25 {
            recent.at(at).steps += 1;
        }
        assert_eq!(recent.items().len(), INTERVALS);
        assert_eq!(recent.since(), Nanos(30));
        assert_eq!(recent.items().next().map(|interval| interval.steps), Some(10));
        assert_eq!(recent.items().last().map(|interval| interval.steps), Some(5));
        recent.at(0).steps += 1;
        assert_eq!(recent.items().next().map(|interval| interval.steps), Some(11));
        recent.at(u64::MAX / 2).steps += 1;
        assert_eq!(recent.items().len(), 1, "a long silence is not drawn second by second");
    }
}
