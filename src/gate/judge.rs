//! All questions at one look.

use super::evidence::Evidence;
use super::figure::FIGURES;
use super::invariant::{Counted, counters, invariants};
use super::policy::{Budget, Policy};
use super::reported::reported;
use super::self_test::{SelfTest, humbled};
use super::timing::{Level, bounds, percent};
use super::verdict::{Check, GateReport, Kind, Side, Verdict};
use crate::stat::{Look, Sample};

/// The schema of what [`judge`] gives.
const SCHEMA: &str = "gemba.gate-report/1";

/// One look at the pairs that are there.
#[derive(Clone, Debug)]
pub struct Round {
    /// Which look.
    pub look: Look,
    /// How many were planned.
    pub looks: usize,
    /// Pairs after which the gate gives up.
    pub pairs_max: usize,
    /// Where the baseline comes from.
    pub baseline: String,
    /// Where the candidate comes from.
    pub candidate: String,
    /// The baseline against itself.
    pub self_test: Option<SelfTest>,
    /// What the reader must know beside what is found here.
    pub cautions: Vec<String>,
}

/// Answers every question of the policy. `baseline` and `candidate` are in pairs; what is left
/// over is judged for its invariants only.
#[must_use]
pub fn judge(
    policy: &Policy,
    round: &Round,
    baseline: &[Evidence],
    candidate: &[Evidence],
) -> GateReport {
    let pairs = baseline.len().min(candidate.len());
    let (before, after) = (&baseline[..pairs], &candidate[..pairs]);
    let mut checks = invariants(policy, baseline, candidate);
    let Counted { checks: counted, loose } = counters(policy, baseline, candidate);
    checks.extend(counted);
    checks.extend(quality(policy, round.look, before, after));
    checks.extend(figures(policy, round, before, after));
    checks.extend(policy.budget.iter().map(|limit| budget(policy, round.look, limit, candidate)));
    let mut cautions = round.cautions.clone();
    if !loose.is_empty() {
        cautions.push(format!(
            "{} differ among the runs of one side: they are not deterministic in this workload, \
             and are only reported.",
            loose.join(", ")
        ));
    }
    if let Some(test) = &round.self_test {
        cautions.extend(test.cautions(policy));
    }
    GateReport {
        schema: SCHEMA,
        verdict: checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Pass),
        pairs,
        pairs_max: round.pairs_max,
        look: round.look.number,
        looks: round.looks,
        baseline: side(&round.baseline, baseline),
        candidate: side(&round.candidate, candidate),
        self_test: round.self_test.clone(),
        checks,
        reported: reported(policy, &loose, before, after, round.looks),
        cautions,
        method: method(policy, round, pairs),
        candidate_figures: candidate_figures(candidate),
    }
}

fn side(source: &str, runs: &[Evidence]) -> Side {
    let first = runs.first();
    let text = |of: fn(&Evidence) -> &String| first.map(of).cloned().unwrap_or_default();
    Side {
        source: source.to_owned(),
        runs: runs.len(),
        model: text(|run| &run.model.name),
        workload: text(|run| &run.workload.name),
        machine: text(|run| &run.machine),
    }
}

fn figures(policy: &Policy, round: &Round, before: &[Evidence], after: &[Evidence]) -> Vec<Check> {
    let level = Level::of_figure(policy, round.look);
    let one = |(figure, margin): (&super::Figure, f64)| {
        let pairs = before.iter().zip(after);
        let values: Option<Vec<f64>> = pairs.map(|(a, b)| figure.worse(a, b)).collect();
        let Some(values) = values else {
            let says = "a run of the candidate has no such figure".to_owned();
            return Check::plain(Kind::Figure, figure.name, Verdict::Inconclusive, says);
        };
        let limit = f64::ln_1p(margin);
        let mut check = judged(policy, level, Kind::Figure, figure.name, &values, limit);
        check.found = check.found.map(super::Interval::shares);
        check.limit = Some(margin);
        check.verdict = humbled(check.verdict, round.self_test.as_ref());
        if let Some(found) = check.found {
            check.says = format!("{}, margin {}", bounds(found), percent(margin));
        }
        check
    };
    policy.gated().map(one).collect()
}

