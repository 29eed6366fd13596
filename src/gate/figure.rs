//! The figures that can be gated or are reported: name, direction, how they are drawn.

use super::evidence::Evidence;
use crate::report::CauseJson;
use crate::stat::Summary;

/// Device time that is not serving: nothing asked for, nothing admitted, not ready, broken, or
/// spent on measuring.
const NOT_SERVING: [&str; 8] = [
    "no_demand",
    "slo_headroom",
    "upstream",
    "batch_fill",
    "capacity",
    "changeover",
    "fault_recovery",
    "observer",
];

/// A figure of a run.
#[derive(Debug)]
pub struct Figure {
    /// Its stable name.
    pub name: &'static str,
    /// The unit of its values.
    pub unit: &'static str,
    /// Whether more of it is better.
    pub higher_is_better: bool,
    draw: fn(&Evidence) -> Option<f64>,
}

const fn lower(
    name: &'static str,
    unit: &'static str,
    draw: fn(&Evidence) -> Option<f64>,
) -> Figure {
    Figure { name, unit, higher_is_better: false, draw }
}

const fn higher(name: &'static str, draw: fn(&Evidence) -> Option<f64>) -> Figure {
    Figure { name, unit: "share", higher_is_better: true, draw }
}

/// Every figure, in the order of reports.
pub const FIGURES: &[Figure] = &[
    lower("service_time_per_token", "ns", service_time),
    lower("waste_time_per_token", "ns", |run| waste(run, "device_time")),
    lower("energy_per_token", "uJ", |run| cost(run, "energy")),
    lower("cost_per_token", "picodollars", |run| cost(run, "money")),
    higher("oie", |run| run.summary.oie),
    higher("goodput", goodput),
    lower("ttft_p50", "ns", |run| latency(run, "ttft", |summary| summary.p50)),
    lower("ttft_p99", "ns", |run| latency(run, "ttft", |summary| summary.p99)),
    lower("tpot_p50", "ns", |run| latency(run, "tpot", |summary| summary.p50)),
    lower("tpot_p99", "ns", |run| latency(run, "tpot", |summary| summary.p99)),
    lower("itl_p50", "ns", |run| latency(run, "itl", |summary| summary.p50)),
    lower("itl_p99", "ns", |run| latency(run, "itl", |summary| summary.p99)),
    lower("e2e_p50", "ns", |run| latency(run, "e2e", |summary| summary.p50)),
    lower("e2e_p99", "ns", |run| latency(run, "e2e", |summary| summary.p99)),
];

impl Figure {
    /// The figure of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        FIGURES.iter().find(|figure| figure.name == name)
    }

    /// Its value in a run; `None` where the run has none, or none that a ratio could be made of.
    #[must_use]
    pub fn of(&self, run: &Evidence) -> Option<f64> {
        (self.draw)(run).filter(|value| value.is_finite() && *value > 0.0)
    }

    /// By how much the candidate is worse, as the logarithm of a ratio.
    pub(super) fn worse(&self, baseline: &Evidence, candidate: &Evidence) -> Option<f64> {
        let ratio = (self.of(candidate)? / self.of(baseline)?).ln();
        Some(if self.higher_is_better { -ratio } else { ratio })
    }
}

fn per_token(run: &Evidence, amount: f64) -> Option<f64> {
    let tokens = run.summary.requests.accepted_tokens;
    (tokens > 0).then(|| amount / tokens as f64)
}

fn service_time(run: &Evidence) -> Option<f64> {
    let serving = |cause: &&CauseJson| {
        cause.commodity == "device_time" && !NOT_SERVING.contains(&cause.cause)
    };
    let amount: u128 = run.ledger.causes.iter().filter(serving).map(|cause| cause.amount).sum();
    per_token(run, amount as f64)
}

fn waste(run: &Evidence, commodity: &str) -> Option<f64> {
    run.summary.waste_per_million_tokens.get(commodity).map(|amount| amount / 1e6)
}

fn cost(run: &Evidence, commodity: &str) -> Option<f64> {
    run.summary.cost_per_million_tokens.get(commodity).map(|amount| amount / 1e6)
}

fn goodput(run: &Evidence) -> Option<f64> {
    let counts = run.summary.requests;
    (counts.total > 0).then(|| counts.within_slo as f64 / counts.total as f64)
}

fn latency(run: &Evidence, name: &str, of: fn(&Summary) -> f64) -> Option<f64> {
    run.summary.latency_ns.get(name).map(of)
}
