//! A device's timeline, cut where anything changes: every instant has one owner.
//!
//! Order of the rules: faulted; load and warm-up; calibration. Then, where nothing runs: inside
//! a step (`launch_gap`); while the host prepares one (`host`); by the scheduler's state. Then,
//! where something computes: the operations that run share the instant equally; where something
//! copies, those of KV blocks before others.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::catalogue::{Cause, Level};
use super::clock::{ClockChange, Clocks, Held};
use super::copies::Carried;
use super::journal::Sink;
use super::kernel::{Bench, Owned};
use super::posting::{Account, Basis, Commodity, SubReason};
use super::step::StepAccounts;
use crate::event::{Cargo, DeviceState, Launch, MemoryCopy, Power, Row, StateChange, Step, StepId};
use crate::trace::Window;

/// A stretch of the timeline in which a step is prepared or runs. Stretches do not overlap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) host_start: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    /// The place of its step.
    pub(super) step: usize,
}

impl Stretch {
    /// The stretch of a step behind one that ended at `end`, clipped so that it begins there at
    /// the earliest.
    pub(super) fn after(end: u64, step: &Step, place: usize) -> Self {
        let start = step.start.0.max(end);
        let host_start = step.host_start.0.max(end).min(start);
        Self { host_start, start, end: step.end.0.max(start), step: place }
    }
}

/// What the walker asks of a device's facts, by their places in order of time. It asks only of
/// places that it has reached, and never goes back by more than one state.
pub(super) trait Plan {
    /// The state change at a place.
    fn state(&self, place: usize) -> Option<StateChange>;

    /// The change of the clock at a place.
    fn clock(&self, place: usize) -> Option<ClockChange>;

    /// The copy at a place.
    fn copy(&self, place: usize) -> Option<MemoryCopy>;

    /// The stretch at a place.
    fn stretch(&self, place: usize) -> Option<Stretch>;

    /// Where a step stands.
    fn place(&self, step: StepId) -> Option<usize>;

    /// The step at a place, with its rows ordered by request.
    fn step(&self, place: usize) -> Option<(Step, &[Row])>;
}

/// The facts of a run that has been read: all of them are known.
pub(super) struct Recorded<'a> {
    steps: &'a [Step],
    rows: &'a [Row],
    states: &'a [StateChange],
    clocks: Vec<ClockChange>,
    copies: &'a [MemoryCopy],
    stretches: Vec<Stretch>,
    places: HashMap<StepId, usize, RandomState>,
}

impl<'a> Recorded<'a> {
    /// `rows` are the run's, ordered by step; everything else is the device's, in order.
    pub(super) fn new(
        steps: &'a [Step],
        rows: &'a [Row],
        states: &'a [StateChange],
        readings: &[Power],
        copies: &'a [MemoryCopy],
    ) -> Self {
        let mut end = 0;
        let mut stretches = Vec::with_capacity(steps.len());
        for (place, step) in steps.iter().enumerate() {
            let stretch = Stretch::after(end, step, place);
            end = stretch.end;
            stretches.push(stretch);
        }
        let places = steps.iter().enumerate().map(|(at, step)| (step.step, at)).collect();
        let mut clock = Clocks::default();
        let clocks = readings.iter().filter_map(|reading| clock.take(reading)).collect();
        Self { steps, rows, states, clocks, copies, stretches, places }
    }
}

impl Plan for Recorded<'_> {
    fn state(&self, place: usize) -> Option<StateChange> {
        self.states.get(place).copied()
    }

    fn clock(&self, place: usize) -> Option<ClockChange> {
        self.clocks.get(place).copied()
    }

    fn copy(&self, place: usize) -> Option<MemoryCopy> {
        self.copies.get(place).copied()
    }

    fn stretch(&self, place: usize) -> Option<Stretch> {
        self.stretches.get(place).copied()
    }

    fn place(&self, step: StepId) -> Option<usize> {
        self.places.get(&step).copied()
    }

    fn step(&self, place: usize) -> Option<(Step, &[Row])> {
        let step = *self.steps.get(place)?;
        let from = self.rows.partition_point(|row| row.step < step.step);
        let to = from + self.rows[from..].partition_point(|row| row.step == step.step);
        Some((step, &self.rows[from..to]))
    }
}

/// What a device does: it computes or it copies.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Launch(Launch),
    Copy(MemoryCopy),
}

impl Operation {
    const fn span(&self) -> (u64, u64) {
        match self {
            Self::Launch(launch) => (launch.start.0, launch.end.0),
            Self::Copy(copy) => (copy.start.0, copy.end.0),
        }
    }

    /// Of what runs at an instant the least owns it.
    const fn turn(&self) -> u8 {
        match self {
            Self::Launch(_) => 0,
            Self::Copy(MemoryCopy { cargo: Cargo::KvBlocks, .. }) => 1,
            Self::Copy(MemoryCopy { cargo: Cargo::Data, .. }) => 2,
        }
    }

