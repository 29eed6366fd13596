//! One step's accounts: who its payers are, what gathered, and how it is shared among them.

use super::catalogue::{Cause, Level};
use super::copies::Carried;
use super::journal::{Sink, Slot};
use super::kernel::{Bench, Owned, PARTS, Part, Work};
use super::posting::{Account, Basis, Commodity, SubReason};
use crate::cost::Floor;
use crate::event::{Driver, Fate, KernelId, Launch, MemoryCopy, Phase, Recompute, Row, Step};
use crate::ledger::Splitter;

const DRIVERS: usize = Driver::ALL.len();

/// What a group of rows is to the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Its answer was delivered.
    Useful(Cause),
    /// Its request's end is not known; should it be delivered, it is useful for this.
    Open(Cause),
    /// It was thrown away.
    Thrown(Cause, Option<SubReason>),
}

/// What a fate means.
pub(super) fn standing(phase: Phase, fate: Fate) -> Standing {
    let recompute = |why| Standing::Thrown(Cause::PrefixRecompute, Some(why));
    let value = match phase {
        Phase::Prefill => Cause::ValuePrefill,
        Phase::Ownerless => Cause::Padding,
        _ => Cause::ValueDecode,
    };
    match fate {
        Fate::Delivered if phase == Phase::Ownerless => Standing::Thrown(value, None),
        Fate::Delivered => Standing::Useful(value),
        Fate::Open => Standing::Open(value),
        Fate::Padding => Standing::Thrown(Cause::Padding, None),
        Fate::Overrun => Standing::Thrown(Cause::Overrun, None),
        Fate::Orphaned => Standing::Thrown(Cause::Orphaned, None),
        Fate::Duplicate => Standing::Thrown(Cause::Duplicate, None),
        Fate::Rejected => Standing::Thrown(Cause::RejectedDraft, None),
        Fate::PrefixRecompute(Recompute::Disabled) => recompute(SubReason::Disabled),
        Fate::PrefixRecompute(Recompute::Evicted) => recompute(SubReason::Evicted),
        Fate::PrefixRecompute(Recompute::Unaligned) => recompute(SubReason::Unaligned),
        Fate::PrefixRecompute(Recompute::RoutedAway) => recompute(SubReason::RoutedAway),
        Fate::PreemptRecompute => Standing::Thrown(Cause::PreemptRecompute, None),
        Fate::Failed => Standing::Thrown(Cause::FailedRequest, None),
        Fate::Malformed => Standing::Thrown(Cause::Malformed, None),
    }
}

/// Rows of a step that share owner and standing, with their amount of each driver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payer {
    pub(super) request: Option<u64>,
    pub(super) standing: Standing,
    pub(super) amounts: [u64; DRIVERS],
}

/// The payers of a step. `rows` are the step's, ordered by request.
pub(super) fn payers(rows: &[Row]) -> Vec<Payer> {
    let mut payers: Vec<Payer> = Vec::with_capacity(rows.len());
    for row in rows {
        let amounts = amounts(row);
        let standing = standing(row.phase, row.fate);
        let request = row.request.map(|id| id.0);
        let same = |p: &&mut Payer| p.request == request && p.standing == standing;
        match payers.last_mut().filter(same) {
            Some(payer) => {
                for (sum, amount) in payer.amounts.iter_mut().zip(amounts) {
                    *sum += amount;
                }
            }
            None => payers.push(Payer { request, standing, amounts }),
        }
    }
    payers
}

fn amounts(row: &Row) -> [u64; DRIVERS] {
    let (rows, context) = (u64::from(row.rows), u64::from(row.context_tokens));
    let (attention, attended) = match row.sequence_rows {
        // So many sequences of one row each.
        0 | 1 => (Driver::KvTokens, rows * (context + 1)),
        // Row i attends to context + i + 1 tokens.
        _ => (Driver::QueryContext, rows * context + rows * (rows + 1) / 2),
    };
    let mut amounts = [0; DRIVERS];
    amounts[Driver::Rows as usize] = rows;
    amounts[Driver::Logits as usize] = row.logits_rows.into();
    amounts[attention as usize] = attended;
    amounts
}

