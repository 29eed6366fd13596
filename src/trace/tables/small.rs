//! Every table but the launches.

use std::path::Path;

use polars::prelude::PolarsResult;

use super::super::run::Run;
use super::super::{LogReader, TraceError};
use super::columns::{ABSENT, Columns, Table, Vocabulary, failed, present, write as write_table};
use crate::event::{
    Arrival, Cargo, DeviceState, Direction, Fate, Finish, Memory, MemoryChange, MemoryClass,
    MemoryCopy, Outcome, Phase, Power, Provenance, Request, RequestId, Row, StateChange, Step,
    StepId, Throttle,
};
use crate::unit::{Bytes, Nanos};

/// The word for a request that the run ended before.
const OPEN: &str = "open";

/// Lays a table out.
type Lay = fn(&Run) -> PolarsResult<Columns>;

/// Writes all small tables.
pub(super) fn write(folder: &Path, run: &Run) -> Result<(), TraceError> {
    let tables: [(&str, Lay); 7] = [
        ("requests", requests),
        ("states", states),
        ("steps", steps),
        ("rows", rows),
        ("memory", memory),
        ("power", power),
        ("copies", copies),
    ];
    for (name, make) in tables {
        let columns = make(run).map_err(failed("write", &folder.join(name)))?;
        let path = folder.join(format!("{name}.parquet"));
        write_table(&path, columns, run.header.id.as_deref())?;
    }
    Ok(())
}

/// Reads all small tables into `run`.
pub(super) fn read(folder: &Path, run: &mut Run) -> Result<(), TraceError> {
    let id = run.header.id.clone();
    let id = id.as_deref();
    let path = |name: &str| folder.join(format!("{name}.parquet"));
    run.requests = read_requests(&Table::read(&path("requests"), id)?)?;
    run.states = read_states(&Table::read(&path("states"), id)?)?;
    run.steps = read_steps(&Table::read(&path("steps"), id)?)?;
    run.rows = read_rows(&Table::read(&path("rows"), id)?)?;
    run.memory = read_memory(&Table::read(&path("memory"), id)?)?;
    run.power = read_power(&Table::read(&path("power"), id)?)?;
    // Folders of earlier versions have none, and those whose log is gone need not.
    let copies = path("copies");
    if copies.is_file() {
        run.copies = read_copies(&Table::read(&copies, id)?)?;
    }
    Ok(())
}

/// Whether the tables of a folder lack one that its log would give: logs of the first version tell
/// of no copies.
pub(super) fn lacks(folder: &Path, log: &Path) -> bool {
    let made = folder.join("copies.parquet").is_file();
    !made && log.is_file() && LogReader::version(log).is_some_and(|version| version > 1)
}

/// A vocabulary out of codes, and the place of a value in it.
fn place<T: PartialEq>(all: &[T], value: &T) -> Option<usize> {
    all.iter().position(|other| other == value)
}

fn requests(run: &Run) -> PolarsResult<Columns> {
    let all = || run.requests.iter();
    let ends = || run.requests.iter().map(|r| r.finish.as_ref());
    let words = Outcome::ALL.iter().map(|o| o.code()).chain([OPEN]);
    let status = |end: Option<&Finish>| match end {
        Some(finish) => place(&Outcome::ALL, &finish.outcome),
        None => Some(Outcome::ALL.len()),
    };
    Columns::default()
        .int("request_id", all().map(|r| r.arrival.request.0))
        .maybe("parent_id", all().map(|r| r.arrival.parent.map(|p| p.0)))
        .maybe("task_id", all().map(|r| r.arrival.task))
        .int("attempt", all().map(|r| r.arrival.attempt.into()))
        .text("class", all().map(|r| r.arrival.class.as_str()))
        .int("arrival_ns", all().map(|r| r.arrival.at.0))
        .maybe("first_scheduled_ns", ends().map(|f| Some(f?.first_scheduled?.0)))
        .maybe("first_token_ns", ends().map(|f| Some(f?.first_token?.0)))
        .maybe("finish_ns", ends().map(|f| Some(f?.at.0)))
        .int("prompt_tokens", all().map(|r| r.arrival.prompt_tokens.into()))
        .int("cached_tokens", ends().map(|f| f.map_or(0, |f| f.cached_tokens.into())))
        .int("output_tokens", ends().map(|f| f.map_or(0, |f| f.output_tokens.into())))
        .int("max_tokens", all().map(|r| r.arrival.max_tokens.into()))
        .words("status", &Vocabulary::new(words)?, ends().map(status))
        .map(|columns| columns.text("route", all().map(|r| r.arrival.route.as_str())))
}

