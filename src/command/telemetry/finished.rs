//! Telemetry of a run that is there already. Nothing hurries, so nothing is dropped while the
//! receiver takes it: reading waits for sending.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::super::Failure;
use super::{Telemetry, TelemetryArgs, told};
use crate::report::telemetry::{Metrics, SpanMaker};
use crate::trace::{LogTail, Run, Status, TraceError, read_header};
use crate::unit::{Nanos, UnixNanos};
use crate::waste::BooksOptions;
use crate::waste::live::LiveBooks;

/// What waits in the end is sent for as long as it takes; each batch has its own limit.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Books keep a picture of the recent past, which nobody looks at here.
const INTERVAL: Nanos = Nanos(1_000_000_000);

/// Sends the spans and the metrics of a run; run time was zero at `begin`, or else when the last
/// fact was written, less the run's length. Says what was sent, and whether the books balance.
///
/// # Errors
/// [`Failure`] if no receiver is named, the folder cannot be read, or anything did not arrive.
pub(in crate::command) fn send(
    folder: &Path,
    args: &TelemetryArgs,
    begin: Option<UnixNanos>,
) -> Result<(String, bool), Failure> {
    let header = read_header(folder)?;
    let Some(telemetry) = Telemetry::prepare(args)? else {
        let message = format!("export {}: no receiver is named", folder.display());
        return Err(Failure::new(message, Some("--otlp URL or OTEL_EXPORTER_OTLP_ENDPOINT does")));
    };
    // Only what is in the folder tells where a run that was killed ended.
    let end = match header.status {
        Status::Running => Run::open(folder)?.header.window.end_ns,
        _ => header.window.end_ns,
    };
    let begin = match begin {
        Some(begin) => begin,
        None => last_change(folder)?.before(end),
    };
    let Telemetry { destination, sender, detail } = telemetry;
    let mut open = header.clone();
    open.status = Status::Running;
    let mut books = LiveBooks::new(&open, &BooksOptions::default(), INTERVAL);
    let mut maker = SpanMaker::new(&header.model.name, begin, detail);
    let mut metrics = Metrics::new(&header.model.name);
    let mut log = open_log(folder)?;
    let (mut facts, mut spans) = (Vec::new(), Vec::new());
    let mut taken = true;
    while taken && log.poll(&mut facts)? {
        for fact in &facts {
            maker.take(fact, &mut spans);
            metrics.take(fact);
        }
        books.extend(facts.drain(..));
        taken = sender.wait_for_room(spans.len());
        sender.offer(&mut spans);
    }
    maker.settle(&mut spans);
    taken = taken && sender.wait_for_room(spans.len());
    sender.offer(&mut spans);
    books.close(end);
    let balanced = books.trial_balances(&books.sums()).iter().all(|(_, b)| b.balanced());
    let reading = metrics.read(&books, sender.dropped());
    sender.offer_metrics(reading, begin.after(header.window.start_ns), begin.after(end));
    let tally = sender.close(if taken { PATIENCE } else { Duration::ZERO });
    let text = told(&tally, &destination);
    if tally.lossy() {
        let hint = "is a collector listening there? OTEL_EXPORTER_OTLP_TIMEOUT gives it more time";
        return Err(Failure::new(format!("send telemetry: {text}"), Some(hint)));
    }
    let under_way = maker.under_way();
    let left = match under_way {
        0 => String::new(),
        open => format!(", {open} requests left out: the run ended before they did"),
    };
    Ok((format!("{text}{left}"), balanced))
}

/// When the log was last written to.
fn last_change(folder: &Path) -> Result<UnixNanos, Failure> {
    let path = folder.join("events.log");
    let changed = std::fs::metadata(&path).and_then(|meta| meta.modified());
    Ok(UnixNanos::of(changed.map_err(|source| unreadable(&path, source))?))
}

fn open_log(folder: &Path) -> Result<LogTail<File>, Failure> {
    let path = folder.join("events.log");
    let file = File::open(&path).map_err(|source| unreadable(&path, source))?;
    Ok(LogTail::new(file, &path))
}

fn unreadable(path: &Path, source: std::io::Error) -> TraceError {
    TraceError::Io { action: "read", path: path.to_path_buf(), source }
}
