//! From a run folder to its books and report: what `run`, `ledger` and `report` share.

use std::path::Path;

use super::Failure;
use crate::report::{Findings, Report, Roofline, SummaryJson, build, summary_json};
use crate::trace::{CountersHeader, Extremes, Header, MeterHeader, Run, TraceError, write_beside};
use crate::unit::{Bytes, Scale, grouped, si_bytes, si_nanos, si_whole};
use crate::waste::{Books, BooksOptions, Headline, Latency, memory, requests};

/// Moments of the memory chart.
const MEMORY_MOMENTS: u64 = 240;

/// A run with everything that follows from it.
pub(super) struct Account {
    pub(super) run: Run,
    pub(super) books: Books,
    pub(super) report: Report,
    pub(super) summary: SummaryJson,
}

/// Reads a run folder, books it and lays it out.
pub(super) fn account(folder: &Path, options: &BooksOptions) -> Result<Account, Failure> {
    let run = Run::open(folder)?;
    let books = Books::of(&run, options)?;
    let headline = Headline::of(&run, &books);
    let latency = Latency::of(&run);
    let status = run.header.status.code();
    let summary = summary_json(&books, &headline, &latency, status);
    let header = &run.header;
    let device = header.devices.first();
    let window = header.window.end_ns.saturating_sub(header.window.start_ns);
    let report = build(Findings {
        title: title(header),
        subtitle: subtitle(&run),
        status: status.to_owned(),
        reproduce: format!("gemba ledger {}", folder.display()),
        books: &books,
        costing: options.costing,
        headline: &headline,
        latency: &latency,
        requests: &requests(&run, &books),
        memory: &memory(&run, device.map_or(0, |device| device.id), MEMORY_MOMENTS),
        roofs: roofs(header),
        memory_bytes: device.map_or(0, |device| device.memory_bytes.0),
        window_nanos: window.0,
        takt_nanos: headline.takt_nanos,
        provenance: provenance(&run),
        notes: notes(header),
        observer: observer(header),
        meters: meters(header),
        counted: counted(header),
    });
    Ok(Account { run, books, report, summary })
}

/// Writes `summary.json` and, where there are tables, `ledger.parquet` into the run folder.
pub(super) fn write_derived(folder: &Path, account: &Account) -> Result<(), TraceError> {
    let path = folder.join("summary.json");
    let mut json = serde_json::to_vec_pretty(&account.summary).map_err(|error| TraceError::Io {
        action: "encode",
        path: path.clone(),
        source: error.into(),
    })?;
    json.push(b'\n');
    write_beside(&path, &json)?;
    #[cfg(feature = "analysis")]
    write_ledger(folder, account)?;
    Ok(())
}

#[cfg(feature = "analysis")]
fn write_ledger(folder: &Path, account: &Account) -> Result<(), TraceError> {
    crate::trace::write_ledger(folder, &ledger_rows(&account.books))
}

/// The postings of the books as rows of the ledger's table.
#[cfg(feature = "analysis")]
pub(super) fn ledger_rows(books: &Books) -> Vec<crate::trace::LedgerRow<'_>> {
    let rows = crate::report::postings(books).map(|posting| crate::trace::LedgerRow {
        commodity: posting.commodity,
        cause: posting.cause,
        muda: posting.muda,
        level: posting.level,
        device: posting.device,
        step: posting.step_id,
        kernel: posting.kernel,
        request: posting.request_id,
        sub_reason: posting.sub_reason,
        basis: posting.basis,
        amount: posting.amount,
        unit: posting.unit,
    });
    rows.collect()
}

pub(super) fn title(header: &Header) -> String {
    format!("{} under {}", header.model.name, header.workload.name)
}

fn subtitle(run: &Run) -> String {
    let header = &run.header;
    let window = header.window.end_ns.saturating_sub(header.window.start_ns);
    let device = header.devices.first();
    let device = device.map_or_else(String::new, |d| format!("{}:{} {}", d.kind, d.id, d.name));
    let scheduler = switch(header, "/batching/scheduling");
    format!(
        "{} weights · {scheduler} batching · {device} · {} of run time · {} launches in {} steps",
        header.model.precision,
        si_nanos(window),
        si_whole(run.launches.len()),
        si_whole(run.steps.len() as u64),
    )
}

/// An engine switch as text.
fn switch(header: &Header, pointer: &str) -> String {
    match header.engine.pointer(pointer) {
        Some(serde_json::Value::String(word)) => word.clone(),
        Some(value) => value.to_string(),
        None => "unknown".to_owned(),
    }
}

fn roofs(header: &Header) -> Roofline {
    let Some(device) = header.devices.first() else { return Roofline::default() };
    let ops = device.ceilings.ops_per_s.iter();
    Roofline {
        read_bytes_per_s: device.ceilings.read_bytes_per_s as f64,
        ops_per_s: ops.map(|(dtype, ops)| (dtype.code().to_owned(), *ops as f64)).collect(),
    }
}

/// What the run has to say for itself, and what speaks against its meters.
fn notes(header: &Header) -> Vec<String> {
    let doubted = header.meters.iter().filter(|meter| !meter.validity.valid);
    let doubts = doubted.map(|meter| {
        let reasons = meter.validity.reasons.join("; ");
        format!("The meter of device {} is to be read with care: {reasons}.", meter.device)
    });
    header.workload.notes.iter().cloned().chain(doubts).collect()
}