fn read_requests(table: &Table<'_>) -> Result<Vec<Request>, TraceError> {
    let id = table.ints("request_id")?;
    let parent = table.ints("parent_id")?;
    let task = table.ints("task_id")?;
    let attempt: Vec<u32> = table.narrow("attempt")?;
    let mut class = table.texts("class")?;
    let arrival = table.ints("arrival_ns")?;
    let first_scheduled = table.ints("first_scheduled_ns")?;
    let first_token = table.ints("first_token_ns")?;
    let finish = table.ints("finish_ns")?;
    let prompt_tokens: Vec<u32> = table.narrow("prompt_tokens")?;
    let cached_tokens: Vec<u32> = table.narrow("cached_tokens")?;
    let output_tokens: Vec<u32> = table.narrow("output_tokens")?;
    let max_tokens: Vec<u32> = table.narrow("max_tokens")?;
    let status = table.words("status", |word| match word {
        OPEN => Some(None),
        _ => Outcome::ALL.into_iter().find(|o| o.code() == word).map(Some),
    })?;
    let mut route = table.texts("route")?;
    let request = |i: usize| Request {
        arrival: Arrival {
            request: RequestId(id[i]),
            parent: present(parent[i]).map(RequestId),
            task: present(task[i]),
            attempt: attempt[i],
            class: std::mem::take(&mut class[i]),
            route: std::mem::take(&mut route[i]),
            at: Nanos(arrival[i]),
            prompt_tokens: prompt_tokens[i],
            max_tokens: max_tokens[i],
        },
        finish: status[i].map(|outcome| Finish {
            request: RequestId(id[i]),
            at: Nanos(finish[i]),
            first_scheduled: present(first_scheduled[i]).map(Nanos),
            first_token: present(first_token[i]).map(Nanos),
            cached_tokens: cached_tokens[i],
            output_tokens: output_tokens[i],
            outcome,
        }),
    };
    Ok((0..id.len()).map(request).collect())
}

fn states(run: &Run) -> PolarsResult<Columns> {
    let all = || run.states.iter();
    let words = Vocabulary::new(DeviceState::ALL.iter().map(|s| s.code()))?;
    Columns::default()
        .int("device", all().map(|s| s.device.into()))
        .int("t_ns", all().map(|s| s.at.0))
        .words("state", &words, all().map(|s| place(&DeviceState::ALL, &s.state)))
}

fn read_states(table: &Table<'_>) -> Result<Vec<StateChange>, TraceError> {
    let device: Vec<u16> = table.narrow("device")?;
    let at = table.ints("t_ns")?;
    let state = table
        .words("state", |word| DeviceState::ALL.into_iter().find(|state| state.code() == word))?;
    let change = |i: usize| StateChange { device: device[i], at: Nanos(at[i]), state: state[i] };
    Ok((0..at.len()).map(change).collect())
}

fn steps(run: &Run) -> PolarsResult<Columns> {
    let all = || run.steps.iter();
    Ok(Columns::default()
        .int("step_id", all().map(|s| s.step.0))
        .int("device", all().map(|s| s.device.into()))
        .int("host_start_ns", all().map(|s| s.host_start.0))
        .int("start_ns", all().map(|s| s.start.0))
        .int("end_ns", all().map(|s| s.end.0))
        .int("rows_prefill", all().map(|s| s.rows_prefill.into()))
        .int("rows_decode", all().map(|s| s.rows_decode.into()))
        .int("rows_draft", all().map(|s| s.rows_draft.into()))
        .int("rows_verify", all().map(|s| s.rows_verify.into()))
        .int("rows_ownerless", all().map(|s| s.rows_ownerless.into()))
        .int("requests", all().map(|s| s.requests.into()))
        .int("queued", all().map(|s| s.queued.into()))
        .int("kv_blocks_used", all().map(|s| s.kv_blocks_used.into()))
        .int("kv_blocks_total", all().map(|s| s.kv_blocks_total.into())))
}

