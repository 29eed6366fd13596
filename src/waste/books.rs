//! All books of a run: a pure function of the run folder.

use std::collections::HashMap;

use super::catalogue::{Cause, Level, Muda};
use super::copies::over_host_link;
use super::course::Course;
use super::journal::Journal;
use super::kernel::{Bench, BrokenCeilings, Costing};
use super::muda_map::MudaMap;
use super::phases::Phases;
use super::posting::{Account, Commodity, Key};
use super::projection::KernelTotals;
use super::timeline::{Recorded, Timeline};
use super::{derived, headroom, memory, request_time, rows};
use crate::event::{RequestId, StepId};
use crate::ledger::{Book, TrialBalance};
use crate::trace::{DeviceHeader, Run, TraceError};
use crate::unit::Share;

/// How fine postings are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grain {
    /// By step where the run is small enough for that, else by run.
    #[default]
    Auto,
    /// A posting names its step.
    Step,
    /// A posting sums over all steps.
    Run,
}

/// Above this many launches, [`Grain::Auto`] keeps books by run.
const LAUNCHES_BY_STEP: u64 = 100_000;

/// How books are kept.
#[derive(Clone, Debug, Default)]
pub struct BooksOptions {
    /// How thrown-away rows are priced.
    pub costing: Costing,
    /// How fine postings are kept.
    pub grain: Grain,
    /// Another opinion on which waste a cause belongs to.
    pub muda_map: MudaMap,
}

/// The books of a run.
#[derive(Debug)]
pub struct Books {
    books: HashMap<Commodity, Book<Key>>,
    map: MudaMap,
    by_step: bool,
    broken: BrokenCeilings,
    kernels: Vec<KernelTotals>,
    names: Vec<String>,
    course: Course,
    phases: Phases,
}

impl Books {
    /// Books every cost of `run`.
    ///
    /// # Errors
    /// [`TraceError`] if the launches cannot be read.
    pub fn of(run: &Run, options: &BooksOptions) -> Result<Self, TraceError> {
        let by_step = match options.grain {
            Grain::Auto => run.launches.len() <= LAUNCHES_BY_STEP,
            Grain::Step => true,
            Grain::Run => false,
        };
        let mut books = HashMap::new();
        let walked = device_time(run, options.costing, by_step, &mut books)?;
        rows::book(run, by_step, &mut books);
        memory::book(run, &mut books);
        request_time::book(run, &mut books);
        let headroom = headroom::reclassify(run, &mut books);
        derived::money(run, &mut books);
        derived::energy(run, walked.busy, &mut books);
        let Walked { broken, kernels, mut course, phases, .. } = walked;
        let place = |cause: Cause| (cause, cause.entry().level);
        course.reclassify(place(Cause::NoDemand), place(Cause::SloHeadroom), headroom);
        let (map, names) = (options.muda_map.clone(), run.kernels.clone());
        Ok(Self { books, map, by_step, broken, kernels, names, course, phases })
    }

    /// The commodities that have a book, in the order of reports.
    pub fn commodities(&self) -> impl Iterator<Item = Commodity> {
        Commodity::ALL.into_iter().filter(|commodity| self.books.contains_key(commodity))
    }

    /// The trial balance of a commodity.
    #[must_use]
    pub fn trial_balance(&self, commodity: Commodity) -> Option<TrialBalance> {
        self.books.get(&commodity).map(Book::trial_balance)
    }

    /// Whether every book closes to zero.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.books.values().all(|book| book.trial_balance().balanced())
    }

    /// All postings of a commodity, in canonical order.
    pub fn postings(&self, commodity: Commodity) -> impl Iterator<Item = (&Key, u128)> {
        self.books.get(&commodity).into_iter().flat_map(Book::accounts)
    }

    /// The sum of a commodity over the accounts that `filter` keeps.
    pub fn sum(&self, commodity: Commodity, filter: impl Fn(&Account) -> bool) -> u128 {
        self.postings(commodity).filter(|(key, _)| filter(&key.account)).map(|(_, a)| a).sum()
    }

    /// Bytes that operations and copies moved in device memory; those that went over the host link
    /// are apart.
    #[must_use]
    pub fn moved_in_memory(&self) -> u128 {
        let moved = self.trial_balance(Commodity::Bytes).map_or(0, |balance| balance.capacity);
        moved.saturating_sub(self.sum(Commodity::Bytes, over_host_link))
    }

    /// The share of a commodity that no rule could attribute.
    #[must_use]
    pub fn unattributed(&self, commodity: Commodity) -> Share {
        let lost = |account: &Account| {
            matches!(account.cause, Cause::UnattributedIdle | Cause::UnattributedBusy)
        };
        let total = self.trial_balance(commodity).map_or(0, |balance| balance.capacity);
        Share::new(self.sum(commodity, lost) as i128, total as i128)
    }

    /// The waste that a cause belongs to in these books.
    #[must_use]
    pub fn muda(&self, cause: Cause) -> Muda {
        self.map.muda(cause)
    }

    /// The level of a posting in these books.
    #[must_use]
    pub fn level(&self, account: &Account) -> Level {
        self.map.level(account)
    }

    /// Whether postings name their step.
    #[must_use]
    pub const fn by_step(&self) -> bool {
        self.by_step
    }

    /// The name of the kernel that an account was spent in.
    #[must_use]
    pub fn kernel_name(&self, account: &Account) -> Option<&str> {
        self.names.get(usize::from(account.kernel?.0)).map(String::as_str)
    }

    /// What each kernel did, device by device.
    #[must_use]
    pub fn kernels(&self) -> &[KernelTotals] {
        &self.kernels
    }

    /// When device time went to which cause.
    #[must_use]
    pub const fn course(&self) -> &Course {
        &self.course
    }

    /// In which kind of step device time went.
    #[must_use]
    pub const fn phases(&self) -> &Phases {
        &self.phases
    }

    /// Floors that were longer than what they bound.
    #[must_use]
    pub const fn broken_ceilings(&self) -> BrokenCeilings {
        self.broken
    }
}

