//! Where the middle of a sample lies, and how surely.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// The middle of a sample with what a t interval needs.
///
/// The middle is the trimmed mean, its error the one of Tukey and McLaughlin (1963): of `n`
/// values the `⌊share·n⌋` smallest and as many of the largest are left out of the mean and drawn
/// in to the nearest kept value for the error, and Student's t has as many degrees of freedom as
/// values were kept, less one. With a share of zero this is the ordinary t interval. A machine
/// that stumbles now and then moves the ordinary mean, and widens its interval by far more; the
/// trimmed one hardly notices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Location {
    /// How many values there were.
    pub count: usize,
    /// How many of them were kept.
    pub kept: usize,
    /// The mean of those.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: f64,
}

impl Location {
    /// The middle of `values`, `share` of which are trimmed on either side; `None` where fewer
    /// than two are left, or where one is not finite.
    #[must_use]
    pub fn trimmed(values: &[f64], share: f64) -> Option<Self> {
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let count = sorted.len();
        let cut = (share * count as f64) as usize;
        let kept = count.checked_sub(2 * cut).filter(|kept| *kept >= 2)?;
        let (low, high) = (sorted[cut], sorted[count - cut - 1]);
        let mean = sorted[cut..count - cut].iter().sum::<f64>() / kept as f64;
        let drawn_in = sorted.iter().map(|value| value.clamp(low, high));
        let drawn_mean = drawn_in.clone().sum::<f64>() / count as f64;
        let squares: f64 = drawn_in.map(|value| (value - drawn_mean).powi(2)).sum();
        let standard_error = (squares / (kept * (kept - 1)) as f64).sqrt();
        Some(Self { count, kept, mean, standard_error })
    }

    /// What the true middle exceeds with probability `1 − error`.
    #[must_use]
    pub fn lower(&self, error: f64) -> f64 {
        self.mean - self.reach(error)
    }

    /// What exceeds the true middle with probability `1 − error`.
    #[must_use]
    pub fn upper(&self, error: f64) -> f64 {
        self.mean + self.reach(error)
    }

    /// The probability of a middle at least as far from zero, on either side, if the true one
    /// is zero.
    #[must_use]
    pub fn p_value(&self) -> f64 {
        if self.mean == 0.0 {
            return 1.0;
        }
        if self.standard_error == 0.0 {
            return 0.0;
        }
        let t = (self.mean / self.standard_error).abs();
        student(self.kept).map_or(1.0, |student| (2.0 * student.sf(t)).min(1.0))
    }

    /// How far beyond a limit the true middle must lie, so that a sample of `count` values as
    /// uneven as this one shows it with probability `1 − miss` at the given `error`. An
    /// estimate: from few values the spread itself is known only roughly.
    #[must_use]
    pub fn detectable(&self, count: usize, error: f64, miss: f64) -> f64 {
        let kept = (count * self.kept / self.count).max(2);
        let shrunk = (self.kept as f64 / kept as f64).sqrt();
        (quantile(kept, error) + quantile(kept, miss)) * self.standard_error * shrunk
    }

    fn reach(&self, error: f64) -> f64 {
        // Without spread there is nothing to be unsure of, at any error.
        if self.standard_error == 0.0 {
            return 0.0;
        }
        quantile(self.kept, error) * self.standard_error
    }
}

fn student(kept: usize) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, kept.saturating_sub(1) as f64).ok()
}

/// What Student's t exceeds with probability `error`; no bound at all where `error` is none.
fn quantile(kept: usize, error: f64) -> f64 {
    if error <= 0.0 {
        return f64::INFINITY;
    }
    let upper = |student: StudentsT| -student.inverse_cdf(error.min(0.5));
    student(kept).map_or(f64::INFINITY, upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 2e-3 * expected.abs(), "{found} is not {expected}");
    }

    /// From the tables of any textbook, and for the far tails from scipy 1.13.
    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (freedom, error, expected) in [
            (5, 0.05, 2.015),
            (5, 0.01, 3.365),
            (5, 0.001, 5.893),
            (11, 0.005, 3.106),
            (29, 0.01, 2.462),
            (3, 0.0005, 12.924),
            (120, 0.0005, 3.373),
        ] {
            close(quantile(freedom + 1, error), expected);
        }
        assert_eq!(quantile(6, 0.0), f64::INFINITY);
    }

    #[test]
    fn without_trimming_it_is_the_ordinary_t_interval() {
        let location = Location::trimmed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.0).unwrap();
        close(location.mean, 3.5);
        close(location.standard_error, (3.5_f64 / 6.0).sqrt());
        close(location.upper(0.05) - 3.5, 2.015 * (3.5_f64 / 6.0).sqrt());
        close(location.lower(0.05), 3.5 - 2.015 * (3.5_f64 / 6.0).sqrt());
    }

    /// The worked example: 10 values, one cut on either side.
    #[test]
    fn trimming_draws_the_ends_in() {
        let values = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 900.0];
        let location = Location::trimmed(&values, 0.1).unwrap();
        assert_eq!((location.count, location.kept), (10, 8));
        close(location.mean, 4.5);
        // Drawn in: 1 1 2 3 4 5 6 7 8 8, sum of squares about 4.5 is 66.5; 66.5 ÷ (8 × 7).
        close(location.standard_error, (66.5_f64 / 56.0).sqrt());
    }

    #[test]
    fn what_is_no_sample_has_no_middle() {
        assert_eq!(Location::trimmed(&[1.0], 0.0), None);
        assert_eq!(
            Location::trimmed(&[1.0, 2.0, 3.0, 4.0], 0.49),
            Location::trimmed(&[2.0, 3.0, 1.0, 4.0], 0.49)
        );
        assert_eq!(Location::trimmed(&[1.0, f64::NAN, 2.0], 0.0), None);
        assert_eq!(Location::trimmed(&[1.0, f64::INFINITY, 2.0], 0.0), None);
    }

    #[test]
    fn values_without_spread_are_certain() {
        let location = Location::trimmed(&[0.25; 6], 0.2).unwrap();
        assert_eq!((location.lower(1e-9), location.upper(1e-9)), (0.25, 0.25));
        assert_eq!(location.p_value(), 0.0);
        assert_eq!(Location::trimmed(&[0.0; 6], 0.2).unwrap().p_value(), 1.0);
    }

    /// Thirty of (2.462 + 1.699) standard errors, each √(6 ÷ 30) of the one of six.
    #[test]
    fn what_can_be_detected_shrinks_with_the_root_of_the_count() {
        let location = Location::trimmed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.0).unwrap();
        let expected = (2.462 + 1.699) * location.standard_error * (0.2_f64).sqrt();
        close(location.detectable(30, 0.01, 0.05), expected);
    }

    #[test]
    fn p_values_agree_with_the_bounds() {
        let location = Location::trimmed(&[0.9, 1.4, 0.2, 1.1, 0.7, 1.6, 0.4], 0.0).unwrap();
        let p = location.p_value();
        close(1.0 + location.lower(p / 2.0), 1.0);
    }
}
