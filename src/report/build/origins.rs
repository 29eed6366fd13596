//! Where each figure of the report comes from, in words.

use super::super::{ChartOrigins, Origin};
use crate::waste::Commodity;

/// What a tile is made of.
pub(super) fn tile(label: &str) -> Origin {
    let device_time = "launches, steps, rows, states; window and devices of run.json";
    let requests = "requests: arrival_ns, first_token_ns, finish_ns, status, output_tokens";
    let (formula, source, account) = match label {
        "Waste" => (
            "device time at level waste ÷ all device time",
            device_time,
            "device_time, every cause whose level is waste",
        ),
        "OIE" => (
            "V ÷ D = availability (R ÷ D) × yield (G ÷ R) × performance (V ÷ G)",
            device_time,
            "device_time less, rung by rung, the causes named in the waterfall; summary.json: oie",
        ),
        "Value" => (
            "(value.prefill + value.decode) ÷ all device time",
            device_time,
            "device_time, level value; summary.json: value_share",
        ),
        "Loading" => (
            "(all device time − no_demand) ÷ all device time",
            "states; window and devices of run.json",
            "device_time, cause no_demand; summary.json: loading",
        ),
        "Cost" => (
            "everything posted × 10⁶ ÷ output tokens of accepted requests",
            "launches, steps, rows, states; price of run.json; requests: output_tokens, status",
            "money, or device_time without a price; summary.json: cost_per_million_tokens",
        ),
        "Accepted" => (
            "output tokens of requests that were delivered and accepted; per second of the window",
            requests,
            "summary.json: requests",
        ),
        "TTFT p99" => (
            "nearest-rank percentile of first token − arrival, over completed requests; goodput \
             is the share of requests within every limit of the promise",
            requests,
            "summary.json: latency_ns, requests.within_slo",
        ),
        "KV use" => (
            "(live + reused) ÷ all KV memory held, over time",
            "memory: class, event, bytes, t_ns",
            "memory, hold.kv_live and hold.kv_reused of all KV causes; summary.json: kv_use",
        ),
        _ => ("", "", ""),
    };
    Origin::new(formula, source, account)
}

/// What a ledger is made of.
pub(in crate::report) fn ledger(commodity: Commodity) -> Origin {
    let (formula, source) = match commodity {
        Commodity::DeviceTime => (
            "what there was: window × devices; booked: each instant to one cause, by ordered rules",
            "run.json: window, devices; launches, steps, rows, states",
        ),
        Commodity::Energy => (
            "by how much the meters' counters rose, or device time × declared power, idle or busy; \
             split by device time and power",
            "power: energy_uj; run.json: energy, meters; launches, states",
        ),
        Commodity::Memory => (
            "what there was: memory of the devices × window; booked: bytes held × time",
            "run.json: devices, window; memory",
        ),
        Commodity::Bytes => (
            "the byte budgets of all launches, by class, and the bytes of all copies",
            "launches: weight_bytes, kv_bytes, activation_bytes, excess_bytes; copies: bytes",
        ),
        Commodity::Rows => (
            "the rows of all steps, each to the fate of its token",
            "steps: rows_*; rows: rows, fate",
        ),
        Commodity::Money => {
            ("device time × price, cause by cause", "run.json: price; the ledger of device time")
        }
        Commodity::RequestTime => (
            "∫ number in the system dt = sum of lead times",
            "requests: arrival_ns, finish_ns; rows, steps",
        ),
    };
    Origin::new(formula, source, &format!("{}, unit {}", commodity.code(), commodity.unit()))
}

/// What a step of the waterfall is made of.
pub(super) fn waterfall(label: &str, is_sum: bool) -> Origin {
    let formula = match label {
        "All device time" => "T0 = window × devices",
        "Demanded" => "D = T0 − no_demand",
        "Running" => {
            "R = D − slo_headroom, upstream, batch_fill, capacity, changeover, fault_recovery"
        }
        "Good" => "G = R − overproduction, observed overprocessing, defects",
        "Effective" => {
            "V = G − host, launch_gap, peer, throttle, kernel_slack, excess_bytes, underfilled \
             (waste)"
        }
        "Value" => "value.prefill + value.decode",
        _ => "the difference of the sums above and below",
    };
    let account = if is_sum { "device_time, what the losses above leave" } else { "device_time" };
    Origin::new(formula, "launches, steps, rows, states; run.json", account)
}

/// What a latency is made of.
pub(in crate::report) fn latency(name: &str) -> Origin {
    let (formula, source) = match name {
        "TTFT" => ("first_token_ns − arrival_ns", "requests"),
        "TPOT" => ("(finish_ns − first_token_ns) ÷ (output_tokens − 1)", "requests"),
        "ITL" => ("gaps between the steps that gave tokens to a request", "rows, steps"),
        "E2E" => ("finish_ns − arrival_ns", "requests"),
        _ => ("first_scheduled_ns − arrival_ns", "requests"),
    };
    let formula = format!("{formula}; percentiles by nearest rank, of completed requests");
    Origin::new(&formula, source, &format!("summary.json: latency_ns.{}", name.to_lowercase()))
}

/// What the charts are made of.
pub(super) fn charts() -> ChartOrigins {
    let walk = "launches, steps, rows, states";
    ChartOrigins {
        icicle: Origin::new(
            "postings of device time, summed by muda, cause, kernel and request",
            walk,
            "device_time, every account",
        ),
        course: Origin::new(
            "postings of device time, each in the slice of the window in which the device turned \
             to its step",
            walk,
            "device_time by cause; the slices of a cause sum to its account",
        ),
        yamazumi: Origin::new(
            "postings of device time ÷ accepted tokens; a step is prefill, decode or mixed by its \
             rows; takt = span of arrivals ÷ tokens asked for",
            "launches, steps: rows_prefill, rows_decode, …; requests: arrival_ns, max_tokens",
            "device_time by device, kernel and step",
        ),
        value_streams: Origin::new(
            "request time of a class ÷ its requests; in the system = request time ÷ window \
             (Little)",
            "requests, rows, steps",
            "request_time by request and cause",
        ),
        requests: Origin::new(
            "device time that a request's rows paid for; its lead time by cause",
            "requests, rows, launches",
            "device_time and request_time by request",
        ),
        kernels: Origin::new(
            "sums over launches; floor = the larger of bytes ÷ measured bandwidth and operations \
             ÷ measured rate; intensity = operations ÷ bytes",
            "launches; run.json: devices[].ceilings",
            "device_time by kernel",
        ),
        memory: Origin::new(
            "bytes held by class, at evenly spaced moments",
            "memory: t_ns, class, event, bytes",
            "memory; the ledger sums the same over time",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_says_where_it_comes_from() {
        let tiles = ["Waste", "OIE", "Value", "Loading", "Cost", "Accepted", "TTFT p99", "KV use"];
        let latencies = ["TTFT", "TPOT", "ITL", "E2E", "Queue"];
        let origins = tiles
            .map(tile)
            .into_iter()
            .chain(Commodity::ALL.map(ledger))
            .chain(latencies.map(latency))
            .chain(["All device time", "Yield loss"].map(|label| waterfall(label, false)));
        for origin in origins {
            for text in [&origin.formula, &origin.source, &origin.account] {
                assert!(!text.is_empty(), "{origin:?}");
            }
        }
    }
}
