//! Single values of a row: token counts and times, read exactly and refused loudly.

use serde_json::Number;

use super::error::{Place, WorkloadError, quoted};

/// The most tokens a prompt or an output may have; more is a broken file.
pub(super) const MOST_TOKENS: u64 = 10_000_000;

/// The unit of a number that is a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeUnit {
    Seconds,
    Millis,
    Nanos,
}

impl TimeUnit {
    const fn decimals(self) -> usize {
        match self {
            Self::Seconds => 9,
            Self::Millis => 6,
            Self::Nanos => 0,
        }
    }

    const fn described(self) -> &'static str {
        match self {
            Self::Seconds => "seconds from 0 to 9.2e9",
            Self::Millis => "milliseconds from 0 to 9.2e12",
            Self::Nanos => "nanoseconds from 0 to 9.2e18",
        }
    }
}

/// A token count from CSV text.
pub(super) fn count(
    text: &str,
    field: &'static str,
    least: u64,
    at: &Place,
) -> Result<u32, WorkloadError> {
    let text = text.trim();
    let whole = text.parse::<u64>().ok().or_else(|| text.parse::<f64>().ok().and_then(integral));
    in_range(whole, text, field, least, at)
}

/// A token count from a JSON number.
pub(super) fn count_json(
    number: &Number,
    field: &'static str,
    least: u64,
    at: &Place,
) -> Result<u32, WorkloadError> {
    let whole = number.as_u64().or_else(|| number.as_f64().and_then(integral));
    in_range(whole, &number.to_string(), field, least, at)
}

/// Data frames write counts as `12.0`: the same number.
fn integral(x: f64) -> Option<u64> {
    (x.fract() == 0.0 && (0.0..=1e15).contains(&x)).then_some(x as u64)
}

fn in_range(
    whole: Option<u64>,
    found: &str,
    field: &'static str,
    least: u64,
    at: &Place,
) -> Result<u32, WorkloadError> {
    whole
        .filter(|n| (least..=MOST_TOKENS).contains(n))
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| WorkloadError::Count {
            at: at.clone(),
            field,
            least,
            most: MOST_TOKENS,
            found: quoted(found),
        })
}

/// A time in nanoseconds from CSV text or a JSON number's text, exact to the last digit.
pub(super) fn time(
    text: &str,
    unit: TimeUnit,
    field: &'static str,
    at: &Place,
) -> Result<u64, WorkloadError> {
    let text = text.trim();
    decimal(text, unit.decimals()).filter(|&nanos| nanos <= i64::MAX as u64).ok_or_else(|| {
        WorkloadError::Time {
            at: at.clone(),
            field,
            expected: unit.described(),
            found: quoted(text),
        }
    })
}

/// `text` × 10^`decimals`, rounded half up; `None` unless it is a number of at least zero.
fn decimal(text: &str, decimals: usize) -> Option<u64> {
    if text.contains(['e', 'E']) {
        let x = text.parse::<f64>().ok()? * 10f64.powi(i32::try_from(decimals).ok()?);
        return (x.is_finite() && (0.0..1.8e19).contains(&x)).then_some(x.round() as u64);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10u64.checked_pow(u32::try_from(decimals).ok()?)?;
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let kept = &fraction[..fraction.len().min(decimals)];
    let mut part = if kept.is_empty() { 0 } else { kept.parse::<u64>().ok()? };
    for _ in kept.len()..decimals {
        part *= 10;
    }
    let up = fraction.as_bytes().get(decimals).is_some_and(|&digit| digit >= b'5');
    whole.checked_add(part)?.checked_add(u64::from(up))
}

const CALENDAR: &str = "YYYY-MM-DD hh:mm:ss.fffffff of the years 1970 to 2261";

/// Nanoseconds since 1970 from `2023-11-16 18:17:03.9799600`, with up to nine fractional digits
/// and an optional zone (`Z`, `+00:00`); without one the time is taken as UTC.
pub(super) fn calendar(text: &str, field: &'static str, at: &Place) -> Result<u64, WorkloadError> {
    let text = text.trim();
    calendar_nanos(text).ok_or_else(|| WorkloadError::Time {
        at: at.clone(),
        field,
        expected: CALENDAR,
        found: quoted(text),
    })
}

fn calendar_nanos(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once([' ', 'T'])?;
    let (clock, zone_seconds) = split_zone(rest)?;
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.splitn(3, ':').map(number);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let in_year = (1970..=2261).contains(&year) && (1..=12).contains(&month);
    if !in_year || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 || fraction.len() > 9 {
        return None;
    }
    let nanos = number(fraction)? * 10i64.pow(9 - u32::try_from(fraction.len()).ok()?);
    let days = days_before_year(year) - days_before_year(1970) + day_of_year(year, month, day);
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - zone_seconds;
    u64::try_from(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?).ok()
}

/// The clock and the zone's offset in seconds.
fn split_zone(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix('Z') {
        return Some((clock, 0));
    }
    let Some(at) = text.find(['+', '-']) else { return Some((text, 0)) };
    let sign = if text.as_bytes()[at] == b'-' { -1 } else { 1 };
    let (hours, minutes) = text[at + 1..].split_once(':')?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours <= 14 && minutes <= 59).then_some((&text[..at], sign * (hours * 3_600 + minutes * 60)))
}