/// Sums of a driver over the payers.
#[derive(Clone, Copy, Debug, Default)]
struct Amounts {
    all: u64,
    useful: u64,
}

/// What one kernel spent in the step.
struct Spent {
    kernel: KernelId,
    driver: Driver,
    parts: [u128; PARTS],
}

/// The accounts of the step that is open.
#[derive(Default)]
pub(super) struct StepAccounts {
    step: Option<Step>,
    payers: Vec<Payer>,
    slots: Vec<Slot>,
    amounts: [Amounts; DRIVERS],
    spent: Vec<Spent>,
    gap: u128,
    host: u128,
    observer: u128,
    carried: Carried,
    launches: u64,
    splitters: Splitters,
}

/// Buffers that outlive a step.
#[derive(Default)]
struct Splitters {
    all: Splitter,
    owners: Vec<Slot>,
}

impl StepAccounts {
    /// Whether a step is open.
    pub(super) const fn is_open(&self) -> bool {
        self.step.is_some()
    }

    /// Operations so far.
    pub(super) const fn launches(&self) -> u64 {
        self.launches
    }

    /// What gathered in the step that is open, operations apart, in nanoseconds.
    pub(super) fn accrued(&self) -> u128 {
        let carried = self.carried.nanos();
        if self.is_open() { self.gap + self.host + self.observer + carried } else { 0 }
    }

    /// Bytes that copies moved in the step that is open.
    pub(super) fn copied(&self) -> u128 {
        if self.is_open() { self.carried.bytes() } else { 0 }
    }

    /// Opens a step.
    pub(super) fn open(&mut self, step: Step, rows: &[Row], journal: &mut impl Sink) {
        self.step = Some(step);
        self.payers = payers(rows);
        self.slots.clear();
        self.slots.extend(self.payers.iter().map(|payer| journal.slot(payer.request)));
        self.amounts = [Amounts::default(); DRIVERS];
        for payer in &self.payers {
            let useful = !matches!(payer.standing, Standing::Thrown(..));
            for (sum, amount) in self.amounts.iter_mut().zip(payer.amounts) {
                sum.all += amount;
                sum.useful += if useful { amount } else { 0 };
            }
        }
        self.splitters.owners.clear();
        for (payer, slot) in self.payers.iter().zip(&self.slots) {
            if payer.request.is_some() && !self.splitters.owners.contains(slot) {
                self.splitters.owners.push(*slot);
            }
        }
        (self.gap, self.host, self.observer, self.launches) = (0, 0, 0, 0);
        self.carried = Carried::default();
    }

    /// Nothing ran for `nanos` inside the step.
    pub(super) fn add_gap(&mut self, nanos: u64) {
        self.gap += u128::from(nanos);
    }

    /// The host prepared the step for `nanos`, of which `observer` went into recording.
    pub(super) fn add_host(&mut self, nanos: u64, observer: u64) {
        self.host += u128::from(nanos - observer);
        self.observer += u128::from(observer);
    }

    /// A copy of the step owned `nanos` of the device's time.
    pub(super) const fn add_copy(&mut self, copy: &MemoryCopy, nanos: u64) {
        self.carried.add(copy, nanos);
    }

    /// So much as in another visit to the step.
    pub(super) const fn add_carried(&mut self, carried: Carried) {
        self.carried = carried;
    }

