//! From a file of any known format, or a shipped one, to a [`Workload`].

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::error::{Place, WorkloadError};
use super::line::Lines;
use super::replay::Pace;
use super::request::Workload;
use super::source::{Fingerprint, Source, open_file};
use super::synthetic::{self, Description};
use super::{
    Format, azure, bailian, burstgpt, canonical, llmservingsim, mooncake, sharegpt, shipped, vidur,
};
use crate::unit::Nanos;

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

/// Reads the workload in the file at `path`, whatever its format; if there is no such file, the
/// shipped workload of that name.
///
/// Memory is bounded by the requests kept, never by the file's text.
///
/// # Errors
/// When the file cannot be read, is of no known format, or breaks its format's promises
/// anywhere: no row is ever left out silently.
pub fn open(path: &Path, options: &OpenOptions<'_>) -> Result<Workload, WorkloadError> {
    if path.exists() {
        let source = Source::new(open_file(path)?, path)?;
        return read_source(source, path, &Origin::folder_of(path), options);
    }
    let Some(shipped) = shipped::find(path) else {
        return Err(WorkloadError::NotFound { path: path.to_path_buf() });
    };
    let path = Path::new("workloads").join(shipped.file);
    read_source(Source::new(shipped.bytes, &path)?, &path, &Origin::Shipped, options)
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
    read_source(Source::new(bytes, path)?, path, &Origin::folder_of(path), options)
}

/// Where a description's recorded file is looked for.
enum Origin {
    Folder(PathBuf),
    Shipped,
}

impl Origin {
    fn folder_of(path: &Path) -> Self {
        Self::Folder(path.parent().unwrap_or(Path::new("")).to_path_buf())
    }
}

fn read_source<R: Read>(
    source: Source<R>,
    path: &Path,
    origin: &Origin,
    options: &OpenOptions<'_>,
) -> Result<Workload, WorkloadError> {
    let format = match options.format {
        Some(format) => format,
        None => Format::detect(source.head(), path)?,
    };
    let mut fingerprint = Fingerprint::default();
    let reader = source.reader(&mut fingerprint);
    match format {
        Format::Synthetic => {
            let text = synthetic::text(reader, path)?;
            described(&text, path, origin, options, fingerprint)
        }
        _ => recorded(reader, format, path, options)
            .and_then(|made| made.finish(format, path, options, fingerprint)),
    }
}

/// Rows that have been read, and what the file says of itself.
struct Recorded {
    draft: Draft,
    described: Option<canonical::Described>,
}

fn recorded(
    reader: impl BufRead,
    format: Format,
    path: &Path,
    options: &OpenOptions<'_>,
) -> Result<Recorded, WorkloadError> {
    let mut draft = Draft::new(path);
    let mut described = None;
    if format == Format::ShareGpt {
        sharegpt::read(reader, path, options.count_tokens, &mut draft)?;
        return Ok(Recorded { draft, described });
    }
    let lines = &mut Lines::new(reader, path);
    match format {
        Format::Azure => azure::read(lines, &mut draft)?,
        Format::Mooncake => mooncake::read(lines, &mut draft)?,
        Format::Bailian => bailian::read(lines, &mut draft)?,
        Format::BurstGpt => burstgpt::read(lines, &mut draft)?,
        Format::Vidur => vidur::read(lines, &mut draft)?,
        Format::LlmServingSim => llmservingsim::read(lines, &mut draft)?,
        Format::Gemba => described = Some(canonical::read(lines, &mut draft)?),
        Format::ShareGpt | Format::Synthetic => {}
    }
    Ok(Recorded { draft, described })
}

impl Recorded {
    fn finish(
        self,
        format: Format,
        path: &Path,
        options: &OpenOptions<'_>,
        fingerprint: Fingerprint,
    ) -> Result<Workload, WorkloadError> {
        let Self { draft, described } = self;
        let own_seed = described.as_ref().map_or(0, |described| described.seed);
        let seed = options.seed.unwrap_or(own_seed);
        let mut workload = draft.finish(format, name_of(path), fingerprint.finish(), seed)?;
        if let Some(described) = described {
            workload.name = described.name;
            workload.slo = described.slo;
            if let Some(notes) = described.notes {
                workload.notes.retain(|note| note.kind == super::NoteKind::Unsorted);
                workload.notes.extend(notes);
            }
        }
        Ok(workload)
    }
}

/// Makes what a description describes, from its classes or from the recording it names.
fn described(
    text: &str,
    path: &Path,
    origin: &Origin,
    options: &OpenOptions<'_>,
    mut fingerprint: Fingerprint,
) -> Result<Workload, WorkloadError> {
    let description = Description::parse(text, path)?;
    let Some(of) = &description.recorded else {
        return synthetic::generate(&description, path, options.seed, fingerprint.finish());
    };
    let format = of.format.as_deref().and_then(Format::from_name);
    let seed = Some(options.seed.unwrap_or(description.seed));
    let inner = OpenOptions { format, seed, count_tokens: options.count_tokens };
    let (file, source) = recording(&of.file, path, origin)?;
    let file = file.as_path();
    let format = match format {
        Some(format) => format,
        None => Format::detect(source.head(), file)?,
    };
    if format == Format::Synthetic {
        let message = "expected a recorded trace in recorded.file, found a description".to_owned();
        return Err(WorkloadError::Description { at: Place::file(path), message });
    }
    let rows = recorded(source.reader(&mut fingerprint), format, file, &inner)?;
    let mut workload = rows.finish(format, file, &inner, fingerprint)?;
    workload.name = description.name.clone().unwrap_or_else(|| name_of(path));
    let mut replay = of.replay();
    replay.num_requests = description.requests.and_then(|n| usize::try_from(n).ok());
    replay.duration = description.duration_s.map(Nanos::from_secs_f64);
    if let Some(process) = description.arrival {
        replay.pace = Pace::Drawn(process);
    }
    let mut workload = workload.replayed(&replay)?;
    workload.slo = description.slo.slo();
    Ok(workload)
}

/// The recording that a description names.
fn recording(
    file: &Path,
    description: &Path,
    origin: &Origin,
) -> Result<(PathBuf, Source<Box<dyn Read>>), WorkloadError> {
    let (path, reader): (PathBuf, Box<dyn Read>) = match origin {
        Origin::Folder(folder) => {
            let path = folder.join(file);
            if !path.exists() {
                let found = format!("nothing at {}", path.display());
                let message = format!("expected the file that recorded.file names, found {found}");
                return Err(WorkloadError::Description { at: Place::file(description), message });
            }
            let opened = open_file(&path)?;
            (path, Box::new(opened))
        }
        Origin::Shipped => {
            let Some(shipped) = shipped::find(file) else {
                return Err(WorkloadError::NotFound { path: file.to_path_buf() });
            };
            (description.with_file_name(shipped.file), Box::new(shipped.bytes))
        }
    };
    let source = Source::new(reader, &path)?;
    Ok((path, source))
}

/// The file's name without its last ending.
pub(super) fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(|| "workload".to_owned(), |s| s.to_string_lossy().into_owned())
}
