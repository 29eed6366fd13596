//! What a device did, as its own counters say.

use serde::{Deserialize, Serialize};

use crate::unit::Nanos;

/// What a device's own counters say of a stretch of time; what they do not tell is left out.
///
/// Memory's bytes are those that pass between the device's memory and its last cache, whoever
/// caused them. Shares are in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Where the stretch begins.
    pub start_ns: Nanos,
    /// Where it ends.
    pub end_ns: Nanos,
    /// Bytes read from the device's memory and written to it.
    pub memory_bytes: Option<u64>,
    /// The same by what its memory could move at best.
    pub memory_ppm: Option<u64>,
    /// Multiprocessors that had work, by all.
    pub multiprocessors_ppm: Option<u64>,
    /// Warps that were active, by those that could be.
    pub occupancy_ppm: Option<u64>,
    /// Time in which matrix units worked.
    pub matrix_ppm: Option<u64>,
    /// Bytes sent to the host.
    pub sent_bytes: Option<u64>,
    /// Bytes received from it.
    pub received_bytes: Option<u64>,
}

impl Activity {
    /// What adjoining stretches say together of the time from `start` to `end`: bytes as sums,
    /// shares as means over time. Of a stretch that reaches beyond it counts the part inside.
    /// `None` if none lies inside.
    #[must_use]
    pub fn within(stretches: &[Self], start: Nanos, end: Nanos) -> Option<Self> {
        let inside = |stretch: &Self| (stretch.start_ns.max(start), stretch.end_ns.min(end));
        let parts: Vec<(&Self, u128)> = stretches
            .iter()
            .map(|stretch| (stretch, inside(stretch)))
            .map(|(stretch, (from, to))| (stretch, u128::from(to.saturating_sub(from).0)))
            .filter(|(_, time)| *time > 0)
            .collect();
        let (first, last) = (parts.first()?.0, parts.last()?.0);
        let all: u128 = parts.iter().map(|(_, time)| time).sum();
        // What one stretch does not tell is not known of them together.
        let mean = |share: fn(&Self) -> Option<u64>| {
            let of = |(stretch, time): &(&Self, u128)| Some(u128::from(share(stretch)?) * time);
            let sum: u128 = parts.iter().map(of).sum::<Option<u128>>()?;
            u64::try_from(sum / all).ok()
        };
        let sum = |bytes: fn(&Self) -> Option<u64>| {
            let of = |(stretch, time): &(&Self, u128)| {
                let whole = u128::from(stretch.end_ns.saturating_sub(stretch.start_ns).0);
                Some(u128::from(bytes(stretch)?) * time / whole)
            };
            u64::try_from(parts.iter().map(of).sum::<Option<u128>>()?).ok()
        };
        Some(Self {
            start_ns: inside(first).0,
            end_ns: inside(last).1,
            memory_bytes: sum(|stretch| stretch.memory_bytes),
            memory_ppm: mean(|stretch| stretch.memory_ppm),
            multiprocessors_ppm: mean(|stretch| stretch.multiprocessors_ppm),
            occupancy_ppm: mean(|stretch| stretch.occupancy_ppm),
            matrix_ppm: mean(|stretch| stretch.matrix_ppm),
            sent_bytes: sum(|stretch| stretch.sent_bytes),
            received_bytes: sum(|stretch| stretch.received_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(start: u64, end: u64, bytes: u64, ppm: u64) -> Activity {
        Activity {
            start_ns: Nanos(start),
            end_ns: Nanos(end),
            memory_bytes: Some(bytes),
            memory_ppm: Some(ppm),
            ..Activity::default()
        }
    }

    #[test]
    fn stretches_count_as_far_as_they_lie_inside() {
        let two = [stretch(0, 100, 1000, 10), stretch(100, 400, 600, 50)];
        for (start, end, expected) in [
            (0, 400, Some(stretch(0, 400, 1600, 40))),
            (0, u64::MAX, Some(stretch(0, 400, 1600, 40))),
            (50, 400, Some(stretch(50, 400, 1100, 44))),
            (100, 250, Some(stretch(100, 250, 300, 50))),
            (90, 110, Some(stretch(90, 110, 120, 30))),
            (400, 500, None),
            (70, 70, None),
        ] {
            assert_eq!(Activity::within(&two, Nanos(start), Nanos(end)), expected, "{start} {end}");
        }
        assert_eq!(Activity::within(&[], Nanos(0), Nanos(1)), None);
    }

    #[test]
    fn what_one_stretch_does_not_tell_is_not_known_of_all() {
        let silent = Activity { memory_bytes: None, ..stretch(100, 200, 0, 30) };
        let two = [stretch(0, 100, 1000, 10), silent];
        let found = Activity::within(&two, Nanos(0), Nanos(200)).unwrap();
        assert_eq!((found.memory_bytes, found.memory_ppm), (None, Some(20)));
        assert_eq!(found.sent_bytes, None);
    }
}
