//! Ledgers by level and by cause.

use std::collections::BTreeMap;

use super::super::{CauseRow, Ledger, Part};
use crate::unit::{Scale, Share};
use crate::waste::{Account, Basis, Books, Cause, Commodity, Level, Muda, SubReason};

/// A commodity's name for people.
pub(in crate::report) const fn name(commodity: Commodity) -> &'static str {
    match commodity {
        Commodity::DeviceTime => "Device time",
        Commodity::Energy => "Energy",
        Commodity::Memory => "Memory",
        Commodity::Bytes => "Bytes moved",
        Commodity::Rows => "Rows",
        Commodity::Money => "Money",
        Commodity::RequestTime => "Request time",
    }
}

/// An amount of a commodity as text.
pub(in crate::report) fn amount(commodity: Commodity, amount: u128) -> String {
    let x = amount as f64;
    match commodity {
        Commodity::DeviceTime | Commodity::RequestTime => Scale::nanos(x).show(x),
        Commodity::Bytes => Scale::bytes(x).show(x),
        // Byte·nanoseconds over a nanosecond-second: bytes held for a second.
        Commodity::Memory => format!("{}·s", Scale::bytes(x / 1e9).show(x / 1e9)),
        Commodity::Rows => Scale::count(x).show(x),
        Commodity::Money => money(x / 1e12),
        Commodity::Energy => energy(x / 1e6),
    }
}

fn money(dollars: f64) -> String {
    match dollars {
        d if d >= 0.01 || d == 0.0 => format!("${d:.2}"),
        d => format!("{:.3} m$", d * 1e3),
    }
}

fn energy(joules: f64) -> String {
    if joules >= 1e3 { format!("{:.2} kJ", joules / 1e3) } else { format!("{joules:.3} J") }
}

pub(in crate::report) fn all(books: &Books) -> Vec<Ledger> {
    books.commodities().map(|commodity| ledger(books, commodity)).collect()
}

#[derive(Default)]
struct Sum {
    amount: u128,
    bases: Vec<Basis>,
    reasons: BTreeMap<SubReason, u128>,
}

fn ledger(books: &Books, commodity: Commodity) -> Ledger {
    let total = books.trial_balance(commodity).map_or(0, |balance| balance.capacity);
    let postings = books.postings(commodity);
    let postings = postings.map(|(key, a)| (key.account, books.level(&key.account), a));
    lay_out(commodity, total, postings, |cause| books.muda(cause))
}

/// A ledger of `total` from its postings with their levels.
pub(in crate::report) fn lay_out(
    commodity: Commodity,
    total: u128,
    postings: impl Iterator<Item = (Account, Level, u128)>,
    muda: impl Fn(Cause) -> Muda,
) -> Ledger {
    let mut sums: BTreeMap<(Cause, Level), Sum> = BTreeMap::new();
    for (account, level, amount) in postings {
        let sum = sums.entry((account.cause, level)).or_default();
        sum.amount += amount;
        if !sum.bases.contains(&account.basis) {
            sum.bases.push(account.basis);
        }
        if let Some(reason) = account.sub_reason {
            *sum.reasons.entry(reason).or_default() += amount;
        }
    }
    let share = |amount: u128| Share::new(amount as i128, total as i128);
    let level = |level: Level| {
        let held: u128 = sums.iter().filter(|(k, _)| k.1 == level).map(|(_, s)| s.amount).sum();
        Part {
            label: level.code().to_owned(),
            level: level.code(),
            share: share(held).fraction().unwrap_or(0.0),
            text: amount(commodity, held),
            percent: share(held).to_string(),
        }
    };
    let levels = Level::ALL.into_iter().map(level).collect();
    let mut rows: Vec<_> = sums.into_iter().collect();
    // Largest first; the order of the catalogue decides ties.
    rows.sort_by_key(|(key, sum)| (std::cmp::Reverse(sum.amount), *key));
    let mut so_far = 0;
    let row = |((cause, level), mut sum): ((Cause, Level), Sum)| {
        so_far += sum.amount;
        let entry = cause.entry();
        sum.bases.sort_unstable();
        let bases: Vec<&str> = sum.bases.iter().map(|basis| basis.code()).collect();
        CauseRow {
            code: entry.code.to_owned(),
            muda: muda(cause).code(),
            level: level.code(),
            share: share(sum.amount).fraction().unwrap_or(0.0),
            cumulative: share(so_far).fraction().unwrap_or(0.0),
            text: amount(commodity, sum.amount),
            percent: share(sum.amount).to_string(),
            basis: bases.join(", "),
            reasons: reasons(&sum),
            definition: entry.definition,
            formula: entry.formula,
            countermeasure: entry.countermeasure,
        }
    };
    Ledger {
        commodity: commodity.code().to_owned(),
        name: name(commodity).to_owned(),
        total: amount(commodity, total),
        origin: super::origins::ledger(commodity),
        levels,
        causes: rows.into_iter().map(row).collect(),
    }
}

fn reasons(sum: &Sum) -> Vec<(String, String)> {
    let mut reasons: Vec<_> = sum.reasons.iter().collect();
    reasons.sort_by_key(|(reason, amount)| (std::cmp::Reverse(**amount), **reason));
    let text = |(reason, amount): (&SubReason, &u128)| {
        let share = Share::new(*amount as i128, sum.amount as i128);
        (reason.code().to_owned(), share.to_string())
    };
    reasons.into_iter().map(text).collect()
}
