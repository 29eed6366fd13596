//! When a limit held a device's clock down, and how far: from the readings of its meter.
//!
//! A reading holds until the next one. What the full clock is, earlier readings say: later ones
//! are not known while a run goes on, and its books must end as those of the finished run.

use super::kernel::{Part, scale};
use crate::event::{Power, Provenance, Throttle};

/// A clock that a limit holds down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) clock: u32,
    pub(super) full: u32,
    /// Where time goes that is lost to the limit.
    pub(super) part: Part,
}

impl Held {
    /// The part of `time` that would not have passed at the full clock, for work that goes with
    /// the clock.
    pub(super) fn lost(self, time: u64) -> u64 {
        scale(time, u64::from(self.full - self.clock), u64::from(self.full))
    }
}

/// From a moment on a clock is held down, differently, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockChange {
    pub(super) at: u64,
    pub(super) held: Option<Held>,
}

/// What the readings of a device say of its clock, in order of time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clocks {
    /// The highest clock that was read while no limit held it; 0 before.
    full: u32,
    held: Option<Held>,
}

impl Clocks {
    /// Takes the next reading; gives what it changes.
    pub(super) fn take(&mut self, reading: &Power) -> Option<ClockChange> {
        if reading.basis != Provenance::Measured {
            return None;
        }
        let clock = reading.clock_mhz;
        let part = match reading.throttle {
            Throttle::None => {
                self.full = self.full.max(clock);
                None
            }
            Throttle::Power => Some(Part::ThrottlePower),
            Throttle::Thermal => Some(Part::ThrottleThermal),
        };
        // A clock of 0 was not read.
        let slow = part.filter(|_| clock > 0 && clock < self.full);
        let held = slow.map(|part| Held { clock, full: self.full, part });
        let before = std::mem::replace(&mut self.held, held);
        (held != before).then_some(ClockChange { at: reading.at.0, held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Nanos;

    fn reading(at: u64, clock_mhz: u32, throttle: Throttle) -> Power {
        let (at, basis) = (Nanos(at), Provenance::Measured);
        Power { device: 0, at, energy_uj: 0, power_mw: 0, clock_mhz, throttle, basis }
    }

    /// The changes that readings make: when, and what a limit loses of 1000 ns.
    fn changes(readings: &[(u32, Throttle)]) -> Vec<(u64, Option<(Part, u64)>)> {
        let mut clocks = Clocks::default();
        let of = |(at, (clock, throttle)): (u64, &(u32, Throttle))| {
            let change = clocks.take(&reading(at, *clock, *throttle))?;
            Some((change.at, change.held.map(|held| (held.part, held.lost(1000)))))
        };
        (0..).zip(readings).filter_map(of).collect()
    }

    #[test]
    fn a_limit_holds_from_its_reading_to_the_next() {
        use Throttle::{None as Free, Power, Thermal};
        let found = changes(&[
            (300, Free),
            (1500, Free),
            (1200, Power),
            (1200, Power),
            (1000, Thermal),
            (600, Free),
        ]);
        let expected = [
            (2, Some((Part::ThrottlePower, 200))),
            (4, Some((Part::ThrottleThermal, 333))),
            (5, None),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn without_something_to_compare_with_nothing_is_lost() {
        use Throttle::{None as Free, Power as Capped};
        assert_eq!(changes(&[(1200, Capped), (0, Free), (1200, Capped)]), [], "no full clock");
        assert_eq!(changes(&[(1500, Free), (0, Capped)]), [], "no clock");
        assert_eq!(changes(&[(1500, Free), (1500, Capped), (1600, Capped)]), [], "none is slow");
        let mut clocks = Clocks::default();
        assert_eq!(clocks.take(&reading(0, 1500, Free)), None);
        let modelled = Power { basis: Provenance::Modelled, ..reading(1, 750, Capped) };
        assert_eq!(clocks.take(&modelled), None, "no meter said so");
    }
}
