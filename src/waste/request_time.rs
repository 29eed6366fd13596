//! The request ledger: where the time of requests went, from arrival to end.
//!
//! What there is comes from Little's identity, ∫N(t)dt; what is posted comes from each request's
//! own life, cut by the steps it took part in.

use std::collections::HashMap;

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
    let steps: HashMap<u64, &Step> = run.steps.iter().map(|step| (step.step.0, step)).collect();
    let mut lives: HashMap<u64, Vec<&Row>> = HashMap::new();
    for row in &run.rows {
        if let Some(request) = row.request {
            lives.entry(request.0).or_default().push(row);
        }
    }
    let none = Vec::new();
    for request in &run.requests {
        let id = request.arrival.request.0;
        let end = request.finish.map_or(window.1, |finish| finish.at.0);
        let clip = |at: u64| at.clamp(window.0, window.1);
        let span = (clip(request.arrival.at.0), clip(end));
        let mut life = Life { id, cursor: span.0, end: span.1, started: false, evicted: false };
        let rows = lives.get(&id).unwrap_or(&none);
        for rows in rows.chunk_by(|a, b| a.step == b.step) {
            if let Some(step) = steps.get(&rows[0].step.0) {
                life.step(step, rows, book);
            }
        }
        life.wait(span.1, book);
    }
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

/// One request while it is followed through time.
struct Life {
    id: u64,
    cursor: u64,
    end: u64,
    started: bool,
    evicted: bool,
}

impl Life {
    /// Waits until `until`.
    fn wait(&mut self, until: u64, book: &mut Book<Key>) {
        let until = until.min(self.end);
        if until <= self.cursor {
            return;
        }
        let why = match (self.started, self.evicted) {
            (false, _) => SubReason::Admission,
            (true, true) => SubReason::Preempted,
            (true, false) => SubReason::Skipped,
        };
        let queue = Account::of(Cause::Queue, Basis::Measured).because(why);
        self.post(book, queue, until - self.cursor);
        self.cursor = until;
    }

    /// Takes part in a step. The time before it is waiting, but for the host's preparation.
    fn step(&mut self, step: &Step, rows: &[&Row], book: &mut Book<Key>) {
        self.evicted = rows.iter().any(|row| row.fate == Fate::PreemptRecompute);
        self.wait(step.host_start.0, book);
        self.started = true;
        let prepared = step.start.0.clamp(self.cursor, self.end.max(self.cursor));
        self.post(book, Account::of(Cause::Host, Basis::Measured), prepared - self.cursor);
        self.cursor = prepared;
        let until = step.end.0.clamp(self.cursor, self.end.max(self.cursor));
        self.serve(step, rows, until - self.cursor, book);
        self.cursor = until;
    }

    /// Spends `nanos` in a step: on its own rows, or held up by others' prefill.
    fn serve(&mut self, step: &Step, rows: &[&Row], nanos: u64, book: &mut Book<Key>) {
        let own_prefill: u32 =
            rows.iter().filter(|row| row.phase == Phase::Prefill).map(|row| row.rows).sum();
        // Who computes rows again beside its new one is prefilling, not held up.
        let decoding = own_prefill == 0;
        let foreign = step.rows_prefill.saturating_sub(own_prefill);
        // A decode row is held up by others' prefill rows in proportion to the step's rows.
        let held = if decoding && step.rows() > 0 {
            (u128::from(nanos) * u128::from(foreign) / u128::from(step.rows())) as u64
        } else {
            0
        };
        self.post(book, Account::of(Cause::Interference, Basis::Apportioned), held);
        let mut splitter = Splitter::default();
        splitter.weigh(rows.iter().map(|row| u128::from(row.rows)));
        splitter.split((nanos - held).into(), |i, part| {
            let of = |cause| Account::of(cause, Basis::Apportioned);
            let account = match standing(rows[i].phase, rows[i].fate) {
                Standing::Useful(cause) => of(cause),
                Standing::Open => of(Cause::WipOpen),
                Standing::Thrown(cause, sub_reason) => Account { sub_reason, ..of(cause) },
            };
            self.post(book, account, part as u64);
        });
    }

    fn post(&self, book: &mut Book<Key>, account: Account, nanos: u64) {
        let key = Key { account, device: None, step: None, request: Some(self.id) };
        book.post(key, nanos.into());
    }
}
