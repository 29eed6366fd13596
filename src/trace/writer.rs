//! The writing end of a run folder.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::header::{Header, Status};
use super::{TraceError, log, write_beside};
use crate::event::{Fact, Recorder};

/// Facts reach the disk after at most this long.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// With this many facts waiting, the writer is woken before its time.
const WAKE_AT_FACTS: usize = 1 << 14;

/// Writes a run folder while the run goes on.
///
/// [`Recorder::record`] only appends to a list in memory; a thread of its own encodes, checks
/// and writes. If the disk fails, the thread says so through the flag given to
/// [`RunWriter::create`], and [`RunWriter::close`] returns the error.
pub struct RunWriter {
    file: HeaderFile,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<u64, TraceError>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    written: Condvar,
    failed: Arc<AtomicBool>,
}

#[derive(Default)]
struct Queue {
    facts: Vec<Fact>,
    /// Facts have been taken from the queue and are not on the disk yet.
    writing: bool,
    /// Somebody waits for what is queued to be written.
    settling: bool,
    closing: bool,
}

impl RunWriter {
    /// Makes the folder with its `run.json` (status `running`) and an empty log. `failed` is
    /// set if writing fails later, so that the run can stop.
    ///
    /// # Errors
    /// [`TraceError::Occupied`] if the folder holds a run already, [`TraceError::Io`] if it
    /// cannot be written.
    pub fn create(
        folder: &Path,
        header: &Header,
        failed: Arc<AtomicBool>,
    ) -> Result<Self, TraceError> {
        fs::create_dir_all(folder).map_err(TraceError::io("create", folder))?;
        if folder.join("run.json").exists() {
            return Err(TraceError::Occupied { path: folder.to_path_buf() });
        }
        let path = folder.join("events.log");
        let mut file = File::create(&path).map_err(TraceError::io("create", &path))?;
        file.write_all(log::MAGIC).map_err(TraceError::io("write", &path))?;
        let own = HeaderFile { folder: folder.to_path_buf(), id: new_id() };
        own.replace(header)?;
        let shared = Arc::new(Shared { failed, ..Shared::default() });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("gemba-writer".to_owned())
            .spawn(move || {
                let written = write_until_closed(&theirs, &mut file, &path);
                if written.is_err() {
                    let _queue = lock(&theirs);
                    theirs.failed.store(true, Ordering::Release);
                    theirs.written.notify_all();
                }
                written
            })
            .map_err(TraceError::io("create", folder))?;
        Ok(Self { file: own, shared, thread: Some(thread) })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.file.folder
    }

    /// A handle that can replace `run.json` while the writer records.
    #[must_use]
    pub fn header_file(&self) -> HeaderFile {
        self.file.clone()
    }

    /// A recorder for another thread: facts that are no part of a step.
    #[must_use]
    pub fn beside(&self) -> Beside {
        Beside { shared: Arc::clone(&self.shared) }
    }

    /// Writes what is left and the final `run.json`.
    ///
    /// # Errors
    /// The first error of the writing thread, after `run.json` has been tried with status
    /// `failed`.
    pub fn close(mut self, header: &Header) -> Result<(), TraceError> {
        let written = self.join();
        let mut header = header.clone();
        header.log_bytes = written.as_ref().ok().copied();
        if written.is_err() {
            header.status = Status::Failed;
        }
        let closed = self.file.replace(&header);
        written.map(|_| ()).and(closed)
    }

    /// Ends the writing thread; gives the bytes of the log.
    fn join(&mut self) -> Result<u64, TraceError> {
        lock(&self.shared).closing = true;
        self.shared.wake.notify_one();
        let gone = || TraceError::malformed(&self.file.folder, "the writing thread is gone");
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|_| Err(gone())),
            None => Ok(0),
        }
    }
}

/// The `run.json` of a run that is being written.
#[derive(Clone, Debug)]
pub struct HeaderFile {
    folder: PathBuf,
    id: String,
}

