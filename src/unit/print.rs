//! How amounts are printed: three significant figures, the unit chosen by scale, and one
//! common scale where a column needs it.

use std::borrow::Cow;

use super::{Bytes, Nanos};

/// A power of the unit, chosen once for a column so that its numbers compare by eye.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// What the raw amount is divided by.
    pub divisor: f64,
    /// The unit to print behind it.
    pub unit: &'static str,
}

const NANOS: [Scale; 4] = [
    Scale { divisor: 1e9, unit: "s" },
    Scale { divisor: 1e6, unit: "ms" },
    Scale { divisor: 1e3, unit: "µs" },
    Scale { divisor: 1.0, unit: "ns" },
];

const BYTES: [Scale; 5] = [
    Scale { divisor: 1e12, unit: "TB" },
    Scale { divisor: 1e9, unit: "GB" },
    Scale { divisor: 1e6, unit: "MB" },
    Scale { divisor: 1e3, unit: "kB" },
    Scale { divisor: 1.0, unit: "B" },
];

const COUNT: [Scale; 5] = [
    Scale { divisor: 1e12, unit: "T" },
    Scale { divisor: 1e9, unit: "G" },
    Scale { divisor: 1e6, unit: "M" },
    Scale { divisor: 1e3, unit: "k" },
    Scale { divisor: 1.0, unit: "" },
];

impl Scale {
    fn for_amount(scales: &[Self], amount: f64) -> Self {
        let fits = |scale: &&Self| amount.abs() >= scale.divisor;
        let smallest = scales[scales.len() - 1];
        scales.iter().find(fits).copied().unwrap_or(smallest)
    }

    /// The scale for a column of nanoseconds whose largest entry is `largest`.
    #[must_use]
    pub fn nanos(largest: f64) -> Self {
        Self::for_amount(&NANOS, largest)
    }

    /// The scale for a column of bytes whose largest entry is `largest`.
    #[must_use]
    pub fn bytes(largest: f64) -> Self {
        Self::for_amount(&BYTES, largest)
    }

    /// The scale for a column of counts whose largest entry is `largest`.
    #[must_use]
    pub fn count(largest: f64) -> Self {
        Self::for_amount(&COUNT, largest)
    }

    /// `amount` in this scale with three significant figures, and its unit.
    #[must_use]
    pub fn show(self, amount: f64) -> String {
        let number = three_figures(amount / self.divisor);
        if self.unit.is_empty() { number } else { format!("{number} {}", self.unit) }
    }
}

fn three_figures(x: f64) -> String {
    let decimals = match x.abs() {
        0.0 => 0,
        a if a >= 99.95 => 0,
        a if a >= 9.995 => 1,
        a if a >= 0.9995 => 2,
        _ => 3,
    };
    format!("{x:.decimals$}")
}

/// The text with U+FFFD in the place of control characters: a name from a file must not steer a
/// terminal.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        true => text.replace(char::is_control, "\u{fffd}").into(),
        false => text.into(),
    }
}

/// Makes a text [`printable`].
pub fn make_printable(text: &mut String) {
    if let Cow::Owned(printable) = printable(text) {
        *text = printable;
    }
}

/// A length of time with three significant figures: `1.25 ms`.
#[must_use]
pub fn si_nanos(nanos: Nanos) -> String {
    Scale::nanos(nanos.0 as f64).show(nanos.0 as f64)
}

/// An amount of memory in powers of 1000 with three significant figures: `35.2 GB`.
#[must_use]
pub fn si_bytes(bytes: Bytes) -> String {
    Scale::bytes(bytes.0 as f64).show(bytes.0 as f64)
}

/// A count with three significant figures: `12.4 k`.
#[must_use]
pub fn si_count(count: f64) -> String {
    Scale::count(count).show(count)
}

/// A count of things that are whole: `38`, and from a thousand on `12.4 k`.
#[must_use]
pub fn si_whole(count: u64) -> String {
    if count < 1000 { count.to_string() } else { si_count(count as f64) }
}

/// An integer with its digits in groups of three: `1 234 567`.
#[must_use]
pub fn grouped(amount: i128) -> String {
    let digits = amount.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if amount < 0 {
        out.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_choose_their_unit() {
        for (nanos, shown) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (1_250_000, "1.25 ms"),
            (61_000_000_000, "61.0 s"),
        ] {
            assert_eq!(si_nanos(Nanos(nanos)), shown);
        }
    }

    #[test]
    fn bytes_are_decimal() {
        assert_eq!(si_bytes(Bytes(35_200_000_000)), "35.2 GB");
        assert_eq!(si_bytes(Bytes(12)), "12.0 B");
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(grouped(-1_000), "-1\u{202f}000");
        assert_eq!(grouped(7), "7");
    }
}
