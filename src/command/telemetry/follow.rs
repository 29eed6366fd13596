//! Telemetry beside a run: it follows the run's own log, as dashboards do, so that the engine
//! neither waits for a receiver nor knows of one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::super::Failure;
use super::{Telemetry, told};
use crate::event::Fact;
use crate::otel::Tally;
use crate::report::telemetry::{Metrics, Span, SpanMaker};
use crate::trace::{LogTail, Status, TraceError, read_header};
use crate::unit::{Nanos, UnixNanos};
use crate::waste::BooksOptions;
use crate::waste::live::LiveBooks;

/// The log is looked at this often while nothing comes.
const PAUSE: Duration = Duration::from_millis(200);

/// After so long without a fact, everything that was to be said of a request that ended is said:
/// the log is written at least twice a second.
const QUIET: Duration = Duration::from_millis(1500);

/// Books keep a picture of the recent past, which nobody looks at here.
const INTERVAL: Nanos = Nanos(1_000_000_000);

/// A thread that follows a run.
pub(super) struct Follower {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<String>>,
}

impl Follower {
    pub(super) fn start(
        telemetry: Telemetry,
        folder: &Path,
        begin: UnixNanos,
    ) -> Result<Self, Failure> {
        let over = Arc::new(AtomicBool::new(false));
        let run = Run { telemetry, folder: folder.to_path_buf(), begin, over: Arc::clone(&over) };
        let thread = std::thread::Builder::new()
            .name("gemba-telemetry".to_owned())
            .spawn(move || run.follow())
            .map_err(|error| Failure::new(format!("follow the run: {error}"), None::<String>))?;
        Ok(Self { over, thread: Some(thread) })
    }

    pub(super) fn end(mut self) -> String {
        self.over.store(true, Ordering::Release);
        let thread = self.thread.take();
        let told = thread.and_then(|thread| thread.join().ok());
        told.unwrap_or_else(|| "telemetry: its thread is gone".to_owned())
    }
}

impl Drop for Follower {
    /// A run that could not be made takes its telemetry with it.
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // The error that matters is the run's.
            let _ = thread.join();
        }
    }
}

struct Run {
    telemetry: Telemetry,
    folder: PathBuf,
    begin: UnixNanos,
    over: Arc<AtomicBool>,
}

/// What is known of the run so far.
struct Known {
    log: LogTail<File>,
    books: LiveBooks,
    spans: SpanMaker,
    metrics: Metrics,
    start: UnixNanos,
}

impl Run {
    fn follow(self) -> String {
        let followed = self.read();
        let patience = self.telemetry.destination.timeout;
        let (sender, destination) = (self.telemetry.sender, self.telemetry.destination);
        let tally: Tally = sender.close(patience);
        match followed {
            Ok(()) => told(&tally, &destination),
            Err(error) => format!("{}; it ended early: {error}", told(&tally, &destination)),
        }
    }

    fn read(&self) -> Result<(), TraceError> {
        let Some(mut known) = self.begin()? else { return Ok(()) };
        let sender = &self.telemetry.sender;
        let interval = self.telemetry.destination.interval;
        let (mut read, mut heard) = (Instant::now(), Instant::now());
        let (mut facts, mut spans) = (Vec::new(), Vec::new());
        loop {
            // Looked at first: what was written before is read below.
            let over = self.over.load(Ordering::Acquire);
            let more = known.log.poll(&mut facts)?;
            if more {
                heard = Instant::now();
            }
            known.take(&mut facts, &mut spans);
            if heard.elapsed() > QUIET {
                known.spans.settle(&mut spans);
            }
            if !spans.is_empty() {
                sender.offer(&mut spans);
            }
            if over && !more {
                break;
            }
            if read.elapsed() >= interval {
                read = Instant::now();
                let metrics = known.metrics.read(&known.books, sender.dropped());
                sender.offer_metrics(metrics, known.start, UnixNanos::of(SystemTime::now()));
            }
            if !more {
                std::thread::sleep(PAUSE);
            }
        }
        known.spans.settle(&mut spans);
        sender.offer(&mut spans);
        let header = read_header(&self.folder)?;
        if header.status != Status::Running {
            known.books.close(header.window.end_ns);
        }
        let metrics = known.metrics.read(&known.books, sender.dropped());
        sender.offer_metrics(metrics, known.start, UnixNanos::of(SystemTime::now()));
        Ok(())
    }

    /// Waits until the device is known; `None` if the run ends before.
    fn begin(&self) -> Result<Option<Known>, TraceError> {
        loop {
            let over = self.over.load(Ordering::Acquire);
            let header = read_header(&self.folder)?;
            if !header.devices.is_empty() {
                let path = self.folder.join("events.log");
                let file = File::open(&path).map_err(|source| TraceError::Io {
                    action: "read",
                    path: path.clone(),
                    source,
                })?;
                // The window is open until the run is over, whatever the folder says by now.
                let mut running = header.clone();
                running.status = Status::Running;
                return Ok(Some(Known {
                    log: LogTail::new(file, &path),
                    books: LiveBooks::new(&running, &BooksOptions::default(), INTERVAL),
                    spans: SpanMaker::new(&header.model.name, self.begin, self.telemetry.detail),
                    metrics: Metrics::new(&header.model.name),
                    start: self.begin.after(header.window.start_ns),
                }));
            }
            if over {
                return Ok(None);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Known {
    fn take(&mut self, facts: &mut Vec<Fact>, spans: &mut Vec<Span>) {
        for fact in facts.iter() {
            self.spans.take(fact, spans);
            self.metrics.take(fact);
        }
        self.books.extend(facts.drain(..));
    }
}
