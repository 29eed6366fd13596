//! Round numbers for axes.

use super::geometry::trimmed;
use crate::unit::Scale;

/// A mark of an axis.
pub(super) struct Tick {
    /// Where it stands, as a share of the axis.
    pub(super) at: f64,
    /// What it says.
    pub(super) text: String,
}

/// Round steps from zero to `top`, at most `most` beside zero, printed in `scale`. None where
/// `top` is no length.
pub(super) fn ticks(top: f64, most: usize, scale: Scale) -> Vec<Tick> {
    if !top.is_finite() || top <= 0.0 || most == 0 {
        return Vec::new();
    }
    // Round in the unit that is printed: half a minute is not a round number of nanoseconds.
    let top_printed = top / scale.divisor;
    let least = top_printed / most as f64;
    let decade = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * decade).into_iter().find(|s| *s >= least);
    let Some(step) = step.filter(|step| *step > 0.0 && step.is_finite()) else {
        return Vec::new();
    };
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    let count = (top_printed / step + 1e-9).floor() as usize;
    let tick = |i: usize| {
        let printed = i as f64 * step;
        let number = trimmed(printed, decimals);
        let text = if i == 0 { "0".to_owned() } else { format!("{number} {}", scale.unit) };
        Tick { at: printed / top_printed, text: text.trim_end().to_owned() }
    };
    (0..=count.min(most)).map(tick).collect()
}

/// A power of ten as it stands on a logarithmic axis: `100 G`.
pub(super) fn decade(amount: f64) -> String {
    let scale = Scale::count(amount * 1.000_001);
    let number = trimmed(amount / scale.divisor, 6);
    format!("{number} {}", scale.unit).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(top: f64, most: usize, scale: Scale) -> Vec<String> {
        ticks(top, most, scale).into_iter().map(|tick| tick.text).collect()
    }

    #[test]
    fn steps_are_round_in_the_printed_unit() {
        let ms = Scale::nanos(7.3e6);
        assert_eq!(texts(7.3e6, 4, ms), ["0", "2 ms", "4 ms", "6 ms"]);
        assert_eq!(texts(1e9, 4, Scale::nanos(1e9)), ["0", "0.5 s", "1 s"]);
        assert_eq!(texts(30e9, 3, Scale::bytes(30e9)), ["0", "10 GB", "20 GB", "30 GB"]);
    }

    #[test]
    fn the_last_tick_stands_within_the_axis() {
        for top in [1e-9, 0.3, 1.0, 7.0, 999.0, 1e15] {
            for most in 1..9 {
                let ticks = ticks(top, most, Scale::count(top));
                assert!(!ticks.is_empty() && ticks.len() <= most + 1, "{top} {most}");
                assert!(ticks.iter().all(|tick| tick.at <= 1.0 + 1e-6), "{top} {most}");
            }
        }
    }

    #[test]
    fn what_is_no_length_has_no_ticks() {
        for top in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(ticks(top, 4, Scale::count(1.0)).is_empty());
        }
    }

    #[test]
    fn decades_are_short() {
        for (amount, text) in [
            (0.01, "0.01"),
            (1.0, "1"),
            (100.0, "100"),
            (1e3, "1 k"),
            (1e9, "1 G"),
            (1e11, "100 G"),
            (1e13, "10 T"),
        ] {
            assert_eq!(decade(amount), text);
        }
    }
}
