//! Books that are kept while a run goes on.
//!
//! Facts come in the order in which they were said; the same rules as for a finished run book
//! them, device by device, up to the last moment before which everything is known. Totals at
//! the end are those of [`Books`](super::Books), account by account, but for what only a
//! finished run can tell: the promise's headroom, and what recording cost where the header does
//! not say it yet.
//!
//! What open requests did stands under `wip.open` until they leave. Memory is bounded: it grows
//! with the requests under way and the steps since they came, not with the run.

mod device;
mod experience;
mod figures;
mod intervals;
mod known;
mod tally;
mod visits;

use std::collections::{BTreeMap, VecDeque};

use super::books::BooksOptions;
use super::catalogue::Cause;
use super::headline::Counts;
use super::posting::{Account, Commodity};
use super::step::{Standing, standing};
use crate::event::{Fact, Finish, Launch, Outcome, Power, Row, Step, StepId, Throttle};
use crate::trace::{Header, Status};
use crate::unit::Nanos;
use device::Device;
use experience::Experience;
use intervals::Recent;

pub use super::projection::BlockState;
pub use experience::{LiveRequest, Stall};
pub use intervals::{INTERVALS, Interval};

/// Steps whose rows are kept by fate.
const STEPS_SHOWN: usize = 256;

/// Readings of meters that are kept.
const READINGS: usize = 240;

/// Rows of one step by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepRows {
    /// The step.
    pub step: StepId,
    /// From the host's preparation to its end.
    pub nanos: Nanos,
    /// Requests that waited while it ran.
    pub queued: u32,
    /// Rows by cause; `None` is work of requests under way.
    pub rows: BTreeMap<Cause, u32>,
}

/// A sum of postings by account.
pub type Sums = BTreeMap<(Commodity, Account), u128>;

/// Books that are kept while a run goes on.
pub struct LiveBooks {
    header: Header,
    options: BooksOptions,
    kernels: Vec<String>,
    /// The place of each kernel among their sorted names.
    ranks: Vec<u16>,
    devices: Vec<Device>,
    experience: Experience,
    outcomes: Outcomes,
    recent: Recent,
    counts: Counts,
    arrivals: Option<(Nanos, Nanos)>,
    asked_tokens: u64,
    newest: Option<Step>,
    steps: VecDeque<StepRows>,
    power: VecDeque<Power>,
    last: Nanos,
    facts: u64,
}

/// How the requests that left last ended.
#[derive(Debug, Default)]
struct Outcomes {
    by_request: std::collections::HashMap<u64, Outcome>,
    order: VecDeque<u64>,
}

impl Outcomes {
    /// Rows of a request come at most a few steps after its end; so many ends are remembered.
    const KEPT: usize = 1 << 16;

    fn insert(&mut self, request: u64, outcome: Outcome) {
        self.by_request.insert(request, outcome);
        self.order.push_back(request);
        if self.order.len() > Self::KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_request.remove(&oldest);
        }
    }
}

impl LiveBooks {
    /// Books of the run that `header` describes, with a picture of the recent past in steps of
    /// `interval`. While the header says `running`, the window's end is open.
    #[must_use]
    pub fn new(header: &Header, options: &BooksOptions, interval: Nanos) -> Self {
        let mut window = header.window;
        if header.status == Status::Running {
            window.end_ns = Nanos(u64::MAX);
        }
        let observer = header.observer.map_or(0, |observer| observer.ns_per_launch);
        let device =
            |device| Device::new(device, window, header.reference_batch, options.costing, observer);
        Self {
            header: header.clone(),
            options: options.clone(),
            kernels: Vec::new(),
            ranks: Vec::new(),
            devices: header.devices.iter().map(device).collect(),
            experience: Experience::default(),
            outcomes: Outcomes::default(),
            recent: Recent::new(interval),
            counts: Counts::default(),
            arrivals: None,
            asked_tokens: 0,
            newest: None,
            steps: VecDeque::new(),
            power: VecDeque::new(),
            last: window.start_ns,
            facts: 0,
        }
    }

