//! Moments of the calendar, for those who ask when a run was.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Nanos;

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400;

/// A moment: nanoseconds since 1970-01-01 in UTC. Printed and read as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixNanos(pub u64);

impl UnixNanos {
    /// The moment of a system's clock; 1970 for what lies before.
    #[must_use]
    pub fn of(time: SystemTime) -> Self {
        let nanos = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Self(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// So much later.
    #[must_use]
    pub const fn after(self, nanos: Nanos) -> Self {
        Self(self.0.saturating_add(nanos.0))
    }

    /// So much earlier.
    #[must_use]
    pub const fn before(self, nanos: Nanos) -> Self {
        Self(self.0.saturating_sub(nanos.0))
    }

    /// The moment that `text` names: `2026-01-31T23:59:59.5Z`, or with an offset such as
    /// `+01:00` in the place of `Z`. `None` for anything else, and for years outside 1970 to 2500.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (date, clock) = text.split_once(['T', 't'])?;
        let mut date = date.splitn(3, '-').map(digits);
        let (year, month, day) = (date.next()??, date.next()??, date.next()??);
        if !(1970..=2500).contains(&year) || !(1..=12).contains(&month) {
            return None;
        }
        if !(1..=days_in_month(year, month)).contains(&day) {
            return None;
        }
        let (clock, offset) = split_offset(clock)?;
        let mut clock = clock.splitn(3, ':');
        let (hour, minute) = (digits(clock.next()?)?, digits(clock.next()?)?);
        let seconds = clock.next()?;
        let (second, fraction) = match seconds.split_once('.') {
            Some((second, fraction)) => (digits(second)?, nanos(fraction)?),
            None => (digits(seconds)?, 0),
        };
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let days = (1970..year).map(days_in_year).sum::<u64>()
            + (1..month).map(|month| days_in_month(year, month)).sum::<u64>()
            + (day - 1);
        let seconds = days * DAY + hour * 3600 + minute * 60 + second;
        let seconds = seconds.checked_add_signed(-offset)?;
        Some(Self(seconds.checked_mul(SECOND)?.checked_add(fraction)?))
    }
}

impl fmt::Display for UnixNanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, fraction) = (self.0 / SECOND, self.0 % SECOND);
        let (mut days, clock) = (seconds / DAY, seconds % DAY);
        let mut year = 1970;
        while days >= days_in_year(year) {
            days -= days_in_year(year);
            year += 1;
        }
        let mut month = 1;
        while days >= days_in_month(year, month) {
            days -= days_in_month(year, month);
            month += 1;
        }
        let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
        write!(f, "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}", days + 1)?;
        if fraction > 0 {
            let digits = format!("{fraction:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// Two to four digits and nothing else.
fn digits(text: &str) -> Option<u64> {
    let plain = (2..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// The digits behind a point as nanoseconds.
fn nanos(text: &str) -> Option<u64> {
    let plain = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| format!("{text:0<9}").parse().ok()).flatten()
}

/// Splits the offset from UTC, in seconds, off a time.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let at = text.rfind(['+', '-'])?;
    let sign = if text[at..].starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = text[at + 1..].split_once(':')?;
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    let seconds = i64::try_from(hours * 3600 + minutes * 60).ok()?;
    (hours <= 14 && minutes <= 59).then_some((&text[..at], sign * seconds))
}

const fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_in_year(year: u64) -> u64 {
    if leap(year) { 366 } else { 365 }
}

const fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_moment_is_read_as_it_is_printed(nanos in 0..16_000_000_000_000_000_000_u64) {
            let printed = UnixNanos(nanos).to_string();
            prop_assert_eq!(UnixNanos::parse(&printed), Some(UnixNanos(nanos)));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[-0-9TZ:+.é]{0,40}") {
            let _ = UnixNanos::parse(&text);
        }
    }

    #[test]
    fn what_is_printed_is_read() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_000_000_001, "2000-02-28T23:59:59.000000001Z"),
            (951_868_799_500_000_000, "2000-02-29T23:59:59.5Z"),
            (1_767_225_599_000_000_000, "2025-12-31T23:59:59Z"),
        ] {
            assert_eq!(UnixNanos(nanos).to_string(), text);
            // Whole seconds need no fraction, and a fraction may have zeros at its end.
            let full = text.replace("59Z", "59.000Z").replace(":00Z", ":00.0Z");
            assert_eq!(UnixNanos::parse(&full), Some(UnixNanos(nanos)), "{full}");
        }
        let zoned = UnixNanos::parse("2026-01-01T01:30:00.25+01:30");
        assert_eq!(zoned, UnixNanos::parse("2026-01-01T00:00:00.25Z"));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "2026",
            "2026-01-01",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00Z",
            "2026-01-01T00:00:00.Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "9999-01-01T00:00:00Z",
        ] {
            assert_eq!(UnixNanos::parse(text), None, "{text}");
        }
    }
}