    /// An operation of the step, with its floor, ran and owned time of the device. `false` if the
    /// step has no rows that could pay for it.
    pub(super) fn add_launch(
        &mut self,
        (launch, floor): (&Launch, Floor),
        owned: Owned,
        bench: &mut Bench,
    ) -> bool {
        let rows = self.amounts[Driver::Rows as usize];
        let mut driver = launch.driver;
        if self.amounts[driver as usize].all == 0 {
            driver = Driver::Rows;
        }
        let amounts = self.amounts[driver as usize];
        if amounts.all == 0 {
            return false;
        }
        self.launches += 1;
        let useful_rows = if driver == Driver::Logits { amounts.useful } else { rows.useful };
        let work = Work { all: amounts.all, useful: amounts.useful, useful_rows };
        let same = |s: &&mut Spent| s.kernel == launch.kernel && s.driver == driver;
        let spent = match self.spent.iter_mut().find(same) {
            Some(spent) => spent,
            None => {
                let parts = [0; PARTS];
                self.spent.push(Spent { kernel: launch.kernel, driver, parts });
                let last = self.spent.len() - 1;
                &mut self.spent[last]
            }
        };
        let mut add = |part: Part, amount: u64| spent.parts[part as usize] += u128::from(amount);
        bench.split_time((launch, floor), owned, work, &mut add);
        bench.split_bytes(launch, work, &mut add);
        true
    }

    /// Shares everything among the payers and closes the step.
    pub(super) fn close(&mut self, launch_floor: u64, journal: &mut impl Sink) {
        let Some(step) = self.step.take() else { return };
        journal.closing(self.gap, self.host, self.observer);
        journal.carried(&self.carried);
        let mut spent = std::mem::take(&mut self.spent);
        // Canonical order: the first operation's place must not matter.
        spent.sort_by_key(|s| (s.kernel, s.driver));
        for spent in &spent {
            self.share_kernel(spent, &step, journal);
        }
        spent.clear();
        self.spent = spent;
        let floor = u128::from(launch_floor) * u128::from(self.launches + 1);
        let necessary = self.gap.min(floor);
        let gap = Account::of(Cause::LaunchGap, Basis::Measured);
        self.share_equally(gap.at(Level::Necessary), necessary, journal);
        self.share_equally(gap, self.gap - necessary, journal);
        self.share_equally(Account::of(Cause::Host, Basis::Measured), self.host, journal);
        let observer = Account::of(Cause::Observer, Basis::Apportioned);
        self.share_equally(observer.because(SubReason::Recording), self.observer, journal);
        for (commodity, account, amount) in self.carried.postings() {
            self.share_equally_of(commodity, account, amount, journal);
        }
        journal.end_step(Some(step.step.0));
    }

    fn share_kernel(&mut self, spent: &Spent, step: &Step, journal: &mut impl Sink) {
        use Part as P;
        let waiting = step.queued > 0;
        let underfilled = Account::of(Cause::UnderfilledBatch, Basis::Apportioned);
        let underfilled = if waiting { underfilled.at(Level::Waste) } else { underfilled };
        let of = |cause| Account::of(cause, Basis::Apportioned);
        let slack = |why| of(Cause::KernelSlack).because(why);
        let throttle = |why| Account::of(Cause::Throttle, Basis::Modelled).because(why);
        let counted = |account: Account| Account { basis: Basis::Counted, ..account };
        let time = Commodity::DeviceTime;
        let bytes = Commodity::Bytes;
        let mechanisms = [
            (P::Weights, time, of(Cause::WeightStreaming)),
            (P::Underfilled, time, underfilled),
            (P::Kv, time, of(Cause::KvStreaming)),
            (P::Activations, time, of(Cause::ActivationStreaming)),
            (P::Excess, time, of(Cause::ExcessBytes)),
            (P::ThrottlePower, time, throttle(SubReason::Power)),
            (P::ThrottleThermal, time, throttle(SubReason::Thermal)),
            (P::SlackLatency, time, slack(SubReason::Latency)),
            (P::SlackBandwidth, time, slack(SubReason::Bandwidth)),
            (P::SlackCompute, time, slack(SubReason::Compute)),
            (P::WeightBytes, bytes, counted(of(Cause::WeightStreaming))),
            (P::UnderfilledBytes, bytes, counted(underfilled)),
        ];
        let useful = |payer: &Payer| !matches!(payer.standing, Standing::Thrown(..));
        self.weigh(spent.driver, useful);
        let amount = |part: Part| spent.parts[part as usize];
        self.share(amount(P::Value), spent, journal, time, None);
        for (part, commodity, account) in mechanisms {
            self.share(amount(part), spent, journal, commodity, Some(account));
        }
        self.weigh(spent.driver, |payer| !useful(payer));
        self.share(amount(P::Thrown), spent, journal, time, Some(of(Cause::Padding)));
        let by_rows = amount(P::ThrownByRows);
        self.share(by_rows, spent, journal, time, Some(of(Cause::Padding)));
        let weights = Some(counted(of(Cause::WeightStreaming)));
        self.share(amount(P::ThrownWeightBytes), spent, journal, bytes, weights);
        self.weigh(spent.driver, |_| true);
        for (part, cause) in [
            (P::KvBytes, Cause::KvStreaming),
            (P::ActivationBytes, Cause::ActivationStreaming),
            (P::ExcessBytes, Cause::ExcessBytes),
        ] {
            self.share(amount(part), spent, journal, bytes, Some(counted(of(cause))));
        }
    }

