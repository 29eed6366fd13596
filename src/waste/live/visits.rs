//! Visits to steps that have rows of requests under way: kept until it is known what became of
//! them, because a lost request changes what its steps are booked to.

use std::collections::{HashMap, VecDeque};

use super::known::resolve_rows;
use crate::event::{Fate, Launch, Outcome, Phase, Row, Step};
use crate::waste::copies::Carried;
use crate::waste::kernel::Owned;

/// Operations kept at most: some tens of megabytes. A request that is lost after more of them
/// than this has passed is booked by its rows' shares.
const LAUNCHES_KEPT: usize = 400_000;

/// What happened in one visit to a step.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) step: Step,
    pub(super) rows: Vec<Row>,
    pub(super) launches: Vec<(Launch, Owned)>,
    pub(super) gap: u64,
    pub(super) host: u64,
    pub(super) observer: u64,
    pub(super) carried: Carried,
}

impl Visit {
    /// A visit that begins; `launches` operations are expected.
    pub(super) fn new(step: Step, rows: &[Row], launches: usize) -> Self {
        let (rows, launches) = (rows.to_vec(), Vec::with_capacity(launches));
        let carried = Carried::default();
        Self { step, rows, launches, gap: 0, host: 0, observer: 0, carried }
    }

    fn open(&self) -> impl Iterator<Item = u64> {
        let open = self.rows.iter().filter(|row| row.fate == Fate::Open);
        open.filter_map(|row| row.request).map(|id| id.0)
    }

    /// Whether delivering `request` joins rows that were apart, or throws some away: then their
    /// parts are split anew.
    fn joins(&self, request: u64) -> bool {
        let of = |row: &&Row| row.request.is_some_and(|id| id.0 == request);
        let apart = |row: &Row| row.fate == Fate::Delivered || row.phase == Phase::Ownerless;
        self.rows.iter().filter(of).any(apart)
    }
}

/// The visits that are kept, numbered in order.
#[derive(Debug, Default)]
pub(super) struct Visits {
    forgotten: usize,
    kept: VecDeque<Option<Visit>>,
    of_request: HashMap<u64, Vec<usize>>,
    launches: usize,
}

impl Visits {
    /// Keeps a visit if it has open rows.
    pub(super) fn push(&mut self, visit: Visit) {
        let number = self.forgotten + self.kept.len();
        let mut any = false;
        for request in visit.open() {
            any = true;
            let visits = self.of_request.entry(request).or_default();
            if visits.last() != Some(&number) {
                visits.push(number);
            }
        }
        if !any {
            return;
        }
        self.launches += visit.launches.len();
        self.kept.push_back(Some(visit));
        while self.launches > LAUNCHES_KEPT || matches!(self.kept.front(), Some(None)) {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.launches -= oldest.map_or(0, |visit| visit.launches.len());
            self.forgotten += 1;
        }
    }

    /// The visits that must be booked anew once these requests have left so.
    pub(super) fn to_repeat(&self, finished: &[(u64, Outcome)]) -> Vec<usize> {
        let mut numbers = Vec::new();
        for (request, outcome) in finished {
            for number in self.of_request.get(request).into_iter().flatten() {
                let joins = |visit: &Visit| visit.joins(*request);
                if *outcome != Outcome::Completed || self.get(*number).is_some_and(joins) {
                    numbers.push(*number);
                }
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    pub(super) fn take(&mut self, number: usize) -> Option<Visit> {
        let visit = self.kept.get_mut(number.checked_sub(self.forgotten)?)?.take()?;
        self.launches -= visit.launches.len();
        Some(visit)
    }

    /// Puts a visit back in its place.
    pub(super) fn put(&mut self, number: usize, visit: Visit) {
        let Some(place) = number.checked_sub(self.forgotten) else { return };
        if let Some(slot) = self.kept.get_mut(place) {
            self.launches += visit.launches.len();
            *slot = Some(visit);
        }
    }

    /// Gives the rows of a request their fate in every visit.
    pub(super) fn resolve(&mut self, request: u64, outcome: Outcome) {
        for number in self.of_request.remove(&request).unwrap_or_default() {
            let Some(place) = number.checked_sub(self.forgotten) else { continue };
            if let Some(Some(visit)) = self.kept.get_mut(place) {
                resolve_rows(&mut visit.rows, request, outcome);
            }
        }
    }

    /// Forgets a visit without open rows.
    pub(super) fn forget_if_settled(&mut self, number: usize) {
        if self.get(number).is_some_and(|visit| visit.open().next().is_none()) {
            self.take(number);
        }
    }

    /// The visits that a request's end may settle.
    pub(super) fn of(&self, request: u64) -> Vec<usize> {
        self.of_request.get(&request).cloned().unwrap_or_default()
    }

    fn get(&self, number: usize) -> Option<&Visit> {
        self.kept.get(number.checked_sub(self.forgotten)?)?.as_ref()
    }
}
