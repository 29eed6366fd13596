//! In which kind of step device time went: prefill, decode, or both at once.
//!
//! One token budget serves prompts and answers alike, so a step may hold rows of both; its time
//! cannot be told apart by phase without a rule, and none is made up here. What passed in no step
//! is not here: it is what the books hold beside this.

use std::collections::BTreeMap;

use super::posting::{Account, Commodity, add_at};
use crate::event::Step;

/// What the rows of a step were for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepKind {
    /// Prompts only.
    Prefill,
    /// Answers only.
    Decode,
    /// Prompts and answers in one batch.
    Mixed,
}

impl StepKind {
    /// Every kind, in the order of a request's life.
    pub const ALL: [Self; 3] = [Self::Prefill, Self::Mixed, Self::Decode];

    fn of(step: &Step) -> Self {
        let answers = step.rows_decode + step.rows_draft + step.rows_verify;
        match (step.rows_prefill > 0, answers > 0) {
            (true, true) => Self::Mixed,
            (true, false) => Self::Prefill,
            (false, _) => Self::Decode,
        }
    }
}

/// Device time of steps by device, kind of step and account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    rows: BTreeMap<(u16, StepKind), Vec<(Account, u128)>>,
}

impl Phases {
    /// What each account took of a device in steps of a kind, in nanoseconds.
    pub fn of(&self, device: u16, kind: StepKind) -> impl Iterator<Item = (&Account, u128)> {
        self.rows.get(&(device, kind)).into_iter().flatten().map(|(account, sum)| (account, *sum))
    }

    /// Adds what happened on another device.
    pub(super) fn add(&mut self, other: Self) {
        self.rows.extend(other.rows);
    }
}

/// Gathers device time by kind of step while time is walked.
#[derive(Debug, Default)]
pub(super) struct Sorter {
    visited: Option<StepKind>,
    open: Option<StepKind>,
    /// By kind of step, then by the number of an account.
    amounts: [Vec<u128>; 3],
}

impl Sorter {
    /// The device turns to a step.
    pub(super) fn visit(&mut self, step: &Step) {
        self.visited = Some(StepKind::of(step));
    }

    /// What is posted from now on is the visited step's.
    pub(super) const fn open(&mut self) {
        self.open = self.visited;
    }

    /// What is posted from now on is no step's.
    pub(super) const fn close(&mut self) {
        self.open = None;
    }

    /// `amount` goes to the account of a number.
    pub(super) fn post(&mut self, number: usize, amount: u128) {
        let Some(kind) = self.open else { return };
        add_at(&mut self.amounts[kind as usize], number, amount);
    }

    /// The device time of a device; `accounts` are by number.
    pub(super) fn finish(self, device: u16, accounts: &[(Commodity, Account)]) -> Phases {
        let mut phases = Phases::default();
        for kind in StepKind::ALL {
            let amounts = self.amounts[kind as usize].iter().zip(accounts);
            let row: Vec<(Account, u128)> = amounts
                .filter(|(amount, (commodity, _))| {
                    **amount > 0 && *commodity == Commodity::DeviceTime
                })
                .map(|(amount, (_, account))| (*account, *amount))
                .collect();
            if !row.is_empty() {
                phases.rows.insert((device, kind), row);
            }
        }
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waste::{Basis, Cause};

    fn step(prefill: u32, decode: u32) -> Step {
        Step { rows_prefill: prefill, rows_decode: decode, ..Step::default() }
    }

    #[test]
    fn a_step_is_of_the_kind_of_its_rows() {
        for (prefill, decode, kind) in [
            (8, 0, StepKind::Prefill),
            (0, 8, StepKind::Decode),
            (8, 1, StepKind::Mixed),
            (0, 0, StepKind::Decode),
        ] {
            assert_eq!(StepKind::of(&step(prefill, decode)), kind, "{prefill} and {decode}");
        }
    }

    #[test]
    fn only_what_is_posted_in_a_step_is_sorted() {
        let host = Account::of(Cause::Host, Basis::Measured);
        let accounts = [(Commodity::DeviceTime, host), (Commodity::Bytes, host)];
        let mut sorter = Sorter::default();
        sorter.post(0, 1);
        sorter.visit(&step(8, 0));
        sorter.post(0, 2);
        sorter.open();
        sorter.post(0, 4);
        sorter.post(1, 8);
        sorter.close();
        sorter.post(0, 16);
        let phases = sorter.finish(3, &accounts);
        let of = |device, kind| phases.of(device, kind).map(|(_, sum)| sum).sum::<u128>();
        assert_eq!(of(3, StepKind::Prefill), 4);
        assert_eq!(of(3, StepKind::Decode) + of(3, StepKind::Mixed) + of(0, StepKind::Prefill), 0);
    }
}
