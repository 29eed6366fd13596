//! Bencher Metric Format: the candidate's figures for the history of a benchmark.

use serde_json::{Map, Value, json};

use super::verdict::GateReport;

/// `{"WORKLOAD on MODEL": {"FIGURE": {"value", "lower_value", "upper_value"}}}`: the middle, the
/// smallest and the largest value over the candidate's runs, in the figure's unit.
#[must_use]
pub fn bencher(report: &GateReport) -> Value {
    let measures: Map<String, Value> = report
        .candidate_figures
        .iter()
        .map(|(name, [middle, least, most])| {
            let metric = json!({"value": middle, "lower_value": least, "upper_value": most});
            (name.clone(), metric)
        })
        .collect();
    let side = &report.candidate;
    json!({ format!("{} on {}", side.workload, side.model): measures })
}
