//! The benchmark report of llm-d, version 0.2.1, with the books under `results.profiling`.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::report::{BenchmarkRecord, LedgerJson, Statistic, SummaryJson};

/// The version of the report's schema.
pub const BENCHMARK_REPORT_VERSION: &str = "0.2.1";

/// The version of what stands under `results.profiling`.
const PROFILING_SCHEMA: &str = "gemba.profiling/1";

/// The component that the figures are about.
const LABEL: &str = "gemba";

/// Writes the report of a run.
///
/// # Errors
/// What `out` says.
pub fn write_benchmark(record: &BenchmarkRecord, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &report(record))?;
    out.write_all(b"\n")
}

/// The report. Amounts of the books may exceed 64 bits, so they are written from where they are.
#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    run: Value,
    scenario: Value,
    results: Results<'a>,
}

#[derive(Serialize)]
struct Results<'a> {
    request_performance: Value,
    profiling: Profiling<'a>,
}

#[derive(Serialize)]
struct Profiling<'a> {
    schema: &'static str,
    summary: &'a SummaryJson,
    ledger: &'a LedgerJson,
}

fn report(record: &BenchmarkRecord) -> Report<'_> {
    let facts = &record.facts;
    Report {
        version: BENCHMARK_REPORT_VERSION,
        run: json!({
            "uid": facts.identity,
            "description": facts.title,
            "keywords": ["gemba", "waste"],
            "time": {
                "start": facts.start.to_string(),
                "end": record.end.to_string(),
                "duration": format!("PT{}S", record.seconds),
            },
        }),
        scenario: json!({ "stack": [component(record)], "load": load(record) }),
        results: Results {
            request_performance: json!({ "aggregate": aggregate(record) }),
            profiling: Profiling {
                schema: PROFILING_SCHEMA,
                summary: &record.summary,
                ledger: &record.ledger,
            },
        },
    }
}

fn component(record: &BenchmarkRecord) -> Value {
    let facts = &record.facts;
    json!({
        "metadata": { "label": LABEL, "cfg_id": facts.engine_identity },
        "standardized": {
            "kind": "inference_engine",
            "tool": "gemba",
            "tool_version": facts.version,
            "role": "replica",
            "replicas": 1,
            "model": { "name": facts.model },
            "accelerator": {
                "model": facts.device,
                "count": facts.devices,
                "parallelism": { "tp": 1, "dp": 1, "pp": 1, "ep": 1 },
            },
        },
        "native": { "config": facts.engine },
    })
}

fn load(record: &BenchmarkRecord) -> Value {
    let facts = &record.facts;
    let mut standardized = json!({
        "tool": "gemba",
        "tool_version": facts.version,
        "source": "unknown",
        "input_seq_len": length(record.input_length.as_ref()),
    });
    if record.output_length.is_some() {
        standardized["output_seq_len"] = length(record.output_length.as_ref());
    }
    if let Some(rate) = record.arrival_rate {
        standardized["rate_qps"] = rate.into();
    }
    json!({
        "metadata": { "cfg_id": facts.workload_identity, "description": facts.workload },
        "standardized": standardized,
        "native": { "config": { "workload": facts.workload } },
    })
}

/// The lengths of a run's sequences, as they were.
fn length(statistic: Option<&Statistic>) -> Value {
    let Some(Statistic { summary, .. }) = statistic else {
        return json!({ "distribution": "other", "value": 0 });
    };
    let mut length = json!({ "distribution": "other", "value": summary.mean });
    length["min"] = (summary.min as u64).into();
    // The schema has no sequences of at most nothing.
    if summary.max >= 1.0 {
        length["max"] = (summary.max as u64).into();
    }
    length
}

fn aggregate(record: &BenchmarkRecord) -> Value {
    let rate = |units: &str, mean: f64| json!({ "units": units, "mean": mean });
    json!({
        "requests": present([
            ("total", Some(record.total.into())),
            ("failures", Some(record.failures.into())),
            ("incomplete", Some(record.incomplete.into())),
            ("input_length", statistic(record.input_length)),
            ("output_length", statistic(record.output_length)),
        ]),
        "latency": present([
            ("time_to_first_token", statistic(record.ttft)),
            ("time_per_output_token", statistic(record.tpot)),
            ("normalized_time_per_output_token", statistic(record.normalized_tpot)),
            ("inter_token_latency", statistic(record.itl)),
            ("request_latency", statistic(record.latency)),
        ]),
        "throughput": {
            "input_token_rate": rate("tokens/s", record.input_rate),
            "output_token_rate": rate("tokens/s", record.output_rate),
            "total_token_rate": rate("tokens/s", record.total_rate),
            "request_rate": rate("queries/s", record.request_rate),
        },
    })
}

fn present<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(fields.collect::<Map<String, Value>>())
}

fn statistic(statistic: Option<Statistic>) -> Option<Value> {
    let Statistic { units, summary } = statistic?;
    Some(json!({
        "units": units,
        "mean": summary.mean,
        "min": summary.min,
        "p50": summary.p50,
        "p90": summary.p90,
        "p99": summary.p99,
        "max": summary.max,
    }))
}
