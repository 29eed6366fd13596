//! A run as the reading arm sees it: canonical order, fates resolved.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::LogReader;
use super::header::{Header, Status};
use super::{TraceError, plausible};
use crate::event::{
    Fact, Fate, Finish, KernelId, Launch, Memory, MemoryCopy, Outcome, Power, Request, RequestId,
    Row, StateChange, Step,
};
use crate::unit::{Nanos, make_printable};

/// The launches of a run: in memory, or too many for that.
#[derive(Clone, Debug)]
pub enum Launches {
    /// All of them, ordered by device and start.
    Memory(Vec<Launch>),
    /// A table in that order.
    Table {
        /// The Parquet file.
        path: PathBuf,
        /// How many it holds.
        rows: u64,
    },
}

impl Launches {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        match self {
            Self::Memory(launches) => launches.len() as u64,
            Self::Table { rows, .. } => *rows,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A run, read.
#[derive(Clone, Debug)]
pub struct Run {
    /// What ran.
    pub header: Header,
    /// Kernel names, sorted; launches point into this list.
    pub kernels: Vec<String>,
    /// Requests by number.
    pub requests: Vec<Request>,
    /// State changes by device and time.
    pub states: Vec<StateChange>,
    /// Steps by device and time.
    pub steps: Vec<Step>,
    /// Rows by step, with their fates resolved.
    pub rows: Vec<Row>,
    /// Memory changes by device and time.
    pub memory: Vec<Memory>,
    /// Meter readings by device and time.
    pub power: Vec<Power>,
    /// Copies by device and time.
    pub copies: Vec<MemoryCopy>,
    /// Launches by device and time.
    pub launches: Launches,
}

impl Run {
    /// A run from its facts, in whatever order they came.
    ///
    /// # Errors
    /// Says which fact contradicts another: a finish without an arrival, a launch of an unnamed
    /// kernel, an end before its start.
    pub fn from_facts(header: Header, facts: Vec<Fact>) -> Result<Self, String> {
        let mut run = Self {
            header,
            kernels: Vec::new(),
            requests: Vec::new(),
            states: Vec::new(),
            steps: Vec::new(),
            rows: Vec::new(),
            memory: Vec::new(),
            power: Vec::new(),
            copies: Vec::new(),
            launches: Launches::Memory(Vec::new()),
        };
        let (mut finishes, mut launches) = (Vec::new(), Vec::new());
        for fact in facts {
            run.take(fact, &mut finishes, &mut launches)?;
        }
        run.settle(finishes)?;
        for launch in &launches {
            run.check_launch(launch)?;
        }
        let (names, places) = sorted_names(&run.kernels);
        for launch in &mut launches {
            launch.kernel = places[usize::from(launch.kernel.0)];
        }
        launches.sort_by_key(launch_order);
        (run.kernels, run.launches) = (names, Launches::Memory(launches));
        Ok(run)
    }

    /// Files one fact. Finishes and launches are kept apart: the ones wait for their arrivals,
    /// the others may be too many.
    pub(super) fn take(
        &mut self,
        fact: Fact,
        finishes: &mut Vec<Finish>,
        launches: &mut Vec<Launch>,
    ) -> Result<(), String> {
        match fact {
            Fact::Kernel { id, mut name } => {
                make_printable(&mut name);
                let at = usize::from(id.0);
                if self.kernels.len() <= at {
                    self.kernels.resize(at + 1, String::new());
                }
                if !self.kernels[at].is_empty() && self.kernels[at] != name {
                    return Err(format!("kernel {at}: named {} and {name}", self.kernels[at]));
                }
                self.kernels[at] = name;
            }
            Fact::State(change) => self.states.push(change),
            Fact::Step(step) => self.steps.push(step),
            Fact::Row(row) => self.rows.push(row),
            Fact::Launch(launch) => launches.push(launch),
            Fact::Memory(memory) => self.memory.push(memory),
            Fact::Arrival(mut arrival) => {
                [&mut arrival.class, &mut arrival.route].into_iter().for_each(make_printable);
                self.requests.push(Request { arrival, finish: None });
            }
            Fact::Finish(finish) => finishes.push(finish),
            Fact::Power(power) => self.power.push(power),
            Fact::Copy(copy) => self.copies.push(copy),
        }
        Ok(())
    }

