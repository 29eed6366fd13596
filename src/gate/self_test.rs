//! The baseline against itself: is the machine steady, and what could the gate see on it?

use serde::Serialize;

use super::evidence::Evidence;
use super::policy::Policy;
use super::timing::{Level, percent};
use super::verdict::{Interval, Verdict};
use crate::stat::{Location, Look, Looks};

/// The chance with which the smallest detectable slowdown is seen.
const POWER: f64 = 0.95;
/// Fewer pairs of the baseline with itself tell nothing of its spread.
const PAIRS_LEAST: usize = 3;

/// The baseline against itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelfTest {
    /// Pairs of the baseline with itself.
    pub pairs: usize,
    /// Each gated figure.
    pub figures: Vec<SelfTestFigure>,
}

/// A gated figure of the baseline against itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelfTestFigure {
    /// Its name.
    pub name: &'static str,
    /// The difference of the baseline with itself.
    pub found: Interval,
    /// The smallest slowdown that is called a regression with a probability of 95 % once all
    /// pairs of the policy are there, as a share.
    pub detectable: f64,
    /// Whether the baseline was told from itself by no more than the margin.
    pub steady: bool,
}

impl SelfTest {
    /// Whether every figure was steady.
    #[must_use]
    pub fn steady(&self) -> bool {
        self.figures.iter().all(|figure| figure.steady)
    }

    /// What the reader must know of it.
    pub(super) fn cautions(&self, policy: &Policy) -> Vec<String> {
        let mut cautions = Vec::new();
        for (figure, (_, margin)) in self.figures.iter().zip(policy.gated()) {
            let name = figure.name;
            if !figure.steady {
                cautions.push(format!(
                    "The baseline differs from itself in {name} by more than the margin: this \
                     machine is not steady enough, and no regression of a figure is called."
                ));
            } else if figure.detectable > 4.0 * margin {
                cautions.push(format!(
                    "This machine is so uneven that {} pairs show a slowdown in {name} only from \
                     {} on: expect no decision near the margin of {}. Longer runs help most.",
                    policy.statistics.pairs_max,
                    percent(figure.detectable),
                    percent(margin),
                ));
            }
        }
        cautions
    }
}

/// Compares the baseline with itself; `first` and `second` are its runs in pairs.
#[must_use]
pub fn self_test(policy: &Policy, first: &[Evidence], second: &[Evidence]) -> Option<SelfTest> {
    let statistics = policy.statistics;
    let pairs = first.len().min(second.len());
    let once = Looks::once(pairs).iter().next()?;
    let last = policy.looks().iter().last()?;
    let mut figures = Vec::new();
    for (figure, margin) in policy.gated() {
        let values: Option<Vec<f64>> =
            first.iter().zip(second).map(|(a, b)| figure.worse(a, b)).collect();
        let location = Location::trimmed(&values?, statistics.trim)?;
        figures.push(judged(policy, figure.name, location, margin, [once, last]));
    }
    Some(SelfTest { pairs, figures })
}

fn judged(
    policy: &Policy,
    name: &'static str,
    location: Location,
    margin: f64,
    [once, last]: [Look; 2],
) -> SelfTestFigure {
    let limit = margin.ln_1p();
    let level = Level::of_figure(policy, once);
    let (lower, upper) = (location.lower(level.alarm), location.upper(level.alarm));
    let alarm = Level::of_figure(policy, last).alarm;
    let beyond = location.detectable(policy.statistics.pairs_max, alarm, 1.0 - POWER);
    SelfTestFigure {
        name,
        found: Interval { estimate: location.mean, lower, upper }.shares(),
        detectable: (limit + beyond).exp_m1(),
        steady: lower <= limit && upper >= -limit,
    }
}

/// The same from runs that are there already: each of the baseline with its neighbour. `None`
/// where there are too few.
#[must_use]
pub fn from_neighbours(policy: &Policy, baseline: &[Evidence]) -> Option<SelfTest> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (number, pair) in baseline.chunks_exact(2).enumerate() {
        // In turns, as pairs of baseline and candidate are run.
        let (a, b) = if number % 2 == 0 { (0, 1) } else { (1, 0) };
        first.push(pair[a].clone());
        second.push(pair[b].clone());
    }
    if first.len() < PAIRS_LEAST { None } else { self_test(policy, &first, &second) }
}

/// What an unsteady machine leaves of an answer.
pub(super) fn humbled(verdict: Verdict, test: Option<&SelfTest>) -> Verdict {
    match verdict {
        Verdict::Regression if test.is_some_and(|test| !test.steady()) => Verdict::Inconclusive,
        other => other,
    }
}
