//! One device's books while its facts come.

use super::known::{Known, resolve_rows};
use super::tally::{CAUSE_COUNT, Pass, Tally};
use super::visits::Visit;
use crate::event::{
    DeviceState, Fate, KernelId, Launch, Memory, MemoryCopy, Outcome, Power, Provenance, Row,
    StateChange, Step,
};
use crate::trace::{DeviceHeader, Window, launch_order};
use crate::waste::catalogue::Cause;
use crate::waste::journal::Sink;
use crate::waste::kernel::{Bench, BrokenCeilings, Costing};
use crate::waste::memory::MemoryWalk;
use crate::waste::posting::{Account, Basis, Commodity};
use crate::waste::projection::Levels;
use crate::waste::step::{Standing, StepAccounts, standing};
use crate::waste::timeline::Timeline;

/// What is known of a device and booked to it.
pub(super) struct Device {
    pub(super) header: DeviceHeader,
    timeline: Timeline<Known, Tally>,
    again: StepAccounts,
    pending: Vec<Launch>,
    pub(super) memory: MemoryWalk,
    pub(super) levels: Levels,
    /// Bytes of the operations and copies that came.
    moved: u128,
    /// Rows that the steps count, those of the newest step apart.
    offered: u64,
    newest: (u64, u64),
    taken: u64,
    /// Requests that left and are still in the step that goes on.
    leaving: Vec<(u64, Outcome)>,
    /// First and last reading of its meter.
    meter: Option<(Power, Power)>,
    /// Operations and copies that came too late for the order of time.
    pub(super) late: u64,
    /// Nanoseconds of lost requests that went by their rows' shares.
    pub(super) by_shares: u128,
}

impl Device {
    pub(super) fn new(
        header: &DeviceHeader,
        window: Window,
        reference_batch: u32,
        costing: Costing,
        observer_ns_per_launch: u64,
    ) -> Self {
        let bench = Bench::new(header, reference_batch, costing, &[]);
        Self {
            header: header.clone(),
            timeline: Timeline::new(
                window,
                Known::new(),
                observer_ns_per_launch,
                Tally::new(),
                bench,
            ),
            again: StepAccounts::default(),
            pending: Vec::new(),
            memory: MemoryWalk::new(header, window),
            levels: Levels::default(),
            moved: 0,
            offered: 0,
            newest: (0, 0),
            taken: 0,
            leaving: Vec::new(),
            meter: None,
            late: 0,
            by_shares: 0,
        }
    }

    /// Kernels have these names from now on.
    pub(super) fn name(&mut self, names: &[String]) {
        self.timeline.bench.rename(&self.header.calibration, names);
    }

    pub(super) fn state(&mut self, change: StateChange) {
        self.timeline.plan.push_state(change);
    }

    pub(super) fn step(&mut self, step: &Step) {
        self.timeline.plan.push_step(*step);
        self.memory.step(step.start.0, step.end.0);
        self.offered += self.newest.0;
        self.newest = (step.rows().into(), 0);
    }

    pub(super) fn row(&mut self, row: &Row) {
        self.timeline.plan.push_row(*row);
        let of = |cause| Account::of(cause, Basis::Counted);
        let request = row.request.map(|id| id.0);
        let (rows, count) = (Commodity::Rows, u128::from(row.rows));
        let tally = &mut self.timeline.journal;
        let slot = tally.slot(request);
        let account = match standing(row.phase, row.fate) {
            Standing::Open(value) => {
                let numbers = tally.open_numbers(rows, of(Cause::WipOpen), of(value));
                tally.post_open(slot, numbers, count);
                None
            }
            Standing::Useful(cause) => Some(of(cause)),
            Standing::Thrown(cause, sub_reason) => Some(Account { sub_reason, ..of(cause) }),
        };
        if let Some(account) = account {
            let number = tally.number(rows, account);
            tally.post(slot, number, count);
        }
        self.taken += u64::from(row.rows);
        self.newest.1 += u64::from(row.rows);
    }