fn read_steps(table: &Table<'_>) -> Result<Vec<Step>, TraceError> {
    let step = table.ints("step_id")?;
    let device: Vec<u16> = table.narrow("device")?;
    let host_start = table.ints("host_start_ns")?;
    let start = table.ints("start_ns")?;
    let end = table.ints("end_ns")?;
    let counts = [
        "rows_prefill",
        "rows_decode",
        "rows_draft",
        "rows_verify",
        "rows_ownerless",
        "requests",
        "queued",
        "kv_blocks_used",
        "kv_blocks_total",
    ];
    let mut count: Vec<Vec<u32>> = Vec::with_capacity(counts.len());
    for name in counts {
        count.push(table.narrow(name)?);
    }
    let at = |i: usize| Step {
        step: StepId(step[i]),
        device: device[i],
        host_start: Nanos(host_start[i]),
        start: Nanos(start[i]),
        end: Nanos(end[i]),
        rows_prefill: count[0][i],
        rows_decode: count[1][i],
        rows_draft: count[2][i],
        rows_verify: count[3][i],
        rows_ownerless: count[4][i],
        requests: count[5][i],
        queued: count[6][i],
        kv_blocks_used: count[7][i],
        kv_blocks_total: count[8][i],
    };
    Ok((0..step.len()).map(at).collect())
}

fn rows(run: &Run) -> PolarsResult<Columns> {
    let all = || run.rows.iter();
    let phases = Vocabulary::new(Phase::ALL.iter().map(|p| p.code()))?;
    let fates = Vocabulary::new(Fate::ALL.iter().map(|f| f.code()))?;
    Columns::default()
        .int("step_id", all().map(|r| r.step.0))
        .maybe("request_id", all().map(|r| r.request.map(|id| id.0)))
        .words("phase", &phases, all().map(|r| place(&Phase::ALL, &r.phase)))?
        .int("rows", all().map(|r| r.rows.into()))
        .int("context_tokens", all().map(|r| r.context_tokens.into()))
        .int("cached_tokens", all().map(|r| r.cached_tokens.into()))
        .int("sequence_rows", all().map(|r| r.sequence_rows.into()))
        .int("logits_rows", all().map(|r| r.logits_rows.into()))
        .words("fate", &fates, all().map(|r| place(&Fate::ALL, &r.fate)))
}

fn read_rows(table: &Table<'_>) -> Result<Vec<Row>, TraceError> {
    let step = table.ints("step_id")?;
    let request = table.ints("request_id")?;
    let phase =
        table.words("phase", |word| Phase::ALL.into_iter().find(|phase| phase.code() == word))?;
    let rows: Vec<u32> = table.narrow("rows")?;
    let context_tokens: Vec<u32> = table.narrow("context_tokens")?;
    let cached_tokens: Vec<u32> = table.narrow("cached_tokens")?;
    let sequence_rows: Vec<u32> = table.narrow("sequence_rows")?;
    let logits_rows: Vec<u32> = table.narrow("logits_rows")?;
    let fate = table.words("fate", Fate::from_code)?;
    let row = |i: usize| Row {
        step: StepId(step[i]),
        request: present(request[i]).map(RequestId),
        phase: phase[i],
        rows: rows[i],
        context_tokens: context_tokens[i],
        cached_tokens: cached_tokens[i],
        sequence_rows: sequence_rows[i],
        logits_rows: logits_rows[i],
        fate: fate[i],
    };
    Ok((0..step.len()).map(row).collect())
}

fn memory(run: &Run) -> PolarsResult<Columns> {
    let all = || run.memory.iter();
    let classes = Vocabulary::new(MemoryClass::ALL.iter().map(|c| c.code()))?;
    let changes = Vocabulary::new(MemoryChange::ALL.iter().map(|c| c.code()))?;
    Ok(Columns::default()
        .int("device", all().map(|m| m.device.into()))
        .int("t_ns", all().map(|m| m.at.0))
        .words("class", &classes, all().map(|m| place(MemoryClass::ALL, &m.class)))?
        .int("block_id", all().map(|m| m.block.into()))
        .words("event", &changes, all().map(|m| place(MemoryChange::ALL, &m.change)))?
        .int("bytes", all().map(|m| m.bytes.0)))
}

