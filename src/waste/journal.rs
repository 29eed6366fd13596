//! Where postings of device time and bytes gather before they enter the books.
//!
//! A step has a handful of payers and some hundred accounts; a run has millions of steps. So
//! amounts gather in a dense table of payer × account, which is emptied into the book after
//! each step (books by step) or once at the end (books by run).

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::copies::Carried;
use super::course::{Course, Slicer};
use super::kernel::Owned;
use super::phases::{Phases, Sorter};
use super::posting::{Account, Commodity, Key, add_at};
use crate::event::{Launch, Row, Step};
use crate::ledger::Book;
use crate::trace::Window;

/// A payer's place in the table.
pub(super) type Slot = usize;

/// Where postings go: into books, or into totals that are kept while a run goes on.
pub(super) trait Sink {
    /// The place of a payer; `None` is nobody.
    fn slot(&mut self, request: Option<u64>) -> Slot;

    /// The number of an account.
    fn number(&mut self, commodity: Commodity, account: Account) -> usize;

    /// Debits `amount` to a payer's account.
    fn post(&mut self, slot: Slot, number: usize, amount: u128);

    /// The numbers of an account of open work, and of the one that it belongs to should its
    /// request be delivered.
    fn open_numbers(
        &mut self,
        commodity: Commodity,
        open: Account,
        _promised: Account,
    ) -> [usize; 2] {
        [self.number(commodity, open); 2]
    }

    /// Debits `amount` of open work to the first of its two accounts.
    fn post_open(&mut self, slot: Slot, [open, _promised]: [usize; 2], amount: u128) {
        self.post(slot, open, amount);
    }

    /// A step is over, or what nobody pays for was posted.
    fn end_step(&mut self, step: Option<u64>);

    /// A visit to a step begins: what is posted until [`Sink::end_step`] is the step's. Time may
    /// visit a step more than once.
    fn opening(&mut self, _step: &Step, _rows: &[Row]) {}

    /// An operation of the visited step owned this time.
    fn launched(&mut self, _launch: &Launch, _owned: Owned) {}

    /// The visit ends: time without operations, host time, and of it recording.
    fn closing(&mut self, _gap: u128, _host: u128, _observer: u128) {}

    /// What copies owned and moved in the visit that ends.
    fn carried(&mut self, _carried: &Carried) {}

    /// What is posted from now on happened at this time.
    fn turn(&mut self, _at: u64) {}

    /// Idle time that begins at `at` is posted in pieces that end here at the latest.
    fn cut(&self, _at: u64) -> u64 {
        u64::MAX
    }

    /// Debits `amount` to an account that nobody pays for, in no step.
    fn post_to_nobody(&mut self, commodity: Commodity, account: Account, amount: u128) {
        let slot = self.slot(None);
        let number = self.number(commodity, account);
        self.post(slot, number, amount);
        self.end_step(None);
    }
}

/// Gathers postings of one device.
pub(super) struct Journal {
    device: u16,
    by_step: bool,
    accounts: Accounts,
    payers: Vec<Option<u64>>,
    slots: HashMap<Option<u64>, Slot, RandomState>,
    amounts: Vec<Vec<u128>>,
    touched: Vec<(Slot, usize)>,
    books: HashMap<Commodity, Book<Key>>,
    /// By the number of an account, what waits for the slice and the kind of step to change.
    waiting: Vec<u128>,
    slicer: Slicer,
    sorter: Sorter,
}

impl Journal {
    pub(super) fn new(device: u16, by_step: bool, window: Window) -> Self {
        Self {
            device,
            by_step,
            accounts: Accounts::default(),
            payers: Vec::new(),
            slots: HashMap::default(),
            amounts: Vec::new(),
            touched: Vec::new(),
            books: HashMap::new(),
            waiting: Vec::new(),
            slicer: Slicer::new(window),
            sorter: Sorter::default(),
        }
    }

    /// Gives what waits to the slice and the kind of step that it happened in. Postings are many
    /// and small; these change once in a step.
    fn sum(&mut self) {
        for (number, amount) in self.waiting.iter_mut().enumerate() {
            if *amount > 0 {
                self.slicer.post(number, *amount);
                self.sorter.post(number, *amount);
                *amount = 0;
            }
        }
    }

    fn enter(&mut self, slot: Slot, number: usize, step: Option<u64>) {
        let amount = std::mem::take(&mut self.amounts[slot][number]);
        let (commodity, account) = self.accounts.list()[number];
        let key = Key { account, device: Some(self.device), step, request: self.payers[slot] };
        self.books.entry(commodity).or_default().post(key, amount);
    }

