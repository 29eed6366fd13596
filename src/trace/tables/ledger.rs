//! `ledger.parquet`: the derived table.

use std::collections::BTreeMap;
use std::path::Path;

use polars::prelude::PolarsResult;

use super::super::TraceError;
use super::columns::{Columns, Vocabulary, failed, write};

/// One posting as the table holds it. The words are the books' own; this module only files them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow<'a> {
    /// Which book.
    pub commodity: &'a str,
    /// Which account.
    pub cause: &'a str,
    /// Which of the seven, or none.
    pub muda: &'a str,
    /// `value`, `necessary` or `waste`.
    pub level: &'a str,
    /// The device, where the amount has one.
    pub device: Option<u16>,
    /// The step, where the amount has one.
    pub step: Option<u64>,
    /// The kernel, where the amount has one.
    pub kernel: Option<&'a str>,
    /// Who pays, if anybody does.
    pub request: Option<u64>,
    /// A finer reason, where there is one.
    pub sub_reason: Option<&'a str>,
    /// How the amount came to be.
    pub basis: &'a str,
    /// The amount.
    pub amount: u128,
    /// Its unit.
    pub unit: &'a str,
}

/// Writes the ledger of a folder, in the order given.
///
/// # Errors
/// [`TraceError`] if an amount exceeds 38 digits or the disk fails.
pub fn write_ledger(folder: &Path, rows: &[LedgerRow<'_>]) -> Result<(), TraceError> {
    write_ledger_file(&folder.join("ledger.parquet"), rows)
}

/// The same into a file of any name.
///
/// # Errors
/// As [`write_ledger`].
pub fn write_ledger_file(path: &Path, rows: &[LedgerRow<'_>]) -> Result<(), TraceError> {
    write(path, columns(rows).map_err(failed("write", path))?, None)
}

fn columns(rows: &[LedgerRow<'_>]) -> PolarsResult<Columns> {
    let all = || rows.iter();
    let word = |columns: Columns, name, get: fn(&LedgerRow<'_>) -> Option<String>| {
        let words: Vec<Option<String>> = rows.iter().map(get).collect();
        words_column(columns, name, &words)
    };
    let columns = word(Columns::default(), "commodity", |r| Some(r.commodity.to_owned()))?;
    let columns = word(columns, "cause", |r| Some(r.cause.to_owned()))?;
    let columns = word(columns, "muda", |r| Some(r.muda.to_owned()))?;
    let columns = word(columns, "level", |r| Some(r.level.to_owned()))?
        .maybe("device", all().map(|r| r.device.map(u64::from)))
        .maybe("step_id", all().map(|r| r.step));
    let columns = word(columns, "kernel", |r| r.kernel.map(str::to_owned))?
        .maybe("request_id", all().map(|r| r.request));
    let columns = word(columns, "sub_reason", |r| r.sub_reason.map(str::to_owned))?;
    let columns = word(columns, "basis", |r| Some(r.basis.to_owned()))?
        .decimal("amount", all().map(|r| i128::try_from(r.amount).unwrap_or(i128::MAX)))?;
    word(columns, "unit", |r| Some(r.unit.to_owned()))
}

fn words_column(columns: Columns, name: &str, words: &[Option<String>]) -> PolarsResult<Columns> {
    let mut places = BTreeMap::new();
    for word in words.iter().flatten() {
        places.entry(word.as_str()).or_insert(0);
    }
    for (place, value) in places.values_mut().enumerate() {
        *value = place;
    }
    let vocabulary = Vocabulary::new(places.keys().copied())?;
    let place = |word: &Option<String>| places.get(word.as_deref()?).copied();
    columns.words(name, &vocabulary, words.iter().map(place))
}