    /// Takes facts in the order in which they were said.
    pub fn extend(&mut self, facts: impl IntoIterator<Item = Fact>) {
        for fact in facts {
            self.take(fact);
        }
        let experience = &self.experience;
        let mut paid = Vec::new();
        for device in &mut self.devices {
            device.retire(
                |request| experience.is_gone(request),
                |request, cause, amount| paid.push((request, cause, amount)),
            );
        }
        for (request, cause, amount) in paid {
            self.experience.pay(request, cause, amount);
        }
    }

    /// The window ends at `end`; no fact will follow.
    pub fn close(&mut self, end: Nanos) {
        for place in 0..self.devices.len() {
            self.pass(place, end.0);
            let ranks = &self.ranks;
            self.devices[place].close(end.0, |launch| rank(ranks, launch));
            let causes = self.devices[place].take_recent();
            self.recent.at(end.0.saturating_sub(1)).add(&causes);
        }
        self.experience.close((self.header.window.start_ns.0, end.0));
        self.last = end;
    }

    /// The run stands so from now on; nothing is booked otherwise for it.
    pub const fn tell_status(&mut self, status: Status) {
        self.header.status = status;
    }

    fn take(&mut self, fact: Fact) {
        self.facts += 1;
        match fact {
            Fact::Kernel { id, name } => self.name(usize::from(id.0), name),
            Fact::State(change) => {
                self.moment(change.at);
                self.experience.settle((self.header.window.start_ns.0, self.window_end()));
                let Some(place) = self.place(change.device) else { return };
                self.devices[place].state(change);
                self.pass(place, change.at.0);
            }
            Fact::Step(step) => self.step(&step),
            Fact::Row(row) => self.row(row),
            Fact::Launch(launch) => {
                if let Some(place) = self.place(launch.device) {
                    self.devices[place].launch(launch);
                }
            }
            Fact::Memory(change) => {
                self.moment(change.at);
                if let Some(place) = self.place(change.device) {
                    self.devices[place].memory(&change);
                }
            }
            Fact::Arrival(arrival) => {
                self.moment(arrival.at);
                self.counts.requests += 1;
                self.asked_tokens += u64::from(arrival.max_tokens);
                let interval = self.recent.at(arrival.at.0);
                interval.arrived += 1;
                interval.asked_tokens += u64::from(arrival.max_tokens);
                let (first, last) = self.arrivals.unwrap_or((arrival.at, arrival.at));
                self.arrivals = Some((first.min(arrival.at), Nanos(last.0.max(arrival.at.0))));
                self.experience.arrive(&arrival);
            }
            Fact::Finish(finish) => self.finish(&finish),
            Fact::Power(power) => self.reading(power),
            Fact::Copy(copy) => {
                if let Some(place) = self.place(copy.device) {
                    self.devices[place].copy(copy);
                }
            }
        }
    }

    fn name(&mut self, id: usize, name: String) {
        if self.kernels.len() <= id {
            self.kernels.resize(id + 1, String::new());
        }
        self.kernels[id] = name;
        let mut sorted: Vec<&String> = self.kernels.iter().collect();
        sorted.sort_unstable();
        let place = |name: &String| sorted.binary_search(&name).unwrap_or(0) as u16;
        self.ranks = self.kernels.iter().map(place).collect();
        for device in &mut self.devices {
            device.name(&self.kernels);
        }
    }

    fn step(&mut self, step: &Step) {
        self.moment(step.end);
        self.experience.settle((self.header.window.start_ns.0, self.window_end()));
        let interval = self.recent.at(step.end.0);
        interval.steps += 1;
        interval.queued = interval.queued.max(step.queued);
        interval.running = interval.running.max(step.requests);
        interval.kv_blocks_used = interval.kv_blocks_used.max(step.kv_blocks_used);
        interval.kv_blocks_total = step.kv_blocks_total;
        self.experience.step(step);
        self.newest = Some(*step);
        let nanos = step.end.saturating_sub(step.host_start);
        let rows = BTreeMap::new();
        self.steps.push_back(StepRows { step: step.step, nanos, queued: step.queued, rows });
        if self.steps.len() > STEPS_SHOWN {
            self.steps.pop_front();
        }
        let Some(place) = self.place(step.device) else { return };
        self.pass(place, step.host_start.0);
        self.devices[place].step(step);
    }

