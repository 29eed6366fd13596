//! The facts as Parquet tables, made from the log once.
//!
//! Launches go through in chunks and are never all in memory; everything else is small beside
//! them. A table is written beside its place and renamed; `launches.parquet` comes last, so a
//! folder that has it has all.

mod columns;
mod launches;
mod ledger;
mod small;

use std::fs;
use std::path::Path;

use super::header::{Header, Status};
use super::run::{Launches, Run};
use super::{LogReader, TraceError};
use crate::event::Launch;
use crate::unit::Nanos;

pub use launches::TableWriter;
pub(in crate::trace) use launches::each_chunk;
pub use ledger::{LedgerRow, write_ledger, write_ledger_file};

/// Reads a folder's tables, making them first if they are missing, of another run, not to be
/// read, or older than the log. Where they cannot be written, the log is read into memory.
pub(super) fn open(folder: &Path, header: Header) -> Result<Run, TraceError> {
    let log = folder.join("events.log");
    let table = folder.join("launches.parquet");
    if table.is_file() && !newer(&log, &table) && !small::lacks(folder, &log) {
        match read(folder, &table, header.clone()) {
            Err(_) if log.is_file() => {}
            read => return read,
        }
    }
    match make(folder, header.clone()) {
        Err(error) if error.is_unwritable() => Run::from_log(folder, header),
        made => made,
    }
}

fn read(folder: &Path, table: &Path, header: Header) -> Result<Run, TraceError> {
    let mut run = empty(header);
    small::read(folder, &mut run)?;
    run.check().map_err(|what| TraceError::malformed(folder, what))?;
    (run.launches, run.kernels) = launches::open(table, run.header.id.as_deref())?;
    if run.header.status == Status::Running {
        run.close_window(launches::last_end(table)?);
    }
    Ok(run)
}

fn newer(a: &Path, b: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    matches!((modified(a), modified(b)), (Some(a), Some(b)) if a > b)
}

fn empty(header: Header) -> Run {
    Run {
        header,
        kernels: Vec::new(),
        requests: Vec::new(),
        states: Vec::new(),
        steps: Vec::new(),
        rows: Vec::new(),
        memory: Vec::new(),
        power: Vec::new(),
        copies: Vec::new(),
        launches: Launches::Memory(Vec::new()),
    }
}

/// Turns the log into tables. Two passes: the first learns the kernels' names and everything
/// that is small, the second lets the launches through.
fn make(folder: &Path, header: Header) -> Result<Run, TraceError> {
    let log = folder.join("events.log");
    let contradiction = |what| TraceError::malformed(&log, what);
    let closed = header.log_bytes.is_some();
    let mut run = empty(header);
    let mut finishes = Vec::new();
    let mut last = Nanos::ZERO;
    let mut ordered = true;
    let mut previous = None;
    each_launch_chunk(&log, closed, |facts, chunk| {
        for fact in facts {
            run.take(fact, &mut finishes, chunk).map_err(contradiction)?;
        }
        for launch in chunk.iter() {
            let order = super::run::launch_order(launch);
            last = last.max(launch.end);
            ordered &= previous.as_ref().is_none_or(|before| *before <= order);
            previous = Some(order);
        }
        chunk.clear();
        Ok(())
    })?;
    run.settle(finishes).map_err(contradiction)?;
    run.close_window(last);
    small::write(folder, &run)?;
    let path = folder.join("launches.parquet");
    let mut writer = TableWriter::create(&path, &run.kernels, run.header.id.as_deref())?;
    let mut all = Vec::new();
    each_launch_chunk(&log, closed, |facts, chunk| {
        for fact in facts {
            if let crate::event::Fact::Launch(launch) = fact {
                run.check_launch(&launch).map_err(contradiction)?;
                chunk.push(launch);
            }
        }
        if ordered {
            writer.write(chunk)?;
        } else {
            all.extend_from_slice(chunk);
        }
        chunk.clear();
        Ok(())
    })?;
    all.sort_by_key(super::run::launch_order);
    writer.write(&all)?;
    let rows = writer.finish()?;
    run.launches = Launches::Table { path, rows };
    run.kernels = super::run::sorted_names(&run.kernels).0;
    Ok(run)
}

