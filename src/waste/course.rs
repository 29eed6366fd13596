//! When it happened: device time by cause, slice by slice of the window.
//!
//! Every posting of device time belongs to one slice: idle time to the slice in which it passed,
//! and all of a step's to the slice in which the device turned to it. So the slices of a cause
//! sum to the cause's account, to the last nanosecond.

use std::collections::BTreeMap;

use super::catalogue::{Cause, Level};
use super::posting::{Account, Commodity, add_at};
use crate::ledger::apportion;
use crate::trace::Window;
use crate::unit::Nanos;

/// Slices of a window.
pub const SLICES: usize = 60;

/// Device time by cause and slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    slice: Nanos,
    rows: BTreeMap<(Cause, Level), Vec<u128>>,
}

impl Course {
    /// How long a slice is; the last one may end before.
    #[must_use]
    pub const fn slice(&self) -> Nanos {
        self.slice
    }

    /// Device nanoseconds of each cause at each level, slice by slice.
    pub fn rows(&self) -> impl Iterator<Item = (Cause, Level, &[u128])> {
        self.rows.iter().map(|(&(cause, level), slices)| (cause, level, slices.as_slice()))
    }

    /// Adds what happened on another device over the same window.
    pub(super) fn add(&mut self, other: Self) {
        self.slice = other.slice;
        for (place, slices) in other.rows {
            let row = self.rows.entry(place).or_insert_with(|| vec![0; SLICES]);
            row.iter_mut().zip(slices).for_each(|(sum, more)| *sum += more);
        }
    }

    /// Moves `amount` from one cause to another, from each slice in proportion to what it has.
    pub(super) fn reclassify(&mut self, from: (Cause, Level), to: (Cause, Level), amount: u128) {
        let Some(row) = self.rows.get_mut(&from).filter(|_| amount > 0) else { return };
        let moved = apportion(amount.min(row.iter().sum()), row);
        // Rounding may ask a slice for a unit more than it has; another has it then.
        let mut short = 0;
        let mut given = vec![0; SLICES];
        for ((held, wanted), given) in row.iter_mut().zip(moved).zip(&mut given) {
            *given = (wanted + short).min(*held);
            short = wanted + short - *given;
            *held -= *given;
        }
        if row.iter().all(|held| *held == 0) {
            self.rows.remove(&from);
        }
        let row = self.rows.entry(to).or_insert_with(|| vec![0; SLICES]);
        row.iter_mut().zip(given).for_each(|(sum, more)| *sum += more);
    }
}

/// Gathers a course while time is walked.
#[derive(Debug)]
pub(super) struct Slicer {
    start: u64,
    length: u64,
    at: usize,
    /// By slice, then by the number of an account.
    amounts: Vec<Vec<u128>>,
}

impl Slicer {
    /// Slices of a window.
    pub(super) fn new(window: Window) -> Self {
        let length = window.end_ns.saturating_sub(window.start_ns).0;
        Self {
            start: window.start_ns.0,
            length: length.div_ceil(SLICES as u64).max(1),
            at: 0,
            amounts: vec![Vec::new(); SLICES],
        }
    }

    /// Whether `at` lies in another slice than what came last.
    pub(super) fn turns(&self, at: u64) -> bool {
        self.slice(at) != self.at
    }

    /// What comes happened at `at`.
    pub(super) fn turn(&mut self, at: u64) {
        self.at = self.slice(at);
    }

    fn slice(&self, at: u64) -> usize {
        let slice = at.saturating_sub(self.start) / self.length;
        (slice as usize).min(SLICES - 1)
    }

    /// When the slice of `at` ends.
    pub(super) const fn end(&self, at: u64) -> u64 {
        let slice = at.saturating_sub(self.start) / self.length;
        if slice + 1 >= SLICES as u64 { u64::MAX } else { self.start + (slice + 1) * self.length }
    }

    /// `amount` goes to the account of a number.
    pub(super) fn post(&mut self, number: usize, amount: u128) {
        add_at(&mut self.amounts[self.at], number, amount);
    }

    /// The course of device time; `accounts` are by number.
    pub(super) fn finish(self, accounts: &[(Commodity, Account)]) -> Course {
        let mut rows: BTreeMap<(Cause, Level), Vec<u128>> = BTreeMap::new();
        for (slice, amounts) in self.amounts.iter().enumerate() {
            for (&amount, (commodity, account)) in amounts.iter().zip(accounts) {
                if amount > 0 && *commodity == Commodity::DeviceTime {
                    let place = (account.cause, account.level);
                    rows.entry(place).or_insert_with(|| vec![0; SLICES])[slice] += amount;
                }
            }
        }
        Course { slice: Nanos(self.length), rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waste::posting::Basis;

    fn window(start: u64, end: u64) -> Window {
        Window { start_ns: Nanos(start), end_ns: Nanos(end) }
    }

    #[test]
    fn slices_cover_the_window() {
        let slicer = Slicer::new(window(100, 100 + 6_000));
        assert_eq!(slicer.end(100), 200);
        assert_eq!(slicer.end(199), 200);
        assert_eq!(slicer.end(200), 300);
        assert_eq!(slicer.end(100 + 5_900), u64::MAX);
        let empty = Slicer::new(window(5, 5));
        assert_eq!(empty.end(5), 6);
    }

    #[test]
    fn what_is_posted_lies_in_its_slice_and_beyond_the_window_in_the_last() {
        let mut slicer = Slicer::new(window(0, 6_000));
        let accounts = [
            (Commodity::DeviceTime, Account::of(Cause::NoDemand, Basis::Measured)),
            (Commodity::Bytes, Account::of(Cause::KvStreaming, Basis::Counted)),
        ];
        for (at, number, amount) in [(0, 0, 5), (99, 0, 6), (250, 0, 7), (250, 1, 9), (9_999, 0, 1)]
        {
            slicer.turn(at);
            slicer.post(number, amount);
        }
        let course = slicer.finish(&accounts);
        let rows: Vec<_> = course.rows().collect();
        assert_eq!(rows.len(), 1);
        let (cause, _, slices) = rows[0];
        assert_eq!((cause, slices[0], slices[2], slices[SLICES - 1]), (Cause::NoDemand, 11, 7, 1));
        assert_eq!(slices.iter().sum::<u128>(), 19);
    }

    #[test]
    fn moving_keeps_every_sum() {
        let place = |cause: Cause| (cause, cause.entry().level);
        let (idle, headroom) = (place(Cause::NoDemand), place(Cause::SloHeadroom));
        for amount in [0, 1, 2, 30, 58, 59, 60, 99] {
            let mut row = vec![0; SLICES];
            (row[3], row[7], row[59]) = (1, 57, 1);
            let mut course = Course { slice: Nanos(1), rows: [(idle, row.clone())].into() };
            course.reclassify(idle, headroom, amount);
            let sum = |cause: Cause| -> u128 {
                course.rows().filter(|row| row.0 == cause).flat_map(|row| row.2).sum()
            };
            assert_eq!(sum(Cause::SloHeadroom), amount.min(59), "{amount}");
            assert_eq!(sum(Cause::SloHeadroom) + sum(Cause::NoDemand), 59, "{amount}");
            for (slice, before) in row.iter().enumerate() {
                let after: u128 = course.rows().map(|row| row.2[slice]).sum();
                assert_eq!(after, *before, "slice {slice} of {amount}");
            }
        }
    }
}
