//! A run laid out in time: who did what when, and what each operation was booked to.
//!
//! The facts stand as they are; what is added is the judgement of the books, step by step and
//! kernel by kernel. Memory is bounded by the operations of a step.

use std::collections::HashMap;
use std::rc::Rc;

use super::books::BooksOptions;
use super::catalogue::{Cause, Level};
use super::journal::{Sink, Slot};
use super::kernel::Bench;
use super::muda_map::MudaMap;
use super::posting::{Account, Commodity};
use super::timeline::{Recorded, Timeline};
use crate::event::{KernelId, Launch, Power, Request, StateChange, Step};
use crate::trace::{DeviceHeader, Run, TraceError};
use crate::unit::{Nanos, Share};

/// Operations that wait until their step is judged; more than a step has. Those beyond are given
/// without what they were booked to.
const WAITING: usize = 1 << 20;

/// Where the time of a kernel in a step went: cause, level and share, largest first.
pub type Shares = Rc<[(Cause, Level, Share)]>;

/// An operation with what it was booked to.
#[derive(Clone, Debug)]
pub struct LaunchTrack<'a> {
    /// The operation.
    pub launch: &'a Launch,
    /// Its kernel's name.
    pub kernel: &'a str,
    /// Where the device time of this kernel in this step went. Operations of one kernel in one
    /// step share what it says: the books do not tell them apart. Empty where it is not known.
    pub shares: &'a [(Cause, Level, Share)],
}

/// A device of the run.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTrack<'a> {
    /// Its number.
    pub id: u16,
    /// `cpu` or `cuda`.
    pub kind: &'a str,
    /// The maker's name for it.
    pub name: &'a str,
    /// Bytes of memory it has.
    pub memory_bytes: u64,
}

/// A run laid out in time.
#[derive(Clone, Copy, Debug)]
pub struct Tracks<'a> {
    run: &'a Run,
}

impl<'a> Tracks<'a> {
    /// The tracks of a run.
    #[must_use]
    pub const fn of(run: &'a Run) -> Self {
        Self { run }
    }

    /// Its devices.
    pub fn devices(&self) -> impl Iterator<Item = DeviceTrack<'a>> + use<'a> {
        self.run.header.devices.iter().map(|device| DeviceTrack {
            id: device.id,
            kind: &device.kind,
            name: &device.name,
            memory_bytes: device.memory_bytes.0,
        })
    }

    /// The end of the window.
    #[must_use]
    pub const fn end(&self) -> Nanos {
        self.run.header.window.end_ns
    }

    /// Its requests by number.
    #[must_use]
    pub fn requests(&self) -> &'a [Request] {
        &self.run.requests
    }

    /// Its steps by device and time.
    #[must_use]
    pub fn steps(&self) -> &'a [Step] {
        &self.run.steps
    }

    /// What the schedulers did, by device and time.
    #[must_use]
    pub fn states(&self) -> &'a [StateChange] {
        &self.run.states
    }

    /// Readings of meters by device and time.
    #[must_use]
    pub fn power(&self) -> &'a [Power] {
        &self.run.power
    }

    /// Gives every operation with what it was booked to: devices one after another, steps in
    /// order of time; operations outside any step come at once.
    ///
    /// # Errors
    /// What reading says, or the first error of `each`.
    pub fn each_launch<E: From<TraceError>>(
        &self,
        options: &BooksOptions,
        mut each: impl FnMut(&LaunchTrack<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let run = self.run;
        let devices = &run.header.devices;
        let mut walkers: Vec<Walker<'_>> =
            devices.iter().map(|device| walker(run, device, options)).collect();
        let mut tell = |judged: &mut Vec<(Launch, Shares)>| {
            judged.drain(..).try_for_each(|(launch, shares)| {
                let kernel = run.kernels.get(usize::from(launch.kernel.0));
                let kernel = kernel.map_or("", String::as_str);
                each(&LaunchTrack { launch: &launch, kernel, shares: &shares })
            })
        };
        run.each_launch_chunk(|launches| {
            for launch in launches {
                let place = devices.iter().position(|device| device.id == launch.device);
                let Some(walker) = place.map(|place| &mut walkers[place]) else { continue };
                walker.journal.expect(launch);
                walker.launch(launch);
                tell(&mut walker.journal.judged)?;
            }
            Ok::<(), E>(())
        })?;
        for walker in walkers {
            let (mut journal, _, _) = walker.finish();
            journal.judge_rest();
            tell(&mut journal.judged)?;
        }
        Ok(())
    }
}

type Walker<'a> = Timeline<Recorded<'a>, Judge>;