    fn bytes(&self) -> u128 {
        match self {
            Self::Launch(launch) => launch.moved(),
            Self::Copy(copy) => copy.moved().into(),
        }
    }
}

/// The places among a device's facts that a walker has reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// Of the next change of state.
    pub(super) state: usize,
    /// Of the next change of the clock.
    pub(super) clock: usize,
    /// Of the stretch that time has reached.
    pub(super) stretch: usize,
    /// Of the next copy.
    pub(super) copy: usize,
}

/// Walks one device's timeline as launches come, over facts that are all known or become known
/// while it walks.
pub(super) struct Timeline<P, S> {
    pub(super) plan: P,
    window: (u64, u64),
    cursor: u64,
    cluster: Vec<Operation>,
    cluster_end: u64,
    at_stretch: usize,
    at_state: usize,
    at_clock: usize,
    at_copy: usize,
    held: Option<Held>,
    open: Option<usize>,
    /// When the device turned to the step that is open.
    turned: u64,
    /// The step of the last launch, and its place.
    found: Option<(StepId, usize)>,
    accounts: StepAccounts,
    observer_ns_per_launch: u64,
    observer_due: u64,
    busy: u128,
    pub(super) journal: S,
    pub(super) bench: Bench,
}

impl<P: Plan, S: Sink> Timeline<P, S> {
    /// A walker at the window's start.
    pub(super) fn new(
        window: Window,
        plan: P,
        observer_ns_per_launch: u64,
        journal: S,
        bench: Bench,
    ) -> Self {
        let window = (window.start_ns.0, window.end_ns.0);
        Self {
            plan,
            window,
            cursor: window.0,
            cluster: Vec::new(),
            cluster_end: 0,
            at_stretch: 0,
            at_state: 0,
            at_clock: 0,
            at_copy: 0,
            held: None,
            open: None,
            turned: window.0,
            found: None,
            accounts: StepAccounts::default(),
            observer_ns_per_launch,
            observer_due: 0,
            busy: 0,
            journal,
            bench,
        }
    }

    /// Takes the next launch, in order of start.
    pub(super) fn launch(&mut self, launch: &Launch) {
        self.copies_before(launch.start.0);
        self.run(Operation::Launch(*launch));
    }

    /// Takes the copies that began before `until`.
    fn copies_before(&mut self, until: u64) {
        while let Some(copy) = self.plan.copy(self.at_copy).filter(|copy| copy.start.0 < until) {
            self.at_copy += 1;
            self.run(Operation::Copy(copy));
        }
    }

    fn run(&mut self, operation: Operation) {
        let (start, end) = operation.span();
        if !self.cluster.is_empty() && start >= self.cluster_end {
            self.run_cluster();
        }
        self.cluster_end = self.cluster_end.max(end);
        self.cluster.push(operation);
    }

    /// Accounts for the time until `until`, before which everything is known: no fact of a
    /// time before it will come.
    pub(super) fn advance(&mut self, until: u64) {
        self.copies_before(until);
        if !self.cluster.is_empty() && self.cluster_end > until {
            return;
        }
        self.run_cluster();
        self.idle_until(until.min(self.window.1));
    }

    /// Accounts for what is left of the window, which ends at `end`.
    pub(super) fn close(&mut self, end: u64) {
        self.window.1 = end;
        self.copies_before(u64::MAX);
        self.run_cluster();
        self.idle_until(end);
        self.switch_to(None);
    }

    /// Accounts for what is left of the window; also gives the time in which operations ran.
    pub(super) fn finish(mut self) -> (S, Bench, u128) {
        self.close(self.window.1);
        (self.journal, self.bench, self.busy)
    }

    /// Until when everything is accounted for.
    pub(super) const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The time in which operations ran.
    pub(super) const fn busy(&self) -> u128 {
        self.busy
    }

    /// What gathered in the step that goes on, operations apart, in nanoseconds.
    pub(super) fn accrued(&self) -> u128 {
        self.accounts.accrued()
    }

    /// Bytes of what overlaps with what may still come, and of copies in the step that goes on.
    pub(super) fn bytes_under_way(&self) -> u128 {
        self.cluster.iter().map(Operation::bytes).sum::<u128>() + self.accounts.copied()
    }

    /// Where it has come to.
    pub(super) const fn places(&self) -> Places {
        let (state, clock) = (self.at_state, self.at_clock);
        Places { state, clock, stretch: self.at_stretch, copy: self.at_copy }
    }