fn read_memory(table: &Table<'_>) -> Result<Vec<Memory>, TraceError> {
    let device: Vec<u16> = table.narrow("device")?;
    let at = table.ints("t_ns")?;
    let class =
        table.words("class", |word| MemoryClass::ALL.iter().copied().find(|c| c.code() == word))?;
    let block: Vec<u32> = table.narrow("block_id")?;
    let change = table
        .words("event", |word| MemoryChange::ALL.iter().copied().find(|c| c.code() == word))?;
    let bytes = table.ints("bytes")?;
    let memory = |i: usize| Memory {
        device: device[i],
        at: Nanos(at[i]),
        class: class[i],
        block: block[i],
        change: change[i],
        bytes: Bytes(bytes[i]),
    };
    Ok((0..at.len()).map(memory).collect())
}

fn power(run: &Run) -> PolarsResult<Columns> {
    let all = || run.power.iter();
    let throttles = Vocabulary::new(Throttle::ALL.iter().map(|t| t.code()))?;
    let bases = Vocabulary::new(Provenance::ALL.iter().map(|p| p.code()))?;
    Columns::default()
        .int("device", all().map(|p| p.device.into()))
        .int("t_ns", all().map(|p| p.at.0))
        .int("energy_uj", all().map(|p| p.energy_uj))
        .int("power_mw", all().map(|p| p.power_mw))
        .int("clock_mhz", all().map(|p| p.clock_mhz.into()))
        .words("throttle", &throttles, all().map(|p| place(Throttle::ALL, &p.throttle)))?
        .words("basis", &bases, all().map(|p| place(Provenance::ALL, &p.basis)))
}

fn read_power(table: &Table<'_>) -> Result<Vec<Power>, TraceError> {
    let device: Vec<u16> = table.narrow("device")?;
    let at = table.ints("t_ns")?;
    let energy = table.ints("energy_uj")?;
    let power = table.ints("power_mw")?;
    let clock: Vec<u32> = table.narrow("clock_mhz")?;
    let throttle =
        table.words("throttle", |word| Throttle::ALL.iter().copied().find(|t| t.code() == word))?;
    let basis =
        table.words("basis", |word| Provenance::ALL.iter().copied().find(|p| p.code() == word))?;
    let sample = |i: usize| Power {
        device: device[i],
        at: Nanos(at[i]),
        energy_uj: if energy[i] == ABSENT { 0 } else { energy[i] },
        power_mw: power[i],
        clock_mhz: clock[i],
        throttle: throttle[i],
        basis: basis[i],
    };
    Ok((0..at.len()).map(sample).collect())
}

fn copies(run: &Run) -> PolarsResult<Columns> {
    let all = || run.copies.iter();
    let cargoes = Vocabulary::new(Cargo::ALL.iter().map(|c| c.code()))?;
    let directions = Vocabulary::new(Direction::ALL.iter().map(|d| d.code()))?;
    Ok(Columns::default()
        .int("device", all().map(|c| c.device.into()))
        .int("stream", all().map(|c| c.stream.into()))
        .maybe("step_id", all().map(|c| c.step.map(|step| step.0)))
        .int("start_ns", all().map(|c| c.start.0))
        .int("end_ns", all().map(|c| c.end.0))
        .words("cargo", &cargoes, all().map(|c| place(Cargo::ALL, &c.cargo)))?
        .words("direction", &directions, all().map(|c| place(Direction::ALL, &c.direction)))?
        .int("bytes", all().map(|c| c.bytes.0)))
}

fn read_copies(table: &Table<'_>) -> Result<Vec<MemoryCopy>, TraceError> {
    let device: Vec<u16> = table.narrow("device")?;
    let stream: Vec<u16> = table.narrow("stream")?;
    let step = table.ints("step_id")?;
    let start = table.ints("start_ns")?;
    let end = table.ints("end_ns")?;
    let cargo =
        table.words("cargo", |word| Cargo::ALL.iter().copied().find(|c| c.code() == word))?;
    let direction = table
        .words("direction", |word| Direction::ALL.iter().copied().find(|d| d.code() == word))?;
    let bytes = table.ints("bytes")?;
    let copy = |i: usize| MemoryCopy {
        device: device[i],
        stream: stream[i],
        step: present(step[i]).map(StepId),
        start: Nanos(start[i]),
        end: Nanos(end[i]),
        cargo: cargo[i],
        direction: direction[i],
        bytes: Bytes(bytes[i]),
    };
    Ok((0..start.len()).map(copy).collect())
}