impl HeaderFile {
    /// Replaces it, when more is known than at the run's beginning: a killed run is read with
    /// what stands there.
    ///
    /// # Errors
    /// [`TraceError::Io`] if it cannot be written.
    pub fn replace(&self, header: &Header) -> Result<(), TraceError> {
        let path = self.folder.join("run.json");
        let header = Header { id: Some(self.id.clone()), ..header.clone() };
        let mut json = serde_json::to_vec_pretty(&header)
            .map_err(|error| TraceError::malformed(&path, format!("encode the header: {error}")))?;
        json.push(b'\n');
        write_beside(&path, &json)
    }
}

/// 128 random bits, from where the standard library seeds its hash maps.
fn new_id() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

/// Records into a run from beside its engine. What it takes after the run is closed is lost.
#[derive(Clone)]
pub struct Beside {
    shared: Arc<Shared>,
}

impl Recorder for Beside {
    fn record(&mut self, fact: Fact) {
        self.shared.take(fact);
    }
}

impl Shared {
    fn take(&self, fact: Fact) {
        let mut queue = lock(self);
        queue.facts.push(fact);
        if queue.facts.len() == WAKE_AT_FACTS {
            self.wake.notify_one();
        }
    }
}

impl Recorder for RunWriter {
    fn record(&mut self, fact: Fact) {
        self.shared.take(fact);
    }

    fn settle(&mut self) {
        let mut queue = lock(&self.shared);
        queue.settling = true;
        self.shared.wake.notify_one();
        // A writer that has failed writes no more.
        let unwritten = |queue: &mut Queue| {
            let open = queue.writing || !queue.facts.is_empty();
            open && !self.shared.failed.load(Ordering::Acquire)
        };
        let waited = self.shared.written.wait_while(queue, unwritten);
        waited.unwrap_or_else(PoisonError::into_inner).settling = false;
    }
}

