//! The report of a large run: it is no larger for that, and nothing is dropped.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use gemba::event::{
    Arrival, Calibration, Ceilings, DeviceState, Driver, Dtype, Fact, Fate, Finish, KernelId,
    Launch, Outcome, Phase, Recorder, RequestId, Row, StateChange, Step, StepId,
};
use gemba::trace::{DeviceHeader, Header, RunWriter, Status};
use gemba::unit::{Bytes, Nanos, Ops};

/// What the issue of a report's size is about.
const REQUESTS: u64 = 100_000;
/// Each has a class of its own among so many.
const CLASSES: u64 = 5_000;
const ROWS_PER_STEP: u64 = 50;
const KERNELS: [(&str, Driver); 2] =
    [("gate_up", Driver::Rows), ("attention_decode", Driver::KvTokens)];

/// Three million bytes.
const MOST: u64 = 3_000_000;

fn header() -> Header {
    let calibration = KERNELS.map(|(kernel, driver)| Calibration {
        kernel: kernel.to_owned(),
        driver,
        points: vec![(1, 20_000), (50, 60_000)],
    });
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
            ops_per_s: BTreeMap::from([(Dtype::Q8_0, 400_000_000_000)]),
            launch_floor_ns: Nanos(1_000),
        },
        calibration: calibration.into(),
    }];
    header
}

/// Records requests that each are served in two steps, fifty at a time.
fn make(folder: &Path) {
    let mut header = header();
    let mut writer = RunWriter::create(folder, &header, Arc::default()).unwrap();
    for (id, (name, _)) in KERNELS.iter().enumerate() {
        writer.record(Fact::Kernel { id: KernelId(id as u16), name: (*name).to_owned() });
    }
    let mut now = 0;
    for batch in 0..REQUESTS / ROWS_PER_STEP {
        let requests = batch * ROWS_PER_STEP..(batch + 1) * ROWS_PER_STEP;
        let arrived = now;
        for request in requests.clone() {
            writer.record(arrival(request, now));
        }
        for (phase, step) in [(Phase::Prefill, 2 * batch), (Phase::Decode, 2 * batch + 1)] {
            now = record_step(&mut writer, StepId(step), phase, requests.clone(), now);
        }
        for request in requests {
            writer.record(finish(request, arrived, now));
        }
        if batch % 10 == 9 {
            let state = DeviceState::Empty;
            writer.record(Fact::State(StateChange { device: 0, at: Nanos(now), state }));
            now += 100_000;
        }
    }
    header.status = Status::Complete;
    header.window.end_ns = Nanos(now);
    writer.close(&header).unwrap();
}

fn arrival(request: u64, now: u64) -> Fact {
    Fact::Arrival(Arrival {
        request: RequestId(request),
        parent: None,
        task: None,
        attempt: 1,
        class: format!("tenant-{}", request % CLASSES),
        route: String::new(),
        at: Nanos(now),
        prompt_tokens: 100,
        max_tokens: 2,
    })
}

fn finish(request: u64, arrived: u64, now: u64) -> Fact {
    Fact::Finish(Finish {
        request: RequestId(request),
        at: Nanos(now),
        first_scheduled: Some(Nanos(arrived)),
        first_token: Some(Nanos(now - 50_000)),
        cached_tokens: 0,
        output_tokens: 2,
        outcome: if request % 100 == 7 { Outcome::TimedOut } else { Outcome::Completed },
    })
}

fn record_step(
    writer: &mut RunWriter,
    step: StepId,
    phase: Phase,
    requests: std::ops::Range<u64>,
    now: u64,
) -> u64 {
    let state = DeviceState::Host;
    writer.record(Fact::State(StateChange { device: 0, at: Nanos(now), state }));
    let start = now + 30_000;
    let mut at = start;
    for request in requests {
        writer.record(Fact::Row(Row {
            step,
            request: Some(RequestId(request)),
            phase,
            rows: 1,
            context_tokens: 100,
            cached_tokens: 0,
            sequence_rows: 1,
            logits_rows: 1,
            fate: Fate::Open,
        }));
    }
    for (kernel, (_, driver)) in KERNELS.iter().enumerate() {
        let end = at + 200_000;
        writer.record(Fact::Launch(Launch {
            device: 0,
            stream: 0,
            step: Some(step),
            layer: Some(0),
            kernel: KernelId(kernel as u16),
            start: Nanos(at),
            end: Nanos(end),
            weight_bytes: Bytes(400_000),
            kv_bytes: Bytes(60_000),
            activation_bytes: Bytes(16_384),
            excess_bytes: Bytes(0),
            ops: Ops(3_000_000),
            dtype: Dtype::Q8_0,
            driver: *driver,
        }));
        at = end + 500;
    }
    let rows = ROWS_PER_STEP as u32;
    let (prefill, decode) = if phase == Phase::Prefill { (rows, 0) } else { (0, rows) };
    writer.record(Fact::Step(Step {
        step,
        device: 0,
        host_start: Nanos(now),
        start: Nanos(start),
        end: Nanos(at),
        rows_prefill: prefill,
        rows_decode: decode,
        requests: rows,
        kv_blocks_used: 80,
        kv_blocks_total: 128,
        ..Step::default()
    }));
    at
}

/// `GEMBA_KEEP=DIR` leaves the run and its page there to be looked at.
#[test]
fn a_hundred_thousand_requests_fit_into_three_megabytes() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("GEMBA_KEEP").map(std::path::PathBuf::from);
    let folder = kept.unwrap_or_else(|| temporary.path().join("run"));
    make(&folder);
    let mut gemba = Command::new(env!("CARGO_BIN_EXE_gemba"));
    let said = gemba.arg("report").arg(&folder).stdin(Stdio::null()).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let page = std::fs::read_to_string(folder.join("report.html")).unwrap();
    let bytes = page.len() as u64;
    assert!(bytes < MOST, "{bytes} bytes");
    // Whoever has no row of their own is in the sum of the others.
    assert!(page.contains("200 of 100000, by device time they paid for"));
    assert!(page.contains(">99800 others<"));
    let others = page.split(">99800 others<").nth(1).unwrap().split("</tr>").next().unwrap();
    assert!(others.contains(" completed, ") && others.contains(" timed_out"), "{others}");
    assert!(page.contains("4989 more classes <small>99780 requests"));
}
