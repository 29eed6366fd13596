//! The gate: runs of a baseline and of a candidate in, a verdict out.
//!
//! Pure. Neighbours: `report` gives each run's figures, `stat` the intervals; `command` reads
//! folders or runs commands and asks [`judge`] after each look; `cli` prints the
//! [`GateReport`], and the forms that machines read are made here. This module knows no run
//! folder, no process and no terminal.
//!
//! What is asked, in this order: may the runs be compared at all ([`comparable`]); are the
//! invariants whole; are deterministic counters the same; was as much accepted (quality); are
//! the gated figures within their margins; are the budgets kept. Everything else is reported
//! with a correction and decides nothing.

mod bencher;
mod comparable;
mod evidence;
mod figure;
mod github;
mod invariant;
mod judge;
mod junit;
mod policy;
mod reported;
mod self_test;
mod timing;
mod verdict;

pub use bencher::bencher;
pub use comparable::{Allowed, GateError, comparable};
pub use evidence::{Asked, Evidence, Identity};
pub use figure::{FIGURES, Figure};
pub use github::{annotations, step_summary};
pub use judge::{Round, judge};
pub use junit::junit;
pub use policy::{Budget, GatedFigure, Policy, PolicyError, Quality, SAMPLE, Statistics};
pub use self_test::{SelfTest, from_neighbours, self_test};
pub use timing::Level;
pub use verdict::{Check, GateReport, Interval, Kind, Reported, Side, Verdict};
