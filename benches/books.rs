//! How long booking a large run takes, beside three plain polars queries over the same files.
//!
//! `cargo bench --bench books -- [LAUNCHES] [FOLDER]` makes a synthetic run folder of that many
//! launches (20 million if not said) with their steps, rows and states, then books it several
//! times, and prints the times and the peak of memory. `benches/books/run` does that and runs the
//! three queries of `benches/books/queries.py` with Python's polars in between.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a benchmark says what it found")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use gemba::event::{
    Arrival, Calibration, Ceilings, DeviceState, Driver, Dtype, Fact, Fate, Finish, KernelId,
    Launch, Outcome, Phase, Recorder, RequestId, Row, StateChange, Step, StepId,
};
use gemba::trace::{DeviceHeader, Header, Run, RunWriter, Status};
use gemba::unit::{Bytes, Nanos, Ops};
use gemba::waste::{Books, BooksOptions};

/// What a layer launches, with the driver of each kernel.
const LAYER: [(&str, Driver); 8] = [
    ("attention_norm", Driver::Rows),
    ("qkv", Driver::Rows),
    ("rope_append", Driver::Rows),
    ("attention_decode", Driver::KvTokens),
    ("output", Driver::Rows),
    ("ffn_norm", Driver::Rows),
    ("gate_up", Driver::Rows),
    ("down", Driver::Rows),
];
const LAYERS: u64 = 16;
const LAUNCHES_PER_STEP: u64 = LAYERS * LAYER.len() as u64;
const ROWS_PER_STEP: u64 = 8;
const STEPS_PER_REQUEST: u64 = 64;
const LAUNCH_NANOS: u64 = 40_000;

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let launches = words.next().and_then(|word| word.parse().ok()).unwrap_or(20_000_000_u64);
    let folder = words.next().map_or_else(
        || std::env::temp_dir().join(format!("gemba-books-{launches}")),
        PathBuf::from,
    );
    if !folder.join("launches.parquet").exists() {
        let began = Instant::now();
        make(&folder, launches / LAUNCHES_PER_STEP);
        Run::open(&folder).expect("the folder can be read");
        println!("made {} in {:.1} s", folder.display(), began.elapsed().as_secs_f64());
    }
    for repeat in 1..=3 {
        let began = Instant::now();
        let run = Run::open(&folder).expect("the folder can be read");
        let opened = began.elapsed();
        let books = Books::of(&run, &BooksOptions::default()).expect("the folder can be booked");
        println!(
            "books {repeat}: {:.2} s (opening {:.2} s), {} launches, balanced: {}, peak memory {}",
            began.elapsed().as_secs_f64(),
            opened.as_secs_f64(),
            run.launches.len(),
            books.balanced(),
            peak_memory(),
        );
    }
}

/// The most memory this process ever held, as the system counts it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.map_or_else(|| "unknown".to_owned(), |line| line[6..].trim().to_owned())
}

fn header() -> Header {
    let mut header = Header::begin();
    header.reference_batch = 16;
    header.devices = vec![DeviceHeader {
        id: 0,
        kind: "cpu".to_owned(),
        name: "synthetic".to_owned(),
        memory_bytes: Bytes(1 << 34),
        ceilings: Ceilings {
            read_bytes_per_s: 30_000_000_000,
            copy_bytes_per_s: 30_000_000_000,
            cache_bytes_per_s: 200_000_000_000,
            ops_per_s: [(Dtype::Q8_0, 400_000_000_000)].into(),
            launch_floor_ns: Nanos(1_000),
        },
        calibration: LAYER
            .iter()
            .map(|(kernel, driver)| Calibration {
                kernel: (*kernel).to_owned(),
                driver: *driver,
                points: vec![(1, 20_000), (8, 30_000), (4096, 400_000)],
            })
            .collect(),
    }];
    header
}