impl Drop for RunWriter {
    /// A run that is dropped, not closed, keeps its facts and the status `running`.
    fn drop(&mut self) {
        // An error was flagged already, and a drop has nobody to tell.
        let _ = self.join();
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Queue> {
    shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes frames until the run is closed; gives the bytes of the log.
fn write_until_closed(shared: &Shared, file: &mut File, path: &Path) -> Result<u64, TraceError> {
    let mut bytes = log::MAGIC.len() as u64;
    let mut facts = Vec::new();
    let mut frames = Vec::new();
    loop {
        let (closing, held) = {
            let queue = lock(shared);
            let wait = |queue: &mut Queue| {
                let asked = queue.closing || queue.settling && !queue.facts.is_empty();
                !asked && queue.facts.len() < WAKE_AT_FACTS
            };
            let (mut queue, _) = shared
                .wake
                .wait_timeout_while(queue, FLUSH_EVERY, wait)
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut queue.facts, &mut facts);
            queue.writing = true;
            // What the engine is still telling of its last step comes with the rest of it, so
            // that a run that is killed is one of whole steps.
            let whole = if queue.closing || queue.settling { facts.len() } else { whole(&facts) };
            let held = facts.split_off(whole);
            (queue.closing, held)
        };
        if !facts.is_empty() {
            frames.clear();
            log::encode(&facts, &mut frames)
                .map_err(|error| TraceError::malformed(path, format!("encode a fact: {error}")))?;
            file.write_all(&frames).map_err(TraceError::io("write", path))?;
            bytes += frames.len() as u64;
            facts.clear();
        }
        {
            let mut queue = lock(shared);
            queue.facts.splice(0..0, held);
            queue.writing = false;
            shared.written.notify_all();
        }
        if closing {
            file.sync_data().map_err(TraceError::io("write", path))?;
            return Ok(bytes);
        }
    }
}

/// How many of the facts come before a step that may have more rows and launches to come.
fn whole(facts: &[Fact]) -> usize {
    // Meters are read beside it, at any time.
    let told = |fact: &&Fact| {
        matches!(fact, Fact::Row(_) | Fact::Launch(_) | Fact::Copy(_) | Fact::Power(_))
    };
    let before = facts.len() - facts.iter().rev().take_while(told).count();
    match before.checked_sub(1).map(|last| &facts[last]) {
        Some(Fact::Step(_)) => before - 1,
        _ => facts.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogReader;
    use super::*;
    use crate::event::{
        DeviceState, Fate, Phase, Power, Provenance, Row, StateChange, Step, StepId, Throttle,
    };
    use crate::unit::Nanos;

    fn state(at: u64) -> Fact {
        Fact::State(StateChange { device: 0, at: Nanos(at), state: DeviceState::Empty })
    }

    fn create(folder: &Path) -> Result<RunWriter, TraceError> {
        RunWriter::create(folder, &Header::begin(), Arc::default())
    }

    #[test]
    fn a_closed_run_holds_every_fact() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = create(dir.path()).unwrap();
        for at in 0..100_000 {
            writer.record(state(at));
        }
        let header = Header { status: Status::Complete, ..Header::begin() };
        writer.close(&header).unwrap();
        let mut reader = LogReader::open(&dir.path().join("events.log")).unwrap();
        let mut facts = Vec::new();
        while reader.next_frame(&mut facts).unwrap() {}
        assert!(reader.intact());
        assert_eq!(facts.len(), 100_000);
        assert_eq!(facts[99_999], state(99_999));
        assert!(!dir.path().join("run.json.part").exists());
    }

    #[test]
    fn facts_reach_the_disk_within_a_second_without_a_close() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = create(dir.path()).unwrap();
        writer.record(state(7));
        let began = std::time::Instant::now();
        let path = dir.path().join("events.log");
        while fs::metadata(&path).unwrap().len() <= 8 {
            assert!(began.elapsed() < Duration::from_secs(30), "the fact never came");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn what_is_settled_is_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = create(dir.path()).unwrap();
        writer.settle();
        for at in 0..40_000 {
            writer.record(state(at));
        }
        writer.settle();
        let mut reader = LogReader::open(&dir.path().join("events.log")).unwrap();
        let mut facts = Vec::new();
        while reader.next_frame(&mut facts).unwrap() {}
        assert_eq!(facts.len(), 40_000);
    }

    #[test]
    fn a_step_is_written_when_all_of_it_is_told() {
        let step = || Fact::Step(Step::default());
        let row = || {
            Fact::Row(Row {
                step: StepId(0),
                request: None,
                phase: Phase::Ownerless,
                rows: 1,
                context_tokens: 0,
                cached_tokens: 0,
                sequence_rows: 1,
                logits_rows: 0,
                fate: Fate::Padding,
            })
        };
        let power = || {
            Fact::Power(Power {
                device: 0,
                at: Nanos(5),
                energy_uj: 1,
                power_mw: 0,
                clock_mhz: 0,
                throttle: Throttle::None,
                basis: Provenance::Measured,
            })
        };
        let cases = [
            (vec![], 0),
            (vec![state(1)], 1),
            (vec![state(1), step()], 1),
            (vec![state(1), step(), row(), row()], 1),
            (vec![step(), row(), state(2)], 3),
            (vec![step(), row(), step()], 2),
            (vec![row(), row()], 2),
            (vec![step(), row(), power(), row(), power()], 0),
            (vec![state(1), power()], 2),
            (vec![power()], 1),
        ];
        for (facts, expected) in cases {
            assert_eq!(whole(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn a_run_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        drop(create(dir.path()).unwrap());
        let error = create(dir.path()).err().unwrap();
        assert!(error.to_string().ends_with("it already holds a run"), "{error}");
        assert_eq!(error.hint(), Some("name another folder with --output-dir"));
    }

    #[test]
    fn a_full_disk_is_said() {
        // /dev/full accepts the open and refuses every write.
        let mut file = File::options().write(true).open("/dev/full").unwrap();
        let queue = Queue { facts: vec![state(1)], closing: true, ..Queue::default() };
        let shared = Shared { queue: Mutex::new(queue), ..Shared::default() };
        let error = write_until_closed(&shared, &mut file, Path::new("events.log")).unwrap_err();
        assert!(error.to_string().starts_with("write events.log: No space left"), "{error}");
        assert_eq!(
            error.hint(),
            Some("the disk is full; what was recorded until then stays readable")
        );
    }
}
