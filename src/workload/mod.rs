//! Declarative demand: who asks for what, and when; seeded.
//!
//! A recorded trace of another system, a synthetic description or Gemba's own file becomes one
//! [`Workload`]: requests in order of arrival, what they are, what the source could not tell
//! ([`Note`]s), and [`Prompts`] that turn a request into token ids. [`open`] reads any known
//! format, told apart by content.
//!
//! Neighbours: `session` plays a workload to the engine; `command` shows and converts files.
//! This module knows no engine, no model and no result: where a tokenizer is needed, the caller
//! passes one in.
//!
//! The way of a file: `source` opens, hashes and peeks → `format` tells what it is → one reader
//! per format (`azure`, `mooncake`, …) pushes rows → `draft` checks, sorts and rebases them and
//! notes what is odd → [`Workload`] → `replay` → `prompt`.

mod azure;
mod bailian;
mod burstgpt;
mod canonical;
mod draft;
mod error;
mod export;
mod field;
mod format;
mod inspect;
mod json;
mod line;
mod llmservingsim;
mod mooncake;
mod note;
mod open;
mod prompt;
mod replay;
mod request;
mod sharegpt;
pub mod shipped;
mod show;
mod source;
mod summary;
mod synthetic;
mod table;
mod vidur;

pub use error::{Place, WorkloadError};
pub use export::{export, losses};
pub use format::Format;
pub use note::{Note, NoteKind};
pub use open::{OpenOptions, TokenCounter, open, read};
pub use prompt::Prompts;
pub use replay::{Lengths, Pace, Replay};
pub use request::{Checker, Class, Content, RequestSpec, Slo, Workload};
pub use show::Shown;
pub use summary::{Distribution, Summary, ideal_prefix_hits};
pub use synthetic::{ArrivalProcess, RampShape};
