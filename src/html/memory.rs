//! Memory over time: areas piled on each other, drawn as steps.

use std::fmt::Write;

use super::axis::{Tick, ticks};
use super::geometry::{fill, length, trimmed};
use crate::report::MemoryChart;
use crate::unit::Scale;

/// Units across the drawing; it is stretched to the width of the page.
const WIDTH: f64 = 1200.0;
/// Pixels from the base line to the top of the scale.
const HEIGHT: f64 = 280.0;
/// Pixels between the names beside the areas, at least.
const NAME_HEIGHT: f64 = 17.0;
/// The table of numbers shows at most this many moments.
const MOMENTS_SHOWN: usize = 12;

/// The chart, laid out.
pub(super) struct Areas<'a> {
    /// Topmost first, which is the order to paint in: each covers what is above it.
    pub(super) areas: Vec<Area<'a>>,
    /// Height in pixels, and what stands there.
    pub(super) amounts: Vec<(String, String)>,
    /// Place along the chart, and what stands there.
    pub(super) moments: Vec<(String, String)>,
    /// Names and levels of the series for the table of numbers, from the base up.
    pub(super) names: Vec<(&'a str, &'a str)>,
    /// A moment and the bytes of each series then.
    pub(super) table: Vec<(String, Vec<String>)>,
}

/// One series.
pub(super) struct Area<'a> {
    pub(super) name: &'a str,
    pub(super) fill: &'static str,
    /// The outline of everything up to and with this series.
    pub(super) path: String,
    /// Where the area is at the end of the chart, in pixels: its middle, and its name's place.
    pub(super) middle: String,
    pub(super) name_y: String,
}

/// Lays the chart out; none where nothing was recorded.
pub(super) fn chart<'a>(memory: &'a MemoryChart) -> Option<Areas<'a>> {
    let sums = sums(memory);
    let top = sums.last()?.iter().copied().fold(0.0, f64::max);
    let (first, last) = (*memory.seconds.first()?, *memory.seconds.last()?);
    let span = last - first;
    if top <= 0.0 || !(span.is_finite() && span > 0.0) {
        return None;
    }
    let across: Vec<f64> =
        memory.seconds.iter().map(|s| ((s - first) / span).clamp(0.0, 1.0) * WIDTH).collect();
    let up = |bytes: f64| HEIGHT * (1.0 - bytes / top);
    let middles = middles(&sums, top);
    let names = spread(&middles);
    let area = |(i, series): (usize, &'a (String, &'static str, Vec<f64>))| Area {
        name: &series.0,
        fill: fill(series.1),
        path: outline(&across, &sums[i], up),
        middle: trimmed(middles[i], 1),
        name_y: trimmed(names[i], 1),
    };
    let mut areas: Vec<Area<'_>> = memory.series.iter().enumerate().map(area).collect();
    areas.reverse();
    let bytes = Scale::bytes(top);
    // Time is counted from the window's start, which is not where the first sample stands.
    let seconds = Scale::nanos(last * 1e9);
    let moment = |tick: Tick| {
        let at = (tick.at * last - first) / span;
        (at >= 0.0).then(|| (length(at), tick.text))
    };
    Some(Areas {
        areas,
        amounts: ticks(top, 5, bytes)
            .into_iter()
            .map(|tick| (trimmed(up(tick.at * top), 1), tick.text))
            .collect(),
        moments: ticks(last * 1e9, 8, seconds).into_iter().filter_map(moment).collect(),
        names: memory.series.iter().map(|series| (series.0.as_str(), series.1)).collect(),
        table: table(memory, bytes, seconds),
    })
}

fn amount(values: &[f64], moment: usize) -> f64 {
    let bytes = values.get(moment).copied().unwrap_or(0.0);
    if bytes.is_finite() { bytes.max(0.0) } else { 0.0 }
}

/// For each series the height of its upper edge at each moment, in bytes.
fn sums(memory: &MemoryChart) -> Vec<Vec<f64>> {
    let mut below = vec![0.0; memory.seconds.len()];
    let edge = |(_, _, values): &(String, &'static str, Vec<f64>)| {
        for (moment, sum) in below.iter_mut().enumerate() {
            *sum += amount(values, moment);
        }
        below.clone()
    };
    memory.series.iter().map(edge).collect()
}

