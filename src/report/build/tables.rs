//! Latencies, value streams, requests, kernels.

use std::collections::BTreeMap;

use super::super::{KernelRow, LatencyRow, Part, RequestRow, RequestsRest, ValueStream};
use super::{Findings, ledgers, origins};
use crate::stat::Summary;
use crate::unit::{Scale, Share, grouped, si_count, si_nanos};
use crate::waste::{Cause, Commodity, KernelTotals, Latency, Level, RequestLine};

/// The report shows this many of the dearest requests, and all others together.
const REQUESTS_SHOWN: usize = 200;

/// The report shows this many classes, and all others together.
const CLASSES_SHOWN: usize = 12;

pub(in crate::report) fn latencies(latency: &Latency) -> Vec<LatencyRow> {
    let row = |name, definition, summary: Option<Summary>| {
        let show = |x: f64| Scale::nanos(x).show(x);
        let figures = summary.map_or_else(
            || std::array::from_fn(|_| "–".to_owned()),
            |s| [s.p50, s.p90, s.p99, s.mean, s.max].map(show),
        );
        let count = grouped(summary.map_or(0, |s| s.count).into());
        LatencyRow { name, definition, figures, count, origin: origins::latency(name) }
    };
    vec![
        row("TTFT", "arrival to first token", latency.ttft),
        row("TPOT", "time per output token after the first", latency.tpot),
        row("ITL", "gaps between tokens", latency.itl),
        row("E2E", "arrival to end", latency.e2e),
        row("Queue", "arrival to first step", latency.queue),
    ]
}

/// The place of a cause in the stream of a request.
const fn stage(cause: Cause) -> u8 {
    match cause {
        Cause::Queue => 0,
        Cause::Host => 1,
        Cause::ValuePrefill => 2,
        Cause::Interference => 3,
        Cause::ValueDecode => 4,
        _ => 5,
    }
}

fn parts(time: &[(Cause, u128)], whole: u128, count: u128) -> Vec<Part> {
    let mut time: Vec<_> = time.to_vec();
    time.sort_by_key(|(cause, _)| (stage(*cause), *cause));
    let part = |(cause, nanos): (Cause, u128)| {
        let share = Share::new(nanos as i128, whole as i128);
        Part {
            label: cause.code().to_owned(),
            level: cause.entry().level.code(),
            share: share.fraction().unwrap_or(0.0),
            text: ledgers::amount(Commodity::RequestTime, nanos / count.max(1)),
            percent: share.to_string(),
        }
    };
    time.into_iter().map(part).collect()
}

/// Requests, their time in the system, and where it went.
#[derive(Default)]
struct Stay {
    requests: u64,
    nanos: u128,
    time: BTreeMap<Cause, u128>,
}

impl Stay {
    fn add(&mut self, time: impl IntoIterator<Item = (Cause, u128)>) {
        for (cause, nanos) in time {
            self.nanos += nanos;
            *self.time.entry(cause).or_default() += nanos;
        }
    }

    /// The mean lead time, as text.
    fn lead(&self) -> String {
        ledgers::amount(Commodity::RequestTime, self.nanos / u128::from(self.requests.max(1)))
    }

    /// The mean number of requests in each part, in the order of the parts: Little's law again.
    fn stages_in_process(&self, window: f64) -> Vec<String> {
        let mut stages: Vec<(Cause, u128)> = self.time.iter().map(|(c, n)| (*c, *n)).collect();
        stages.sort_by_key(|(cause, _)| (stage(*cause), *cause));
        stages.into_iter().map(|(_, nanos)| format!("{:.2}", nanos as f64 / window)).collect()
    }

    /// The share of the time that is value.
    fn value_added(&self) -> String {
        let is_value = |cause: &Cause| cause.entry().level == Level::Value;
        let value: u128 = self.time.iter().filter(|(c, _)| is_value(c)).map(|(_, n)| n).sum();
        Share::new(value as i128, self.nanos as i128).to_string()
    }

    /// The parts of the mean lead time.
    fn parts(&self) -> Vec<Part> {
        let time: Vec<(Cause, u128)> = self.time.iter().map(|(c, nanos)| (*c, *nanos)).collect();
        parts(&time, self.nanos, self.requests.into())
    }
}

/// The average request of each class, in the order of the stream. Of many classes those that
/// spent most time in the system have a stream of their own, the others one together.
pub(in crate::report) fn value_streams(findings: &Findings<'_>) -> Vec<ValueStream> {
    let mut classes: BTreeMap<&str, Stay> = BTreeMap::new();
    for request in findings.requests {
        let class = classes.entry(&request.class).or_default();
        class.requests += 1;
        class.add(request.time.iter().copied());
    }
    let mut classes: Vec<(&str, Stay)> = classes.into_iter().collect();
    let mut small = Vec::new();
    if classes.len() > CLASSES_SHOWN {
        classes.sort_by_key(|(class, stay)| (std::cmp::Reverse(stay.nanos), *class));
        small = classes.split_off(CLASSES_SHOWN - 1);
        classes.sort_by_key(|(class, _)| *class);
    }
    let window = findings.window_nanos.max(1) as f64;
    let stream = |class: String, stay: &Stay| ValueStream {
        class,
        requests: stay.requests,
        lead: stay.lead(),
        // Little's law: the integral of their number over the window, per time.
        work_in_process: format!("{:.2}", stay.nanos as f64 / window),
        parts: stay.parts(),
        stages_in_process: stay.stages_in_process(window),
        value_added: stay.value_added(),
    };
    let named = |class: &str| if class.is_empty() { "all" } else { class }.to_owned();
    let mut streams: Vec<ValueStream> =
        classes.iter().map(|(class, stay)| stream(named(class), stay)).collect();
    if !small.is_empty() {
        let mut rest = Stay::default();
        for (_, stay) in &small {
            rest.requests += stay.requests;
            rest.add(stay.time.iter().map(|(cause, nanos)| (*cause, *nanos)));
        }
        streams.push(stream(format!("{} more classes", small.len()), &rest));
    }
    streams
}

