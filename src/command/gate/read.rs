//! From a run folder to what the gate needs of it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Failure;
use crate::gate::{Asked, Evidence, Identity};
use crate::report::{ledger_json, summary_json};
use crate::trace::{Header, Run};
use crate::waste::{Books, BooksOptions, Headline, Latency};

/// Reads and books a run folder. The books are always made anew: what lies there may have been
/// made by another version.
pub(super) fn evidence(folder: &Path) -> Result<Evidence, Failure> {
    let run = Run::open(folder)?;
    let books = Books::of(&run, &BooksOptions::default())?;
    let status = run.header.status.code();
    let (headline, latency) = (Headline::of(&run, &books), Latency::of(&run));
    let summary = summary_json(&books, &headline, &latency, status);
    let ledger = ledger_json(&books, status);
    let header = &run.header;
    let total = |name: &str| {
        let ledger = ledger.commodities.iter().find(|ledger| ledger.name == name);
        ledger.map_or(0, |ledger| ledger.total)
    };
    let counters = BTreeMap::from([
        ("rows", total("rows")),
        ("bytes", total("bytes")),
        ("launches", run.launches.len().into()),
        ("steps", run.steps.len() as u128),
    ]);
    let identity =
        |name: &String, sha256: &String| Identity { name: name.clone(), sha256: sha256.clone() };
    Ok(Evidence {
        run: folder.display().to_string(),
        machine: machine(header),
        model: identity(&header.model.name, &header.model.sha256),
        workload: identity(&header.workload.name, &header.workload.sha256),
        settings: settings(header),
        asked: asked(&run),
        counters,
        summary,
        ledger,
    })
}

pub(in crate::command) fn machine(header: &Header) -> String {
    let device = |device: &crate::trace::DeviceHeader| {
        let memory = crate::unit::si_bytes(device.memory_bytes);
        format!("{} {} with {memory}", device.kind, device.name)
    };
    let devices: Vec<String> = header.devices.iter().map(device).collect();
    if devices.is_empty() { "no device".to_owned() } else { devices.join(", ") }
}

/// Everything that somebody set. What was measured is no setting.
pub(in crate::command) fn settings(header: &Header) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    flatten("engine", &header.engine, &mut settings);
    for (name, value) in [
        ("slo", serde_json::to_value(header.slo)),
        ("price", serde_json::to_value(header.price)),
        ("energy", serde_json::to_value(header.energy)),
    ] {
        flatten(name, &value.unwrap_or_default(), &mut settings);
    }
    let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
    set("model.precision", header.model.precision.clone());
    set("model.kv_precision", header.model.kv_precision.clone());
    set("workload.seed", header.workload.seed.to_string());
    set("reference_batch", header.reference_batch.to_string());
    set("gemba.version", header.gemba.version.clone());
    settings
}

fn flatten(name: &str, value: &Value, settings: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (field, value) in fields {
                flatten(&format!("{name}.{field}"), value, settings);
            }
        }
        Value::String(word) => {
            settings.insert(name.to_owned(), word.clone());
        }
        other => {
            settings.insert(name.to_owned(), other.to_string());
        }
    }
}

fn asked(run: &Run) -> Asked {
    let mut asked = Asked::default();
    let mut digest = Sha256::new();
    for request in &run.requests {
        let arrival = &request.arrival;
        asked.requests += 1;
        asked.prompt_tokens += u64::from(arrival.prompt_tokens);
        asked.output_tokens += u64::from(arrival.max_tokens);
        digest.update(arrival.request.0.to_le_bytes());
        digest.update(arrival.prompt_tokens.to_le_bytes());
        digest.update(arrival.max_tokens.to_le_bytes());
        digest.update((arrival.class.len() as u64).to_le_bytes());
        digest.update(arrival.class.as_bytes());
    }
    asked.digest = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let arrivals = || run.requests.iter().map(|request| request.arrival.at);
    if let (Some(first), Some(last)) = (arrivals().min(), arrivals().max()) {
        asked.span_ns = last.saturating_sub(first).0;
    }
    asked
}