    /// Accounts for the operations that overlap, and for the idle time before them.
    fn run_cluster(&mut self) {
        let mut cluster = std::mem::take(&mut self.cluster);
        let Some(first) = cluster.first() else { return };
        let clip = |at: u64| at.clamp(self.window.0, self.window.1);
        let (begin, end) = (clip(first.span().0), clip(self.cluster_end));
        self.idle_until(begin);
        if cluster.len() == 1 && !self.overridden(begin, end) {
            self.book(&cluster[0], end - begin);
        } else {
            let mut owned = vec![0; cluster.len()];
            self.cut(&cluster, &mut owned);
            for (operation, nanos) in cluster.iter().zip(owned) {
                self.book(operation, nanos);
            }
        }
        self.cursor = end;
        self.cluster_end = 0;
        cluster.clear();
        self.cluster = cluster;
    }

    /// Gives each instant of a cluster to the operations that run in it and own it, in equal
    /// parts.
    fn cut(&mut self, cluster: &[Operation], owned: &mut [u64]) {
        let clip = |at: u64| at.clamp(self.window.0, self.window.1);
        let mut cuts: Vec<u64> = Vec::new();
        for (start, end) in cluster.iter().map(Operation::span) {
            cuts.extend([clip(start), clip(end)]);
        }
        let (begin, end) = (clip(cluster[0].span().0), clip(self.cluster_end));
        // Looking at the state moves the place among the changes behind `begin`.
        self.state(begin);
        let later = (self.at_state..).map_while(|place| self.plan.state(place));
        cuts.extend(later.map(|change| change.at.0).take_while(|at| *at < end));
        cuts.sort_unstable();
        cuts.dedup();
        for pair in cuts.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            if let Some(state) = self.state(from).filter(|state| overrides(*state)) {
                self.journal.turn(from);
                self.post_state(state, to - from);
                continue;
            }
            let runs = |operation: &Operation| {
                let (start, end) = operation.span();
                start <= from && end >= to
            };
            // Inside a cluster something always runs: it is the union of its operations.
            let running = cluster.iter().filter(|operation| runs(operation));
            let turn = running.map(Operation::turn).min();
            let owns = |operation: &Operation| runs(operation) && Some(operation.turn()) == turn;
            let owners = cluster.iter().filter(|operation| owns(operation)).count() as u64;
            let (share, mut left) = ((to - from) / owners, (to - from) % owners);
            for (operation, owned) in cluster.iter().zip(owned.iter_mut()) {
                if owns(operation) {
                    *owned += share + u64::from(left > 0);
                    left = left.saturating_sub(1);
                }
            }
        }
    }

    fn book(&mut self, operation: &Operation, nanos: u64) {
        self.busy += u128::from(nanos);
        match operation {
            Operation::Launch(launch) => self.book_launch(launch, nanos),
            Operation::Copy(copy) => self.book_copy(copy, nanos),
        }
    }

    /// The place of the step that an operation belongs to. Operations of a step come one after
    /// another.
    fn place(&mut self, step: Option<StepId>) -> Option<usize> {
        if self.found.is_none_or(|(id, _)| step != Some(id)) {
            self.found = step.and_then(|id| Some((id, self.plan.place(id)?)));
        }
        self.found.map(|(_, at)| at)
    }

    fn book_copy(&mut self, copy: &MemoryCopy, nanos: u64) {
        if let Some(at) = self.place(copy.step) {
            self.switch_to(Some(at));
            return self.accounts.add_copy(copy, nanos);
        }
        let mut carried = Carried::default();
        carried.add(copy, nanos);
        self.journal.turn(self.cursor);
        for (commodity, account, amount) in carried.postings() {
            if amount > 0 {
                self.journal.post_to_nobody(commodity, account, amount);
            }
        }
    }

    fn book_launch(&mut self, launch: &Launch, nanos: u64) {
        let floor = self.bench.count(launch, nanos);
        let owned = Owned { nanos, held: self.held(launch.start.0) };
        if let Some(at) = self.place(launch.step) {
            self.switch_to(Some(at));
            if self.accounts.add_launch((launch, floor), owned, &mut self.bench) {
                self.journal.launched(launch, owned);
                return;
            }
        }
        let account = |basis| Account::of(Cause::UnattributedBusy, basis).kernel(launch.kernel);
        self.journal.turn(self.cursor);
        let time = (Commodity::DeviceTime, Basis::Measured, nanos.into());
        let bytes = (Commodity::Bytes, Basis::Counted, launch.moved());
        for (commodity, basis, amount) in [time, bytes] {
            self.journal.post_to_nobody(commodity, account(basis), amount);
        }
    }

    /// Makes a step the open one; closes the one before.
    fn switch_to(&mut self, step: Option<usize>) {
        if step == self.open {
            return;
        }
        self.open = step;
        let turned = std::mem::replace(&mut self.turned, self.cursor);
        if self.accounts.is_open() {
            self.journal.turn(turned);
            self.observer_due += self.observer_ns_per_launch * self.accounts.launches();
            self.accounts.close(self.bench.launch_floor, &mut self.journal);
        }
        if let Some((step, rows)) = step.and_then(|place| self.plan.step(place)) {
            self.journal.opening(&step, rows);
            self.accounts.open(step, rows, &mut self.journal);
        }
    }

    /// Accounts for the time from the cursor to `until`, in which nothing runs.
    fn idle_until(&mut self, until: u64) {
        while self.cursor < until {
            let from = self.cursor;
            let state = self.state(from);
            let mut to = until;
            if let Some(next) = self.plan.state(self.at_state) {
                to = to.min(next.at.0);
            }
            while self.plan.stretch(self.at_stretch).is_some_and(|s| s.end <= from) {
                self.at_stretch += 1;
            }
            let stretch = self.plan.stretch(self.at_stretch);
            if let Some(stretch) = stretch {
                let cuts = [stretch.host_start, stretch.start, stretch.end];
                to = cuts.into_iter().filter(|cut| *cut > from).fold(to, u64::min);
            }
            let inside = stretch.filter(|stretch| stretch.host_start <= from);
            to = to.min(self.journal.cut(from));
            self.idle(from, to, state, inside);
            self.cursor = to;
        }
    }

    fn idle(&mut self, from: u64, to: u64, state: Option<DeviceState>, inside: Option<Stretch>) {
        let nanos = to - from;
        match (state, inside) {
            (Some(state), _) if overrides(state) => {
                self.journal.turn(from);
                self.post_state(state, nanos);
            }
            (_, Some(stretch)) if stretch.start <= from => {
                self.switch_to(Some(stretch.step));
                self.accounts.add_gap(nanos);
            }
            (_, Some(stretch)) => {
                self.switch_to(Some(stretch.step));
                let observer = self.observer(nanos);
                self.accounts.add_host(nanos, observer);
            }
            (Some(state), None) => {
                self.switch_to(None);
                self.journal.turn(from);
                self.post_state(state, nanos);
            }
            (None, None) => {
                self.journal.turn(from);
                let account = Account::of(Cause::UnattributedIdle, Basis::Measured);
                self.journal.post_to_nobody(Commodity::DeviceTime, account, nanos.into());
            }
        }
    }

    /// The part of `nanos` of host time that recording the last steps took.
    fn observer(&mut self, nanos: u64) -> u64 {
        let part = self.observer_due.min(nanos);
        self.observer_due -= part;
        part
    }

    fn post_state(&mut self, state: DeviceState, nanos: u64) {
        let of = |cause| Account::of(cause, Basis::Measured);
        let account = match state {
            DeviceState::Empty => of(Cause::NoDemand),
            DeviceState::External => of(Cause::Upstream),
            DeviceState::Holding => of(Cause::BatchFill),
            DeviceState::Blocked => of(Cause::Capacity),
            DeviceState::Host => of(Cause::Host),
            DeviceState::Load => of(Cause::Changeover).because(SubReason::Load),
            DeviceState::WarmUp => of(Cause::Changeover).because(SubReason::WarmUp),
            DeviceState::Calibrate => of(Cause::Observer).because(SubReason::Calibrate),
            DeviceState::Faulted => of(Cause::FaultRecovery).at(Level::Waste),
        };
        let observer = if state == DeviceState::Host { self.observer(nanos) } else { 0 };
        let recording =
            Account::of(Cause::Observer, Basis::Apportioned).because(SubReason::Recording);
        let time = Commodity::DeviceTime;
        self.journal.post_to_nobody(time, recording, observer.into());
        self.journal.post_to_nobody(time, account, (nanos - observer).into());
    }

    /// The state at `at`; time only goes forward.
    fn state(&mut self, at: u64) -> Option<DeviceState> {
        while self.plan.state(self.at_state).is_some_and(|change| change.at.0 <= at) {
            self.at_state += 1;
        }
        Some(self.plan.state(self.at_state.checked_sub(1)?)?.state)
    }

    /// The limit that holds the clock down at `at`; time only goes forward.
    fn held(&mut self, at: u64) -> Option<Held> {
        while let Some(change) = self.plan.clock(self.at_clock).filter(|change| change.at <= at) {
            self.held = change.held;
            self.at_clock += 1;
        }
        self.held
    }

    /// Whether a state that goes before everything touches the stretch.
    fn overridden(&mut self, from: u64, to: u64) -> bool {
        let at_start = self.state(from).is_some_and(overrides);
        let mut later = (self.at_state..)
            .map_while(|place| self.plan.state(place))
            .take_while(|change| change.at.0 < to);
        at_start || later.any(|change| overrides(change.state))
    }
}

/// Whether a state goes before everything that may run in it.
const fn overrides(state: DeviceState) -> bool {
    matches!(
        state,
        DeviceState::Load | DeviceState::WarmUp | DeviceState::Calibrate | DeviceState::Faulted
    )
}
