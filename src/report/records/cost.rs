//! What each cause cost, in money. Estimates from a declared price, not bills.

use std::collections::BTreeMap;

use crate::waste::{Basis, Books, Cause, Commodity, Level};

/// Nanoseconds of an hour.
const HOUR: f64 = 3.6e12;

/// Pico-dollars of a dollar.
const PICODOLLARS: u128 = 1_000_000_000_000;

/// What a cause cost on a device, at one level.
#[derive(Clone, Debug, PartialEq)]
pub struct CostRecord {
    /// The device.
    pub device: Option<u16>,
    /// The cause's code.
    pub cause: &'static str,
    /// What it is.
    pub definition: &'static str,
    /// The waste it belongs to.
    pub muda: &'static str,
    /// `value`, `necessary` or `waste`.
    pub level: &'static str,
    /// How the amount came to be.
    pub basis: &'static str,
    /// US dollars, to the last pico-dollar.
    pub dollars: String,
    /// Device hours.
    pub hours: f64,
}

/// What every cause cost; nothing where no price was declared.
#[must_use]
pub fn costs(books: &Books) -> Vec<CostRecord> {
    type Sum = (u128, u128, Option<Basis>);
    let mut sums: BTreeMap<(Option<u16>, Cause, Level), Sum> = BTreeMap::new();
    for (key, amount) in books.postings(Commodity::Money) {
        let level = books.level(&key.account);
        let sum = sums.entry((key.device, key.account.cause, level)).or_default();
        sum.0 += amount;
        let basis = key.account.basis;
        sum.2 = Some(sum.2.map_or(basis, |before| before.and(basis)));
    }
    for (key, amount) in books.postings(Commodity::DeviceTime) {
        let level = books.level(&key.account);
        if let Some(sum) = sums.get_mut(&(key.device, key.account.cause, level)) {
            sum.1 += amount;
        }
    }
    let record = |((device, cause, level), (picodollars, nanos, basis)): (_, Sum)| CostRecord {
        device,
        cause: Cause::code(cause),
        definition: cause.entry().definition,
        muda: books.muda(cause).code(),
        level: Level::code(level),
        basis: basis.unwrap_or(Basis::Apportioned).code(),
        dollars: dollars(picodollars),
        hours: nanos as f64 / HOUR,
    };
    sums.into_iter().map(record).collect()
}

/// Pico-dollars as a decimal number of dollars, exactly.
fn dollars(picodollars: u128) -> String {
    let (whole, rest) = (picodollars / PICODOLLARS, picodollars % PICODOLLARS);
    format!("{whole}.{rest:012}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_keeps_every_digit() {
        for (picodollars, text) in
            [(0, "0.000000000000"), (1, "0.000000000001"), (2_500_000_000_000, "2.500000000000")]
        {
            assert_eq!(dollars(picodollars), text);
        }
    }
}
