//! Where postings of device time and bytes gather before they enter the books.
//!
//! A step has a handful of payers and some hundred accounts; a run has millions of steps. So
//! amounts gather in a dense table of payer × account, which is emptied into the book after
//! each step (books by step) or once at the end (books by run).

use std::collections::HashMap;

use super::posting::{Account, Commodity, Key};
use crate::ledger::Book;

/// A payer's place in the table.
pub(super) type Slot = usize;

/// Gathers postings of one device.
pub(super) struct Journal {
    device: u16,
    by_step: bool,
    accounts: Vec<(Commodity, Account)>,
    numbers: HashMap<(Commodity, Account), usize>,
    payers: Vec<Option<u64>>,
    slots: HashMap<Option<u64>, Slot>,
    amounts: Vec<Vec<u128>>,
    touched: Vec<(Slot, usize)>,
    books: HashMap<Commodity, Book<Key>>,
}

impl Journal {
    pub(super) fn new(device: u16, by_step: bool) -> Self {
        Self {
            device,
            by_step,
            accounts: Vec::new(),
            numbers: HashMap::new(),
            payers: Vec::new(),
            slots: HashMap::new(),
            amounts: Vec::new(),
            touched: Vec::new(),
            books: HashMap::new(),
        }
    }

    /// The place of a payer; `None` is nobody.
    pub(super) fn slot(&mut self, request: Option<u64>) -> Slot {
        *self.slots.entry(request).or_insert_with(|| {
            self.payers.push(request);
            self.amounts.push(Vec::new());
            self.payers.len() - 1
        })
    }

    /// The number of an account.
    pub(super) fn number(&mut self, commodity: Commodity, account: Account) -> usize {
        *self.numbers.entry((commodity, account)).or_insert_with(|| {
            self.accounts.push((commodity, account));
            self.accounts.len() - 1
        })
    }

    /// Debits `amount` to a payer's account.
    pub(super) fn post(&mut self, slot: Slot, number: usize, amount: u128) {
        if amount == 0 {
            return;
        }
        let amounts = &mut self.amounts[slot];
        if amounts.len() <= number {
            amounts.resize(number + 1, 0);
        }
        if self.by_step && amounts[number] == 0 {
            self.touched.push((slot, number));
        }
        amounts[number] += amount;
    }

    /// Debits `amount` to an account that nobody pays for, in no step.
    pub(super) fn post_to_nobody(&mut self, commodity: Commodity, account: Account, amount: u128) {
        let slot = self.slot(None);
        let number = self.number(commodity, account);
        self.post(slot, number, amount);
        self.end_step(None);
    }

    /// A step is over: where books are kept by step, what was posted goes to its accounts.
    pub(super) fn end_step(&mut self, step: Option<u64>) {
        for (slot, number) in std::mem::take(&mut self.touched) {
            self.enter(slot, number, step);
        }
    }

    fn enter(&mut self, slot: Slot, number: usize, step: Option<u64>) {
        let amount = std::mem::take(&mut self.amounts[slot][number]);
        let (commodity, account) = self.accounts[number];
        let key = Key { account, device: Some(self.device), step, request: self.payers[slot] };
        self.books.entry(commodity).or_default().post(key, amount);
    }

    /// Empties everything into `books`.
    pub(super) fn finish(mut self, books: &mut HashMap<Commodity, Book<Key>>) {
        self.end_step(None);
        for slot in 0..self.amounts.len() {
            for number in 0..self.amounts[slot].len() {
                if self.amounts[slot][number] > 0 {
                    self.enter(slot, number, None);
                }
            }
        }
        for (commodity, book) in self.books {
            let into = books.entry(commodity).or_default();
            for (key, amount) in book.accounts() {
                into.post(*key, amount);
            }
        }
    }
}
