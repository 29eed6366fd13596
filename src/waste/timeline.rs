//! A device's timeline, cut where anything changes: every instant has one owner.
//!
//! Order of the rules: faulted; load and warm-up; calibration. Then, where nothing runs: inside
//! a step (`launch_gap`); while the host prepares one (`host`); by the scheduler's state. Then,
//! where something runs: the operations that run share the instant equally.

use std::collections::HashMap;

use super::catalogue::{Cause, Level};
use super::journal::Journal;
use super::kernel::Bench;
use super::posting::{Account, Basis, Commodity, SubReason};
use super::step::StepAccounts;
use crate::event::{DeviceState, Launch, Row, StateChange, Step};
use crate::trace::Window;

/// A stretch of the timeline in which a step is prepared or runs. Stretches do not overlap.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    host_start: u64,
    start: u64,
    end: u64,
    step: usize,
}

/// Walks one device's timeline as launches come.
pub(super) struct Timeline<'a> {
    window: (u64, u64),
    steps: &'a [Step],
    rows: &'a [Row],
    states: &'a [StateChange],
    stretches: Vec<Stretch>,
    cursor: u64,
    cluster: Vec<Launch>,
    cluster_end: u64,
    at_stretch: usize,
    at_state: usize,
    places: HashMap<u64, usize>,
    open: Option<usize>,
    accounts: StepAccounts,
    observer_ns_per_launch: u64,
    observer_due: u64,
    busy: u128,
    journal: Journal,
    bench: Bench,
}

