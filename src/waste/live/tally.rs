//! Totals by account while a run goes on, and what open requests would leave behind.
//!
//! A row whose request has not left stands under `wip.open`. What it would be booked to should
//! its request be delivered is kept beside it, as a promise; most requests are delivered, and
//! then the promise is moved, nothing is computed again.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

use super::visits::{Visit, Visits};
use crate::event::{Launch, Row, Step};
use crate::waste::catalogue::{CAUSES, Cause};
use crate::waste::copies::Carried;
use crate::waste::journal::{Accounts, Sink, Slot};
use crate::waste::kernel::Owned;
use crate::waste::posting::{Account, Commodity, add_at};

/// How many causes there are.
pub(super) const CAUSE_COUNT: usize = CAUSES.len();

/// The dearest steps and requests of a cause that are kept.
const TOP: usize = 6;

/// Device time by cause.
pub(super) type ByCause = [u64; CAUSE_COUNT];

/// The largest amounts, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Top {
    entries: Vec<(u64, i128)>,
}

impl Top {
    /// Adds to the amount of `id`. One that fell out before begins anew.
    pub(super) fn add(&mut self, id: u64, amount: i128) {
        match self.entries.iter_mut().find(|entry| entry.0 == id) {
            Some(entry) => entry.1 += amount,
            None if amount > 0 => self.entries.push((id, amount)),
            None => return,
        }
        self.entries.sort_by_key(|(id, amount)| (std::cmp::Reverse(*amount), *id));
        self.entries.retain(|entry| entry.1 > 0);
        self.entries.truncate(TOP);
    }

    /// Number and amount, largest first.
    pub(super) fn largest(&self) -> impl Iterator<Item = (u64, u128)> {
        self.entries.iter().map(|(id, amount)| (*id, amount.unsigned_abs()))
    }
}

/// What one request has paid so far.
#[derive(Debug, Default)]
struct Payer {
    request: Option<u64>,
    settled: Vec<i128>,
    open: Vec<i128>,
    promised: Vec<i128>,
}

/// What posting is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Time passes.
    Walk,
    /// A visit that was booked is taken back.
    Withdraw,
    /// It is booked again.
    Repeat,
}

