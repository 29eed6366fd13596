//! The run folder: stored, versioned facts; the waist of the hourglass.
//!
//! The making arm appends facts to `events.log` through a [`RunWriter`]: framed, checksummed,
//! written at least every half second, so that a kill loses at most the last frame. Closing the
//! run, or the first reader of an unclosed folder, turns the log into Parquet tables. The
//! reading arm sees a [`Run`]. This module knows no engine, no cause and no report.
//!
//! | file | what |
//! |---|---|
//! | `run.json` | the [`Header`]: what ran, on what, how |
//! | `events.log` | every fact, in the order it was said |
//! | `requests.parquet` … | the facts as tables, made from the log |

mod error;
mod header;
mod log;
mod meter;
mod new_file;
mod plausible;
mod run;
#[cfg(feature = "analysis")]
mod tables;
mod tail;
mod writer;

pub use error::TraceError;
pub use header::{
    DeviceHeader, EnergyModel, GembaHeader, Header, ModelHeader, Observer, Price, SCHEMA, Slo,
    Status, Window, WorkloadHeader,
};
pub use log::{LogReader, MAGIC, MAX_FRAME_BYTES};
pub use meter::{CountersHeader, Extremes, MeterHeader, Validity};
pub use new_file::{NewFile, write_beside};
pub use run::{Launches, Run, copy_order, launch_order, read_header, resolve};
#[cfg(feature = "analysis")]
pub use tables::{LedgerRow, TableWriter, write_ledger, write_ledger_file};
pub use tail::LogTail;
pub use writer::{Beside, HeaderFile, RunWriter};
