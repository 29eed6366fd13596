//! A run folder that grows.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::super::Failure;
use super::feed::{Feed, News};
use crate::event::Fact;
use crate::trace::{Header, LogTail, Status, TraceError, read_header};

/// `run.json` is looked at this often while nothing is written.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// After so long without a fact it is said.
const QUIET: Duration = Duration::from_secs(3);

/// Follows the log of a run folder.
pub(super) struct FolderFeed {
    folder: PathBuf,
    header: Header,
    tail: LogTail<File>,
    looked: Instant,
    /// When the `run.json` that `header` is of was written, and its length.
    written: Option<(SystemTime, u64)>,
    heard: Instant,
    over: bool,
}

/// Opens the log of a folder from its beginning.
pub(super) fn open_log(folder: &Path) -> Result<LogTail<File>, TraceError> {
    let path = folder.join("events.log");
    let file = File::open(&path).map_err(|source| TraceError::Io {
        action: "read",
        path: path.clone(),
        source,
    })?;
    Ok(LogTail::new(file, &path))
}

/// When a folder's `run.json` was written, and its length; it is replaced as a whole.
fn written(folder: &Path) -> Option<(SystemTime, u64)> {
    let found = std::fs::metadata(folder.join("run.json")).ok()?;
    Some((found.modified().ok()?, found.len()))
}

impl FolderFeed {
    pub(super) fn open(folder: &Path, header: Header) -> Result<Self, TraceError> {
        Ok(Self {
            folder: folder.to_path_buf(),
            header,
            tail: open_log(folder)?,
            looked: Instant::now(),
            written: None,
            heard: Instant::now(),
            over: false,
        })
    }

    /// Looks at `run.json`, if it was written since, and at the log's length.
    fn look(&mut self, facts: &mut Vec<Fact>) -> Result<News, Failure> {
        self.looked = Instant::now();
        let path = self.folder.join("events.log");
        let length = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        if length < self.tail.offset() {
            let read = self.tail.offset();
            let message = format!(
                "read {}: it shrank from {read} to {length} bytes while it was read",
                path.display()
            );
            return Err(Failure::new(message, Some("watch the folder again")));
        }
        let written = written(&self.folder);
        if written.is_some() && written == self.written {
            return Ok(News::Quiet);
        }
        let header = read_header(&self.folder)?;
        let known = header.devices == self.header.devices;
        self.header = header;
        if !known {
            // What was booked without the device's ceilings is booked again.
            self.tail = open_log(&self.folder)?;
            return Ok(News::Anew);
        }
        self.written = written;
        if self.header.status == Status::Running {
            return Ok(News::Quiet);
        }
        // The log was whole before the header was closed.
        while self.tail.poll(facts)? {}
        self.over = true;
        Ok(News::Over(Some(self.header.window.end_ns)))
    }
}

impl Feed for FolderFeed {
    fn header(&self) -> &Header {
        &self.header
    }

    fn poll(&mut self, facts: &mut Vec<Fact>) -> Result<News, Failure> {
        if self.over {
            return Ok(News::Quiet);
        }
        if self.tail.poll(facts)? {
            self.heard = Instant::now();
            return Ok(News::Facts);
        }
        match self.looked.elapsed() >= LOOK_EVERY {
            true => self.look(facts),
            false => Ok(News::Quiet),
        }
    }

    fn playback(&self) -> String {
        let quiet = self.heard.elapsed();
        match quiet > QUIET && !self.over {
            true => format!("quiet for {} s", quiet.as_secs()),
            false => String::new(),
        }
    }
}
