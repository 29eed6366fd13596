//! What must hold exactly, and the counters that must be the same.

use super::evidence::{Asked, Evidence};
use super::policy::Policy;
use super::timing::percent;
use super::verdict::{Check, Kind, Verdict};

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
    let unknown: Vec<String> = all()
        .flat_map(|run| run.ledger.commodities.iter().map(move |ledger| (run, ledger)))
        .filter(|(_, ledger)| ledger.unattributed_share > limit)
        .map(|(run, ledger)| {
            let share = percent(ledger.unattributed_share);
            format!("{}: {share} of {} is unattributed", run.run, ledger.name)
        })
        .collect();
    let failed: Vec<String> = candidate
        .iter()
        .filter(|run| run.summary.status == "failed")
        .map(|run| format!("{} failed", run.run))
        .collect();
    vec![
        check("run_completed", "every run ended by itself", &failed),
        check("books_closed", "every ledger closes to zero", &open),
        check("unattributed", &format!("at most {} of any ledger", percent(limit)), &unknown),
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

/// The counters of the policy.
pub(super) fn counters(policy: &Policy, baseline: &[Evidence], candidate: &[Evidence]) -> Counted {
    let mut counted = Counted::default();
    for (name, tolerance) in &policy.counters {
        let values = |runs: &[Evidence]| -> Vec<(&'static str, u128)> {
            let of =
                |run: &Evidence| run.counters.get_key_value(name.as_str()).map(|(k, v)| (*k, *v));
            runs.iter().filter_map(of).collect()
        };
        let (before, after) = (values(baseline), values(candidate));
        let Some((key, least)) = before.iter().min_by_key(|(_, value)| *value).copied() else {
            continue;
        };
        let most = before.iter().map(|(_, value)| *value).max().unwrap_or(least);
        let worst = after.iter().map(|(_, value)| *value).max().unwrap_or(0);
        let allowed = |from: u128| from as f64 * (1.0 + tolerance);
        if most as f64 > allowed(least) {
            counted.loose.push(key);
            continue;
        }
        let (verdict, says) = if worst as f64 <= allowed(most) {
            let more = if worst < least { format!(", {least} before") } else { String::new() };
            (Verdict::Pass, format!("{worst}{more}"))
        } else if before.len() < 2 {
            let says = format!("{worst}, {most} before; one run cannot show that it is steady");
            (Verdict::Inconclusive, says)
        } else {
            let share = percent(worst as f64 / most.max(1) as f64 - 1.0);
            let says =
                format!("{worst}, {most} before: {share} more, {} tolerated", percent(*tolerance));
            (Verdict::Regression, says)
        };
        let mut check = Check::plain(Kind::Counter, name, verdict, says);
        check.limit = Some(*tolerance);
        counted.checks.push(check);
    }
    counted
}
