//! Every difference that decides nothing, with a correction for asking so often.

use std::collections::BTreeSet;

use super::evidence::Evidence;
use super::figure::FIGURES;
use super::policy::Policy;
use super::verdict::Reported;
use crate::stat::{Location, Sample, holm};

/// A corrected probability below this is called a difference.
const DIFFERS: f64 = 0.05;

/// A value of each run of both sides.
struct Row {
    name: String,
    unit: &'static str,
    before: Vec<f64>,
    after: Vec<f64>,
}

/// Figures that are not gated, counters that are not deterministic, and every cause.
pub(super) fn reported(
    policy: &Policy,
    loose: &[&'static str],
    baseline: &[Evidence],
    candidate: &[Evidence],
    looks: usize,
) -> Vec<Reported> {
    let mut rows = Vec::new();
    let gated: BTreeSet<&str> = policy.gated().map(|(figure, _)| figure.name).collect();
    for figure in FIGURES.iter().filter(|figure| !gated.contains(figure.name)) {
        let values = |runs: &[Evidence]| runs.iter().map(|run| figure.of(run)).collect();
        let (before, after): (Option<Vec<f64>>, Option<Vec<f64>>) =
            (values(baseline), values(candidate));
        if let (Some(before), Some(after)) = (before, after) {
            rows.push(Row { name: figure.name.to_owned(), unit: figure.unit, before, after });
        }
    }
    for name in loose {
        let value = |run: &Evidence| run.counters.get(name).copied().unwrap_or(0) as f64;
        let (before, after) = sides(baseline, candidate, value);
        rows.push(Row { name: (*name).to_owned(), unit: "count", before, after });
    }
    let causes: BTreeSet<(&str, &str, &'static str)> = baseline
        .iter()
        .chain(candidate)
        .flat_map(|run| {
            run.ledger
                .causes
                .iter()
                .map(|cause| (cause.commodity, cause.cause, unit(run, cause.commodity)))
        })
        .collect();
    for (commodity, cause, unit) in causes {
        let value = |run: &Evidence| run.amount(commodity, cause) as f64;
        let (before, after) = sides(baseline, candidate, value);
        rows.push(Row { name: format!("{commodity}.{cause}"), unit, before, after });
    }
    judged(&rows, policy.statistics.trim, looks)
}

fn unit(run: &Evidence, commodity: &str) -> &'static str {
    let ledger = run.ledger.commodities.iter().find(|ledger| ledger.name == commodity);
    ledger.map_or("", |ledger| ledger.unit)
}

fn sides(
    baseline: &[Evidence],
    candidate: &[Evidence],
    value: impl Fn(&Evidence) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    (baseline.iter().map(&value).collect(), candidate.iter().map(&value).collect())
}

fn judged(rows: &[Row], trim: f64, looks: usize) -> Vec<Reported> {
    let raw: Vec<Option<f64>> = rows.iter().map(|row| p_value(row, trim, looks)).collect();
    let asked: Vec<f64> = raw.iter().flatten().copied().collect();
    let mut corrected = holm(&asked).into_iter();
    rows.iter()
        .zip(raw)
        .map(|(row, raw)| {
            let p_value = raw.and_then(|_| corrected.next());
            let middle = |values: &[f64]| Sample::new(values.to_vec()).percentile(50.0);
            let baseline = middle(&row.before).unwrap_or(0.0);
            let candidate = middle(&row.after).unwrap_or(0.0);
            let whole = baseline > 0.0 && candidate > 0.0;
            Reported {
                name: row.name.clone(),
                unit: row.unit,
                baseline,
                candidate,
                change: whole.then(|| candidate / baseline - 1.0),
                p_value,
                differs: p_value.is_some_and(|p| p < DIFFERS),
            }
        })
        .collect()
}

/// Of the logarithms of the ratios; where a value is zero, of the differences. The chance that
/// the smallest of several looks is this small is at most so many times as large.
fn p_value(row: &Row, trim: f64, looks: usize) -> Option<f64> {
    let pairs = || row.before.iter().zip(&row.after);
    let positive = pairs().all(|(before, after)| *before > 0.0 && *after > 0.0);
    let differences: Vec<f64> = pairs()
        .map(|(before, after)| if positive { (after / before).ln() } else { after - before })
        .collect();
    let p = Location::trimmed(&differences, trim)?.p_value();
    Some((p * looks as f64).min(1.0))
}