    /// Brings everything but the launches into its canonical order and resolves fates.
    pub(super) fn settle(&mut self, finishes: Vec<Finish>) -> Result<(), String> {
        self.requests.sort_by_key(|request| request.arrival.request);
        if let Some(pair) =
            self.requests.windows(2).find(|pair| pair[0].arrival.request == pair[1].arrival.request)
        {
            return Err(format!("request {}: arrived twice", pair[0].arrival.request.0));
        }
        for finish in finishes {
            let id = finish.request;
            let Some(request) = self.request_mut(id) else {
                return Err(format!("request {}: finished without an arrival", id.0));
            };
            if request.finish.replace(finish).is_some() {
                return Err(format!("request {}: finished twice", id.0));
            }
        }
        self.check()?;
        self.states.sort_by_key(|change| (change.device, change.at, change.state));
        self.steps.sort_by_key(|step| (step.device, step.start, step.step));
        self.memory.sort_by_key(|m| (m.device, m.at, m.class, m.block, m.change, m.bytes));
        self.power.sort_by_key(|power| {
            let Power { device, at, energy_uj, power_mw, clock_mhz, throttle, basis } = *power;
            (device, at, energy_uj, power_mw, clock_mhz, throttle, basis)
        });
        self.copies.sort_by_key(copy_order);
        for row in &mut self.rows {
            if row.fate == Fate::Open {
                let outcome = row.request.and_then(|id| outcome(&self.requests, id));
                row.fate = resolve(outcome);
            }
        }
        self.rows.sort_by_key(|row| {
            (row.step, row.request, row.phase, row.context_tokens, row.fate, row.rows)
        });
        Ok(())
    }

