//! The course of the figures over several runs, in the order of their time.

use serde::Serialize;

use super::comparison::{Compared, FIGURES, change};

/// The course of figures over runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct History {
    /// Names and moments of the runs, in order.
    pub runs: Vec<(String, String)>,
    /// Whether that is the order of their time; else it is that in which they were named.
    pub by_time: bool,
    /// One row per figure.
    pub rows: Vec<HistoryRow>,
}

/// The course of a figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HistoryRow {
    /// What it is.
    pub label: &'static str,
    /// Its values, in the order of the runs.
    pub points: Vec<HistoryPoint>,
    /// The last value against the first, as text.
    pub change: String,
}

/// A figure of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HistoryPoint {
    /// Where it lies between the least and the most of its row, 0 to 1; none where the run has no
    /// such figure.
    pub height: Option<f64>,
    /// The figure, as text.
    pub text: String,
}

/// Fewer runs have no course.
const FEWEST: usize = 3;

/// The course of the figures; none of fewer than three runs.
pub(super) fn history(runs: &[Compared<'_>]) -> Option<History> {
    if runs.len() < FEWEST {
        return None;
    }
    let by_time = runs.iter().all(|run| run.ended.is_some());
    let mut ordered: Vec<&Compared<'_>> = runs.iter().collect();
    if by_time {
        ordered.sort_by_key(|run| run.ended);
    }
    let row = |(label, draw, show): &super::comparison::Drawn| {
        let values: Vec<Option<f64>> = ordered.iter().map(|run| draw(run.summary)).collect();
        values.iter().any(Option::is_some).then(|| HistoryRow {
            label,
            points: points(&values, *show),
            change: match (values.first(), values.last()) {
                (Some(Some(first)), Some(Some(last))) => change(*first, *last),
                _ => "–".to_owned(),
            },
        })
    };
    let moment = |run: &Compared<'_>| {
        let ended = run.ended.map(|ended| ended.to_string());
        ended.map_or_else(|| "time unknown".to_owned(), |text| to_the_minute(&text))
    };
    Some(History {
        runs: ordered.iter().map(|run| (run.name.clone(), moment(run))).collect(),
        by_time,
        rows: FIGURES.iter().filter_map(row).collect(),
    })
}

/// `2026-01-31T12:00:59.5Z` as `2026-01-31 12:00`.
fn to_the_minute(moment: &str) -> String {
    moment.chars().take("2026-01-31T12:00".len()).collect::<String>().replace('T', " ")
}

fn points(values: &[Option<f64>], show: fn(f64) -> String) -> Vec<HistoryPoint> {
    let all = || values.iter().flatten().copied().filter(|value| value.is_finite());
    let (least, most) =
        all().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    let height = |value: f64| if most > least { (value - least) / (most - least) } else { 0.5 };
    let point = |value: &Option<f64>| HistoryPoint {
        height: value.filter(|value| value.is_finite()).map(height),
        text: value.map_or_else(|| "–".to_owned(), show),
    };
    values.iter().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_between_the_least_and_the_most() {
        let found = points(&[Some(4.0), None, Some(2.0), Some(3.0)], |x| x.to_string());
        let heights: Vec<Option<f64>> = found.iter().map(|point| point.height).collect();
        assert_eq!(heights, [Some(1.0), None, Some(0.0), Some(0.5)]);
        assert_eq!(found[1].text, "–");
        let level = points(&[Some(2.0), Some(2.0)], |x| x.to_string());
        assert!(level.iter().all(|point| point.height == Some(0.5)));
    }

    #[test]
    fn a_moment_is_said_to_the_minute() {
        assert_eq!(to_the_minute("2026-01-31T12:00:59.5Z"), "2026-01-31 12:00");
    }
}
