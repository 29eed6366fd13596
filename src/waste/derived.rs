//! Ledgers that follow from device time: money by price, energy by meter or declared power.

use std::collections::HashMap;

use super::copies::works;
use super::posting::{Account, Basis, Commodity, Key};
use crate::event::{Power, Provenance};
use crate::ledger::{Book, Splitter};
use crate::trace::{EnergyModel, Price, Run};

const NANOS_PER_HOUR: u128 = 3_600_000_000_000;

/// Milliwatts times nanoseconds per microjoule.
const MILLIWATT_NANOS_PER_MICROJOULE: u128 = 1_000_000;

/// Books money, if a price was declared: device time is its one driver.
pub(super) fn money(run: &Run, books: &mut HashMap<Commodity, Book<Key>>) {
    let Some(price) = run.header.price else { return };
    let Some(time) = books.get(&Commodity::DeviceTime) else { return };
    let total = priced(price, time.trial_balance().capacity);
    let book = follow(time, total, |_| 1, |basis| basis.and(Basis::Apportioned));
    books.insert(Commodity::Money, book);
}

/// Books energy, if a meter was read or power was declared.
///
/// A static floor goes by time, the rest by time in which operations ran or copies owned the
/// device, both scaled to the
/// total. Without a declared power the whole goes by time.
pub(super) fn energy(run: &Run, busy_nanos: u128, books: &mut HashMap<Commodity, Book<Key>>) {
    let Some(time) = books.get(&Commodity::DeviceTime) else { return };
    let model = run.header.energy;
    let (total, weakest) = match (metered(&run.power), model) {
        (Some(total), _) => (total, Basis::Apportioned),
        (None, Some(model)) => {
            let capacity = time.trial_balance().capacity;
            (declared(model, capacity, busy_nanos), Basis::Modelled)
        }
        (None, None) => return,
    };
    let power = |account: &Account| match model {
        Some(EnergyModel { idle_mw, busy_mw }) => {
            u128::from(if works(account) { busy_mw.max(idle_mw) } else { idle_mw })
        }
        None => 1,
    };
    let book = follow(time, total, power, |basis| basis.and(weakest));
    books.insert(Commodity::Energy, book);
}

/// Pico-dollars for so many device nanoseconds.
pub(super) fn priced(price: Price, device_nanos: u128) -> u128 {
    device_nanos * u128::from(price.picodollars_per_device_hour) / NANOS_PER_HOUR
}

/// Microjoules by declared power.
pub(super) fn declared(model: EnergyModel, device_nanos: u128, busy_nanos: u128) -> u128 {
    let dynamic = u128::from(model.busy_mw.saturating_sub(model.idle_mw));
    let work = u128::from(model.idle_mw) * device_nanos + dynamic * busy_nanos;
    work / MILLIWATT_NANOS_PER_MICROJOULE
}

/// Microjoules that the devices' meters counted over the window.
fn metered(samples: &[Power]) -> Option<u128> {
    let measured: Vec<&Power> =
        samples.iter().filter(|sample| sample.basis == Provenance::Measured).collect();
    if measured.is_empty() {
        return None;
    }
    let device = |of: &[&Power]| {
        let (first, last) = (of.first(), of.last());
        first.zip(last).map_or(0, |(a, b)| u128::from(b.energy_uj.saturating_sub(a.energy_uj)))
    };
    Some(measured.chunk_by(|a, b| a.device == b.device).map(device).sum())
}

/// A book of `total` that follows another, account by account.
fn follow(
    time: &Book<Key>,
    total: u128,
    weight: impl Fn(&Account) -> u128,
    basis: impl Fn(Basis) -> Basis,
) -> Book<Key> {
    let accounts: Vec<(&Key, u128)> = time.accounts().collect();
    let mut splitter = Splitter::default();
    splitter.weigh(accounts.iter().map(|(key, amount)| amount * weight(&key.account)));
    let mut book = Book::new();
    book.offer(total);
    splitter.split(total, |i, part| {
        let mut key = *accounts[i].0;
        key.account.basis = basis(key.account.basis);
        book.post(key, part);
    });
    book
}