/// Up to nine digits and nothing else.
fn number(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

const fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of all years before `year`, counted from the year 1.
const fn days_before_year(year: i64) -> i64 {
    let y = year - 1;
    y * 365 + y / 4 - y / 100 + y / 400
}

/// Days of the year that lie before this one.
fn day_of_year(year: i64, month: i64, day: i64) -> i64 {
    (1..month).map(|m| days_in_month(year, m)).sum::<i64>() + day - 1
}

/// The calendar form of nanoseconds since 1970 with seven fractional digits, cut to 100 ns.
pub(super) fn calendar_text(nanos: u64) -> String {
    let ticks = nanos / 100;
    let (seconds, fraction) = (ticks / 10_000_000, ticks % 10_000_000);
    let (mut days, clock) = ((seconds / 86_400) as i64, seconds % 86_400);
    let mut year = 1970;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    while days >= days_in_month(year, month) {
        days -= days_in_month(year, month);
        month += 1;
    }
    let (hour, minute, second) = (clock / 3_600, clock / 60 % 60, clock % 60);
    let day = days + 1;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{fraction:07}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Place {
        Place::line(std::path::Path::new("x"), 1)
    }

    #[test]
    fn counts() {
        for (text, read) in [("1", Some(1)), ("12.0", Some(12)), ("10000000", Some(10_000_000))] {
            assert_eq!(count(text, "f", 1, &at()).ok(), read, "{text}");
        }
        for text in ["0", "-1", "1.5", "", "x", "1e20", "nan", "10000001", "99999999999999999999"] {
            assert!(count(text, "f", 1, &at()).is_err(), "{text}");
        }
        assert_eq!(count("0", "f", 0, &at()).unwrap(), 0);
    }

    #[test]
    fn times_are_exact() {
        let seconds = |text| time(text, TimeUnit::Seconds, "f", &at()).ok();
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds("1.5"), Some(1_500_000_000));
        assert_eq!(seconds("1787267980.0827403"), Some(1_787_267_980_082_740_300));
        assert_eq!(seconds("0.0000000005"), Some(1));
        assert_eq!(seconds("1e-3"), Some(1_000_000));
        assert_eq!(time("2999", TimeUnit::Millis, "f", &at()).unwrap(), 2_999_000_000);
        assert_eq!(time("7.6", TimeUnit::Nanos, "f", &at()).unwrap(), 8);
        for text in ["-1", "", ".", "1.2.3", "nan", "inf", "1e40", "99999999999999999999", "+1"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn calendar_times() {
        let read = |text| calendar(text, "f", &at()).ok();
        assert_eq!(read("1970-01-01 00:00:00"), Some(0));
        assert_eq!(read("2023-11-16 18:17:03.9799600"), Some(1_700_158_623_979_960_000));
        assert_eq!(read("2024-05-10 00:00:00.009930+00:00"), Some(1_715_299_200_009_930_000));
        assert_eq!(read("2024-02-29T01:00:00+01:00"), Some(1_709_164_800_000_000_000));
        for text in [
            "2023-02-29 00:00:00",
            "2023-13-01 00:00:00",
            "1969-12-31 23:59:59",
            "2023-11-16 24:00:00",
            "2023-11-16",
            "2023-11-16 18:17:03.97996001234",
            "18:17:03",
            "2262-01-01 00:00:00",
            "1970-01-01 00:00:00+14:00",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn calendar_text_is_the_inverse() {
        for text in ["2023-11-16 18:17:03.9799600", "1970-01-01 00:00:00.0000000"] {
            assert_eq!(calendar_text(calendar(text, "f", &at()).unwrap()), text);
        }
        assert_eq!(
            calendar_text(calendar("2024-12-31 23:59:59.9999999", "f", &at()).unwrap()),
            "2024-12-31 23:59:59.9999999"
        );
    }
}