/// What the meters told, and what else is known of that time.
fn meters(header: &Header) -> Vec<String> {
    let meter = |meter: &MeterHeader| {
        let joules = |microjoules: u64| format!("{:.1} J", microjoules as f64 / 1e6);
        let time = si_nanos(meter.end_ns.saturating_sub(meter.start_ns));
        let power = match meter.integrated_uj {
            Some(power) => format!("its power comes to {} over the same time", joules(power)),
            None => "it tells no power of its own".to_owned(),
        };
        let mut said = format!(
            "The energy counter of device {} rose by {} in {time}, and {power}.",
            meter.device,
            joules(meter.energy_uj)
        );
        for (what, extremes, unit) in [
            ("Clock", meter.clock_mhz, "MHz"),
            ("Memory's clock", meter.memory_clock_mhz, "MHz"),
            ("Temperature", meter.temperature_c, "°C"),
        ] {
            if let Some(Extremes { least, most }) = extremes {
                said.push_str(&format!(" {what}: {least} to {most} {unit}."));
            }
        }
        if let Some(Extremes { most, .. }) = meter.memory_used_bytes {
            said.push_str(&format!(" Memory taken: at most {}.", si_bytes(Bytes(most))));
        }
        said
    };
    header.meters.iter().map(meter).collect()
}

/// Bytes that the devices' own counters saw go to and from their memory; none where there are no
/// counters.
fn counted(header: &Header) -> Option<Result<u128, String>> {
    let bytes = |counters: &CountersHeader| match (&counters.why, counters.activity) {
        (Some(why), _) => Err(why.clone()),
        (None, activity) => activity
            .and_then(|activity| activity.memory_bytes)
            .map(u128::from)
            .ok_or_else(|| "they told nothing of the memory".to_owned()),
    };
    let counted = header.counters.iter().map(bytes);
    (!header.counters.is_empty()).then(|| counted.sum())
}

fn observer(header: &Header) -> String {
    let Some(observer) = header.observer else {
        return "What recording cost was not measured in this run.".to_owned();
    };
    let percent = |ppm: i64| format!("{:.2} %", ppm as f64 / 1e4);
    let [low, high] = observer.share_ppm_quartiles;
    let booked = match observer.ns_per_launch {
        0 => "which cannot be told from nothing, so nothing is booked".to_owned(),
        nanos => format!("booked as {nanos} ns per launch"),
    };
    format!(
        "{} paired runs with and without recording: {} of run time in the median (quartiles {} \
         to {}), {booked}.",
        observer.pairs,
        percent(observer.share_ppm),
        percent(low),
        percent(high),
    )
}

/// What ran, on what, how.
fn provenance(run: &Run) -> Vec<(String, String)> {
    let header = &run.header;
    let mut rows = Vec::new();
    let mut row = |label: &str, value: String| rows.push((label.to_owned(), value));
    row("Gemba", header.gemba.version.clone());
    row("Run schema", header.schema.clone());
    row("Status", header.status.code().to_owned());
    row("Model", header.model.name.clone());
    row("Model identity", header.model.sha256.clone());
    row("Weights", header.model.precision.clone());
    row("KV cache", header.model.kv_precision.clone());
    row("Workload", header.workload.name.clone());
    row("Workload sha256", header.workload.sha256.clone());
    row("Seed", header.workload.seed.to_string());
    row("Requests asked for", grouped(header.workload.requests.into()));
    for device in &header.devices {
        let ceilings = &device.ceilings;
        let per_s = |bytes: u64| format!("{}/s", si_bytes(Bytes(bytes)));
        row("Device", format!("{}:{} {}", device.kind, device.id, device.name));
        row("Device memory", si_bytes(device.memory_bytes));
        row("Read bandwidth (measured)", per_s(ceilings.read_bytes_per_s));
        row("Copy bandwidth (measured)", per_s(ceilings.copy_bytes_per_s));
        row("Cache bandwidth (measured)", per_s(ceilings.cache_bytes_per_s));
        for (dtype, ops) in &ceilings.ops_per_s {
            let label = format!("Arithmetic {} (measured)", dtype.code());
            row(&label, format!("{}op/s", Scale::count(*ops as f64).show(*ops as f64)));
        }
        row("Launch floor (measured)", si_nanos(ceilings.launch_floor_ns));
    }
    row("Reference batch", header.reference_batch.to_string());
    let slo = [
        ("Promise: TTFT", header.slo.ttft_ns),
        ("Promise: TPOT", header.slo.tpot_ns),
        ("Promise: E2E", header.slo.e2e_ns),
    ];
    for (label, limit) in slo {
        if let Some(limit) = limit {
            row(label, si_nanos(limit));
        }
    }
    if let Some(price) = header.price {
        let dollars = price.picodollars_per_device_hour as f64 / 1e12;
        row("Price", format!("${dollars:.4} per device and hour"));
    }
    if let Some(energy) = header.energy {
        let watts = |milliwatts: u64| format!("{:.1} W", milliwatts as f64 / 1e3);
        let text = format!("{} idle, {} busy", watts(energy.idle_mw), watts(energy.busy_mw));
        row("Power (declared)", text);
    }
    switches("", &header.engine, &mut rows);
    rows
}

/// Every engine switch, flattened: `batching.max_num_seqs`.
fn switches(prefix: &str, value: &serde_json::Value, rows: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if prefix.is_empty() { "" } else { "." };
                switches(&format!("{prefix}{dot}{name}"), value, rows);
            }
        }
        serde_json::Value::Null => {}
        serde_json::Value::String(word) => rows.push((format!("Engine {prefix}"), word.clone())),
        other => rows.push((format!("Engine {prefix}"), other.to_string())),
    }
}
