//! From ready numbers to places on the page: shares become lengths, sums become bars.
//!
//! Lengths are percentages of the drawing, so that a bar follows the width of its column while
//! the text beside it keeps its size. Nothing here is a figure that a reader is shown.

use crate::report::{CauseRow, Ledger, Part, WaterfallStep};

/// A share as a length, `12.345%`. What is not between nothing and all goes to the nearer end.
pub(super) fn length(share: f64) -> String {
    let percent = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) * 100.0 };
    format!("{}%", trimmed(percent, 3))
}

/// A coordinate with at most `decimals` digits behind the point, and no idle ones. What is no
/// number lies at the origin.
pub(super) fn trimmed(coordinate: f64, decimals: usize) -> String {
    let coordinate = if coordinate.is_finite() { coordinate } else { 0.0 };
    let text = format!("{coordinate:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// The fill of a level: the end of its pattern's id. A word that is no level is drawn as neither
/// value nor waste.
pub(super) fn fill(level: &str) -> &'static str {
    match level {
        "value" => "value",
        "waste" => "waste",
        _ => "necessary",
    }
}

/// A part of a stacked bar, laid out.
pub(super) struct Segment<'a> {
    pub(super) x: String,
    pub(super) width: String,
    pub(super) fill: &'static str,
    pub(super) part: &'a Part,
}

/// Lays parts end to end.
pub(super) fn stack<'a>(parts: &'a [Part]) -> Vec<Segment<'a>> {
    let mut from = 0.0;
    let segment = |part: &'a Part| {
        let x = from;
        from += within(part.share);
        (x, part)
    };
    let placed: Vec<(f64, &Part)> = parts.iter().map(segment).collect();
    let laid = |(x, part): (f64, &'a Part)| Segment {
        x: length(x),
        width: length(within(part.share).min(1.0 - x.min(1.0))),
        fill: fill(part.level),
        part,
    };
    placed.into_iter().map(laid).collect()
}

fn within(share: f64) -> f64 {
    if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }
}

/// A cause in the Pareto chart: its bar, and the piece of the cumulative line that crosses its
/// row. The line joins the middles of rows, so it meets a row's edge half way to its neighbour.
pub(super) struct ParetoRow<'a> {
    pub(super) cause: &'a CauseRow,
    pub(super) fill: &'static str,
    pub(super) width: String,
    pub(super) cumulative: String,
    pub(super) cumulative_text: String,
    pub(super) enters: Option<String>,
    pub(super) leaves: Option<String>,
}

/// Lays a ledger's causes out.
pub(super) fn pareto<'a>(ledger: &'a Ledger) -> Vec<ParetoRow<'a>> {
    let causes = &ledger.causes;
    let between = |a: &CauseRow, b: &CauseRow| {
        length(f64::midpoint(within(a.cumulative), within(b.cumulative)))
    };
    let row = |(i, cause): (usize, &'a CauseRow)| ParetoRow {
        cause,
        fill: fill(cause.level),
        width: length(cause.share),
        cumulative: length(cause.cumulative),
        cumulative_text: percent(cause.cumulative),
        enters: i.checked_sub(1).map(|above| between(&causes[above], cause)),
        leaves: causes.get(i + 1).map(|below| between(cause, below)),
    };
    causes.iter().enumerate().map(row).collect()
}

/// A share as it is printed where the report gives it as a number only.
pub(super) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", share * 100.0) } else { "–".to_owned() }
}

/// A step of the waterfall: its bar, and the places where the thin lines to the neighbouring
/// steps stand.
pub(super) struct WaterfallRow<'a> {
    pub(super) step: &'a WaterfallStep,
    pub(super) fill: &'static str,
    pub(super) x: String,
    pub(super) width: String,
    pub(super) from_above: Option<String>,
    pub(super) to_below: Option<String>,
}

/// Lays the waterfall out.
pub(super) fn waterfall<'a>(steps: &'a [WaterfallStep]) -> Vec<WaterfallRow<'a>> {
    // What stands after a step: the sum itself, or what a loss leaves.
    let left = |step: &WaterfallStep| {
        let (a, b) = (within(step.from), within(step.to));
        if step.is_sum { a.max(b) } else { a.min(b) }
    };
    let row = |(i, step): (usize, &'a WaterfallStep)| {
        let (a, b) = (within(step.from), within(step.to));
        WaterfallRow {
            step,
            fill: if step.is_sum && step.level != "value" { "sum" } else { fill(step.level) },
            x: length(a.min(b)),
            width: length((a - b).abs()),
            from_above: i.checked_sub(1).map(|above| length(left(&steps[above]))),
            to_below: (i + 1 < steps.len()).then(|| length(left(step))),
        }
    };
    steps.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(share: f64) -> Part {
        Part { share, level: "waste", ..Part::default() }
    }

    #[test]
    fn shares_become_lengths() {
        for (share, text) in [
            (0.0, "0%"),
            (-0.0, "0%"),
            (1.0, "100%"),
            (0.123_456_7, "12.346%"),
            (0.5, "50%"),
            (7.0, "100%"),
            (-1.0, "0%"),
            (f64::NAN, "0%"),
            (f64::INFINITY, "100%"),
        ] {
            assert_eq!(length(share), text);
        }
    }

    #[test]
    fn parts_lie_end_to_end_and_never_leave_the_bar() {
        let parts = [part(0.5), part(f64::NAN), part(0.75), part(0.1)];
        let stacked = stack(&parts);
        let places: Vec<_> = stacked.iter().map(|s| (s.x.as_str(), s.width.as_str())).collect();
        assert_eq!(places, [("0%", "50%"), ("50%", "0%"), ("50%", "50%"), ("100%", "0%")]);
    }

    #[test]
    fn the_cumulative_line_is_unbroken() {
        let cause = |share, cumulative| CauseRow { share, cumulative, ..CauseRow::default() };
        let ledger = Ledger {
            causes: vec![cause(0.6, 0.6), cause(0.3, 0.9), cause(0.1, 1.0)],
            ..Ledger::default()
        };
        let rows = pareto(&ledger);
        assert_eq!(rows[0].enters, None);
        assert_eq!(rows[0].leaves.as_deref(), Some("75%"));
        assert_eq!(rows[0].leaves, rows[1].enters);
        assert_eq!(rows[1].leaves, rows[2].enters);
        assert_eq!(rows[2].leaves, None);
    }

    #[test]
    fn a_loss_hangs_from_the_sum_above_it() {
        let step = |is_sum, from, to| WaterfallStep { is_sum, from, to, ..Default::default() };
        let steps = [step(true, 0.0, 1.0), step(false, 0.8, 1.0), step(true, 0.0, 0.8)];
        let rows = waterfall(&steps);
        assert_eq!(rows[0].to_below.as_deref(), Some("100%"));
        assert_eq!(rows[1].from_above, rows[0].to_below);
        assert_eq!((rows[1].x.as_str(), rows[1].width.as_str()), ("80%", "20%"));
        assert_eq!(rows[1].to_below.as_deref(), Some("80%"));
        assert_eq!(rows[2].from_above, rows[1].to_below);
        assert_eq!(rows[2].fill, "sum");
    }

    #[test]
    fn an_unknown_level_claims_nothing() {
        assert_eq!(fill("profit"), "necessary");
    }
}
