//! What requests experience while a run goes on: recent latencies, gaps between tokens, the
//! worst stall and what held the request up in it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::event::{Arrival, Finish, Outcome, Request, Row, Step};
use crate::stat::{Sample, Summary};
use crate::trace::Slo;
use crate::unit::Nanos;
use crate::waste::catalogue::Cause;
use crate::waste::latency::{self, Latency};
use crate::waste::posting::Account;
use crate::waste::request_time::{Life, held_up};

/// Values of each latency that are kept.
const VALUES: usize = 2048;

/// Requests that left and are kept for their waterfalls.
const LEFT_KEPT: usize = 200;

/// The last values of a figure.
#[derive(Clone, Debug, Default)]
struct Last {
    values: VecDeque<f64>,
}

impl Last {
    fn push(&mut self, value: f64) {
        if self.values.len() == VALUES {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    fn summary(&self) -> Option<Summary> {
        Sample::new(self.values.iter().copied().collect()).summary()
    }
}

/// The longest time that a request waited for its next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The request.
    pub request: u64,
    /// When the token came at last.
    pub at: Nanos,
    /// How long it took.
    pub nanos: Nanos,
    /// What most of it went to.
    pub cause: Cause,
    /// How much of it went there.
    pub of_it: Nanos,
}

/// A step of a request under way, with the request's rows.
#[derive(Clone, Debug)]
struct Turn {
    step: Step,
    rows: Vec<Row>,
}

/// A request as far as it is known.
#[derive(Clone, Debug)]
struct Known {
    arrival: Arrival,
    finish: Option<Finish>,
    turns: Vec<Turn>,
    tokens: u32,
    /// What is known to be paid once the request has left.
    paid: BTreeMap<Cause, i128>,
}

/// A request for the list of requests.
#[derive(Clone, Debug)]
pub struct LiveRequest {
    /// How it came.
    pub arrival: Arrival,
    /// How it ended, if it has.
    pub finish: Option<Finish>,
    /// Tokens it was given so far.
    pub tokens: u32,
    /// Its time by cause, in the order of the catalogue.
    pub time: Vec<(Cause, u64)>,
    /// Device time that it paid, by cause; open work as if it were delivered.
    pub paid: BTreeMap<Cause, i128>,
}

/// Requests under way and what they experience.
#[derive(Debug, Default)]
pub(super) struct Experience {
    open: BTreeMap<u64, Known>,
    left: VecDeque<LiveRequest>,
    last_token: HashMap<u64, Nanos>,
    /// Requests that left and whose time is not booked yet.
    leaving: Vec<u64>,
    ttft: Last,
    tpot: Last,
    itl: Last,
    e2e: Last,
    queue: Last,
    steps: Last,
    stall: Option<Stall>,
    totals: BTreeMap<Account, u128>,
    /// ∫N(t)dt of the requests whose time is booked.
    little: u128,
}

impl Experience {
    pub(super) fn arrive(&mut self, arrival: &Arrival) {
        let known = Known {
            arrival: arrival.clone(),
            finish: None,
            turns: Vec::new(),
            tokens: 0,
            paid: BTreeMap::new(),
        };
        self.open.insert(arrival.request.0, known);
    }

    pub(super) fn step(&mut self, step: &Step) {
        self.steps.push(step.end.saturating_sub(step.host_start).0 as f64);
    }

    /// Rows of a step. Gives the gap to the request's last token, if there was one.
    pub(super) fn row(&mut self, step: &Step, row: &Row) -> Option<Nanos> {
        let request = row.request?.0;
        let known = self.open.get_mut(&request)?;
        match known.turns.last_mut().filter(|turn| turn.step.step == step.step) {
            Some(turn) => super::known::insert(&mut turn.rows, *row),
            None => known.turns.push(Turn { step: *step, rows: vec![*row] }),
        }
        if !super::device::gives_token(row) {
            return None;
        }
        known.tokens += 1;
        let before = self.last_token.insert(request, step.end)?;
        let gap = step.end.saturating_sub(before);
        self.itl.push(gap.0 as f64);
        if self.stall.is_none_or(|stall| stall.nanos < gap) {
            let (cause, of_it) = held_by(before, step, row);
            self.stall = Some(Stall { request, at: step.end, nanos: gap, cause, of_it });
        }
        Some(gap)
    }

    /// A request leaves. Gives how it came and whether it kept the promise.
    pub(super) fn finish(&mut self, finish: &Finish, slo: &Slo) -> Option<(Request, bool)> {
        let id = finish.request.0;
        let known = self.open.get_mut(&id)?;
        known.finish = Some(*finish);
        for turn in &mut known.turns {
            super::known::resolve_rows(&mut turn.rows, id, finish.outcome);
        }
        self.leaving.push(id);
        self.last_token.remove(&id);
        let request = Request { arrival: known.arrival.clone(), finish: Some(*finish) };
        if finish.outcome != Outcome::Completed {
            return Some((request, false));
        }
        let since = |at: Nanos| at.saturating_sub(request.arrival.at).0 as f64;
        for (last, value) in [
            (&mut self.ttft, latency::ttft(&request, finish)),
            (&mut self.tpot, latency::tpot(&request, finish)),
            (&mut self.e2e, Some(since(finish.at))),
            (&mut self.queue, finish.first_scheduled.map(since)),
        ] {
            value.into_iter().for_each(|value| last.push(value));
        }
        let kept = latency::keeps(slo, &request, finish);
        Some((request, kept))
    }

    /// Books the time of requests that have left: all their steps are known.
    pub(super) fn settle(&mut self, window: (u64, u64)) {
        for request in std::mem::take(&mut self.leaving) {
            let Some(known) = self.open.remove(&request) else { continue };
            self.book(&known, window);
        }
    }

