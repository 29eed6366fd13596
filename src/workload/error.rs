//! Why a workload could not be read, made, changed or written.
//!
//! Every message is a fragment that completes "failed to …" and says where, what was expected
//! and what was found.

use std::fmt;
use std::path::{Path, PathBuf};

/// A line of a file, or the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as the caller named it.
    pub path: PathBuf,
    /// The line, counted from 1; `None` for the file as a whole.
    pub line: Option<u64>,
}

impl Place {
    /// The file as a whole.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self { path: path.to_path_buf(), line: None }
    }

    /// One line of it.
    #[must_use]
    pub fn line(path: &Path, line: u64) -> Self {
        Self { path: path.to_path_buf(), line: Some(line) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// Why a workload could not be read, made, changed or written.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// A file could not be opened or read.
    #[error("read workload {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds nothing.
    #[error("read workload {path}: expected requests, found an empty file")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is compressed, binary or noise.
    #[error("read workload {path}: expected text, found {found}")]
    NotText {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        found: String,
    },
    /// The content matches no known format.
    #[error("read workload {path}: expected one of the known formats, found {found}")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its beginning.
        found: String,
    },
    /// A line is not UTF-8.
    #[error("read workload {at}: expected UTF-8 text, found byte 0x{byte:02x} at column {column}")]
    NotUtf8 {
        /// The line.
        at: Place,
        /// The first byte that is not.
        byte: u8,
        /// Its position in the line, counted from 1.
        column: usize,
    },
    /// A line is longer than any real row.
    #[error("read workload {at}: expected a line of at most {limit} bytes, found a longer one")]
    LongLine {
        /// The line.
        at: Place,
        /// The most bytes a line may have.
        limit: usize,
    },
    /// The header is not the format's.
    #[error("read workload {at}: expected a header with {expected}, found {found}")]
    Header {
        /// The line.
        at: Place,
        /// The columns that the format needs.
        expected: String,
        /// The header that stands there.
        found: String,
    },
    /// A row is not what the format promises.
    #[error("read workload {at}: expected {expected}, found {found}")]
    Row {
        /// The line.
        at: Place,
        /// What the format promises.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The file ends inside a row.
    #[error("read workload {at}: expected {expected}, found the end of the file after {found}")]
    Truncated {
        /// The line.
        at: Place,
        /// What the format promises.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A token count is zero, negative or absurd.
    #[error("read workload {at}: expected {field} from {least} to {most} tokens, found {found}")]
    Count {
        /// The line.
        at: Place,
        /// The field.
        field: &'static str,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
        /// What stands there.
        found: String,
    },
    /// A time cannot be read, is negative or lies out of range.
    #[error("read workload {at}: expected {field} as {expected}, found {found}")]
    Time {
        /// The line.
        at: Place,
        /// The field.
        field: &'static str,
        /// How the format writes it.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The first and the last arrival lie absurdly far apart.
    #[error(
        "read workload {path}: expected all arrivals within {most_days} days, found them \
         {found_days} days apart"
    )]
    Span {
        /// The file.
        path: PathBuf,
        /// The most days.
        most_days: u64,
        /// The days between the first and the last arrival.
        found_days: u64,
    },
    /// More rows, or more of something in them, than can be held.
    #[error("read workload {at}: expected at most {limit} {what}, found more")]
    TooMany {
        /// Where the limit was passed.
        at: Place,
        /// What there are too many of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// The file is whole, and holds no request.
    #[error("read workload {path}: expected at least one request, found {found}")]
    NoRequests {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        found: String,
    },
    /// The file holds text, and lengths in tokens need a tokenizer.
    #[error("read workload {path}: expected a tokenizer for its text, found none")]
    NoTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// A replay leaves no request.
    #[error("replay workload {name}: expected at least one request {window}, found none")]
    EmptyWindow {
        /// The workload.
        name: String,
        /// The part of it that was asked for.
        window: String,
    },
    /// A replay's setting makes no sense.
    #[error("replay workload {name}: expected {expected}, found {found}")]
    Setting {
        /// The workload.
        name: String,
        /// What the setting may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A request does not fit the model's context.
    #[error(
        "replay workload {name}: expected prompt and output within {context_tokens} tokens of \
         context, found {found_tokens} in request {request}{least}"
    )]
    Context {
        /// The workload.
        name: String,
        /// What the model can hold.
        context_tokens: u32,
        /// What the request needs.
        found_tokens: u64,
        /// Its number in order of arrival.
        request: usize,
        /// Said where even the smallest lengths do not fit.
        least: &'static str,
    },
    /// A name is neither a file nor a shipped workload.
    #[error("read workload {path}: expected a file or a shipped workload, found neither")]
    NotFound {
        /// The name.
        path: PathBuf,
    },
    /// A format cannot hold what the workload knows.
    #[error("write workload {path}: expected what {format} can hold, found {found}")]
    Loss {
        /// The file.
        path: PathBuf,
        /// The format.
        format: super::Format,
        /// What would be lost, all of it.
        found: String,
    },
    /// A file could not be written. Nothing of it is left.
    #[error("write workload {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A synthetic description contradicts itself or its schema.
    #[error("read workload {at}: {message}")]
    Description {
        /// The line, where one can be named.
        at: Place,
        /// What was expected and what was found.
        message: String,
    },
}

impl WorkloadError {
    /// What to try next, for the errors that have an answer.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotText { found, .. } if found.contains("compressed") => {
                "unpack it first: the readers take plain text".to_owned()
            }
            Self::NotText { found, .. } if found.contains("Git LFS") => {
                "fetch the data itself with `git lfs pull`".to_owned()
            }
            Self::UnknownFormat { .. } | Self::Header { .. } => {
                format!("name the format with --format; known are {}", super::Format::names())
            }
            Self::NotUtf8 { .. } => "save the file as UTF-8".to_owned(),
            Self::Truncated { .. } => {
                "the file was cut off; fetch it again or delete its last line".to_owned()
            }
            Self::Span { .. } => "check that every row has its time in the same unit".to_owned(),
            Self::NoTokenizer { .. } => "pass one with --tokenizer tokenizer.json".to_owned(),
            Self::EmptyWindow { .. } => {
                "widen --start-offset, --duration or --num-requests".to_owned()
            }
            Self::Context { .. } => {
                "scale the lengths, cap them, or take a model with a longer context".to_owned()
            }
            Self::NotFound { .. } => {
                format!("shipped are {}", super::shipped::names().join(", "))
            }
            Self::Loss { .. } => {
                "pass --lossy to leave it out, or write Gemba's own format".to_owned()
            }
            Self::Description { .. } => {
                "docs/workloads.md lists every key of a synthetic workload".to_owned()
            }
            _ => return None,
        })
    }
}

/// A short, printable form of what stands in a file: quoted, without control characters, cut
/// after 60 characters.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut out = String::from("\"");
    for (i, character) in text.chars().enumerate() {
        if i == SHOWN {
            out.push('…');
            break;
        }
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out.push('"');
    out
}