    fn weigh(&mut self, driver: Driver, who: impl Fn(&Payer) -> bool) {
        let weight = |payer: &Payer| {
            if who(payer) { u128::from(payer.amounts[driver as usize]) } else { 0 }
        };
        self.splitters.all.weigh(self.payers.iter().map(weight));
    }

    /// Shares `total` by the weights set last. Useful rows pay on `account`, or on their own
    /// value account where there is none; the others on the account of their standing.
    fn share(
        &mut self,
        total: u128,
        spent: &Spent,
        journal: &mut impl Sink,
        commodity: Commodity,
        account: Option<Account>,
    ) {
        let (payers, slots) = (&self.payers, &self.slots);
        let basis = account.map_or(Basis::Apportioned, |account| account.basis);
        let useful = |value| account.unwrap_or(Account::of(value, basis)).kernel(spent.kernel);
        // Neighbours nearly always stand alike.
        let mut last: Option<(Standing, [usize; 2])> = None;
        self.splitters.all.split(total, |i, part| {
            let standing = payers[i].standing;
            let numbers = match (last, standing) {
                (Some((same, numbers)), _) if same == standing => numbers,
                (_, Standing::Useful(value)) => [journal.number(commodity, useful(value)); 2],
                (_, Standing::Open(value)) => {
                    let open = Account::of(Cause::WipOpen, basis).kernel(spent.kernel);
                    journal.open_numbers(commodity, open, useful(value))
                }
                (_, Standing::Thrown(cause, sub_reason)) => {
                    let thrown = Account { sub_reason, ..Account::of(cause, basis) };
                    [journal.number(commodity, thrown.kernel(spent.kernel)); 2]
                }
            };
            last = Some((standing, numbers));
            match standing {
                Standing::Open(_) => journal.post_open(slots[i], numbers, part),
                _ => journal.post(slots[i], numbers[0], part),
            }
        });
    }

    /// Shares `total` of device time equally among the step's requests.
    fn share_equally(&mut self, account: Account, total: u128, journal: &mut impl Sink) {
        self.share_equally_of(Commodity::DeviceTime, account, total, journal);
    }

    fn share_equally_of(
        &mut self,
        commodity: Commodity,
        account: Account,
        total: u128,
        journal: &mut impl Sink,
    ) {
        if total == 0 {
            return;
        }
        let number = journal.number(commodity, account);
        if self.splitters.owners.is_empty() {
            let nobody = journal.slot(None);
            return journal.post(nobody, number, total);
        }
        let owners = &self.splitters.owners;
        self.splitters.all.weigh(owners.iter().map(|_| 1));
        self.splitters.all.split(total, |i, part| journal.post(owners[i], number, part));
    }
}