fn walker<'a>(run: &'a Run, device: &DeviceHeader, options: &BooksOptions) -> Walker<'a> {
    let bench = Bench::new(device, run.header.reference_batch, options.costing, &run.kernels);
    let steps = super::books::range(&run.steps, |step| step.device, device.id);
    let states = super::books::range(&run.states, |change| change.device, device.id);
    let readings = super::books::range(&run.power, |power| power.device, device.id);
    let observer = run.header.observer.map_or(0, |observer| observer.ns_per_launch);
    let copies = super::books::range(&run.copies, |copy| copy.device, device.id);
    let plan = Recorded::new(steps, &run.rows, states, readings, copies);
    Timeline::new(run.header.window, plan, observer, Judge::new(&options.muda_map), bench)
}

/// Hears what the operations of a step are booked to.
struct Judge {
    map: MudaMap,
    accounts: Vec<(Commodity, Account)>,
    numbers: HashMap<(Commodity, Account), usize>,
    /// Of the step that is being shared out: device time by account.
    posted: Vec<(usize, u128)>,
    waiting: Vec<Launch>,
    judged: Vec<(Launch, Shares)>,
    unattributed: Shares,
}

impl Judge {
    fn new(map: &MudaMap) -> Self {
        let entry = Cause::UnattributedBusy.entry();
        let all = Share::new(1, 1);
        Self {
            map: map.clone(),
            accounts: Vec::new(),
            numbers: HashMap::new(),
            posted: Vec::new(),
            waiting: Vec::new(),
            judged: Vec::new(),
            unattributed: Rc::new([(entry.cause, entry.level, all)]),
        }
    }

    /// An operation that is about to be walked over.
    fn expect(&mut self, launch: &Launch) {
        match launch.step {
            None => self.judged.push((*launch, Rc::clone(&self.unattributed))),
            // What the books say of it is not known here.
            Some(_) if self.waiting.len() >= WAITING => {
                self.judged.push((*launch, Rc::new([])));
            }
            Some(_) => self.waiting.push(*launch),
        }
    }

    /// What waits belongs to no step that is known.
    fn judge_rest(&mut self) {
        let unattributed = &self.unattributed;
        let rest = self.waiting.drain(..);
        self.judged.extend(rest.map(|launch| (launch, Rc::clone(unattributed))));
    }

    /// The shares of every kernel in what was posted for a step.
    fn by_kernel(&mut self) -> HashMap<KernelId, Shares> {
        let mut sums: HashMap<KernelId, Vec<(Cause, Level, u128)>> = HashMap::new();
        for (number, amount) in self.posted.drain(..) {
            let (_, account) = self.accounts[number];
            let Some(kernel) = account.kernel else { continue };
            let (cause, level) = (account.cause, self.map.level(&account));
            let of_kernel = sums.entry(kernel).or_default();
            match of_kernel.iter_mut().find(|sum| (sum.0, sum.1) == (cause, level)) {
                Some(sum) => sum.2 += amount,
                None => of_kernel.push((cause, level, amount)),
            }
        }
        let shares = |mut sums: Vec<(Cause, Level, u128)>| -> Shares {
            let total: u128 = sums.iter().map(|sum| sum.2).sum();
            sums.sort_by_key(|(cause, level, sum)| (std::cmp::Reverse(*sum), *cause, *level));
            let share = |sum: u128| Share::new(sum as i128, total as i128);
            sums.into_iter().map(|(cause, level, sum)| (cause, level, share(sum))).collect()
        };
        sums.into_iter().map(|(kernel, sums)| (kernel, shares(sums))).collect()
    }
}

impl Sink for Judge {
    fn slot(&mut self, _request: Option<u64>) -> Slot {
        0
    }

    fn number(&mut self, commodity: Commodity, account: Account) -> usize {
        *self.numbers.entry((commodity, account)).or_insert_with(|| {
            self.accounts.push((commodity, account));
            self.accounts.len() - 1
        })
    }

    fn post(&mut self, _slot: Slot, number: usize, amount: u128) {
        if amount > 0 && self.accounts[number].0 == Commodity::DeviceTime {
            self.posted.push((number, amount));
        }
    }

    fn end_step(&mut self, step: Option<u64>) {
        let Some(step) = step else { return };
        let shares = self.by_kernel();
        let mine = |launch: &Launch| launch.step.is_some_and(|id| id.0 == step);
        let judged = self.waiting.iter().rposition(mine).map_or(0, |last| last + 1);
        for launch in self.waiting.drain(..judged) {
            let found = shares.get(&launch.kernel).filter(|_| mine(&launch));
            self.judged.push((launch, Rc::clone(found.unwrap_or(&self.unattributed))));
        }
    }

    /// Time without operations is no operation's.
    fn post_to_nobody(&mut self, _commodity: Commodity, _account: Account, _amount: u128) {}
}