    /// Empties everything into `books`; gives the course of device time, and in which kind of
    /// step it went.
    pub(super) fn finish(mut self, books: &mut HashMap<Commodity, Book<Key>>) -> (Course, Phases) {
        self.end_step(None);
        let mut postings: HashMap<Commodity, Vec<(Key, u128)>> = HashMap::new();
        for (commodity, book) in &self.books {
            let booked = book.accounts().map(|(key, amount)| (*key, amount));
            postings.entry(*commodity).or_default().extend(booked);
        }
        // In the order of the books, which is cheaper than to sort them there.
        let mut payers: Vec<(Option<u64>, Slot)> =
            self.payers.iter().enumerate().map(|(slot, request)| (*request, slot)).collect();
        payers.sort_unstable();
        let mut accounts: Vec<(Commodity, Account, usize)> = self
            .accounts
            .list()
            .iter()
            .enumerate()
            .map(|(number, (commodity, account))| (*commodity, *account, number))
            .collect();
        accounts.sort_unstable();
        for (commodity, account, number) in accounts {
            let to = postings.entry(commodity).or_default();
            for &(request, slot) in &payers {
                let amount = self.amounts[slot].get(number).copied().unwrap_or(0);
                if amount > 0 {
                    let device = Some(self.device);
                    to.push((Key { account, device, step: None, request }, amount));
                }
            }
        }
        for (commodity, postings) in postings {
            books.entry(commodity).or_default().post_all(postings);
        }
        let accounts = self.accounts.list();
        (self.slicer.finish(accounts), self.sorter.finish(self.device, accounts))
    }
}

/// Accounts, numbered as they come.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    list: Vec<(Commodity, Account)>,
    numbers: HashMap<u64, usize, RandomState>,
}

impl Accounts {
    /// The number of an account.
    pub(super) fn number(&mut self, commodity: Commodity, account: Account) -> usize {
        *self.numbers.entry(packed(commodity, &account)).or_insert_with(|| {
            self.list.push((commodity, account));
            self.list.len() - 1
        })
    }

    /// By their numbers.
    pub(super) fn list(&self) -> &[(Commodity, Account)] {
        &self.list
    }
}

/// An account in one word, which is looked up far more often than a step has launches.
fn packed(commodity: Commodity, account: &Account) -> u64 {
    let Account { cause, level, sub_reason, basis, kernel } = *account;
    let fields = [
        (commodity as u64, 8),
        (cause as u64, 8),
        (level as u64, 8),
        (sub_reason.map_or(0, |reason| reason as u64 + 1), 8),
        (basis as u64, 8),
        (kernel.map_or(0, |kernel| u64::from(kernel.0) + 1), 17),
    ];
    fields.into_iter().fold(0, |word, (field, bits)| word << bits | field)
}

impl Sink for Journal {
    fn slot(&mut self, request: Option<u64>) -> Slot {
        *self.slots.entry(request).or_insert_with(|| {
            self.payers.push(request);
            self.amounts.push(Vec::new());
            self.payers.len() - 1
        })
    }

    fn number(&mut self, commodity: Commodity, account: Account) -> usize {
        self.accounts.number(commodity, account)
    }

    fn post(&mut self, slot: Slot, number: usize, amount: u128) {
        if amount == 0 {
            return;
        }
        let amounts = &mut self.amounts[slot];
        if self.by_step && amounts.get(number).is_none_or(|amount| *amount == 0) {
            self.touched.push((slot, number));
        }
        add_at(amounts, number, amount);
        add_at(&mut self.waiting, number, amount);
    }

    fn opening(&mut self, step: &Step, _rows: &[Row]) {
        self.sorter.visit(step);
    }

    fn closing(&mut self, _gap: u128, _host: u128, _observer: u128) {
        self.sum();
        self.sorter.open();
    }

    fn turn(&mut self, at: u64) {
        if self.slicer.turns(at) {
            self.sum();
            self.slicer.turn(at);
        }
    }

    fn cut(&self, at: u64) -> u64 {
        self.slicer.end(at)
    }

    /// Where books are kept by step, what was posted goes to the step's accounts.
    fn end_step(&mut self, step: Option<u64>) {
        self.sum();
        self.sorter.close();
        for (slot, number) in std::mem::take(&mut self.touched) {
            self.enter(slot, number, step);
        }
    }
}
