//! Gemba: an inference waste profiler and kaizen analyzer.
//!
//! The crate is an hourglass whose waist is the run folder. The making arm (`model`, `cost`,
//! `backend`, `workload`, `schedule`, `engine`, `session`) runs a workload on the reference
//! engine and appends facts; the reading arm (`waste`, `report` and the surfaces) explains
//! them. Neither knows the other; `tests/architecture.rs` holds the table of who may know whom.
//! `ARCHITECTURE.md` is the tour.

pub mod backend;
pub mod cli;
pub mod command;
pub mod cost;
pub mod engine;
pub mod event;
pub mod export;
pub mod gate;
pub mod html;
pub mod ledger;
pub mod model;
#[cfg(feature = "otel")]
pub mod otel;
pub mod prometheus;
pub mod report;
pub mod schedule;
#[cfg(feature = "serve")]
pub mod serve;
pub mod session;
pub mod stat;
pub mod trace;
#[cfg(feature = "watch")]
pub mod tui;
pub mod unit;
pub mod waste;
pub mod workload;
