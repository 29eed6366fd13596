//! The books of the run that a server writes, for `/metrics`.
//!
//! They are kept by whoever asks: each scrape reads what the log has grown by since the last
//! one, so that a server nobody scrapes keeps no books, and the engine never waits for them. A
//! scrape reads for a bounded time; `gemba_books_seconds` says how far it came.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::prometheus::render;
use crate::report::exposition;
use crate::trace::{Header, LogTail, TraceError};
use crate::unit::Nanos;
use crate::waste::BooksOptions;
use crate::waste::live::LiveBooks;

/// A scrape reads for so long at most.
const MOST: Duration = Duration::from_secs(2);
/// Books keep a picture of the recent past, which nobody looks at here.
const INTERVAL: Nanos = Nanos(1_000_000_000);

/// The books of the run in a folder.
pub(super) struct LivePage {
    folder: PathBuf,
    state: Mutex<Option<State>>,
}

struct State {
    log: LogTail<File>,
    books: LiveBooks,
}

impl LivePage {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), state: Mutex::new(None) }
    }

    /// The page as it is now; a comment where there is none.
    pub(super) fn page(&self) -> String {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.catch_up(&mut state) {
            Ok(Some(books)) => render(&exposition(books)),
            Ok(None) => String::new(),
            Err(error) => {
                // Next time from the beginning.
                *state = None;
                format!("# the books cannot be kept: {}\n", error.to_string().replace('\n', " "))
            }
        }
    }

    /// The books of all that is in the log; none before the device is known.
    fn catch_up<'s>(
        &self,
        state: &'s mut Option<State>,
    ) -> Result<Option<&'s LiveBooks>, TraceError> {
        let State { log, books } = match state {
            Some(state) => state,
            None => match self.begin()? {
                Some(begun) => state.insert(begun),
                None => return Ok(None),
            },
        };
        let (began, mut facts) = (Instant::now(), Vec::new());
        while began.elapsed() < MOST && log.poll(&mut facts)? {
            books.extend(facts.drain(..));
        }
        Ok(Some(books))
    }

    fn begin(&self) -> Result<Option<State>, TraceError> {
        let io = |path: &Path, source| TraceError::Io {
            action: "read",
            path: path.to_path_buf(),
            source,
        };
        let path = self.folder.join("run.json");
        let text = std::fs::read(&path).map_err(|error| io(&path, error))?;
        let header = Header::parse(&text, &path)?;
        if header.devices.is_empty() {
            return Ok(None);
        }
        let path = self.folder.join("events.log");
        let file = File::open(&path).map_err(|error| io(&path, error))?;
        let log = LogTail::new(file, &path);
        let books = LiveBooks::new(&header, &BooksOptions::default(), INTERVAL);
        Ok(Some(State { log, books }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Arrival, DeviceState, Fact, Recorder, RequestId, StateChange};
    use crate::trace::{DeviceHeader, RunWriter};
    use crate::unit::Bytes;

    fn header() -> Header {
        let device = DeviceHeader {
            id: 0,
            kind: "cpu".to_owned(),
            name: "one".to_owned(),
            memory_bytes: Bytes(1000),
            ceilings: crate::event::Ceilings::default(),
            calibration: Vec::new(),
        };
        Header { devices: vec![device], ..Header::begin() }
    }

    fn state(at: u64, state: DeviceState) -> Fact {
        Fact::State(StateChange { device: 0, at: Nanos(at), state })
    }

    #[test]
    fn each_scrape_goes_on_where_the_last_one_ended() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let page = LivePage::new(&run);
        assert!(page.page().starts_with("# the books cannot be kept: read "));
        let mut writer = RunWriter::create(&run, &header(), std::sync::Arc::default()).unwrap();
        writer.record(state(0, DeviceState::Load));
        writer.record(state(2_000_000_000, DeviceState::Empty));
        let seconds = |page: &str, cause: &str| {
            let start = format!("gemba_device_seconds{{cause=\"{cause}\"");
            let line = page.lines().find(|line| line.starts_with(&start));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        };
        let wait = |cause: &str, expected: f64| {
            let began = Instant::now();
            loop {
                let text = page.page();
                if seconds(&text, cause) == Some(expected) {
                    return text;
                }
                assert!(began.elapsed() < Duration::from_secs(20), "{cause}\n{text}");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let text = wait("changeover", 2.0);
        assert!(text.contains("gemba_ledger_residual{ledger=\"device_time\""), "{text}");
        assert!(text.contains("gemba_books_seconds 2\n"), "{text}");
        writer.record(Fact::Arrival(Arrival {
            request: RequestId(0),
            parent: None,
            task: None,
            attempt: 1,
            class: String::new(),
            route: String::new(),
            at: Nanos(5_000_000_000),
            prompt_tokens: 1,
            max_tokens: 1,
        }));
        writer.record(state(5_000_000_000, DeviceState::Host));
        let text = wait("no_demand", 3.0);
        for line in text.lines().filter(|line| line.starts_with("gemba_ledger_residual")) {
            assert!(line.ends_with(" 0"), "{line}");
        }
        drop(writer);
    }
}
