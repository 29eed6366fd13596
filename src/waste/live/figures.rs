//! What live books know at the moment.

use super::device::Device;
use super::tally::Top;
use super::{BlockState, Interval, LiveBooks, LiveRequest, Stall, StepRows, Sums};
use crate::event::{DeviceState, Power, Step};
use crate::ledger::TrialBalance;
use crate::stat::Summary;
use crate::trace::{Header, Slo};
use crate::unit::Nanos;
use crate::waste::catalogue::{Cause, Level, Muda};
use crate::waste::headline::{Counts, Ladder};
use crate::waste::kernel::BrokenCeilings;
use crate::waste::latency::Latency;
use crate::waste::posting::{Account, Commodity};
use crate::waste::projection::{KernelTotals, MemoryMoment};

/// What is known at the moment.
impl LiveBooks {
    /// What runs, on what, how.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The last moment that a fact speaks of.
    #[must_use]
    pub const fn now(&self) -> Nanos {
        self.last
    }

    /// Facts taken.
    #[must_use]
    pub const fn facts(&self) -> u64 {
        self.facts
    }

    /// Postings by commodity and account. Kernels are numbered as the facts number them.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::new();
        for device in &self.devices {
            device.tally().sum(&mut sums);
            for (account, amount) in device.memory.closed(self.last.0).totals() {
                *sums.entry((Commodity::Memory, account)).or_default() += amount;
            }
        }
        for (account, amount) in self.experience.totals().0 {
            *sums.entry((Commodity::RequestTime, account)).or_default() += amount;
        }
        sums.retain(|_, amount| *amount > 0);
        sums
    }

    /// The trial balances: what there was to account for so far, and what is booked or belongs
    /// to the step that goes on.
    #[must_use]
    pub fn trial_balances(&self, sums: &Sums) -> Vec<(Commodity, TrialBalance)> {
        let posted = |commodity: Commodity| -> u128 {
            sums.iter().filter(|((c, _), _)| *c == commodity).map(|(_, amount)| amount).sum()
        };
        let start = self.header.window.start_ns.0;
        let [mut time, mut bytes, mut rows, mut memory] = [(0, 0); 4];
        for device in &self.devices {
            time.0 += u128::from(device.cursor().saturating_sub(start));
            time.1 += device.nanos_under_way();
            let (moved, waiting) = device.bytes();
            bytes.0 += moved;
            bytes.1 += waiting;
            rows.0 += u128::from(device.rows().0);
            let length = self.last.0.saturating_sub(start);
            memory.0 += u128::from(device.header.memory_bytes.0) * u128::from(length);
        }
        let requests = (self.experience.totals().1, 0);
        [
            (Commodity::DeviceTime, time),
            (Commodity::Memory, memory),
            (Commodity::Bytes, bytes),
            (Commodity::Rows, rows),
            (Commodity::RequestTime, requests),
        ]
        .into_iter()
        .map(|(commodity, (capacity, under_way))| {
            let posted = posted(commodity) + under_way;
            (commodity, TrialBalance { capacity, posted })
        })
        .collect()
    }

    /// The sums that telescope, of device time booked so far.
    #[must_use]
    pub fn ladder(&self, sums: &Sums) -> Ladder {
        let time = |((commodity, account), amount): (&(Commodity, Account), &u128)| {
            (*commodity == Commodity::DeviceTime).then_some((*account, *amount))
        };
        let time = sums.iter().filter_map(time);
        Ladder::of(time.clone().map(|(_, amount)| amount).sum(), time)
    }

    /// The waste that a cause belongs to.
    #[must_use]
    pub fn muda(&self, cause: Cause) -> Muda {
        self.options.muda_map.muda(cause)
    }

    /// The level of a posting.
    #[must_use]
    pub fn level(&self, account: &Account) -> Level {
        self.options.muda_map.level(account)
    }

    /// The name of the kernel that an account was spent in.
    #[must_use]
    pub fn kernel_name(&self, account: &Account) -> Option<&str> {
        let name = self.kernels.get(usize::from(account.kernel?.0)).map(String::as_str);
        name.filter(|name| !name.is_empty())
    }

    /// What each kernel did, device by device.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelTotals> {
        let totals = self.devices.iter().flat_map(|device| &device.bench().totals);
        totals.filter(|kernel| kernel.launches > 0)
    }

    /// Floors that were longer than what they bound.
    #[must_use]
    pub fn broken_ceilings(&self) -> BrokenCeilings {
        let mut sum = BrokenCeilings::default();
        for broken in self.devices.iter().map(Device::broken) {
            sum.launches += broken.launches;
            sum.nanos += broken.nanos;
        }
        sum
    }

    /// The recent past: when it begins, how long an interval is, and the intervals.
    pub fn recent(
        &self,
    ) -> (Nanos, Nanos, impl DoubleEndedIterator<Item = &Interval> + ExactSizeIterator) {
        (self.recent.since(), Nanos(self.recent.length()), self.recent.items())
    }

    /// The dearest steps of a cause, with their device time. Open work counts as if it were
    /// delivered.
    #[must_use]
    pub fn top_steps(&self, cause: Cause) -> Vec<(u64, u128)> {
        let mut top = Top::default();
        self.devices.iter().for_each(|device| device.tally().top_steps(cause, &mut top));
        top.largest().collect()
    }

    /// The dearest requests of a cause, with their device time.
    #[must_use]
    pub fn top_requests(&self, cause: Cause) -> Vec<(u64, u128)> {
        let mut top = Top::default();
        self.devices.iter().for_each(|device| device.tally().top_requests(cause, &mut top));
        top.largest().collect()
    }

    /// Counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { open: self.experience.open() as u64, ..self.counts }
    }

    /// Latencies of recent requests; gaps of recent tokens.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.experience.latency()
    }

    /// Lengths of recent steps, preparation included.
    #[must_use]
    pub fn step_lengths(&self) -> Option<Summary> {
        self.experience.steps()
    }

    /// The longest gap between two tokens of a request.
    #[must_use]
    pub const fn stall(&self) -> Option<Stall> {
        self.experience.stall()
    }

    /// Requests that are here, then those that left last.
    pub fn requests(&self) -> impl Iterator<Item = LiveRequest> {
        self.experience.requests(self.window()).map(|mut request| {
            for device in &self.devices {
                for (cause, amount) in device.tally().paid(request.arrival.request.0) {
                    *request.paid.entry(cause).or_default() += amount;
                }
            }
            request
        })
    }

    /// Memory of a device now, and the state of each KV block that is held or cached.
    #[must_use]
    pub fn memory(&self, place: usize) -> (MemoryMoment, Vec<(u32, BlockState)>) {
        let Some(device) = self.devices.get(place) else { return Default::default() };
        (MemoryMoment { at: self.last, ..device.levels.moment() }, device.levels.blocks())
    }

    /// KV blocks that requests hold now, on the device of the last step; cached blocks can be
    /// taken back and do not count.
    #[must_use]
    pub fn held_blocks(&self) -> u32 {
        let device = self.newest.and_then(|step| self.place(step.device));
        device.map_or(0, |place| self.devices[place].levels.held_blocks())
    }

    /// The last step.
    #[must_use]
    pub const fn newest_step(&self) -> Option<Step> {
        self.newest
    }

    /// The rows of recent steps.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &StepRows> + ExactSizeIterator {
        self.steps.iter()
    }

    /// What the first device's scheduler was doing last.
    #[must_use]
    pub fn state(&self) -> Option<DeviceState> {
        self.devices.first().and_then(Device::last_state)
    }

    /// Nanoseconds that demand so far leaves for a token.
    #[must_use]
    pub fn takt_nanos(&self) -> Option<f64> {
        let (first, last) = self.arrivals?;
        let span = last.saturating_sub(first).0;
        (self.asked_tokens > 0 && span > 0).then(|| span as f64 / self.asked_tokens as f64)
    }

    /// What was promised.
    #[must_use]
    pub const fn slo(&self) -> &Slo {
        &self.header.slo
    }

    /// Recent readings of meters.
    pub fn power(&self) -> impl ExactSizeIterator<Item = &Power> {
        self.power.iter()
    }

    /// Microjoules so far: by meter, or by the declared power; and whether a meter says so.
    #[must_use]
    pub fn energy(&self) -> Option<(u128, bool)> {
        let metered: Vec<u64> = self.devices.iter().filter_map(Device::metered).collect();
        if !metered.is_empty() {
            return Some((metered.into_iter().map(u128::from).sum(), true));
        }
        let model = self.header.energy?;
        let start = self.header.window.start_ns.0;
        let time = |device: &Device| u128::from(device.cursor().saturating_sub(start));
        let busy = self.devices.iter().map(Device::busy).sum();
        let capacity = self.devices.iter().map(time).sum();
        Some((crate::waste::derived::declared(model, capacity, busy), false))
    }

    /// The last reading of the first device's meter.
    #[must_use]
    pub fn meter(&self) -> Option<Power> {
        self.devices.first().and_then(Device::meter)
    }

    /// Pico-dollars so far, where there is a price.
    #[must_use]
    pub fn money(&self, device_nanos: u128) -> Option<u128> {
        let price = self.header.price?;
        Some(crate::waste::derived::priced(price, device_nanos))
    }

    /// What the figures leave open: facts out of order, requests booked by shares.
    #[must_use]
    pub fn doubts(&self) -> (u64, Nanos) {
        let late = self.devices.iter().map(|device| device.late).sum();
        let by_shares: u128 = self.devices.iter().map(|device| device.by_shares).sum();
        (late, Nanos(by_shares as u64))
    }
}
