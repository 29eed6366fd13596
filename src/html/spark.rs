//! A sparkline: a small line without axes, beside the figures it is drawn from.

use std::fmt::Write;

use super::geometry::trimmed;
use crate::report::HistoryPoint;

/// Pixels from the first point to the last, and from the least to the most.
const WIDTH: f64 = 132.0;
const HEIGHT: f64 = 18.0;
/// Pixels around them, so that no dot is cut.
const MARGIN: f64 = 4.0;

/// A line, laid out.
pub(super) struct Spark {
    /// The line, broken where a point is missing.
    pub(super) path: String,
    /// The points.
    pub(super) dots: Vec<(String, String)>,
}

/// Lays points out, evenly spaced: runs are no clock.
pub(super) fn line(points: &[HistoryPoint]) -> Spark {
    let step = WIDTH / points.len().saturating_sub(1).max(1) as f64;
    let mut spark = Spark { path: String::new(), dots: Vec::new() };
    let mut drawing = false;
    for (at, point) in points.iter().enumerate() {
        let Some(height) = point.height else {
            drawing = false;
            continue;
        };
        let height = if height.is_nan() { 0.5 } else { height.clamp(0.0, 1.0) };
        let x = trimmed(MARGIN + at as f64 * step, 1);
        let y = trimmed(MARGIN + (1.0 - height) * HEIGHT, 1);
        // A String takes every write.
        let _ = write!(spark.path, "{}{x} {y}", if drawing { "L" } else { "M" });
        spark.dots.push((x, y));
        drawing = true;
    }
    spark
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(height: Option<f64>) -> HistoryPoint {
        HistoryPoint { height, text: String::new() }
    }

    #[test]
    fn a_missing_point_breaks_the_line() {
        let found = line(&[Some(0.0), Some(1.0), None, Some(0.5)].map(point));
        assert_eq!(found.path, "M4 22L48 4M136 13");
        assert_eq!(found.dots.len(), 3);
    }

    #[test]
    fn what_is_no_number_is_drawn_in_the_middle_and_nothing_draws_nothing() {
        assert_eq!(line(&[point(Some(f64::NAN))]).path, "M4 13");
        assert_eq!(line(&[]).path, "");
    }
}
