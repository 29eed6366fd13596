//! The catalogue of causes, and the books: facts in, balanced postings out.
//!
//! Pure: the books are a function of the run alone. Neighbours: `trace` gives the run, `cost`
//! the floors, `ledger` the accounts; `report` shows what comes out. This module knows no
//! engine, no device and no surface. `docs/waste-standard.md` is the standard it follows.

mod books;
mod catalogue;
mod clock;
mod copies;
mod course;
mod derived;
mod headline;
mod headroom;
mod journal;
mod kernel;
mod latency;
pub mod live;
mod memory;
mod muda_map;
mod phases;
mod posting;
mod projection;
mod request_time;
mod rows;
mod step;
mod timeline;
mod tracks;

pub use books::{Books, BooksOptions, Grain};
pub use catalogue::{CAUSES, Cause, Entry, Level, Muda};
pub use course::{Course, SLICES};
pub use headline::{Counts, Headline, Ladder, Rung};
pub use kernel::{BrokenCeilings, Costing};
pub use latency::Latency;
pub use muda_map::{MudaMap, MudaMapError};
pub use phases::{Phases, StepKind};
pub use posting::{Account, Basis, Commodity, Key, SubReason};
pub use projection::{KernelTotals, MemoryMoment, RequestLine, memory, requests};
pub use tracks::{DeviceTrack, LaunchTrack, Shares, Tracks};