/// Records a run of `steps` steps through the product's own writer.
fn make(folder: &Path, steps: u64) {
    // Half a folder from a run that was stopped must not be booked as a whole one.
    let _ = std::fs::remove_dir_all(folder);
    let mut header = header();
    let mut writer = RunWriter::create(folder, &header, std::sync::Arc::default())
        .expect("the folder can be made");
    for (id, (name, _)) in LAYER.iter().enumerate() {
        writer.record(Fact::Kernel { id: KernelId(id as u16), name: (*name).to_owned() });
    }
    let mut now = 0;
    for step in 0..steps {
        now = record_step(&mut writer, step, steps, now);
    }
    header.status = Status::Complete;
    header.window.end_ns = Nanos(now);
    writer.close(&header).expect("the folder can be closed");
}

/// One step of eight requests, of which one in eight starts anew.
fn record_step(writer: &mut RunWriter, step: u64, steps: u64, now: u64) -> u64 {
    let state = |at, state| Fact::State(StateChange { device: 0, at: Nanos(at), state });
    writer.record(state(now, DeviceState::Host));
    let host_start = Nanos(now);
    let start = now + 30_000 + step % 7 * 1_000;
    let mut at = start;
    let id = StepId(step);
    for lane in 0..ROWS_PER_STEP {
        record_row(writer, step, steps, lane, now);
    }
    for layer in 0..LAYERS {
        for (kernel, (_, driver)) in LAYER.iter().enumerate() {
            let noise = (step * 31 + layer * 7 + kernel as u64 * 3) % 9 * 1_000;
            let end = at + LAUNCH_NANOS + noise;
            writer.record(Fact::Launch(Launch {
                device: 0,
                stream: 0,
                step: Some(id),
                layer: Some(layer as u16),
                kernel: KernelId(kernel as u16),
                start: Nanos(at),
                end: Nanos(end),
                weight_bytes: Bytes(400_000 + noise),
                kv_bytes: Bytes(if *driver == Driver::KvTokens { 60_000 } else { 0 }),
                activation_bytes: Bytes(16_384),
                excess_bytes: Bytes(0),
                ops: Ops(3_000_000),
                dtype: Dtype::Q8_0,
                driver: *driver,
            }));
            at = end + 500;
        }
    }
    writer.record(Fact::Step(Step {
        step: id,
        device: 0,
        host_start,
        start: Nanos(start),
        end: Nanos(at),
        rows_decode: ROWS_PER_STEP as u32,
        requests: ROWS_PER_STEP as u32,
        queued: (step % 3) as u32,
        kv_blocks_used: 80,
        kv_blocks_total: 128,
        ..Step::default()
    }));
    if step % 50 == 49 {
        writer.record(state(at, DeviceState::Empty));
        at += 2_000_000;
    }
    at
}

fn record_row(writer: &mut RunWriter, step: u64, steps: u64, lane: u64, now: u64) {
    let (turn, since) = (step / STEPS_PER_REQUEST, step % STEPS_PER_REQUEST);
    let request = RequestId(turn * ROWS_PER_STEP + lane);
    if since == 0 {
        writer.record(Fact::Arrival(Arrival {
            request,
            parent: None,
            task: None,
            attempt: 1,
            class: "chat".to_owned(),
            route: String::new(),
            at: Nanos(now),
            prompt_tokens: 100,
            max_tokens: STEPS_PER_REQUEST as u32,
        }));
    }
    writer.record(Fact::Row(Row {
        step: StepId(step),
        request: Some(request),
        phase: Phase::Decode,
        rows: 1,
        context_tokens: 100 + since as u32,
        cached_tokens: 0,
        sequence_rows: 1,
        logits_rows: 1,
        fate: if lane == 7 { Fate::Overrun } else { Fate::Open },
    }));
    if since == STEPS_PER_REQUEST - 1 || step + 1 == steps {
        writer.record(Fact::Finish(Finish {
            request,
            at: Nanos(now + 100_000),
            first_scheduled: Some(Nanos(now)),
            first_token: Some(Nanos(now + 50_000)),
            cached_tokens: 0,
            output_tokens: since as u32 + 1,
            outcome: Outcome::Completed,
        }));
    }
}
