//! What the requests experienced.
//!
//! Definitions, because tools differ: TTFT is arrival to first token. TPOT leaves the first
//! token out: (end − first token) ÷ (output tokens − 1). ITL is every gap between two tokens
//! of a request. End to end is arrival to end, queueing included. All are of completed requests.

use std::collections::HashMap;

use crate::event::{Fate, Finish, Outcome, Request};
use crate::stat::{Sample, Summary};
use crate::trace::{Run, Slo};
use crate::unit::Nanos;

/// Percentiles in nanoseconds; `None` where no request has the figure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Time to the first token.
    pub ttft: Option<Summary>,
    /// Time per output token after the first.
    pub tpot: Option<Summary>,
    /// Gaps between tokens.
    pub itl: Option<Summary>,
    /// Arrival to end.
    pub e2e: Option<Summary>,
    /// Arrival to first step.
    pub queue: Option<Summary>,
}

impl Latency {
    /// Draws the figures from a run.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        let completed: Vec<(&Request, &Finish)> = run
            .requests
            .iter()
            .filter_map(|request| Some((request, request.finish.as_ref()?)))
            .filter(|(_, finish)| finish.outcome == Outcome::Completed)
            .collect();
        let figure = |of: fn(&Request, &Finish) -> Option<f64>| {
            Sample::new(completed.iter().filter_map(|(r, f)| of(r, f)).collect()).summary()
        };
        Self {
            ttft: figure(ttft),
            tpot: figure(tpot),
            itl: gaps(run).summary(),
            e2e: figure(|request, finish| Some(since(request, finish.at))),
            queue: figure(|request, finish| Some(since(request, finish.first_scheduled?))),
        }
    }
}

fn since(request: &Request, at: Nanos) -> f64 {
    at.saturating_sub(request.arrival.at).0 as f64
}

pub(super) fn ttft(request: &Request, finish: &Finish) -> Option<f64> {
    Some(since(request, finish.first_token?))
}

pub(super) fn tpot(_: &Request, finish: &Finish) -> Option<f64> {
    let after_first = finish.output_tokens.checked_sub(1).filter(|tokens| *tokens > 0)?;
    let nanos = finish.at.saturating_sub(finish.first_token?).0 as f64;
    Some(nanos / f64::from(after_first))
}

/// Whether a completed request kept the promise.
pub(super) fn keeps(slo: &Slo, request: &Request, finish: &Finish) -> bool {
    let within = |time: Option<f64>, limit: Option<Nanos>| match (time, limit) {
        (_, None) | (None, _) => true,
        (Some(time), Some(limit)) => time <= limit.0 as f64,
    };
    within(ttft(request, finish), slo.ttft_ns)
        && within(tpot(request, finish), slo.tpot_ns)
        && within(Some(since(request, finish.at)), slo.e2e_ns)
}

/// Gaps between the steps that gave a request its tokens.
fn gaps(run: &Run) -> Sample {
    let ends: HashMap<u64, Nanos> = run.steps.iter().map(|s| (s.step.0, s.end)).collect();
    let mut last: HashMap<u64, Nanos> = HashMap::new();
    let mut gaps = Vec::new();
    for row in &run.rows {
        let gives = row.logits_rows > 0 && row.fate == Fate::Delivered;
        let (Some(request), true) = (row.request, gives) else { continue };
        let Some(end) = ends.get(&row.step.0).copied() else { continue };
        if let Some(before) = last.insert(request.0, end) {
            gaps.push(end.saturating_sub(before).0 as f64);
        }
    }
    Sample::new(gaps)
}
