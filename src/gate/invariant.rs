//! What must hold exactly, and the counters that must be the same.

use std::collections::BTreeMap;

use super::evidence::{Asked, Evidence};
use super::policy::{COUNTERS, Policy};
use super::timing::percent;
use super::verdict::{Check, Kind, UNATTRIBUTED, Verdict};
use crate::stat::Sample;

/// Requests come in real time; their span may differ by what the clock's grain and a late
/// wake-up make of it.
const SPAN_TOLERANCE: f64 = 0.01;

/// What must hold exactly.
pub(super) fn invariants(
    policy: &Policy,
    baseline: &[Evidence],
    candidate: &[Evidence],
) -> Vec<Check> {
    let all = || baseline.iter().chain(candidate);
    let first = baseline.first().map(|run| &run.asked);
    let unequal: Vec<String> = all()
        .filter_map(|run| Some(format!("{}: {}", run.run, unequal(first?, &run.asked)?)))
        .collect();
    let open: Vec<String> = candidate
        .iter()
        .filter(|run| !run.ledger.balanced)
        .map(|run| format!("{} has a residual", run.run))
        .collect();
    let limit = policy.unattributed_share;
    let failed: Vec<String> = candidate
        .iter()
        .filter(|run| run.summary.status == "failed")
        .map(|run| format!("{} failed", run.run))
        .collect();
    vec![
        check("run_completed", "every run ended by itself", &failed),
        check("books_closed", "every ledger closes to zero", &open),
        unattributed(limit, candidate),
        check("same_work", "every run was asked for the same", &unequal),
    ]
}

fn check(name: &str, holds: &str, broken: &[String]) -> Check {
    let verdict = if broken.is_empty() { Verdict::Pass } else { Verdict::Regression };
    let says = match broken {
        [] => holds.to_owned(),
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first}; and {} more", rest.len()),
    };
    Check::plain(Kind::Invariant, name, verdict, says)
}

/// What no rule could explain, in the middle run: it is measured, and a single run in which the
/// machine stumbled is no broken rule.
fn unattributed(limit: f64, runs: &[Evidence]) -> Check {
    let mut shares: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for ledger in runs.iter().flat_map(|run| &run.ledger.commodities) {
        shares.entry(ledger.name).or_default().push(ledger.unattributed_share);
    }
    let beyond: Vec<String> = shares
        .into_iter()
        .filter_map(|(name, shares)| Some((name, Sample::new(shares).percentile(50.0)?)))
        .filter(|(_, middle)| *middle > limit)
        .map(|(name, middle)| format!("{} of {name} is unattributed", percent(middle)))
        .collect();
    check(UNATTRIBUTED, &format!("at most {} of any ledger", percent(limit)), &beyond)
}

/// What two runs were asked for differently, if anything.
fn unequal(first: &Asked, other: &Asked) -> Option<String> {
    let count = |what: &str, expected: u64, found: u64| {
        (expected != found).then(|| format!("{found} {what}, expected {expected}"))
    };
    let span = || {
        let (expected, found) = (first.span_ns as f64, other.span_ns as f64);
        // Spans below a millisecond are all the same: everything came at once.
        let far = (expected - found).abs() > SPAN_TOLERANCE * expected.max(found).max(1e8);
        let seconds = |nanos: f64| nanos / 1e9;
        far.then(|| {
            let (found, expected) = (seconds(found), seconds(expected));
            format!("requests came within {found:.3} s, expected {expected:.3} s")
        })
    };
    count("requests", first.requests, other.requests)
        .or_else(|| count("prompt tokens", first.prompt_tokens, other.prompt_tokens))
        .or_else(|| count("output tokens", first.output_tokens, other.output_tokens))
        .or_else(|| {
            let differ = first.digest != other.digest;
            differ.then(|| "other lengths or classes of single requests".to_owned())
        })
        .or_else(span)
}

/// What came of the counters.
#[derive(Default)]
pub(super) struct Counted {
    /// Those that are deterministic here.
    pub(super) checks: Vec<Check>,
    /// Those that are not: they are only reported.
    pub(super) loose: Vec<&'static str>,
}

/// The counters of the policy. A counter that is the same in every run of the baseline and more
/// in every run of the candidate is a regression. Were the two sides the same and the counter
/// not deterministic, six runs of each would look like that with a chance of at most 1 in 4096.
pub(super) fn counters(policy: &Policy, baseline: &[Evidence], candidate: &[Evidence]) -> Counted {
    let mut counted = Counted::default();
    for (name, tolerance) in &policy.counters {
        let Some(key) = COUNTERS.into_iter().find(|counter| counter == name) else { continue };
        let (before, after) = (span(key, baseline), span(key, candidate));
        let (Some([least, most]), Some([lowest, highest])) = (before, after) else { continue };
        let allowed = |from: u128| from as f64 * (1.0 + tolerance);
        let within = |count: u128| count as f64 <= allowed(most);
        let runs = baseline.len().min(candidate.len());
        let (verdict, says) = if most as f64 > allowed(least) {
            counted.loose.push(key);
            continue;
        } else if within(highest) {
            let less = if highest < least { format!(", {least} before") } else { String::new() };
            (Verdict::Pass, format!("{highest}{less}"))
        } else if runs < policy.statistics.pairs_min {
            let says = format!("{highest}, {most} before; {runs} runs cannot show it is steady");
            (Verdict::Inconclusive, says)
        } else if within(lowest) {
            counted.loose.push(key);
            continue;
        } else {
            let share = percent(lowest as f64 / most.max(1) as f64 - 1.0);
            let tolerated = percent(*tolerance);
            let says = format!("{lowest}, {most} before: {share} more, {tolerated} tolerated");
            (Verdict::Regression, says)
        };
        let mut check = Check::plain(Kind::Counter, name, verdict, says);
        check.limit = Some(*tolerance);
        counted.checks.push(check);
    }
    counted
}

/// The smallest and the largest count of the runs.
fn span(counter: &str, runs: &[Evidence]) -> Option<[u128; 2]> {
    let counts = || runs.iter().filter_map(|run| run.counters.get(counter).copied());
    Some([counts().min()?, counts().max()?])
}
