//! A run as records for other tools: postings, requests, costs, figures of a benchmark, and
//! slices of time. Plain data; the surfaces give it each tool's names.

mod benchmark;
mod cost;
mod posting;
mod request;
mod slice;

pub use benchmark::{BenchmarkFacts, BenchmarkRecord, Statistic, benchmark};
pub use cost::{CostRecord, costs};
pub use posting::{POSTING_COLUMNS, Posting, postings};
pub use request::{Figure, RequestError, RequestRecord, request_records};
pub use slice::{Argument, Counter, Lane, Slice, kernel_slice, lanes, step_counters, time_slices};
