//! Every name that telemetry uses, with what it means.

use crate::waste::Commodity;

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameKind {
    /// A span.
    Span,
    /// An attribute of spans.
    SpanAttribute,
    /// A metric.
    Metric,
    /// An attribute of metrics.
    MetricAttribute,
}

/// A name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// What it names.
    pub kind: NameKind,
    /// The name.
    pub name: &'static str,
    /// The unit as UCUM spells it; empty where there is none.
    pub unit: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

const fn span(name: &'static str, meaning: &'static str) -> Name {
    Name { kind: NameKind::Span, name, unit: "", meaning }
}

const fn of_span(name: &'static str, unit: &'static str, meaning: &'static str) -> Name {
    Name { kind: NameKind::SpanAttribute, name, unit, meaning }
}

const fn metric(name: &'static str, unit: &'static str, meaning: &'static str) -> Name {
    Name { kind: NameKind::Metric, name, unit, meaning }
}

const fn of_metric(name: &'static str, meaning: &'static str) -> Name {
    Name { kind: NameKind::MetricAttribute, name, unit: "", meaning }
}

/// All names, kind by kind.
pub const NAMES: &[Name] = &[
    span("text_completion MODEL", "a request from arrival to end; kind SERVER, a trace of its own"),
    span("queue", "arrival to the first step that has rows of it"),
    span("prefill", "the first step to the first token"),
    span("decode", "the first token to the end"),
    span("step", "a step that has rows of it, the host's preparation included"),
    of_span("gen_ai.operation.name", "", "`text_completion`"),
    of_span("gen_ai.provider.name", "", "`gemba`"),
    of_span("gen_ai.request.model", "", "the model"),
    of_span("gen_ai.request.max_tokens", "{token}", "the most tokens it may generate"),
    of_span("gen_ai.usage.input_tokens", "{token}", "tokens of its prompt"),
    of_span("gen_ai.usage.output_tokens", "{token}", "tokens delivered"),
    of_span(
        "gen_ai.usage.cache_read.input_tokens",
        "{token}",
        "prompt tokens from the prefix cache when it was first admitted",
    ),
    of_span("error.type", "", "how it failed: malformed, cancelled, timed_out, failed, rejected"),
    of_span("gemba.request.id", "", "its number in the run"),
    of_span("gemba.request.class", "", "the workload's class"),
    of_span("gemba.request.attempt", "", "1 for the first try"),
    of_span("gemba.request.steps_left_out", "{step}", "steps beyond the most that a trace holds"),
    of_span("gemba.step.id", "", "the step's number"),
    of_span("gemba.step.device", "", "the device it ran on"),
    of_span("gemba.step.phase", "", "what the rows were for: prefill, decode, draft, verify"),
    of_span("gemba.step.rows", "{row}", "rows of the request in the step"),
    of_span("gemba.step.rows_all", "{row}", "all rows of the step"),
    of_span("gemba.step.requests", "{request}", "requests in the step"),
    of_span("gemba.step.queued", "{request}", "requests that waited while it ran"),
    of_span("gemba.step.fate", "", "what the engine knew of the rows when the step ended"),
    metric(
        "gen_ai.server.request.duration",
        "s",
        "arrival to end of requests that left; a histogram",
    ),
    metric(
        "gen_ai.server.time_to_first_token",
        "s",
        "arrival to first token of completed requests; a histogram",
    ),
    metric(
        "gen_ai.server.time_per_output_token",
        "s",
        "time per output token after the first, of completed requests; a histogram",
    ),
    metric("gemba.device.time", "s", "device time by cause"),
    metric("gemba.memory.time", "By.s", "device memory held, by cause"),
    metric(
        "gemba.memory.moved",
        "By",
        "bytes moved, in device memory and over the host link, by cause",
    ),
    metric("gemba.rows", "{row}", "token rows launched, by cause"),
    metric("gemba.request.time", "s", "time of requests in the system, by cause"),
    metric(
        "gemba.ledger.residual",
        "1",
        "what there was to account for, less what is booked, in the ledger's unit; anything but \
         0 is a fault",
    ),
    metric("gemba.books.time", "s", "run time up to which the books are kept"),
    metric("gemba.telemetry.dropped", "{span}", "spans that were not sent, so far"),
    of_metric("gen_ai.operation.name", "`text_completion`"),
    of_metric("gen_ai.provider.name", "`gemba`"),
    of_metric("gen_ai.request.model", "the model"),
    of_metric("error.type", "how requests failed; absent for those that did not"),
    of_metric("gemba.cause", "the code of a cause, out of the catalogue"),
    of_metric("gemba.muda", "which of the seven wastes it belongs to, or none"),
    of_metric("gemba.level", "value, necessary or waste"),
    of_metric("gemba.ledger", "the ledger"),
];

/// The metric of a commodity's books, and parts of its unit in one of the books'. Energy and
/// money are not kept while a run goes on.
pub(super) const fn of_commodity(commodity: Commodity) -> Option<(&'static str, f64)> {
    Some(match commodity {
        Commodity::DeviceTime => ("gemba.device.time", 1e9),
        Commodity::Memory => ("gemba.memory.time", 1e9),
        Commodity::Bytes => ("gemba.memory.moved", 1.0),
        Commodity::Rows => ("gemba.rows", 1.0),
        Commodity::RequestTime => ("gemba.request.time", 1e9),
        Commodity::Energy | Commodity::Money => return None,
    })
}

/// The metric of that name.
pub(super) fn metric_named(name: &str) -> Option<&'static Name> {
    NAMES.iter().find(|known| known.kind == NameKind::Metric && known.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_book_has_a_name_that_is_listed() {
        for commodity in Commodity::ALL {
            if let Some((name, _)) = of_commodity(commodity) {
                assert!(metric_named(name).is_some(), "{name}");
            }
        }
        let mut names: Vec<_> = NAMES.iter().map(|name| (name.kind, name.name)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len(), "a name stands twice");
    }
}
