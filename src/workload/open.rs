//! From a file of any known format to a [`Workload`].

use std::io::Read;
use std::path::Path;

use super::draft::Draft;
use super::error::WorkloadError;
use super::line::Lines;
use super::request::Workload;
use super::source::{Fingerprint, Source};
use super::{Format, azure, mooncake, synthetic};

/// Counts the tokens of a text: the model's own tokenizer, which this module may not know.
pub type TokenCounter<'a> = &'a dyn Fn(&str) -> usize;

/// How a workload is read.
#[derive(Clone, Copy, Default)]
pub struct OpenOptions<'a> {
    /// The format; `None` to tell it by content.
    pub format: Option<Format>,
    /// The seed of everything drawn; `None` for the file's own, or 0.
    pub seed: Option<u64>,
    /// Needed by formats that hold text instead of lengths.
    pub count_tokens: Option<TokenCounter<'a>>,
}

/// Reads the workload in the file at `path`, whatever its format.
///
/// Memory is bounded by the requests kept, never by the file's text.
///
/// # Errors
/// When the file cannot be read, is of no known format, or breaks its format's promises
/// anywhere: no row is ever left out silently.
pub fn open(path: &Path, options: &OpenOptions<'_>) -> Result<Workload, WorkloadError> {
    read_source(Source::open(path)?, path, options)
}

/// As [`open`], from bytes that came some other way; `path` names them in messages.
///
/// # Errors
/// As [`open`].
pub fn read(
    bytes: impl Read,
    path: &Path,
    options: &OpenOptions<'_>,
) -> Result<Workload, WorkloadError> {
    let io = |source| WorkloadError::Io { path: path.to_path_buf(), source };
    read_source(Source::new(bytes).map_err(io)?, path, options)
}

fn read_source<R: Read>(
    source: Source<R>,
    path: &Path,
    options: &OpenOptions<'_>,
) -> Result<Workload, WorkloadError> {
    let format = match options.format {
        Some(format) => format,
        None => Format::detect(source.head(), path)?,
    };
    let mut fingerprint = Fingerprint::default();
    let reader = source.reader(&mut fingerprint);
    if format == Format::Synthetic {
        let text = synthetic::text(reader, path)?;
        return synthetic::workload(&text, path, options.seed, fingerprint.finish());
    }
    let mut draft = Draft::new(path);
    let mut lines = Lines::new(reader, path);
    match format {
        Format::Azure => azure::read(&mut lines, &mut draft)?,
        Format::Mooncake => mooncake::read(&mut lines, &mut draft)?,
        _ => {
            return Err(WorkloadError::UnknownFormat {
                path: path.to_path_buf(),
                found: format.to_string(),
            });
        }
    }
    drop(lines);
    draft.finish(format, name_of(path), fingerprint.finish(), options.seed.unwrap_or(0))
}

/// The file's name without its last ending.
pub(super) fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(|| "workload".to_owned(), |s| s.to_string_lossy().into_owned())
}