/// Totals of one device.
#[derive(Debug)]
pub(super) struct Tally {
    accounts: Accounts,
    totals: Vec<i128>,
    payers: Vec<Payer>,
    slots: HashMap<Option<u64>, Slot, RandomState>,
    free: Vec<Slot>,
    pass: Pass,
    current: Option<Visit>,
    /// Operations of the last visit.
    launches: usize,
    pub(super) visits: Visits,
    in_step: Box<ByCause>,
    recent: Box<ByCause>,
    steps: HashMap<Cause, Top>,
    requests: HashMap<Cause, Top>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            accounts: Accounts::default(),
            totals: Vec::new(),
            payers: Vec::new(),
            slots: HashMap::default(),
            free: Vec::new(),
            pass: Pass::Walk,
            current: None,
            launches: 0,
            visits: Visits::default(),
            in_step: Box::new([0; CAUSE_COUNT]),
            recent: Box::new([0; CAUSE_COUNT]),
            steps: HashMap::new(),
            requests: HashMap::new(),
        }
    }

    /// What posting is for from now on.
    pub(super) const fn turn_to(&mut self, pass: Pass) {
        self.pass = pass;
    }

    /// Device time booked since the last call, open work as if it were delivered.
    pub(super) fn take_recent(&mut self) -> ByCause {
        std::mem::replace(&mut *self.recent, [0; CAUSE_COUNT])
    }

    /// Adds the totals by account to `sums`.
    pub(super) fn sum(&self, sums: &mut BTreeMap<(Commodity, Account), u128>) {
        for (key, amount) in self.accounts.list().iter().zip(&self.totals) {
            if *amount != 0 {
                *sums.entry(*key).or_default() += amount.unsigned_abs();
            }
        }
    }

    /// Whether the visit that goes on has rows of `request`.
    pub(super) fn visits_now(&self, request: u64) -> bool {
        let of = |row: &Row| row.request.is_some_and(|id| id.0 == request);
        self.current.as_ref().is_some_and(|visit| visit.rows.iter().any(of))
    }

    /// Nanoseconds and bytes of operations of the visit that goes on: they are booked at its
    /// end.
    pub(super) fn under_way(&self) -> (u128, u128) {
        let launches = self.current.iter().flat_map(|visit| &visit.launches);
        launches.fold((0, 0), |(nanos, bytes), (launch, owned)| {
            (nanos + u128::from(owned.nanos), bytes + launch.moved())
        })
    }

    /// A request was delivered: what was promised becomes so.
    pub(super) fn deliver(&mut self, request: u64) {
        let Some(&slot) = self.slots.get(&Some(request)) else { return };
        for (number, amount) in std::mem::take(&mut self.payers[slot].open).into_iter().enumerate()
        {
            self.totals[number] -= amount;
        }
        let promised = std::mem::take(&mut self.payers[slot].promised);
        for (number, amount) in promised.into_iter().enumerate().filter(|p| p.1 != 0) {
            self.totals[number] += amount;
            add_at(&mut self.payers[slot].settled, number, amount);
        }
    }

    /// A request was lost: what is still promised goes to `cause`. What was kept of its steps
    /// has been taken back before, so that only rows and what was kept no longer is left; the
    /// second gives its device time.
    pub(super) fn lose(&mut self, request: u64, cause: Cause) -> u128 {
        let Some(&slot) = self.slots.get(&Some(request)) else { return 0 };
        let open = std::mem::take(&mut self.payers[slot].open);
        self.payers[slot].promised.clear();
        let mut forgotten = 0;
        for (number, amount) in open.into_iter().enumerate().filter(|open| open.1 != 0) {
            let (commodity, account) = self.accounts.list()[number];
            let lost = Account { kernel: account.kernel, ..Account::of(cause, account.basis) };
            let lost = self.number(commodity, lost);
            self.totals[number] -= amount;
            self.totals[lost] += amount;
            add_at(&mut self.payers[slot].settled, lost, amount);
            if commodity == Commodity::DeviceTime {
                forgotten += amount.unsigned_abs();
            }
        }
        forgotten
    }

    /// Forgets payers that have left, but for their place among the dearest; `each` is told the
    /// device time that they paid.
    pub(super) fn retire(
        &mut self,
        left: impl Fn(u64) -> bool,
        mut each: impl FnMut(u64, Cause, i128),
    ) {
        let gone: Vec<(u64, Slot)> = self
            .slots
            .iter()
            .filter_map(|(request, slot)| Some(((*request)?, *slot)))
            .filter(|(request, _)| left(*request) && !self.visits_now(*request))
            .collect();
        for (request, slot) in gone {
            self.slots.remove(&Some(request));
            let payer = std::mem::take(&mut self.payers[slot]);
            self.free.push(slot);
            for (cause, amount) in self.by_cause(&payer) {
                self.requests.entry(cause).or_default().add(request, amount);
                each(request, cause, amount);
            }
        }
    }

    /// Device time by cause of a payer, open work as if it were delivered.
    fn by_cause(&self, payer: &Payer) -> BTreeMap<Cause, i128> {
        let mut sums = BTreeMap::new();
        for amounts in [&payer.settled, &payer.promised] {
            for ((commodity, account), amount) in self.accounts.list().iter().zip(amounts) {
                if *commodity == Commodity::DeviceTime && *amount != 0 {
                    *sums.entry(account.cause).or_default() += amount;
                }
            }
        }
        sums
    }

    /// The dearest steps of a cause.
    pub(super) fn top_steps(&self, cause: Cause, top: &mut Top) {
        for (step, amount) in self.steps.get(&cause).into_iter().flat_map(Top::largest) {
            top.add(step, amount as i128);
        }
    }

    /// The dearest requests of a cause, those under way included.
    pub(super) fn top_requests(&self, cause: Cause, top: &mut Top) {
        for (request, amount) in self.requests.get(&cause).into_iter().flat_map(Top::largest) {
            top.add(request, amount as i128);
        }
        for (request, slot) in &self.slots {
            let Some(request) = request else { continue };
            if let Some(amount) = self.by_cause(&self.payers[*slot]).get(&cause) {
                top.add(*request, *amount);
            }
        }
    }

    /// Device time by cause that a request under way has paid.
    pub(super) fn paid(&self, request: u64) -> BTreeMap<Cause, i128> {
        let slot = self.slots.get(&Some(request));
        slot.map(|slot| self.by_cause(&self.payers[*slot])).unwrap_or_default()
    }

    fn count(&mut self, number: usize, amount: i128) {
        self.totals[number] += amount;
    }

    fn signed(&self, amount: u128) -> i128 {
        let amount = amount as i128;
        if self.pass == Pass::Withdraw { -amount } else { amount }
    }

    fn note(&mut self, commodity: Commodity, cause: Cause, amount: u128) {
        if commodity == Commodity::DeviceTime {
            self.in_step[cause as usize] += amount as u64;
        }
    }
}

