//! Postings of the books, one by one.

use serde::Serialize;

use crate::waste::Books;

/// The columns of a posting, in the order of its fields.
pub const POSTING_COLUMNS: [&str; 12] = [
    "commodity",
    "cause",
    "muda",
    "level",
    "device",
    "step_id",
    "kernel",
    "request_id",
    "sub_reason",
    "basis",
    "amount",
    "unit",
];

/// One posting, in the words of the books.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Posting<'a> {
    /// Which book.
    pub commodity: &'static str,
    /// Which account.
    pub cause: &'static str,
    /// Which of the seven wastes, or none.
    pub muda: &'static str,
    /// `value`, `necessary` or `waste`.
    pub level: &'static str,
    /// The device, where the amount has one.
    pub device: Option<u16>,
    /// The step, where the amount has one and the books are kept by step.
    pub step_id: Option<u64>,
    /// The kernel, where the amount has one.
    pub kernel: Option<&'a str>,
    /// Who pays, if anybody does.
    pub request_id: Option<u64>,
    /// A finer reason, where there is one.
    pub sub_reason: Option<&'static str>,
    /// How the amount came to be.
    pub basis: &'static str,
    /// The amount, in `unit`.
    pub amount: u128,
    /// Its unit.
    pub unit: &'static str,
}

/// All postings, commodity by commodity, in canonical order.
pub fn postings(books: &Books) -> impl Iterator<Item = Posting<'_>> {
    books.commodities().flat_map(move |commodity| {
        books.postings(commodity).map(move |(key, amount)| Posting {
            commodity: commodity.code(),
            cause: key.account.cause.code(),
            muda: books.muda(key.account.cause).code(),
            level: books.level(&key.account).code(),
            device: key.device,
            step_id: key.step,
            kernel: books.kernel_name(&key.account),
            request_id: key.request,
            sub_reason: key.account.sub_reason.map(|reason| reason.code()),
            basis: key.account.basis.code(),
            amount,
            unit: commodity.unit(),
        })
    })
}