    pub(super) fn launch(&mut self, launch: Launch) {
        self.moved += launch.moved();
        self.late += u64::from(launch.start.0 < self.timeline.cursor());
        self.pending.push(launch);
    }

    pub(super) fn copy(&mut self, copy: MemoryCopy) {
        self.moved += u128::from(copy.moved());
        self.late += u64::from(copy.start.0 < self.timeline.cursor());
        self.timeline.plan.push_copy(copy);
    }

    pub(super) fn memory(&mut self, change: &Memory) {
        self.memory.change(change);
        self.levels.apply(change);
    }

    pub(super) fn power(&mut self, power: &Power) {
        self.timeline.plan.push_reading(power);
        if power.basis == Provenance::Measured {
            self.meter = Some((self.meter.map_or(*power, |(first, _)| first), *power));
        }
    }

    /// Microjoules that the meter counted.
    pub(super) fn metered(&self) -> Option<u64> {
        self.meter.map(|(first, last)| last.energy_uj.saturating_sub(first.energy_uj))
    }

    /// The last reading of the meter.
    pub(super) fn meter(&self) -> Option<Power> {
        self.meter.map(|(_, last)| last)
    }

    /// Accounts for the time until `until`, before which everything is known.
    pub(super) fn advance(&mut self, until: u64, rank: impl Fn(&Launch) -> u16) {
        self.walk(until, rank);
        self.timeline.advance(until);
        self.timeline.plan.forget(self.timeline.places());
        self.settle();
    }

    /// The window ends at `end`: everything is known.
    pub(super) fn close(&mut self, end: u64, rank: impl Fn(&Launch) -> u16) {
        self.walk(u64::MAX, rank);
        self.timeline.close(end);
        self.timeline.plan.forget(self.timeline.places());
        self.settle();
    }

    /// Hands the operations that began before `until` to the walker, in order of time.
    fn walk(&mut self, until: u64, rank: impl Fn(&Launch) -> u16) {
        if !self.pending.is_sorted_by(|a, b| (a.start, a.end) < (b.start, b.end)) {
            let named = |launch: &Launch| Launch { kernel: KernelId(rank(launch)), ..*launch };
            self.pending.sort_by_cached_key(|launch| launch_order(&named(launch)));
        }
        let begun = self.pending.partition_point(|launch| launch.start.0 < until);
        for launch in self.pending.drain(..begun) {
            self.timeline.launch(&launch);
        }
    }

    /// A request left: what its rows became is known.
    pub(super) fn finish(&mut self, request: u64, outcome: Outcome) {
        self.timeline.plan.resolve(request, outcome);
        self.leaving.push((request, outcome));
    }

    /// Moves what requests that left had open to where it belongs. A request in the step that
    /// goes on waits for the step's end.
    fn settle(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        let visited = |(request, _): &(u64, Outcome)| self.timeline.journal.visits_now(*request);
        let (wait, left): (Vec<_>, Vec<_>) = leaving.into_iter().partition(visited);
        self.leaving = wait;
        if left.is_empty() {
            return;
        }
        let repeat = self.timeline.journal.visits.to_repeat(&left);
        let mut taken: Vec<(usize, Visit)> = Vec::new();
        for number in repeat {
            if let Some(visit) = self.timeline.journal.visits.take(number) {
                self.book_again(&visit, Pass::Withdraw);
                taken.push((number, visit));
            }
        }
        for (request, outcome) in &left {
            self.leave(*request, *outcome, &mut taken);
        }
        for (number, visit) in taken {
            self.book_again(&visit, Pass::Repeat);
            self.timeline.journal.visits.put(number, visit);
            self.timeline.journal.visits.forget_if_settled(number);
        }
    }