/// Requests by what they paid, dearest first.
fn dearest(lines: &[RequestLine]) -> Vec<&RequestLine> {
    let mut dearest: Vec<&RequestLine> = lines.iter().collect();
    dearest.sort_by_key(|l| (std::cmp::Reverse(l.paid.iter().sum::<u128>()), l.request));
    dearest
}

/// The requests that paid most.
pub(in crate::report) fn requests(lines: &[RequestLine]) -> Vec<RequestRow> {
    dearest(lines).into_iter().take(REQUESTS_SHOWN).map(request).collect()
}

/// Those that [`requests`] leaves, together; none where it leaves none.
pub(in crate::report) fn requests_rest(lines: &[RequestLine]) -> Option<RequestsRest> {
    let rest = dearest(lines).split_off(REQUESTS_SHOWN.min(lines.len()));
    if rest.is_empty() {
        return None;
    }
    let mut stay = Stay::default();
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut tokens = [0; 3];
    let mut paid = 0;
    for line in &rest {
        stay.requests += 1;
        stay.add(line.time.iter().copied());
        *outcomes.entry(line.outcome.map_or("open", |outcome| outcome.code())).or_default() += 1;
        for (sum, more) in
            tokens.iter_mut().zip([line.prompt_tokens, line.cached_tokens, line.output_tokens])
        {
            *sum += u64::from(more);
        }
        paid += line.paid.iter().sum::<u128>();
    }
    let mut outcomes: Vec<(&str, u64)> = outcomes.into_iter().collect();
    outcomes.sort_by_key(|(word, count)| (std::cmp::Reverse(*count), *word));
    let said: Vec<String> = outcomes
        .into_iter()
        .map(|(word, count)| format!("{} {word}", grouped(count.into())))
        .collect();
    Some(RequestsRest {
        count: stay.requests,
        tokens,
        outcomes: said.join(", "),
        lead: stay.lead(),
        paid: ledgers::amount(Commodity::DeviceTime, paid),
        parts: stay.parts(),
    })
}

/// One request.
pub(in crate::report) fn request(line: &RequestLine) -> RequestRow {
    let paid: u128 = line.paid.iter().sum();
    let whole: u128 = line.time.iter().map(|(_, nanos)| nanos).sum();
    RequestRow {
        request: line.request,
        class: line.class.clone(),
        outcome: line.outcome.map_or("open", |outcome| outcome.code()).to_owned(),
        tokens: [line.prompt_tokens.into(), line.cached_tokens.into(), line.output_tokens.into()],
        lead: si_nanos(line.lead),
        ttft: line.to_first_token.map_or_else(|| "–".to_owned(), si_nanos),
        paid: ledgers::amount(Commodity::DeviceTime, paid),
        paid_nanos: paid as f64,
        parts: parts(&line.time, whole, 1),
    }
}

pub(in crate::report) fn kernels(totals: &[KernelTotals]) -> Vec<KernelRow> {
    let all: u128 = totals.iter().map(|kernel| kernel.nanos).sum();
    let mut rows: Vec<KernelRow> = totals.iter().map(|totals| kernel(totals, all)).collect();
    rows.sort_by(|a, b| b.nanos.total_cmp(&a.nanos).then_with(|| a.name.cmp(&b.name)));
    rows
}

fn kernel(totals: &KernelTotals, all: u128) -> KernelRow {
    let bytes =
        totals.weight_bytes + totals.kv_bytes + totals.activation_bytes + totals.excess_bytes;
    let nanos = totals.nanos as f64;
    let per_s = |amount: u128| if nanos > 0.0 { amount as f64 * 1e9 / nanos } else { 0.0 };
    let share = Share::new(totals.nanos as i128, all as i128);
    let of_floor = Share::new(totals.floor_nanos as i128, totals.nanos as i128);
    let (bytes_per_s, ops_per_s) = (per_s(bytes), per_s(totals.ops));
    let intensity = if bytes > 0 { totals.ops as f64 / bytes as f64 } else { 0.0 };
    let memory_bound = totals.compute_nanos < totals.floor_nanos;
    KernelRow {
        name: totals.name.clone(),
        launches: totals.launches,
        nanos,
        text: ledgers::amount(Commodity::DeviceTime, totals.nanos),
        share: share.fraction().unwrap_or(0.0),
        of_floor: of_floor.fraction().unwrap_or(0.0),
        bytes_per_s,
        ops_per_s,
        intensity,
        bound: if memory_bound { "memory" } else { "compute" },
        texts: [
            grouped(totals.launches.into()),
            share.to_string(),
            of_floor.to_string(),
            format!("{}/s", Scale::bytes(bytes_per_s).show(bytes_per_s)),
            format!("{}op/s", si_count(ops_per_s)),
            format!("{intensity:.2}"),
        ],
    }
}