    /// The window ends: books the time of those who are still here.
    pub(super) fn close(&mut self, window: (u64, u64)) {
        self.settle(window);
        for known in std::mem::take(&mut self.open).into_values() {
            self.book(&known, window);
        }
    }

    fn book(&mut self, known: &Known, window: (u64, u64)) {
        self.left.push_back(known.line(window));
        if self.left.len() > LEFT_KEPT {
            self.left.pop_front();
        }
        let (from, to) = known.span(window);
        self.little += u128::from(to - from);
        let totals = &mut self.totals;
        known.live(window, &mut |account, nanos| {
            if nanos > 0 {
                *totals.entry(account).or_default() += u128::from(nanos);
            }
        });
    }

    /// A request that leaves, or has left, paid so much.
    pub(super) fn pay(&mut self, request: u64, cause: Cause, amount: i128) {
        let paid = match self.open.get_mut(&request) {
            Some(known) => Some(&mut known.paid),
            None => {
                let mut left = self.left.iter_mut().rev();
                left.find(|left| left.arrival.request.0 == request).map(|left| &mut left.paid)
            }
        };
        if let Some(paid) = paid {
            *paid.entry(cause).or_default() += amount;
        }
    }

    /// Time by account of the requests that have left, and what there was to account for.
    pub(super) fn totals(&self) -> (impl Iterator<Item = (Account, u128)>, u128) {
        (self.totals.iter().map(|(account, amount)| (*account, *amount)), self.little)
    }

    /// Latencies of recent requests.
    pub(super) fn latency(&self) -> Latency {
        Latency {
            ttft: self.ttft.summary(),
            tpot: self.tpot.summary(),
            itl: self.itl.summary(),
            e2e: self.e2e.summary(),
            queue: self.queue.summary(),
        }
    }

    /// Lengths of recent steps, from their preparation to their end.
    pub(super) fn steps(&self) -> Option<Summary> {
        self.steps.summary()
    }

    pub(super) const fn stall(&self) -> Option<Stall> {
        self.stall
    }

    /// How many requests are here.
    pub(super) fn open(&self) -> usize {
        self.open.len() - self.leaving.len()
    }

    /// Whether a request has left or was never here.
    pub(super) fn is_gone(&self, request: u64) -> bool {
        self.open.get(&request).is_none_or(|known| known.finish.is_some())
    }

    /// Requests that are here, then those that left last, newest first.
    pub(super) fn requests(&self, window: (u64, u64)) -> impl Iterator<Item = LiveRequest> {
        let here = self.open.values().rev().map(move |known| known.line(window));
        here.chain(self.left.iter().rev().cloned())
    }
}

impl Known {
    /// From its arrival to its end, inside the window.
    fn span(&self, window: (u64, u64)) -> (u64, u64) {
        let clip = |at: u64| at.clamp(window.0, window.1.max(window.0));
        let end = self.finish.map_or(window.1, |finish| finish.at.0);
        let from = clip(self.arrival.at.0);
        (from, clip(end).max(from))
    }

    /// Books its time so far.
    fn live(&self, window: (u64, u64), post: &mut impl FnMut(Account, u64)) {
        let (from, to) = self.span(window);
        let mut life = Life::new(from, to);
        for turn in &self.turns {
            life.step(&turn.step, turn.rows.iter(), post);
        }
        life.close(post);
    }

    fn line(&self, window: (u64, u64)) -> LiveRequest {
        let mut time: BTreeMap<Cause, u64> = BTreeMap::new();
        self.live(window, &mut |account, nanos| *time.entry(account.cause).or_default() += nanos);
        LiveRequest {
            arrival: self.arrival.clone(),
            finish: self.finish,
            tokens: self.finish.map_or(self.tokens, |finish| finish.output_tokens),
            time: time.into_iter().filter(|(_, nanos)| *nanos > 0).collect(),
            paid: self.paid.clone(),
        }
    }
}

/// What held a request up between its last token and the end of `step`, and for how long.
fn held_by(last: Nanos, step: &Step, row: &Row) -> (Cause, Nanos) {
    let waited = step.host_start.saturating_sub(last);
    let prepared = step.start.saturating_sub(step.host_start.max(last));
    let served = step.end.saturating_sub(step.start).0;
    let interference = held_up(step, std::iter::once(row), served);
    let parts = [
        (Cause::Queue, waited.0),
        (Cause::Host, prepared.0),
        (Cause::Interference, interference),
        (Cause::ValueDecode, served - interference),
    ];
    let most = parts.into_iter().max_by_key(|(_, nanos)| *nanos);
    most.map_or((Cause::ValueDecode, Nanos::ZERO), |(cause, nanos)| (cause, Nanos(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Fate, Phase, RequestId, StepId};

    #[test]
    fn the_largest_part_of_a_gap_is_its_cause() {
        let step = Step {
            step: StepId(1),
            host_start: Nanos(100),
            start: Nanos(110),
            end: Nanos(210),
            rows_prefill: 90,
            rows_decode: 10,
            ..Step::default()
        };
        let row = Row {
            step: StepId(1),
            request: Some(RequestId(1)),
            phase: Phase::Decode,
            rows: 1,
            context_tokens: 5,
            cached_tokens: 0,
            sequence_rows: 1,
            logits_rows: 1,
            fate: Fate::Open,
        };
        assert_eq!(held_by(Nanos(99), &step, &row), (Cause::Interference, Nanos(90)));
        assert_eq!(held_by(Nanos(0), &step, &row), (Cause::Queue, Nanos(100)));
        let alone = Step { rows_prefill: 0, ..step };
        assert_eq!(held_by(Nanos(100), &alone, &row), (Cause::ValueDecode, Nanos(100)));
    }
}