    fn row(&mut self, mut row: Row) {
        // A request that has left: what its rows became is known.
        let outcome = row.request.and_then(|id| self.outcomes.by_request.get(&id.0));
        if let Some(outcome) = outcome {
            let request = row_request(&row);
            known::resolve_rows(std::slice::from_mut(&mut row), request, *outcome);
        }
        let Some(step) = self.newest.filter(|step| step.step == row.step) else { return };
        let interval = self.recent.at(step.end.0);
        let cause = match standing(row.phase, row.fate) {
            Standing::Useful(cause) | Standing::Thrown(cause, _) | Standing::Open(cause) => cause,
        };
        match cause {
            Cause::ValuePrefill => interval.prompt_tokens += u64::from(row.rows),
            Cause::PreemptRecompute => interval.preempted_rows += u64::from(row.rows),
            Cause::Orphaned => interval.orphaned_rows += u64::from(row.rows),
            _ => {}
        }
        if device::gives_token(&row) {
            interval.output_tokens += 1;
        }
        if let Some(gap) = self.experience.row(&step, &row) {
            interval.worst_gap = interval.worst_gap.max(gap.0);
        }
        if let Some(shown) = self.steps.back_mut() {
            let rows = shown.rows.entry(cause).or_default();
            *rows = rows.saturating_add(row.rows);
        }
        if let Some(place) = self.place(step.device) {
            self.devices[place].row(&row);
        }
    }

    fn finish(&mut self, finish: &Finish) {
        self.moment(finish.at);
        let id = finish.request.0;
        self.outcomes.insert(id, finish.outcome);
        self.counts.cached_tokens += u64::from(finish.cached_tokens);
        let slo = self.header.slo;
        let interval = self.recent.at(finish.at.0);
        interval.finished += 1;
        if let Some((request, kept)) = self.experience.finish(finish, &slo) {
            interval.broke_promise += u64::from(slo.is_some() && !kept);
            if finish.outcome == Outcome::Completed {
                self.counts.completed += 1;
                self.counts.good += u64::from(kept);
                self.counts.prompt_tokens += u64::from(request.arrival.prompt_tokens);
                self.counts.accepted_tokens += u64::from(finish.output_tokens);
            }
        }
        for device in &mut self.devices {
            device.finish(id, finish.outcome);
        }
    }

    fn reading(&mut self, power: Power) {
        self.moment(power.at);
        let interval = self.recent.at(power.at.0);
        interval.power_mw = power.power_mw;
        interval.throttled += u64::from(power.throttle != Throttle::None);
        if let Some(place) = self.place(power.device) {
            self.devices[place].power(&power);
        }
        self.power.push_back(power);
        if self.power.len() > READINGS {
            self.power.pop_front();
        }
    }

    /// A device's time is known until `until`.
    fn pass(&mut self, place: usize, until: u64) {
        let ranks = &self.ranks;
        let device = &mut self.devices[place];
        let length = self.recent.length();
        // Interval by interval, so that a long rest is drawn where it was.
        let oldest = (until / length).saturating_sub(INTERVALS as u64) * length;
        let mut cut = (device.cursor().max(oldest) / length + 1) * length;
        while cut < until {
            device.advance(cut, |launch| rank(ranks, launch));
            let causes = device.take_recent();
            self.recent.at(cut - 1).add(&causes);
            cut += length;
        }
        device.advance(until, |launch| rank(ranks, launch));
        let causes = device.take_recent();
        self.recent.at(until.saturating_sub(1)).add(&causes);
    }

    fn moment(&mut self, at: Nanos) {
        self.last = Nanos(self.last.0.max(at.0));
    }

    fn place(&self, device: u16) -> Option<usize> {
        self.devices.iter().position(|known| known.header.id == device)
    }

    fn window_end(&self) -> u64 {
        let running = self.header.status == Status::Running;
        if running { self.last.0 } else { self.header.window.end_ns.0 }
    }

    fn window(&self) -> (u64, u64) {
        (self.header.window.start_ns.0, self.last.0)
    }
}

fn row_request(row: &Row) -> u64 {
    row.request.map_or(0, |id| id.0)
}

fn rank(ranks: &[u16], launch: &Launch) -> u16 {
    ranks.get(usize::from(launch.kernel.0)).copied().unwrap_or(u16::MAX)
}
