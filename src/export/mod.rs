//! A run in the formats of other tools. Each file of this module knows one format and prints
//! what `report` has worked out.

mod aiperf;
mod focus;
mod ledger_csv;
mod llm_d;
mod perfetto;

pub use aiperf::write_requests;
pub use focus::{COLUMNS as FOCUS_COLUMNS, write_costs};
pub use ledger_csv::write_ledger;
pub use llm_d::{BENCHMARK_REPORT_VERSION, write_benchmark};
pub use perfetto::TraceFile;