/// Values against a limit, where there are enough of them.
fn judged(
    policy: &Policy,
    level: Level,
    kind: Kind,
    name: &str,
    values: &[f64],
    limit: f64,
) -> Check {
    let statistics = policy.statistics;
    if values.len() < statistics.pairs_min {
        let says = format!(
            "{} pairs, and at least {} are needed to tell",
            values.len(),
            statistics.pairs_min
        );
        return Check::plain(kind, name, Verdict::Inconclusive, says);
    }
    // What is lost in quality is lost in few runs; leaving those out would hide it.
    let trim = if kind == Kind::Quality { 0.0 } else { statistics.trim };
    let (verdict, found) = level.judge(values, limit, trim);
    let says = found.map_or_else(|| "no interval can be drawn".to_owned(), bounds);
    Check { kind, name: name.to_owned(), verdict, says, limit: Some(limit), found }
}

/// Whether as much was accepted: of the requests that came, and of the tokens they asked for.
fn quality(policy: &Policy, look: Look, before: &[Evidence], after: &[Evidence]) -> Vec<Check> {
    let level = Level::of_quality(policy, look);
    let margin = policy.quality.margin;
    let requests = |run: &Evidence| share(run.summary.requests.completed, run.asked.requests);
    let tokens =
        |run: &Evidence| share(run.summary.requests.accepted_tokens, run.asked.output_tokens);
    let one = |name: &str, of: &dyn Fn(&Evidence) -> f64| {
        let lost: Vec<f64> = before.iter().zip(after).map(|(a, b)| of(a) - of(b)).collect();
        if lost.iter().all(|lost| *lost == 0.0) {
            let says = format!("the same in all {} pairs", lost.len());
            return Check::plain(Kind::Quality, name, Verdict::Pass, says);
        }
        let mut check = judged(policy, level, Kind::Quality, name, &lost, margin);
        if let Some(found) = check.found {
            check.says = format!("lost {}, margin {}", bounds(found), percent(margin));
        }
        check
    };
    vec![one("accepted_requests", &requests), one("accepted_tokens", &tokens)]
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn budget(policy: &Policy, look: Look, limit: &Budget, candidate: &[Evidence]) -> Check {
    let Budget { commodity, cause, share_max } = limit;
    let name = format!("{commodity}.{cause}");
    let share =
        |run: &Evidence| Some(run.amount(commodity, cause) as f64 / run.total(commodity)? as f64);
    let shares: Option<Vec<f64>> = candidate.iter().map(share).collect();
    let Some(shares) = shares else {
        let says = format!("a run of the candidate has no {commodity} ledger");
        return Check::plain(Kind::Budget, &name, Verdict::Inconclusive, says);
    };
    let most = shares.iter().copied().fold(0.0, f64::max);
    let all = || format!("at most {} in any run, budget {}", percent(most), percent(*share_max));
    let mut check = if most == 0.0 {
        Check::plain(Kind::Budget, &name, Verdict::Pass, "nothing was booked to it".to_owned())
    } else if limit.counted() {
        let kept = most <= *share_max;
        let verdict = if kept { Verdict::Pass } else { Verdict::Regression };
        Check::plain(Kind::Budget, &name, verdict, all())
    } else {
        let level = Level::of_figure(policy, look);
        let mut check = judged(policy, level, Kind::Budget, &name, &shares, *share_max);
        if let Some(found) = check.found {
            check.says = format!("{}, budget {}", bounds(found), percent(*share_max));
        }
        check
    };
    check.limit = Some(*share_max);
    check
}

fn method(policy: &Policy, round: &Round, pairs: usize) -> Vec<String> {
    let statistics = policy.statistics;
    let questions = Level::of_figure(policy, round.look);
    vec![
        format!(
            "Figures: t interval on the logarithms of the ratios of {pairs} pairs, the {} most \
             extreme on either side left out of the mean (Tukey and McLaughlin). Wholly below \
             the margin is a pass, wholly above it a regression.",
            (statistics.trim * pairs as f64) as usize,
        ),
        format!(
            "A false alarm has a chance of at most {} for figures and budgets together and {} \
             for quality; a false pass of at most {}. Look {} of {} spends its part by linear \
             spending: {} and {} of a figure.",
            percent(statistics.false_alarm),
            percent(policy.quality.false_alarm),
            percent(statistics.false_pass),
            round.look.number,
            round.looks,
            percent(questions.alarm),
            percent(questions.pass),
        ),
        "All other differences are corrected by Holm for their number and decide nothing."
            .to_owned(),
    ]
}

fn candidate_figures(candidate: &[Evidence]) -> Vec<(String, [f64; 3])> {
    let one = |figure: &super::Figure| {
        let values: Vec<f64> = candidate.iter().filter_map(|run| figure.of(run)).collect();
        let summary = Sample::new(values).summary()?;
        Some((figure.name.to_owned(), [summary.p50, summary.min, summary.max]))
    };
    FIGURES.iter().filter_map(one).collect()
}