/// What walking the timelines found beside the postings.
#[derive(Default)]
struct Walked {
    busy: u128,
    broken: BrokenCeilings,
    kernels: Vec<KernelTotals>,
    course: Course,
    phases: Phases,
}

/// Books device time and bytes.
fn device_time(
    run: &Run,
    costing: Costing,
    by_step: bool,
    books: &mut HashMap<Commodity, Book<Key>>,
) -> Result<Walked, TraceError> {
    let window = run.header.window;
    let length = u128::from(window.end_ns.saturating_sub(window.start_ns).0);
    let (time, bytes) = (Commodity::DeviceTime, Commodity::Bytes);
    books.entry(time).or_default().offer(length * run.header.devices.len() as u128);
    let mut moved = 0_u128;
    let mut walkers: Vec<(u16, Timeline<Recorded<'_>, Journal>)> = run
        .header
        .devices
        .iter()
        .map(|device| (device.id, timeline(run, device, costing, by_step)))
        .collect();
    for copy in &run.copies {
        if !walkers.iter().any(|(id, _)| *id == copy.device) {
            return Err(unknown_device("copies", copy.device));
        }
        moved += u128::from(copy.moved());
    }
    let mut at = 0;
    run.each_launch_chunk(|launches| {
        for launch in launches {
            // Launches come ordered by device.
            if walkers.get(at).is_none_or(|(id, _)| *id != launch.device) {
                let place = walkers.iter().position(|(id, _)| *id == launch.device);
                at = place.ok_or_else(|| unknown_device("launches", launch.device))?;
            }
            moved += launch.moved();
            walkers[at].1.launch(launch);
        }
        Ok::<(), TraceError>(())
    })?;
    books.entry(bytes).or_default().offer(moved);
    let mut walked = Walked::default();
    for (_, walker) in walkers {
        let (journal, bench, busy) = walker.finish();
        let (course, phases) = journal.finish(books);
        walked.course.add(course);
        walked.phases.add(phases);
        walked.broken.launches += bench.broken.launches;
        walked.broken.nanos += bench.broken.nanos;
        walked.busy += busy;
        walked.kernels.extend(bench.totals.into_iter().filter(|kernel| kernel.launches > 0));
    }
    Ok(walked)
}

fn unknown_device(facts: &str, device: u16) -> TraceError {
    TraceError::Malformed {
        path: "run.json".into(),
        what: format!("{facts} name device {device}, which is not among the devices"),
    }
}

fn timeline<'a>(
    run: &'a Run,
    device: &DeviceHeader,
    costing: Costing,
    by_step: bool,
) -> Timeline<Recorded<'a>, Journal> {
    let bench = Bench::new(device, run.header.reference_batch, costing, &run.kernels);
    // The lists are ordered by device first.
    let steps = range(&run.steps, |step| step.device, device.id);
    let states = range(&run.states, |change| change.device, device.id);
    let readings = range(&run.power, |power| power.device, device.id);
    let observer = run.header.observer.map_or(0, |observer| observer.ns_per_launch);
    let journal = Journal::new(device.id, by_step, run.header.window);
    let copies = range(&run.copies, |copy| copy.device, device.id);
    let plan = Recorded::new(steps, &run.rows, states, readings, copies);
    Timeline::new(run.header.window, plan, observer, journal, bench)
}

pub(super) fn range<T>(all: &[T], device: impl Fn(&T) -> u16, id: u16) -> &[T] {
    let from = all.partition_point(|item| device(item) < id);
    let to = all.partition_point(|item| device(item) <= id);
    &all[from..to]
}

/// The name of a request or step in a posting, as the facts name it.
impl Key {
    /// The request that pays.
    #[must_use]
    pub fn request_id(&self) -> Option<RequestId> {
        self.request.map(RequestId)
    }

    /// The step.
    #[must_use]
    pub fn step_id(&self) -> Option<StepId> {
        self.step.map(StepId)
    }
}