/// Memory holds its level until it changes, so the edge goes across, then up or down.
fn outline(across: &[f64], edge: &[f64], up: impl Fn(f64) -> f64) -> String {
    let mut path = format!("M0 {HEIGHT}");
    let mut drawn = f64::NAN;
    for (x, bytes) in across.iter().zip(edge) {
        let y = (up(*bytes) * 10.0).round() / 10.0;
        if y != drawn {
            // A String takes every write.
            let _ = write!(path, "H{}V{}", trimmed(*x, 1), trimmed(y, 1));
            drawn = y;
        }
    }
    let _ = write!(path, "H{WIDTH}V{HEIGHT}Z");
    path
}

/// The middles of the areas at the last moment, from the base up, in pixels from the top.
fn middles(sums: &[Vec<f64>], top: f64) -> Vec<f64> {
    let last = |edge: &Vec<f64>| edge.last().copied().unwrap_or(0.0);
    let mut below = 0.0;
    let middle = |edge: &Vec<f64>| {
        let middle = f64::midpoint(below, last(edge));
        below = last(edge);
        HEIGHT * (1.0 - middle / top)
    };
    sums.iter().map(middle).collect()
}

/// Moves names apart that would lie on each other, as little as needed, within the chart.
fn spread(middles: &[f64]) -> Vec<f64> {
    let half = NAME_HEIGHT / 2.0;
    let mut places = middles.to_vec();
    // From the base up: nobody lower than the one before allows.
    let mut ceiling = HEIGHT - half;
    for place in &mut places {
        *place = place.min(ceiling);
        ceiling = *place - NAME_HEIGHT;
    }
    // From the top down: nobody above the chart.
    let mut floor = half;
    for place in places.iter_mut().rev() {
        *place = place.max(floor);
        floor = *place + NAME_HEIGHT;
    }
    places
}

fn table(memory: &MemoryChart, bytes: Scale, seconds: Scale) -> Vec<(String, Vec<String>)> {
    let moments = memory.seconds.len();
    let shown = moments.min(MOMENTS_SHOWN);
    let pick = |i: usize| if shown < 2 { 0 } else { i * (moments - 1) / (shown - 1) };
    let row = |moment: usize| {
        let held = memory.series.iter().map(|series| bytes.show(amount(&series.2, moment)));
        (seconds.show(memory.seconds[moment] * 1e9), held.collect())
    };
    (0..shown).map(pick).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_series() -> MemoryChart {
        MemoryChart {
            seconds: vec![0.0, 1.0, 2.0],
            series: vec![
                ("weights".to_owned(), "necessary", vec![50.0, 50.0, 50.0]),
                ("live".to_owned(), "value", vec![0.0, 50.0, 25.0]),
            ],
            capacity: "100 B".to_owned(),
        }
    }

    #[test]
    fn areas_are_steps_on_each_other() {
        let memory = two_series();
        let chart = chart(&memory).unwrap();
        assert_eq!(chart.areas[0].name, "live");
        assert_eq!(chart.areas[0].path, "M0 280H0V140H600V0H1200V70H1200V280Z");
        assert_eq!(chart.areas[1].path, "M0 280H0V140H1200V280Z");
        assert_eq!(chart.areas[1].middle, "210");
        assert_eq!(chart.table.len(), 3);
        assert_eq!(chart.table[2].1, ["50.0 B", "25.0 B"]);
    }

    #[test]
    fn names_never_lie_on_each_other() {
        let places = spread(&[279.0, 278.0, 277.0, 3.0, 2.0]);
        for pair in places.windows(2) {
            assert!(pair[0] - pair[1] >= NAME_HEIGHT - 1e-9, "{places:?}");
        }
        assert!(places.iter().all(|y| (0.0..=HEIGHT).contains(y)), "{places:?}");
    }

    #[test]
    fn no_record_makes_no_chart() {
        assert!(chart(&MemoryChart::default()).is_none());
        let mut memory = two_series();
        memory.seconds = vec![3.0, 3.0, 3.0];
        assert!(chart(&memory).is_none());
        memory.seconds = vec![0.0, f64::NAN];
        assert!(chart(&memory).is_none());
    }

    #[test]
    fn a_series_that_is_too_short_holds_nothing_after_its_end() {
        let mut memory = two_series();
        memory.series[1].2.truncate(1);
        memory.series[0].2[2] = f64::NAN;
        let chart = chart(&memory).unwrap();
        assert_eq!(chart.table[2].1, ["0 B", "0 B"]);
    }
}