    /// Whether what is small is plausible and in order of time.
    pub(super) fn check(&self) -> Result<(), String> {
        plausible::header(&self.header)?;
        self.states.iter().try_for_each(|change| plausible::time(change.at))?;
        self.rows.iter().try_for_each(plausible::row)?;
        self.memory.iter().try_for_each(plausible::memory)?;
        self.power.iter().try_for_each(plausible::power)?;
        self.copies.iter().try_for_each(plausible::copy)?;
        for step in &self.steps {
            plausible::step(step)?;
            if step.host_start > step.start || step.start > step.end {
                return Err(format!("step {}: it ends before it starts", step.step.0));
            }
        }
        for request in &self.requests {
            plausible::time(request.arrival.at)?;
            if let Some(finish) = &request.finish {
                plausible::time(finish.at)?;
                if finish.at < request.arrival.at {
                    return Err(format!("request {}: it ends before it comes", finish.request.0));
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_launch(&self, launch: &Launch) -> Result<(), String> {
        let kernel = usize::from(launch.kernel.0);
        if self.kernels.get(kernel).is_none_or(String::is_empty) {
            return Err(format!("launch at {} ns: kernel {kernel} has no name", launch.start.0));
        }
        if launch.end < launch.start {
            return Err(format!("launch at {} ns: it ends before it starts", launch.start.0));
        }
        plausible::launch(launch)
    }

    fn request_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        let at = self.requests.binary_search_by_key(&id, |r| r.arrival.request).ok()?;
        self.requests.get_mut(at)
    }

    /// The request `id`.
    #[must_use]
    pub fn request(&self, id: RequestId) -> Option<&Request> {
        let at = self.requests.binary_search_by_key(&id, |r| r.arrival.request).ok()?;
        self.requests.get(at)
    }

    /// The last moment that any fact but a launch speaks of.
    pub(super) fn last_moment(&self) -> Nanos {
        let steps = self.steps.iter().map(|step| step.end);
        let states = self.states.iter().map(|change| change.at);
        let memory = self.memory.iter().map(|change| change.at);
        let requests = self.requests.iter().map(|r| r.finish.map_or(r.arrival.at, |f| f.at));
        let power = self.power.iter().map(|power| power.at);
        let copies = self.copies.iter().map(|copy| copy.end);
        let facts = steps.chain(states).chain(memory).chain(requests).chain(power).chain(copies);
        facts.max().unwrap_or_default()
    }

    /// Gives all launches in order, in chunks; a table is decoded ahead on a thread of its own.
    ///
    /// # Errors
    /// What reading says, or the first error of `each`.
    pub fn each_launch_chunk<E: From<TraceError>>(
        &self,
        mut each: impl FnMut(&[Launch]) -> Result<(), E>,
    ) -> Result<(), E> {
        match &self.launches {
            Launches::Memory(launches) => each(launches),
            #[cfg(feature = "analysis")]
            Launches::Table { path, rows } => {
                super::tables::each_chunk(path, *rows, &self.kernels, each)
            }
            #[cfg(not(feature = "analysis"))]
            Launches::Table { path, .. } => {
                Err(TraceError::NoAnalysis { path: path.clone() }.into())
            }
        }
    }

    /// Reads a run folder. The first reader of a folder whose tables are missing or older than
    /// its log makes them.
    ///
    /// # Errors
    /// [`TraceError`] says which file is missing, newer, or contradicts itself.
    pub fn open(folder: &Path) -> Result<Self, TraceError> {
        let header = read_header(folder)?;
        check_log(&folder.join("events.log"), &header)?;
        #[cfg(feature = "analysis")]
        return super::tables::open(folder, header);
        #[cfg(not(feature = "analysis"))]
        Self::from_log(folder, header)
    }

    /// Reads all facts of a folder's log into memory.
    pub(super) fn from_log(folder: &Path, header: Header) -> Result<Self, TraceError> {
        let path = folder.join("events.log");
        let mut log = LogReader::open(&path)?;
        let mut facts = Vec::new();
        while log.next_frame(&mut facts)? {}
        if header.log_bytes.is_some() {
            log.check_whole()?;
        }
        let mut run =
            Self::from_facts(header, facts).map_err(|what| TraceError::malformed(&path, what))?;
        let last = match &run.launches {
            Launches::Memory(launches) => launches.iter().map(|l| l.end).max(),
            Launches::Table { .. } => None,
        };
        run.close_window(last.unwrap_or_default());
        Ok(run)
    }

    /// Gives a run whose writer died the status and window it turned out to have.
    pub(super) fn close_window(&mut self, last_launch: Nanos) {
        if self.header.status == Status::Running {
            self.header.status = Status::Truncated;
            self.header.window.end_ns = self.last_moment().max(last_launch);
        }
    }
}

/// Whether the log of a closed run, where it is still there, is as long as it was.
fn check_log(path: &Path, header: &Header) -> Result<(), TraceError> {
    let (Ok(found), Some(expected)) = (std::fs::metadata(path), header.log_bytes) else {
        return Ok(());
    };
    if found.is_file() && found.len() == expected {
        return Ok(());
    }
    let what = match found.is_file() {
        true => format!("expected {expected} bytes as run.json says, found {}", found.len()),
        false => "expected a file".to_owned(),
    };
    Err(TraceError::Damaged { path: path.to_path_buf(), what })
}

/// The distinct names in order, and the new number of each old one: the numbers an engine gave
/// its kernels must not show in the books.
pub(super) fn sorted_names(kernels: &[String]) -> (Vec<String>, Vec<KernelId>) {
    let distinct: BTreeSet<&String> = kernels.iter().filter(|name| !name.is_empty()).collect();
    let names: Vec<String> = distinct.into_iter().cloned().collect();
    let place = |name: &String| names.binary_search(name).unwrap_or(0);
    let places = kernels.iter().map(|name| KernelId(place(name) as u16)).collect();
    (names, places)
}

/// The canonical order of launches.
pub fn launch_order(launch: &Launch) -> impl Ord + use<> {
    (
        (launch.device, launch.start, launch.end, launch.stream),
        (launch.step, launch.layer, launch.kernel),
        (launch.weight_bytes, launch.kv_bytes, launch.activation_bytes, launch.excess_bytes),
        (launch.ops, launch.dtype, launch.driver),
    )
}

/// The canonical order of copies.
pub fn copy_order(copy: &MemoryCopy) -> impl Ord + use<> {
    let MemoryCopy { device, stream, step, start, end, cargo, direction, bytes } = *copy;
    ((device, start, end, stream), (step, cargo, direction, bytes))
}

fn outcome(requests: &[Request], id: RequestId) -> Option<Outcome> {
    let at = requests.binary_search_by_key(&id, |r| r.arrival.request).ok()?;
    requests[at].finish.map(|finish| finish.outcome)
}

/// What becomes of an open row when its request's end is known, or known to lie beyond the run.
#[must_use]
pub const fn resolve(outcome: Option<Outcome>) -> Fate {
    match outcome {
        None => Fate::Open,
        Some(Outcome::Completed) => Fate::Delivered,
        Some(Outcome::Malformed) => Fate::Malformed,
        Some(Outcome::Cancelled | Outcome::TimedOut | Outcome::Failed | Outcome::Rejected) => {
            Fate::Failed
        }
    }
}

/// The header of a run folder, as it stands now.
///
/// # Errors
/// [`TraceError`] says that there is none, or that it is newer or malformed.
pub fn read_header(folder: &Path) -> Result<Header, TraceError> {
    let path = folder.join("run.json");
    if !path.is_file() {
        return Err(TraceError::NotARun { path: folder.to_path_buf() });
    }
    let json = std::fs::read(&path).map_err(TraceError::io("read", &path))?;
    Header::parse(&json, &path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Arrival, Phase, StepId};

    fn arrival(id: u64) -> Fact {
        Fact::Arrival(Arrival {
            request: RequestId(id),
            parent: None,
            task: None,
            attempt: 1,
            class: String::new(),
            route: String::new(),
            at: Nanos(5),
            prompt_tokens: 3,
            max_tokens: 2,
        })
    }

    fn finish(id: u64, at: u64, outcome: Outcome) -> Fact {
        Fact::Finish(Finish {
            request: RequestId(id),
            at: Nanos(at),
            first_scheduled: None,
            first_token: None,
            cached_tokens: 0,
            output_tokens: 0,
            outcome,
        })
    }

    fn row(id: u64) -> Fact {
        Fact::Row(Row {
            step: StepId(0),
            request: Some(RequestId(id)),
            phase: Phase::Prefill,
            rows: 3,
            context_tokens: 0,
            cached_tokens: 0,
            sequence_rows: 3,
            logits_rows: 1,
            fate: Fate::Open,
        })
    }

    #[test]
    fn open_rows_take_the_fate_of_their_request() {
        let cases = [
            (Some(Outcome::Completed), Fate::Delivered),
            (Some(Outcome::Malformed), Fate::Malformed),
            (Some(Outcome::TimedOut), Fate::Failed),
            (None, Fate::Open),
        ];
        for (outcome, fate) in cases {
            let mut facts = vec![row(0), arrival(0)];
            facts.extend(outcome.map(|outcome| finish(0, 9, outcome)));
            let run = Run::from_facts(Header::begin(), facts).unwrap();
            assert_eq!(run.rows[0].fate, fate);
        }
    }

    #[test]
    fn contradictions_are_said() {
        let cases = [
            (vec![finish(3, 9, Outcome::Failed)], "request 3: finished without an arrival"),
            (vec![arrival(1), arrival(1)], "request 1: arrived twice"),
            (
                vec![arrival(1), finish(1, 6, Outcome::Failed), finish(1, 7, Outcome::Failed)],
                "request 1: finished twice",
            ),
            (vec![arrival(1), finish(1, 4, Outcome::Failed)], "request 1: it ends before it comes"),
            (
                vec![Fact::Step(Step { start: Nanos(2), end: Nanos(1), ..Step::default() })],
                "step 0: it ends before it starts",
            ),
        ];
        for (facts, message) in cases {
            assert_eq!(Run::from_facts(Header::begin(), facts).err().as_deref(), Some(message));
        }
    }
}