impl Sink for Tally {
    fn slot(&mut self, request: Option<u64>) -> Slot {
        if let Some(slot) = self.slots.get(&request) {
            return *slot;
        }
        let payer = Payer { request, ..Payer::default() };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.payers[slot] = payer;
                slot
            }
            None => {
                self.payers.push(payer);
                self.payers.len() - 1
            }
        };
        self.slots.insert(request, slot);
        slot
    }

    fn number(&mut self, commodity: Commodity, account: Account) -> usize {
        let number = self.accounts.number(commodity, account);
        if number == self.totals.len() {
            self.totals.push(0);
        }
        number
    }

    fn post(&mut self, slot: Slot, number: usize, amount: u128) {
        let signed = self.signed(amount);
        self.count(number, signed);
        if self.payers[slot].request.is_some() {
            add_at(&mut self.payers[slot].settled, number, signed);
        }
        let (commodity, account) = self.accounts.list()[number];
        self.note(commodity, account.cause, amount);
    }

    fn open_numbers(
        &mut self,
        commodity: Commodity,
        open: Account,
        promised: Account,
    ) -> [usize; 2] {
        [self.number(commodity, open), self.number(commodity, promised)]
    }

    fn post_open(&mut self, slot: Slot, [open, promised]: [usize; 2], amount: u128) {
        let signed = self.signed(amount);
        self.count(open, signed);
        let payer = &mut self.payers[slot];
        add_at(&mut payer.open, open, signed);
        add_at(&mut payer.promised, promised, signed);
        let (commodity, account) = self.accounts.list()[promised];
        self.note(commodity, account.cause, amount);
    }

    fn end_step(&mut self, step: Option<u64>) {
        for (cause, amount) in self.in_step.iter_mut().enumerate().filter(|c| *c.1 > 0) {
            let amount = std::mem::take(amount);
            if self.pass == Pass::Walk {
                self.recent[cause] += amount;
            }
            if let Some(step) = step {
                let signed = i128::from(amount);
                let signed = if self.pass == Pass::Withdraw { -signed } else { signed };
                self.steps.entry(CAUSES[cause].cause).or_default().add(step, signed);
            }
        }
        if step.is_some()
            && self.pass == Pass::Walk
            && let Some(visit) = self.current.take()
        {
            self.launches = visit.launches.len();
            self.visits.push(visit);
        }
    }

    fn opening(&mut self, step: &Step, rows: &[Row]) {
        // Steps are nearly always as long as the one before.
        self.current = Some(Visit::new(*step, rows, self.launches));
    }

    fn launched(&mut self, launch: &Launch, owned: Owned) {
        if let Some(visit) = &mut self.current {
            visit.launches.push((*launch, owned));
        }
    }

    fn closing(&mut self, gap: u128, host: u128, observer: u128) {
        if self.pass == Pass::Walk
            && let Some(visit) = &mut self.current
        {
            (visit.gap, visit.host, visit.observer) = (gap as u64, host as u64, observer as u64);
        }
    }

    fn carried(&mut self, carried: &Carried) {
        if self.pass == Pass::Walk
            && let Some(visit) = &mut self.current
        {
            visit.carried = *carried;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stay() {
        let mut top = Top::default();
        for id in 0..20 {
            top.add(id, i128::from(id % 10));
        }
        top.add(9, -9);
        let left: Vec<_> = top.largest().collect();
        assert_eq!(left, [(19, 9), (8, 8), (18, 8), (7, 7), (17, 7)], "one of six is gone");
    }
}