    fn leave(&mut self, request: u64, outcome: Outcome, taken: &mut [(usize, Visit)]) {
        for (_, visit) in taken.iter_mut() {
            resolve_rows(&mut visit.rows, request, outcome);
        }
        let visits = self.timeline.journal.visits.of(request);
        self.timeline.journal.visits.resolve(request, outcome);
        for number in visits {
            self.timeline.journal.visits.forget_if_settled(number);
        }
        match outcome {
            Outcome::Completed => self.timeline.journal.deliver(request),
            lost => {
                let cause = match lost {
                    Outcome::Malformed => Cause::Malformed,
                    _ => Cause::FailedRequest,
                };
                self.by_shares += self.timeline.journal.lose(request, cause);
            }
        }
    }

    /// Books a visit once more, or takes it back.
    fn book_again(&mut self, visit: &Visit, pass: Pass) {
        let bench = &mut self.timeline.bench;
        let tally = &mut self.timeline.journal;
        tally.turn_to(pass);
        let before = std::mem::take(&mut bench.broken);
        self.again.open(visit.step, &visit.rows, tally);
        self.again.add_gap(visit.gap);
        self.again.add_host(visit.host + visit.observer, visit.observer);
        self.again.add_carried(visit.carried);
        for (launch, owned) in &visit.launches {
            let floor = bench.floor(launch);
            self.again.add_launch((launch, floor), *owned, bench);
        }
        self.again.close(bench.launch_floor, tally);
        tally.turn_to(Pass::Walk);
        let changed = std::mem::replace(&mut bench.broken, before);
        let broken = &mut bench.broken;
        if pass == Pass::Withdraw {
            broken.launches -= changed.launches;
            broken.nanos -= changed.nanos;
        } else {
            broken.launches += changed.launches;
            broken.nanos += changed.nanos;
        }
    }

    /// Forgets payers that have left, but for the dearest; `each` is told what they paid.
    pub(super) fn retire(
        &mut self,
        left: impl Fn(u64) -> bool,
        each: impl FnMut(u64, Cause, i128),
    ) {
        let leaving = &self.leaving;
        let settled = |request| !leaving.iter().any(|(id, _)| *id == request);
        self.timeline.journal.retire(|request| left(request) && settled(request), each);
    }

    pub(super) const fn tally(&self) -> &Tally {
        &self.timeline.journal
    }

    pub(super) const fn bench(&self) -> &Bench {
        &self.timeline.bench
    }

    /// Device time by cause since the last call.
    pub(super) fn take_recent(&mut self) -> [u64; CAUSE_COUNT] {
        self.timeline.journal.take_recent()
    }

    /// Until when its time is accounted for.
    pub(super) const fn cursor(&self) -> u64 {
        self.timeline.cursor()
    }

    pub(super) const fn busy(&self) -> u128 {
        self.timeline.busy()
    }

    /// What its scheduler was doing last.
    pub(super) fn last_state(&self) -> Option<DeviceState> {
        self.timeline.plan.last_state().map(|change| change.state)
    }

    /// Nanoseconds of the step that goes on: booked at its end.
    pub(super) fn nanos_under_way(&self) -> u128 {
        self.timeline.accrued() + self.tally().under_way().0
    }

    /// Bytes that came, and those of operations and copies that are not booked yet.
    pub(super) fn bytes(&self) -> (u128, u128) {
        let pending: u128 = self.pending.iter().map(Launch::moved).sum();
        let ahead = pending + self.timeline.plan.copied_ahead();
        (self.moved, self.tally().under_way().1 + self.timeline.bytes_under_way() + ahead)
    }

    /// Rows that the steps count, and rows that came. Of a step whose rows are still coming
    /// both sides count what came.
    pub(super) fn rows(&self) -> (u64, u64) {
        let (counted, came) = self.newest;
        let coming = came < counted;
        (self.offered + if coming { came } else { counted }, self.taken)
    }

    pub(super) fn broken(&self) -> BrokenCeilings {
        self.bench().broken
    }
}

/// Whether a row gave its request a token that may be delivered.
pub(super) fn gives_token(row: &Row) -> bool {
    row.logits_rows > 0 && matches!(row.fate, Fate::Open | Fate::Delivered)
}
