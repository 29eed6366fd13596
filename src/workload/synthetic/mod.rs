//! Workloads made from a description: TOML, schema 1.
//!
//! `description` is the schema, `arrival` and `length` the processes, `generate` puts them
//! together. Everything is drawn from ChaCha streams of one seed, one stream per purpose, so
//! that changing how lengths are drawn moves no arrival.

mod arrival;
mod description;
mod generate;
mod length;

use std::io::Read;
use std::path::Path;

use super::error::{Place, WorkloadError};

pub use arrival::{ArrivalProcess, RampShape};
pub(super) use description::Description;
pub(super) use generate::{arrival_times, generate};

/// The most bytes of a description.
const TEXT_LIMIT: u64 = 1 << 20;

/// Reads a whole description.
pub(super) fn text(reader: impl Read, path: &Path) -> Result<String, WorkloadError> {
    let mut bytes = Vec::new();
    reader
        .take(TEXT_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| WorkloadError::Io { path: path.to_path_buf(), source })?;
    if bytes.len() as u64 > TEXT_LIMIT {
        let (at, limit) = (Place::file(path), TEXT_LIMIT as usize);
        return Err(WorkloadError::TooMany { at, what: "bytes of description", limit });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..valid];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|&&byte| byte != b'\n').count();
        let byte = error.as_bytes().get(valid).copied().unwrap_or(0);
        WorkloadError::NotUtf8 { at: Place::line(path, line as u64), byte, column }
    })
}
