//! The request ledger: where the time of requests went, from arrival to end.
//!
//! What there is comes from Little's identity, ∫N(t)dt; what is posted comes from each request's
//! own life, cut by the steps it took part in.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::catalogue::Cause;
use super::posting::{Account, Basis, Commodity, Key, SubReason};
use super::step::{Standing, standing};
use crate::event::{Fate, Phase, Row, Step};
use crate::ledger::{Book, Splitter};
use crate::trace::Run;

/// Books the time of every request.
pub(super) fn book(run: &Run, books: &mut HashMap<Commodity, Book<Key>>) {
    let book = books.entry(Commodity::RequestTime).or_default();
    let window = (run.header.window.start_ns.0, run.header.window.end_ns.0);
    book.offer(little(run, window));
    let steps: HashMap<u64, &Step, RandomState> =
        run.steps.iter().map(|step| (step.step.0, step)).collect();
    let mut lives: HashMap<u64, Vec<&Row>, RandomState> = HashMap::default();
    for row in &run.rows {
        if let Some(request) = row.request {
            lives.entry(request.0).or_default().push(row);
        }
    }
    let none = Vec::new();
    let mut postings = Vec::new();
    for request in &run.requests {
        let id = request.arrival.request.0;
        let end = request.finish.map_or(window.1, |finish| finish.at.0);
        let clip = |at: u64| at.clamp(window.0, window.1);
        // A life has many steps and few accounts.
        let mut spent: Vec<(Account, u128)> = Vec::new();
        let mut post = |account: Account, nanos: u64| {
            let nanos = u128::from(nanos);
            match spent.iter_mut().find(|(same, _)| *same == account) {
                Some((_, sum)) => *sum += nanos,
                None => spent.push((account, nanos)),
            }
        };
        let mut life = Life::new(clip(request.arrival.at.0), clip(end));
        let rows = lives.get(&id).unwrap_or(&none);
        for rows in rows.chunk_by(|a, b| a.step == b.step) {
            if let Some(step) = steps.get(&rows[0].step.0) {
                life.step(step, rows.iter().copied(), &mut post);
            }
        }
        life.close(&mut post);
        let key = |account| Key { account, device: None, step: None, request: Some(id) };
        postings.extend(spent.into_iter().map(|(account, nanos)| (key(account), nanos)));
    }
    book.post_all(postings);
}

/// ∫N(t)dt over the window, from arrivals and ends alone.
fn little(run: &Run, window: (u64, u64)) -> u128 {
    let clip = |at: u64| at.clamp(window.0, window.1);
    let mut changes: Vec<(u64, i64)> = Vec::with_capacity(run.requests.len() * 2);
    for request in &run.requests {
        changes.push((clip(request.arrival.at.0), 1));
        changes.push((clip(request.finish.map_or(window.1, |finish| finish.at.0)), -1));
    }
    changes.sort_unstable_by_key(|(at, change)| (*at, -change));
    let (mut integral, mut present, mut since) = (0, 0i64, window.0);
    for (at, change) in changes {
        integral += u128::from(at - since) * u128::from(present.unsigned_abs());
        present += change;
        since = at;
    }
    integral
}

/// One request while it is followed through time, from its arrival to its end.
pub(super) struct Life {
    cursor: u64,
    end: u64,
    started: bool,
    evicted: bool,
}

impl Life {
    pub(super) const fn new(arrival: u64, end: u64) -> Self {
        Self { cursor: arrival, end, started: false, evicted: false }
    }

    /// Takes part in a step with these rows. The time before it is waiting, but for the host's
    /// preparation.
    pub(super) fn step<'r>(
        &mut self,
        step: &Step,
        rows: impl Iterator<Item = &'r Row> + Clone,
        post: &mut impl FnMut(Account, u64),
    ) {
        // What runs after its end is no part of its life.
        if step.host_start.0 >= self.end {
            return;
        }
        self.evicted = rows.clone().any(|row| row.fate == Fate::PreemptRecompute);
        self.wait(step.host_start.0, post);
        self.started = true;
        let prepared = step.start.0.clamp(self.cursor, self.end.max(self.cursor));
        post(Account::of(Cause::Host, Basis::Measured), prepared - self.cursor);
        self.cursor = prepared;
        let until = step.end.0.clamp(self.cursor, self.end.max(self.cursor));
        serve(step, rows, until - self.cursor, post);
        self.cursor = until;
    }

    /// Waits until its end.
    pub(super) fn close(mut self, post: &mut impl FnMut(Account, u64)) {
        self.wait(self.end, post);
    }

    /// Waits until `until`.
    fn wait(&mut self, until: u64, post: &mut impl FnMut(Account, u64)) {
        let until = until.min(self.end);
        if until <= self.cursor {
            return;
        }
        let why = match (self.started, self.evicted) {
            (false, _) => SubReason::Admission,
            (true, true) => SubReason::Preempted,
            (true, false) => SubReason::Skipped,
        };
        post(Account::of(Cause::Queue, Basis::Measured).because(why), until - self.cursor);
        self.cursor = until;
    }
}

/// Spends `nanos` in a step: on a request's own rows, or held up by others' prefill.
fn serve<'r>(
    step: &Step,
    rows: impl Iterator<Item = &'r Row> + Clone,
    nanos: u64,
    post: &mut impl FnMut(Account, u64),
) {
    let held = held_up(step, rows.clone(), nanos);
    post(Account::of(Cause::Interference, Basis::Apportioned), held);
    let mut splitter = Splitter::default();
    splitter.weigh(rows.clone().map(|row| u128::from(row.rows)));
    let rows: Vec<&Row> = rows.collect();
    splitter.split((nanos - held).into(), |i, part| {
        let of = |cause| Account::of(cause, Basis::Apportioned);
        let account = match standing(rows[i].phase, rows[i].fate) {
            Standing::Useful(cause) => of(cause),
            Standing::Open(_) => of(Cause::WipOpen),
            Standing::Thrown(cause, sub_reason) => Account { sub_reason, ..of(cause) },
        };
        post(account, part as u64);
    });
}

/// Of `nanos` in a step, the part in which a request with these rows is held up by the prefill
/// of others: in proportion to the step's rows, if it decodes.
pub(super) fn held_up<'r>(step: &Step, rows: impl Iterator<Item = &'r Row>, nanos: u64) -> u64 {
    let own_prefill: u32 = rows.filter(|r| r.phase == Phase::Prefill).map(|r| r.rows).sum();
    // Who computes rows again beside its new one is prefilling, not held up.
    let decoding = own_prefill == 0;
    let foreign = step.rows_prefill.saturating_sub(own_prefill);
    if !decoding || step.rows() == 0 {
        return 0;
    }
    (u128::from(nanos) * u128::from(foreign) / u128::from(step.rows())) as u64
}