/// Gives the log frame by frame, with a list to collect launches in.
fn each_launch_chunk(
    log: &Path,
    closed: bool,
    mut each: impl FnMut(Vec<crate::event::Fact>, &mut Vec<Launch>) -> Result<(), TraceError>,
) -> Result<(), TraceError> {
    let mut reader = LogReader::open(log)?;
    let (mut facts, mut chunk) = (Vec::new(), Vec::new());
    while reader.next_frame(&mut facts)? {
        each(std::mem::take(&mut facts), &mut chunk)?;
    }
    // Tables that were made from a whole log are not replaced by those of half a one.
    if closed { reader.check_whole() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{
        Arrival, Cargo, DeviceState, Direction, Driver, Dtype, Fact, Fate, Finish, KernelId,
        Memory, MemoryChange, MemoryClass, MemoryCopy, Outcome, Phase, Power, Provenance,
        Recompute, Recorder, RequestId, Row, StateChange, Step, StepId, Throttle,
    };
    use crate::trace::{RunWriter, Status};
    use crate::unit::{Bytes, Ops};

    fn launch(i: u64) -> Launch {
        Launch {
            device: 0,
            stream: 1,
            step: (!i.is_multiple_of(3)).then_some(StepId(i / 10)),
            layer: i.is_multiple_of(2).then_some(7),
            kernel: KernelId((i % 3) as u16),
            start: Nanos(10 * i),
            end: Nanos(10 * i + 9),
            weight_bytes: Bytes(i),
            kv_bytes: Bytes(2 * i),
            activation_bytes: Bytes(3),
            excess_bytes: Bytes(0),
            ops: Ops(1 << 40),
            dtype: Dtype::Q8_0,
            driver: Driver::KvTokens,
        }
    }

    fn copy(step: Option<StepId>, direction: Direction) -> MemoryCopy {
        MemoryCopy {
            device: 0,
            stream: 2,
            step,
            start: Nanos(5),
            end: Nanos(8),
            cargo: Cargo::KvBlocks,
            direction,
            bytes: Bytes(77),
        }
    }

    fn facts(launches: u64) -> Vec<Fact> {
        let name = |id, name: &str| Fact::Kernel { id: KernelId(id), name: name.to_owned() };
        let mut facts = vec![
            name(0, "qkv"),
            name(1, "down"),
            name(2, "qkv"),
            Fact::State(StateChange { device: 0, at: Nanos(0), state: DeviceState::Load }),
            Fact::Step(Step { rows_prefill: 4, end: Nanos(9), ..Step::default() }),
            Fact::Row(Row {
                step: StepId(0),
                request: None,
                phase: Phase::Ownerless,
                rows: 2,
                context_tokens: 0,
                cached_tokens: 0,
                sequence_rows: 6,
                logits_rows: 0,
                fate: Fate::Padding,
            }),
            Fact::Row(Row {
                step: StepId(0),
                request: Some(RequestId(0)),
                phase: Phase::Prefill,
                rows: 4,
                context_tokens: 1,
                cached_tokens: 1,
                sequence_rows: 4,
                logits_rows: 1,
                fate: Fate::PrefixRecompute(Recompute::Evicted),
            }),
            Fact::Memory(Memory {
                device: 0,
                at: Nanos(3),
                class: MemoryClass::KvBlock,
                block: 9,
                change: MemoryChange::Hit,
                bytes: Bytes(512),
            }),
            Fact::Power(Power {
                device: 0,
                at: Nanos(4),
                energy_uj: 12,
                power_mw: 3,
                clock_mhz: 1980,
                throttle: Throttle::Thermal,
                basis: Provenance::Measured,
            }),
            Fact::Copy(copy(None, Direction::Within)),
            Fact::Copy(copy(Some(StepId(0)), Direction::ToHost)),
        ];
        for id in 0..2 {
            facts.push(Fact::Arrival(Arrival {
                request: RequestId(id),
                parent: (id == 1).then_some(RequestId(0)),
                task: None,
                attempt: 1,
                class: "chat".to_owned(),
                route: String::new(),
                at: Nanos(id),
                prompt_tokens: 5,
                max_tokens: 7,
            }));
        }
        facts.push(Fact::Finish(Finish {
            request: RequestId(0),
            at: Nanos(90),
            first_scheduled: Some(Nanos(2)),
            first_token: None,
            cached_tokens: 1,
            output_tokens: 0,
            outcome: Outcome::TimedOut,
        }));
        facts.extend((0..launches).map(|i| Fact::Launch(launch(i))));
        facts
    }

    fn record(folder: &Path, facts: Vec<Fact>) {
        let mut writer = RunWriter::create(folder, &Header::begin(), Arc::default()).unwrap();
        facts.into_iter().for_each(|fact| writer.record(fact));
        writer.close(&Header { status: Status::Complete, ..Header::begin() }).unwrap();
    }

    fn launches(run: &Run) -> Vec<(Launch, String)> {
        let mut all = Vec::new();
        run.each_launch_chunk(|chunk| {
            let named = chunk.iter().map(|l| {
                let anonymous = Launch { kernel: KernelId(0), ..*l };
                (anonymous, run.kernels[usize::from(l.kernel.0)].clone())
            });
            all.extend(named);
            Ok::<(), TraceError>(())
        })
        .unwrap();
        all
    }

    /// Every fact in the log comes back from the tables, whichever reader makes them.
    #[test]
    fn the_tables_hold_what_the_log_holds() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        // More than one row group.
        record(&folder, facts(600_000));
        let memory = Run::from_facts(Header::begin(), facts(600_000)).unwrap();
        let made = Run::open(&folder).unwrap();
        let read = Run::open(&folder).unwrap();
        for run in [&made, &read] {
            assert_eq!(run.requests, memory.requests);
            assert_eq!(run.states, memory.states);
            assert_eq!(run.steps, memory.steps);
            assert_eq!(run.rows, memory.rows);
            assert_eq!(run.memory, memory.memory);
            assert_eq!(run.power, memory.power);
            assert_eq!(run.copies, memory.copies);
            assert_eq!(launches(run), launches(&memory));
        }
        assert!(
            fs::read_dir(&folder)
                .unwrap()
                .all(|entry| { !entry.unwrap().file_name().to_string_lossy().ends_with(".part") })
        );
    }

    #[test]
    fn launches_out_of_order_are_sorted() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let mut shuffled = facts(1_000);
        shuffled.reverse();
        record(&folder, shuffled);
        let memory = Run::from_facts(Header::begin(), facts(1_000)).unwrap();
        assert_eq!(launches(&Run::open(&folder).unwrap()), launches(&memory));
    }

    #[test]
    fn an_empty_run_has_tables_too() {
        let dir = tempfile::tempdir().unwrap();
        record(dir.path(), Vec::new());
        assert!(Run::open(dir.path()).unwrap().launches.is_empty());
        assert!(Run::open(dir.path()).unwrap().launches.is_empty());
    }

    #[test]
    fn folders_that_cannot_be_read_say_why() {
        let dir = tempfile::tempdir().unwrap();
        let message = |folder: &Path| Run::open(folder).unwrap_err().to_string();
        assert!(message(dir.path()).ends_with("no run.json in it, so it is not a run folder"));
        record(&dir.path().join("newer"), Vec::new());
        let path = dir.path().join("newer/run.json");
        let newer = fs::read_to_string(&path).unwrap().replace("gemba.run/1", "gemba.run/9");
        fs::write(&path, newer).unwrap();
        let said = message(&dir.path().join("newer"));
        assert!(said.ends_with("expected schema gemba.run/1, found gemba.run/9"), "{said}");
        let cut = dir.path().join("cut");
        record(&cut, facts(10));
        Run::open(&cut).unwrap();
        fs::remove_file(cut.join("events.log")).unwrap();
        halve(&cut.join("launches.parquet"));
        assert!(message(&cut).contains("launches.parquet: "));
    }

    fn halve(path: &Path) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }

    /// Tables are a copy of the log: where it is there, damage to them is no loss.
    #[test]
    fn tables_that_cannot_be_read_are_made_again() {
        let dir = tempfile::tempdir().unwrap();
        record(dir.path(), facts(10));
        let whole = launches(&Run::open(dir.path()).unwrap());
        for table in ["launches.parquet", "steps.parquet"] {
            halve(&dir.path().join(table));
            assert_eq!(launches(&Run::open(dir.path()).unwrap()), whole);
            fs::remove_file(dir.path().join(table)).unwrap();
            assert_eq!(launches(&Run::open(dir.path()).unwrap()), whole);
        }
    }

    #[test]
    fn a_table_that_earlier_versions_did_not_write_is_made_or_done_without() {
        let dir = tempfile::tempdir().unwrap();
        record(dir.path(), facts(10));
        let copies = Run::open(dir.path()).unwrap().copies;
        assert_eq!(copies.len(), 2);
        let table = dir.path().join("copies.parquet");
        fs::remove_file(&table).unwrap();
        assert_eq!(Run::open(dir.path()).unwrap().copies, copies);
        assert!(table.is_file(), "made from the log");
        fs::remove_file(&table).unwrap();
        fs::remove_file(dir.path().join("events.log")).unwrap();
        assert!(Run::open(dir.path()).unwrap().copies.is_empty());
    }

    /// Its log cannot tell of copies: nothing is made again, whatever became of it since.
    #[test]
    fn a_folder_of_an_earlier_version_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        record(dir.path(), facts(10));
        Run::open(dir.path()).unwrap();
        let [table, log] = ["copies.parquet", "events.log"].map(|name| dir.path().join(name));
        fs::remove_file(&table).unwrap();
        let mut bytes = fs::read(&log).unwrap();
        bytes[7] = 1;
        bytes[8..].fill(0xff);
        fs::write(&log, bytes).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&log).unwrap().set_modified(long_ago).unwrap();
        let run = Run::open(dir.path()).unwrap();
        assert_eq!((run.launches.len(), run.copies.len()), (10, 0));
        assert!(!table.is_file());
    }

    #[test]
    fn tables_of_another_run_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        record(&ours, facts(10));
        record(&theirs, facts(20));
        Run::open(&theirs).unwrap();
        for table in ["launches.parquet", "requests.parquet"] {
            Run::open(&ours).unwrap();
            fs::copy(theirs.join(table), ours.join(table)).unwrap();
            assert_eq!(Run::open(&ours).unwrap().launches.len(), 10);
        }
        fs::copy(theirs.join("steps.parquet"), ours.join("steps.parquet")).unwrap();
        fs::remove_file(ours.join("events.log")).unwrap();
        let error = Run::open(&ours).unwrap_err();
        let said = "expected a table of the run in run.json, found one of another run";
        assert!(error.to_string().ends_with(said), "{error}");
        let hint = "put the run's own events.log or tables into its folder";
        assert_eq!(error.hint(), Some(hint));
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let mut hostile = facts(4);
        for fact in &mut hostile {
            match fact {
                Fact::Kernel { name, .. } => name.push('\u{1b}'),
                Fact::Arrival(arrival) => arrival.class.push('\u{7}'),
                _ => {}
            }
        }
        record(dir.path(), hostile);
        for _made_and_read in 0..2 {
            let run = Run::open(dir.path()).unwrap();
            assert_eq!(run.kernels, ["down\u{fffd}", "qkv\u{fffd}"]);
            assert_eq!(run.requests[0].arrival.class, "chat\u{fffd}");
        }
    }
}
