//! A figure of pairs against a limit: pass, regression, or not enough evidence.

use super::policy::Policy;
use super::verdict::{Interval, Verdict};
use crate::stat::{Location, Look};

/// How sure a single answer must be at a single look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The chance that what lies within its limit is called a regression.
    pub alarm: f64,
    /// The chance that what lies beyond its limit passes.
    pub pass: f64,
}

impl Level {
    /// At `look`, of one of the figures and budgets that `policy` gates. The error is shared
    /// among them, so that it holds for the verdict as a whole. That of a false pass is not:
    /// the verdict passes only if every one of them does.
    #[must_use]
    pub fn of_figure(policy: &Policy, look: Look) -> Self {
        let budgets = policy.budget.iter().filter(|budget| !budget.counted()).count();
        let questions = (policy.figure.len() + budgets).max(1) as f64;
        let statistics = policy.statistics;
        Self {
            alarm: statistics.false_alarm * look.share / questions,
            pass: statistics.false_pass * look.share,
        }
    }

    /// At `look`, of one of the two questions of quality.
    #[must_use]
    pub fn of_quality(policy: &Policy, look: Look) -> Self {
        Self {
            alarm: policy.quality.false_alarm * look.share / 2.0,
            pass: policy.statistics.false_pass * look.share,
        }
    }

    /// Where the middle of `values` lies with respect to `limit`: wholly below it is a pass,
    /// wholly above it a regression, anything else undecided.
    #[must_use]
    pub fn judge(&self, values: &[f64], limit: f64, trim: f64) -> (Verdict, Option<Interval>) {
        let Some(location) = Location::trimmed(values, trim) else {
            return (Verdict::Inconclusive, None);
        };
        let found = Interval {
            estimate: location.mean,
            lower: location.lower(self.alarm),
            upper: location.upper(self.pass),
        };
        let verdict = if found.lower > limit {
            Verdict::Regression
        } else if found.upper <= limit {
            Verdict::Pass
        } else {
            Verdict::Inconclusive
        };
        (verdict, Some(found))
    }
}

impl Interval {
    /// From logarithms of ratios to shares.
    pub(super) fn shares(self) -> Self {
        let share = f64::exp_m1;
        let Self { estimate, lower, upper } = self;
        Self { estimate: share(estimate), lower: share(lower), upper: share(upper) }
    }
}

/// A share as it is printed.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let text = format!("{percent:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{} %", if text == "-0" { "0" } else { text })
}

/// A difference as it is printed, with its sign.
pub(super) fn signed(share: f64) -> String {
    format!("{:+.2} %", share * 100.0)
}

/// An estimate with its bounds, as they are printed.
pub(super) fn bounds(found: Interval) -> String {
    let Interval { estimate, lower, upper } = found;
    format!("{} [{}, {}]", signed(estimate), signed(lower), signed(upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVEL: Level = Level { alarm: 0.01, pass: 0.05 };

    #[test]
    fn three_answers() {
        let around =
            |middle: f64| [-0.004, 0.003, -0.001, 0.002, 0.001, -0.001].map(|d| middle + d);
        for (middle, expected) in [
            (0.0, Verdict::Pass),
            (0.015, Verdict::Inconclusive),
            (0.03, Verdict::Regression),
            (-0.2, Verdict::Pass),
        ] {
            assert_eq!(LEVEL.judge(&around(middle), 0.015, 0.2).0, expected, "{middle}");
        }
        assert_eq!(LEVEL.judge(&[0.0], 0.015, 0.2), (Verdict::Inconclusive, None));
        assert_eq!(LEVEL.judge(&[0.0; 6], 0.0, 0.2).0, Verdict::Pass);
    }

    #[test]
    fn the_error_is_shared_and_spent() {
        let mut policy = Policy::default();
        let whole = |policy: &Policy| {
            policy.looks().iter().map(|look| Level::of_figure(policy, look).alarm).sum::<f64>()
        };
        assert!((whole(&policy) - 0.009).abs() < 1e-12);
        policy.figure.push(super::super::GatedFigure { name: "oie".to_owned(), margin: 0.1 });
        assert!((whole(&policy) - 0.0045).abs() < 1e-12);
    }

    #[test]
    fn shares_are_printed_without_noise() {
        assert_eq!(percent(0.015), "1.5 %");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(-0.000_001), "0 %");
        assert_eq!(signed(0.0312), "+3.12 %");
    }
}