impl<'a> Timeline<'a> {
    /// `steps` and `states` are the device's, in order; `rows` are the run's, ordered by step.
    pub(super) fn new(
        window: Window,
        (steps, rows, states): (&'a [Step], &'a [Row], &'a [StateChange]),
        observer_ns_per_launch: u64,
        journal: Journal,
        bench: Bench,
    ) -> Self {
        let window = (window.start_ns.0, window.end_ns.0);
        Self {
            window,
            steps,
            rows,
            states,
            stretches: stretches(steps),
            cursor: window.0,
            cluster: Vec::new(),
            cluster_end: 0,
            at_stretch: 0,
            at_state: 0,
            places: steps.iter().enumerate().map(|(at, step)| (step.step.0, at)).collect(),
            open: None,
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
        if !self.cluster.is_empty() && launch.start.0 >= self.cluster_end {
            self.run_cluster();
        }
        self.cluster_end = self.cluster_end.max(launch.end.0);
        self.cluster.push(*launch);
    }

    /// Accounts for what is left of the window; also gives the time in which operations ran.
    pub(super) fn finish(mut self) -> (Journal, Bench, u128) {
        self.run_cluster();
        self.idle_until(self.window.1);
        self.switch_to(None);
        (self.journal, self.bench, self.busy)
    }

    /// Accounts for the launches that overlap, and for the idle time before them.
    fn run_cluster(&mut self) {
        let mut cluster = std::mem::take(&mut self.cluster);
        let Some(first) = cluster.first() else { return };
        let clip = |at: u64| at.clamp(self.window.0, self.window.1);
        let (begin, end) = (clip(first.start.0), clip(self.cluster_end));
        self.idle_until(begin);
        let mut owned = vec![0; cluster.len()];
        if cluster.len() == 1 && !self.overridden(begin, end) {
            owned[0] = end - begin;
        } else {
            self.cut(&cluster, &mut owned);
        }
        for (launch, nanos) in cluster.iter().zip(owned) {
            self.book(launch, nanos);
        }
        self.cursor = end;
        self.cluster_end = 0;
        cluster.clear();
        self.cluster = cluster;
    }

    /// Shares each instant of a cluster among the operations that run in it.
    fn cut(&mut self, cluster: &[Launch], owned: &mut [u64]) {
        let clip = |at: u64| at.clamp(self.window.0, self.window.1);
        let mut cuts: Vec<u64> = Vec::new();
        for launch in cluster {
            cuts.extend([clip(launch.start.0), clip(launch.end.0)]);
        }
        let (begin, end) = (clip(cluster[0].start.0), clip(self.cluster_end));
        // Looking at the state moves the place among the changes behind `begin`.
        self.state(begin);
        let inside = self.states[self.at_state..].iter().take_while(|change| change.at.0 < end);
        cuts.extend(inside.map(|change| change.at.0));
        cuts.sort_unstable();
        cuts.dedup();
        for pair in cuts.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            if let Some(state) = self.state(from).filter(|state| overrides(*state)) {
                self.post_state(state, to - from);
                continue;
            }
            let runs = |l: &Launch| l.start.0 <= from && l.end.0 >= to;
            let running = cluster.iter().filter(|l| runs(l)).count() as u64;
            // Inside a cluster something always runs: it is the union of its launches.
            let (share, mut left) = ((to - from) / running, (to - from) % running);
            for (launch, owned) in cluster.iter().zip(owned.iter_mut()) {
                if runs(launch) {
                    *owned += share + u64::from(left > 0);
                    left = left.saturating_sub(1);
                }
            }
        }
    }

    fn book(&mut self, launch: &Launch, nanos: u64) {
        self.busy += u128::from(nanos);
        self.bench.count(launch, nanos);
        let step = launch.step.and_then(|id| self.places.get(&id.0).copied());
        if let Some(at) = step {
            self.switch_to(Some(at));
            if self.accounts.add_launch(launch, nanos, &mut self.bench) {
                return;
            }
        }
        let account = |basis| Account::of(Cause::UnattributedBusy, basis).kernel(launch.kernel);
        let bytes = launch.weight_bytes + launch.kv_bytes;
        let bytes = bytes + launch.activation_bytes + launch.excess_bytes;
        let time = (Commodity::DeviceTime, Basis::Measured, nanos);
        for (commodity, basis, amount) in [time, (Commodity::Bytes, Basis::Counted, bytes.0)] {
            self.journal.post_to_nobody(commodity, account(basis), amount.into());
        }
    }

    /// Makes a step the open one; closes the one before.
    fn switch_to(&mut self, step: Option<usize>) {
        if step == self.open {
            return;
        }
        self.open = step;
        if self.accounts.is_open() {
            self.observer_due += self.observer_ns_per_launch * self.accounts.launches();
            self.accounts.close(self.bench.launch_floor, &mut self.journal);
        }
        if let Some(at) = step {
            let id = self.steps[at].step;
            let from = self.rows.partition_point(|row| row.step < id);
            let to = from + self.rows[from..].partition_point(|row| row.step == id);
            self.accounts.open(self.steps[at], &self.rows[from..to], &mut self.journal);
        }
    }

    /// Accounts for the time from the cursor to `until`, in which nothing runs.
    fn idle_until(&mut self, until: u64) {
        while self.cursor < until {
            let from = self.cursor;
            let state = self.state(from);
            let mut to = until;
            if let Some(next) = self.states.get(self.at_state) {
                to = to.min(next.at.0);
            }
            while self.stretches.get(self.at_stretch).is_some_and(|s| s.end <= from) {
                self.at_stretch += 1;
            }
            let stretch = self.stretches.get(self.at_stretch).copied();
            if let Some(stretch) = stretch {
                let cuts = [stretch.host_start, stretch.start, stretch.end];
                to = cuts.into_iter().filter(|cut| *cut > from).fold(to, u64::min);
            }
            let inside = stretch.filter(|stretch| stretch.host_start <= from);
            self.idle(from, to, state, inside);
            self.cursor = to;
        }
    }

    fn idle(&mut self, from: u64, to: u64, state: Option<DeviceState>, inside: Option<Stretch>) {
        let nanos = to - from;
        match (state, inside) {
            (Some(state), _) if overrides(state) => self.post_state(state, nanos),
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
                self.post_state(state, nanos);
            }
            (None, None) => {
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
        while self.states.get(self.at_state).is_some_and(|change| change.at.0 <= at) {
            self.at_state += 1;
        }
        Some(self.states[self.at_state.checked_sub(1)?].state)
    }

    /// Whether a state that goes before everything touches the stretch.
    fn overridden(&mut self, from: u64, to: u64) -> bool {
        let at_start = self.state(from).is_some_and(overrides);
        let mut later = self.states[self.at_state..].iter().take_while(|change| change.at.0 < to);
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

/// The steps' stretches, clipped so that none begins before the one before it has ended.
fn stretches(steps: &[Step]) -> Vec<Stretch> {
    let mut end = 0;
    let mut stretches = Vec::with_capacity(steps.len());
    for (i, step) in steps.iter().enumerate() {
        let start = step.start.0.max(end);
        let host_start = step.host_start.0.max(end).min(start);
        let last = step.end.0.max(start);
        stretches.push(Stretch { host_start, start, end: last, step: i });
        end = last;
    }
    stretches
}
