//! When device time went to which cause: shares of each slice of the window, in few shades.

use super::super::{Course, CourseRow, Stretch};
use super::ledgers;
use crate::unit::{Scale, Share};
use crate::waste::{Account, Basis, Books, Cause, Commodity, Level};

/// Upper ends of the shades, in thousandths of a slice; what is more has the darkest.
const SHADES: [u128; 4] = [10, 50, 200, 500];

/// Causes with less than this share of all device time, in thousandths, are left out.
const LEAST: u128 = 1;

/// The course of a run.
pub(super) fn course(books: &Books) -> Course {
    let found = books.course();
    let mut slices: Vec<u128> = Vec::new();
    let mut rows: Vec<(Cause, Level, &[u128], u128)> = Vec::new();
    for (cause, level, amounts) in found.rows() {
        slices.resize(amounts.len(), 0);
        slices.iter_mut().zip(amounts).for_each(|(sum, amount)| *sum += amount);
        rows.push((cause, level, amounts, amounts.iter().sum()));
    }
    let whole: u128 = slices.iter().sum();
    rows.sort_by_key(|(cause, level, _, sum)| (std::cmp::Reverse(*sum), *cause, *level));
    let (shown, small): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.3 * 1000 >= whole * LEAST);
    let left_out: u128 = small.iter().map(|row| row.3).sum();
    let length = found.slice().0 as f64;
    // Slices behind the window's end hold nothing.
    let used = slices.iter().rposition(|slice| *slice > 0).map_or(0, |last| last + 1);
    let row = |(cause, level, amounts, sum): (Cause, Level, &[u128], u128)| {
        let most = (0..used).max_by(|a, b| {
            let (a, b) = (*a, *b);
            (amounts[a] * slices[b]).cmp(&(amounts[b] * slices[a])).then(b.cmp(&a))
        });
        let most = most.unwrap_or(0);
        let peak = Share::new(amounts[most] as i128, slices[most] as i128);
        CourseRow {
            code: cause.code().to_owned(),
            level: books.level(&Account::of(cause, Basis::Measured).at(level)).code(),
            text: ledgers::amount(Commodity::DeviceTime, sum),
            percent: Share::new(sum as i128, whole as i128).to_string(),
            peak: format!("{peak} {}", moment(most as f64 * length)),
            stretches: stretches(&amounts[..used], &slices),
        }
    };
    Course {
        slices: used,
        slice: Scale::nanos(length).show(length),
        shades: shades(),
        ticks: ticks(used, length),
        rows: shown.into_iter().map(row).collect(),
        left_out: match small.len() {
            0 => String::new(),
            count => {
                let share = Share::new(left_out as i128, whole as i128);
                format!("{count} smaller ones are left out, {share} in all")
            }
        },
    }
}

/// Slices of the same shade, side by side, as one.
fn stretches(amounts: &[u128], slices: &[u128]) -> Vec<Stretch> {
    let count = amounts.len().max(1) as f64;
    let mut stretches: Vec<(usize, usize, u8)> = Vec::new();
    for (at, (amount, whole)) in amounts.iter().zip(slices).enumerate() {
        let shade = shade(*amount, *whole);
        match stretches.last_mut() {
            Some((_, end, same)) if *same == shade => *end = at + 1,
            _ => stretches.push((at, at + 1, shade)),
        }
    }
    stretches.retain(|stretch| stretch.2 > 0);
    let place =
        |(from, to, shade)| Stretch { from: from as f64 / count, to: to as f64 / count, shade };
    stretches.into_iter().map(place).collect()
}

/// 0 for nothing, then the number of the shade.
fn shade(amount: u128, whole: u128) -> u8 {
    if amount == 0 || whole == 0 {
        return 0;
    }
    let above = SHADES.iter().filter(|end| amount * 1000 > whole * **end).count();
    above as u8 + 1
}

fn shades() -> Vec<String> {
    let percent = |end: u128| format!("{} %", end / 10);
    let up_to = SHADES.iter().map(|end| format!("up to {}", percent(*end)));
    up_to.chain(SHADES.last().map(|end| format!("more than {}", percent(*end)))).collect()
}

fn moment(nanos: f64) -> String {
    format!("at {:.1} s", nanos / 1e9)
}

/// The beginning, quarters and the end, in seconds.
fn ticks(slices: usize, length: f64) -> Vec<(f64, String)> {
    let seconds = slices as f64 * length / 1e9;
    if slices == 0 {
        return Vec::new();
    }
    let decimals = usize::from(seconds < 20.0);
    (0..=4)
        .map(|quarter| f64::from(quarter) / 4.0)
        .map(|at| (at, format!("{:.decimals$} s", at * seconds)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_begin_above_nothing_and_end_above_half() {
        let cases = [(0, 1000, 0), (1, 1000, 1), (10, 1000, 1), (11, 1000, 2), (50, 1000, 2)];
        let more = [(51, 1000, 3), (200, 1000, 3), (500, 1000, 4), (501, 1000, 5), (7, 0, 0)];
        for (amount, whole, expected) in cases.into_iter().chain(more) {
            assert_eq!(shade(amount, whole), expected, "{amount} of {whole}");
        }
        assert_eq!(shades().len(), 5);
        assert_eq!(shades()[4], "more than 50 %");
    }

    #[test]
    fn neighbours_of_one_shade_are_one_stretch() {
        let found = stretches(&[0, 60, 70, 5, 0, 100], &[100; 6]);
        let found: Vec<(f64, f64, u8)> = found.iter().map(|s| (s.from, s.to, s.shade)).collect();
        assert_eq!(found, [(1.0 / 6.0, 0.5, 5), (0.5, 4.0 / 6.0, 2), (5.0 / 6.0, 1.0, 5)]);
    }

    #[test]
    fn ticks_end_with_the_window() {
        let texts: Vec<String> = ticks(60, 1e9).into_iter().map(|tick| tick.1).collect();
        assert_eq!(texts, ["0 s", "15 s", "30 s", "45 s", "60 s"]);
        assert_eq!(ticks(10, 1e8)[1], (0.25, "0.2 s".to_owned()));
        assert!(ticks(0, 1.0).is_empty());
    }
}
