//! The rows ledger: exact counts, no time.

use std::collections::HashMap;

use super::catalogue::Cause;
use super::posting::{Account, Basis, Commodity, Key};
use super::step::{Standing, standing};
use crate::ledger::Book;
use crate::trace::Run;

/// Books every row. What there is comes from the steps, what is posted from the rows: two
/// records of the engine that must agree.
pub(super) fn book(run: &Run, by_step: bool, books: &mut HashMap<Commodity, Book<Key>>) {
    let book = books.entry(Commodity::Rows).or_default();
    let mut device_of = HashMap::new();
    let mut rows: HashMap<Key, u128> = HashMap::new();
    for step in &run.steps {
        book.offer(step.rows().into());
        device_of.insert(step.step, step.device);
    }
    for row in &run.rows {
        let of = |cause| Account::of(cause, Basis::Counted);
        let account = match standing(row.phase, row.fate) {
            Standing::Useful(cause) => of(cause),
            Standing::Open(_) => of(Cause::WipOpen),
            Standing::Thrown(cause, sub_reason) => Account { sub_reason, ..of(cause) },
        };
        let key = Key {
            account,
            device: device_of.get(&row.step).copied(),
            step: by_step.then_some(row.step.0),
            request: row.request.map(|id| id.0),
        };
        *rows.entry(key).or_default() += u128::from(row.rows);
    }
    book.post_all(rows);
}
