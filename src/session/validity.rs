//! What the readings of a meter come to, and whether that holds, from the readings alone.

use std::time::Duration;

use crate::backend::Reading;
use crate::event::Throttle;
use crate::trace::{Extremes, MeterHeader, Validity};
use crate::unit::{Nanos, si_nanos};

/// Periods of the energy counter that a window must hold: one more or less is a tenth then.
const PERIODS: u64 = 10;
/// Energy counter and integrated power may differ by this share, in parts per thousand.
const APART: u128 = 100;
/// A device that was slow for less than this, in parts per thousand, was not.
const SLOW: u128 = 10;

/// The readings of a meter, as they come.
#[derive(Debug, Default)]
pub(super) struct Tally {
    told: MeterHeader,
    first: Option<Reading>,
    last: Option<Reading>,
    /// Milliwatts × nanoseconds; none once a reading told no power.
    work: Option<u128>,
    /// Why the meter could not be read any more.
    failure: Option<String>,
}

impl Tally {
    /// Takes the next reading. Power is as the device tells it.
    pub fn take(&mut self, at: Nanos, reading: Reading) {
        let told = &mut self.told;
        told.readings += 1;
        let power = |reading: Reading| reading.power_mw.map(u128::from);
        if let Some(before) = self.last {
            let time = at.saturating_sub(told.end_ns);
            told.moves += u64::from(reading.energy_uj != before.energy_uj);
            let mean = power(before).zip(power(reading)).map(|(a, b)| (a + b) * u128::from(time.0));
            self.work = self.work.zip(mean).map(|(work, more)| work + more / 2);
            match before.throttle {
                Throttle::None => {}
                Throttle::Power => told.power_throttled_ns += time,
                Throttle::Thermal => told.thermal_throttled_ns += time,
            }
        } else {
            (self.first, told.start_ns) = (Some(reading), at);
            self.work = power(reading).map(|_| 0);
        }
        let keep = |extremes: &mut Option<Extremes>, reading: Option<u64>| {
            *extremes = reading.map(|r| Extremes::with(*extremes, r)).or(*extremes);
        };
        keep(&mut told.clock_mhz, (reading.clock_mhz > 0).then_some(reading.clock_mhz.into()));
        keep(&mut told.memory_clock_mhz, reading.memory_clock_mhz.map(u64::from));
        keep(&mut told.temperature_c, reading.temperature_c.map(u64::from));
        keep(&mut told.memory_used_bytes, reading.memory_used);
        (self.last, told.end_ns) = (Some(reading), at);
    }

    /// Says that there will be no more readings, and why.
    pub fn fail(&mut self, why: String) {
        self.failure = Some(why);
    }

    /// What they come to, of a counter that moves once a `period`; `None` if there was none.
    pub fn told(self, device: u16, period: Duration) -> Option<MeterHeader> {
        let (first, last) = (self.first?, self.last?);
        let mut told = self.told;
        told.device = device;
        told.energy_uj = last.energy_uj.saturating_sub(first.energy_uj);
        told.integrated_uj = self.work.and_then(|work| u64::try_from(work / 1_000_000).ok());
        let mut reasons = reasons(&told, period.into());
        reasons.extend(self.failure.map(|why| {
            let after = si_nanos(told.end_ns.saturating_sub(told.start_ns));
            format!("the meter could not be read any more after {after}: {why}")
        }));
        told.validity = Validity { valid: reasons.is_empty(), reasons };
        Some(told)
    }
}

