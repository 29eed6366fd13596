//! The yamazumi: a pile per kind of work, and the takt line across them.

use super::axis::{Tick, ticks};
use super::geometry::{length, trimmed};
use crate::report::{Yamazumi, YamazumiBar};
use crate::unit::Scale;

/// Pixels from the base line to the top of the scale.
const HEIGHT: f64 = 200.0;
/// Pixels above the scale, for the figure on the highest pile.
const HEAD: f64 = 22.0;

/// The chart, laid out. Across it lengths are shares, up it they are pixels.
pub(super) struct YamazumiChart<'a> {
    pub(super) height: String,
    pub(super) base: String,
    pub(super) piles: Vec<Pile<'a>>,
    pub(super) ticks: Vec<(String, String)>,
    /// Where the takt line stands; none where there is no takt.
    pub(super) takt: Option<String>,
    /// The nanoseconds of each pile by level, and their sum, printed.
    pub(super) table: Vec<(&'a str, [String; 3], &'a str)>,
}

/// One pile.
pub(super) struct Pile<'a> {
    pub(super) bar: &'a YamazumiBar,
    pub(super) x: String,
    pub(super) width: String,
    pub(super) middle: String,
    pub(super) figure_y: String,
    pub(super) blocks: Vec<Block>,
}

/// One level of a pile.
pub(super) struct Block {
    pub(super) y: String,
    pub(super) height: String,
    pub(super) fill: &'static str,
}

fn amount(nanos: f64) -> f64 {
    if nanos.is_finite() { nanos.max(0.0) } else { 0.0 }
}

/// Lays the chart out; none where there is nothing to pile.
pub(super) fn chart<'a>(yamazumi: &'a Yamazumi) -> Option<YamazumiChart<'a>> {
    let highest = yamazumi.bars.iter().map(pile_nanos).fold(0.0, f64::max);
    let takt = yamazumi.takt.filter(|takt| takt.is_finite() && *takt > 0.0);
    let top = amount(yamazumi.top).max(highest).max(takt.unwrap_or(0.0));
    if yamazumi.bars.is_empty() || top <= 0.0 {
        return None;
    }
    let up = |nanos: f64| HEAD + HEIGHT * (1.0 - nanos / top);
    let scale = Scale::nanos(top);
    let slot = 1.0 / yamazumi.bars.len() as f64;
    let place = |(i, bar): (usize, &'a YamazumiBar)| {
        let from = i as f64 * slot;
        Pile {
            bar,
            x: length(from + slot * 0.22),
            width: length(slot * 0.56),
            middle: length(from + slot * 0.5),
            figure_y: trimmed(up(pile_nanos(bar)) - 6.0, 1),
            blocks: blocks(bar, up),
        }
    };
    let tick = |tick: Tick| (trimmed(up(tick.at * top), 1), tick.text);
    Some(YamazumiChart {
        height: trimmed(HEAD + HEIGHT + 1.0, 0),
        base: trimmed(HEAD + HEIGHT, 1),
        piles: yamazumi.bars.iter().enumerate().map(place).collect(),
        ticks: ticks(top, 4, scale).into_iter().map(tick).collect(),
        takt: takt.map(|takt| trimmed(up(takt), 1)),
        table: yamazumi.bars.iter().map(|bar| row(bar, scale)).collect(),
    })
}

fn pile_nanos(bar: &YamazumiBar) -> f64 {
    bar.nanos.iter().copied().map(amount).sum()
}

fn row(bar: &YamazumiBar, scale: Scale) -> (&str, [String; 3], &str) {
    (&bar.label, bar.nanos.map(|nanos| scale.show(amount(nanos))), &bar.text)
}

/// Value lies at the base, waste on top: what can go is what can be lifted off.
fn blocks(bar: &YamazumiBar, up: impl Fn(f64) -> f64) -> Vec<Block> {
    let mut base = 0.0;
    let block = |(nanos, fill): (f64, &'static str)| {
        let (from, to) = (base, base + amount(nanos));
        base = to;
        Block { y: trimmed(up(to), 1), height: trimmed(up(from) - up(to), 1), fill }
    };
    let levels = bar.nanos.into_iter().zip(["value", "necessary", "waste"]);
    levels.map(block).filter(|block| block.height != "0").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(nanos: [f64; 3]) -> YamazumiBar {
        YamazumiBar { label: "work".to_owned(), nanos, text: "3 ms".to_owned() }
    }

    #[test]
    fn piles_stand_on_the_base_and_reach_their_height() {
        let yamazumi =
            Yamazumi { bars: vec![bar([1e6, 0.0, 1e6])], top: 4e6, ..Yamazumi::default() };
        let chart = chart(&yamazumi).unwrap();
        let blocks: Vec<_> = chart.piles[0]
            .blocks
            .iter()
            .map(|b| (b.y.as_str(), b.height.as_str(), b.fill))
            .collect();
        assert_eq!(blocks, [("172", "50", "value"), ("122", "50", "waste")]);
        assert_eq!(chart.base, "222");
    }

    #[test]
    fn a_takt_above_every_pile_is_still_on_the_chart() {
        let yamazumi = Yamazumi {
            bars: vec![bar([1.0, 1.0, 1.0])],
            takt: Some(300.0),
            top: 3.0,
            ..Yamazumi::default()
        };
        assert_eq!(chart(&yamazumi).unwrap().takt.as_deref(), Some("22"));
    }

    #[test]
    fn nothing_to_pile_makes_no_chart() {
        assert!(chart(&Yamazumi::default()).is_none());
        let yamazumi = Yamazumi { bars: vec![bar([f64::NAN, -1.0, 0.0])], ..Yamazumi::default() };
        assert!(chart(&yamazumi).is_none());
    }
}
