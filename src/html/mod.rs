//! The report as one self-contained page: no network, no second file, works from a folder.
//!
//! A [`Report`](crate::report::Report) of ready numbers comes in, HTML goes out. Neighbours:
//! `report` gives the data; `command` says where the page is written. This module knows no
//! run folder, no ledger and no other surface, and makes no figure: it turns shares into
//! lengths and nothing else. `page.css` and `page.js` stand beside the templates as real files
//! and are embedded; the page's policy admits exactly these two by their hash.
//!
//! Without its script the page shows everything, one part below the other; the script folds,
//! sorts and switches.

mod axis;
mod compare;
mod course;
mod digest;
mod escape;
mod geometry;
mod icicle;
mod memory;
mod page;
mod roofline;
mod spark;
mod yamazumi;

#[cfg(test)]
mod contrast;

use std::io::{self, Write};

use crate::report::{Comparison, Report};
use compare::ComparePage;
use page::Page;

/// Writes `report` as one HTML page.
///
/// # Errors
/// Those of `out`.
pub fn write_page(report: &Report, out: &mut impl Write) -> io::Result<()> {
    use askama::Template as _;
    Page::new(report).write_into(out)
}

/// Writes several runs side by side as one HTML page.
///
/// # Errors
/// Those of `out`.
pub fn write_comparison(comparison: &Comparison, out: &mut impl Write) -> io::Result<()> {
    use askama::Template as _;
    ComparePage::new(comparison).write_into(out)
}
