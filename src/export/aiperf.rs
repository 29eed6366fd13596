//! `profile_export.jsonl` as AIPerf writes it: one object per request.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::report::{Figure, RequestRecord};

/// Writes one line per request that ended.
///
/// # Errors
/// What `out` says.
pub fn write_requests(records: &[RequestRecord], out: &mut dyn Write) -> io::Result<()> {
    for record in records {
        serde_json::to_writer(&mut *out, &object(record))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn object(record: &RequestRecord) -> Value {
    let number = record.request;
    let task = record.task.map(|task| format!("task-{task}"));
    let figure = |figure: &Figure| {
        (figure.name.clone(), json!({ "value": figure.value, "unit": figure.unit }))
    };
    let mut metadata = json!({
        "session_num": number,
        "x_request_id": format!("request-{number}"),
        "x_correlation_id": task.clone().unwrap_or_else(|| format!("request-{number}")),
        "conversation_id": task,
        "request_start_ns": record.start.0,
        "request_end_ns": record.end.0,
        "worker_id": "gemba",
        "record_processor_id": "gemba",
        "benchmark_phase": "profiling",
        "was_cancelled": record.cancelled,
    });
    if record.cancelled {
        metadata["cancellation_time_ns"] = record.end.0.into();
    }
    let error = record.error.map(|error| {
        let mut object = json!({ "type": error.kind, "message": error.message });
        if let Some(code) = error.code {
            object["code"] = code.into();
        }
        object
    });
    json!({
        "metadata": metadata,
        "metrics": record.figures.iter().map(figure).collect::<Map<String, Value>>(),
        "error": error,
    })
}
