//! The books of a run that goes on, as numbers for a time series database.
//!
//! Amounts are gauges, not counters: what open requests did stands under `wip.open` and is moved
//! to where it belongs when they leave.

use std::collections::BTreeMap;

use crate::waste::live::{LiveBooks, Sums};
use crate::waste::{Cause, Commodity, Level};

/// Numbers of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// The name, its unit included.
    pub name: String,
    /// What it is.
    pub help: String,
    /// The numbers.
    pub samples: Vec<Sample>,
}

/// A number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What tells it from the others of its name.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: f64,
}

/// Nanoseconds of a second.
const NANOS: f64 = 1e9;

/// The books as they stand.
#[must_use]
pub fn exposition(books: &LiveBooks) -> Vec<Family> {
    let sums = books.sums();
    let mut families: Vec<Family> =
        Commodity::ALL.iter().filter_map(|commodity| amounts(books, &sums, *commodity)).collect();
    let residuals = books.trial_balances(&sums).into_iter().map(|(commodity, balance)| Sample {
        labels: vec![
            ("ledger", commodity.code().to_owned()),
            ("unit", commodity.unit().to_owned()),
        ],
        value: balance.residual() as f64,
    });
    families.push(Family {
        name: "gemba_ledger_residual".to_owned(),
        help: "What there was to account for, less what is booked; anything but 0 is a fault."
            .to_owned(),
        samples: residuals.collect(),
    });
    families.push(Family {
        name: "gemba_books_seconds".to_owned(),
        help: "Run time up to which the books are kept.".to_owned(),
        samples: vec![Sample { labels: Vec::new(), value: books.now().0 as f64 / NANOS }],
    });
    families
}

/// What is booked of a commodity, by cause and level.
fn amounts(books: &LiveBooks, sums: &Sums, commodity: Commodity) -> Option<Family> {
    let (name, parts, help) = named(commodity)?;
    let samples =
        by_cause(books, sums, commodity).into_iter().map(|((cause, level), amount)| Sample {
            labels: vec![
                ("cause", cause.code().to_owned()),
                ("muda", books.muda(cause).code().to_owned()),
                ("level", level.code().to_owned()),
            ],
            value: amount as f64 / parts,
        });
    Some(Family { name: name.to_owned(), help: help.to_owned(), samples: samples.collect() })
}

/// The sums of a commodity by cause and level, in the order of the catalogue.
pub(super) fn by_cause(
    books: &LiveBooks,
    sums: &Sums,
    commodity: Commodity,
) -> BTreeMap<(Cause, Level), u128> {
    let mut causes = BTreeMap::new();
    for ((_, account), amount) in sums.iter().filter(|((found, _), _)| *found == commodity) {
        *causes.entry((account.cause, books.level(account))).or_default() += amount;
    }
    causes
}

/// Name, parts of the unit in one of the books', and meaning.
const fn named(commodity: Commodity) -> Option<(&'static str, f64, &'static str)> {
    Some(match commodity {
        Commodity::DeviceTime => ("gemba_device_seconds", NANOS, "Device time by cause."),
        Commodity::Memory => ("gemba_memory_byte_seconds", NANOS, "Device memory held, by cause."),
        Commodity::Bytes => (
            "gemba_moved_bytes",
            1.0,
            "Bytes moved in device memory and over the host link, by cause.",
        ),
        Commodity::Rows => ("gemba_rows", 1.0, "Token rows launched, by cause."),
        Commodity::RequestTime => {
            ("gemba_request_seconds", NANOS, "Time of requests in the system, by cause.")
        }
        Commodity::Energy | Commodity::Money => return None,
    })
}