/// What speaks against a meter whose energy counter moves once a `period`.
fn reasons(told: &MeterHeader, period: Nanos) -> Vec<String> {
    let time = told.end_ns.saturating_sub(told.start_ns);
    let (window, every) = (si_nanos(time), si_nanos(period));
    let mut reasons = Vec::new();
    if time < period {
        reasons.push(format!("a window of {window} is shorter than its counter's period, {every}"));
    } else if told.moves == 0 {
        reasons.push(format!("its energy counter stood still for {window}"));
    } else if time.0 < period.0.saturating_mul(PERIODS) {
        reasons.push(format!(
            "a window of {window} holds fewer than {PERIODS} periods of its counter, {every} each"
        ));
    }
    let counted = u128::from(told.energy_uj);
    match told.integrated_uj.map(u128::from) {
        Some(integrated) if told.moves > 0 => {
            let between = counted.abs_diff(integrated);
            if between * 1000 > counted * APART {
                let joules = |microjoules: u128| microjoules as f64 / 1e6;
                reasons.push(format!(
                    "its energy counter rose by {:.1} J, and its power comes to {:.1} J",
                    joules(counted),
                    joules(integrated)
                ));
            }
        }
        _ => {}
    }
    for (slow, limit) in
        [(told.power_throttled_ns, "power"), (told.thermal_throttled_ns, "temperature")]
    {
        let (slow, time) = (u128::from(slow.0), u128::from(time.0).max(1));
        if slow * 1000 >= time * SLOW && slow > 0 {
            let percent = (slow * 100).div_ceil(time);
            reasons
                .push(format!("the {limit} limit kept its clock low for {percent} % of the time"));
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(energy_uj: u64, power_mw: Option<u64>, throttle: Throttle) -> Reading {
        Reading {
            energy_uj,
            power_mw,
            clock_mhz: 1500,
            throttle,
            temperature_c: Some(40 + (energy_uj / 1_000_000) as u32),
            memory_clock_mhz: None,
            memory_used: Some(1 << 30),
        }
    }

    const TENTH: Nanos = Nanos(100_000_000);

    /// Readings each tenth of a second: millijoules of the counter, watts, throttling.
    fn told(readings: &[(u64, Option<u64>, Throttle)]) -> MeterHeader {
        let mut tally = Tally::default();
        for (at, (energy, watts, throttle)) in (0_u64..).zip(readings) {
            let power = watts.map(|watts| watts * 1000);
            tally.take(Nanos(5 + at * TENTH.0), reading(energy * 1000, power, *throttle));
        }
        tally.told(3, Duration::from_nanos(TENTH.0)).unwrap()
    }

    #[test]
    fn each_doubt_has_its_reason() {
        use Throttle::{None as Free, Power, Thermal};
        // Two seconds at 100 W, ten joules in each tenth.
        let steady = |watts: Option<u64>, throttle: fn(u64) -> Throttle| -> Vec<_> {
            (0..=20).map(|at| (10_000 * at, watts, throttle(at))).collect()
        };
        let reasons = |of: &[(u64, Option<u64>, Throttle)]| told(of).validity.reasons;
        let none: [&str; 0] = [];
        assert_eq!(reasons(&steady(Some(100), |_| Free)), none);
        assert_eq!(reasons(&steady(Some(109), |_| Free)), none);
        assert_eq!(reasons(&steady(Option::None, |_| Free)), none);
        assert_eq!(
            reasons(&steady(Some(111), |_| Free)),
            ["its energy counter rose by 200.0 J, and its power comes to 222.0 J"]
        );
        assert_eq!(
            reasons(&steady(Some(100), |at| if at < 7 { Power } else { Thermal })),
            [
                "the power limit kept its clock low for 35 % of the time",
                "the temperature limit kept its clock low for 65 % of the time"
            ]
        );
        let frozen = vec![(7, Some(100), Free); 21];
        assert_eq!(reasons(&frozen), ["its energy counter stood still for 2.00 s"]);
        assert_eq!(
            reasons(&[(0, Option::None, Free)]),
            ["a window of 0 ns is shorter than its counter's period, 100 ms"]
        );
        assert_eq!(
            reasons(&steady(Some(100), |_| Free)[..4]),
            ["a window of 300 ms holds fewer than 10 periods of its counter, 100 ms each"]
        );
    }

    #[test]
    fn readings_come_to_sums_and_extremes() {
        use Throttle::{None as Free, Power};
        let told = told(&[(500, Some(10), Free), (500, Some(30), Power), (2500, Some(30), Free)]);
        assert_eq!((told.device, told.readings, told.moves), (3, 3, 1));
        assert_eq!((told.start_ns, told.end_ns), (Nanos(5), Nanos(5 + 2 * TENTH.0)));
        // 20 W and 30 W in the mean, a tenth of a second each.
        assert_eq!((told.energy_uj, told.integrated_uj), (2_000_000, Some(5_000_000)));
        assert_eq!((told.power_throttled_ns, told.thermal_throttled_ns), (TENTH, Nanos::ZERO));
        assert_eq!(told.clock_mhz, Some(Extremes { least: 1500, most: 1500 }));
        assert_eq!(told.temperature_c, Some(Extremes { least: 40, most: 42 }));
        assert_eq!(told.memory_clock_mhz, None);
        assert_eq!(told.memory_used_bytes, Some(Extremes { least: 1 << 30, most: 1 << 30 }));
    }

    #[test]
    fn a_meter_that_was_lost_is_not_believed() {
        let period = Duration::from_nanos(TENTH.0);
        let mut tally = Tally::default();
        for at in 0..20 {
            tally.take(Nanos(at * TENTH.0), reading(at * 1000, Some(10), Throttle::None));
        }
        tally.fail("gone".to_owned());
        let told = tally.told(0, period).unwrap();
        let expected = "the meter could not be read any more after 1.90 s: gone";
        assert!(told.validity.reasons.iter().any(|reason| reason == expected), "{told:?}");
        assert!(!told.validity.valid);
        assert_eq!(Tally::default().told(0, period), None);
    }
}
