//! How fast steps are: untimed for the rates, and timed beside it for what each kernel's share is
//! and for what timing costs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::sequences::Bench;
use super::{BenchArgs, Probe};
use crate::backend::DeviceError;
use crate::cost::Kernel;
use crate::event::{Clock, WallClock};
use crate::stat::Sample;
use crate::unit::Nanos;

/// Decode steps between two looks at what plain reading reaches.
const TURN: u32 = 8;

/// Several measurements of one rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rates {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Rates {
    pub fn of(mut rates: Vec<f64>) -> Self {
        rates.sort_by(f64::total_cmp);
        let middle = rates.len() / 2;
        let median = match rates.len() {
            0 => 0.0,
            len if len % 2 == 1 => rates[middle],
            _ => (rates[middle - 1] + rates[middle]) / 2.0,
        };
        let end = |rate: Option<&f64>| rate.copied().unwrap_or(0.0);
        Self { median, least: end(rates.first()), most: end(rates.last()) }
    }
}

/// What timing each operation does to the time of the same steps: timed by untimed time, over
/// pairs of runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Inflation {
    pub pairs: usize,
    pub median: f64,
    pub quartiles: [f64; 2],
}

impl Inflation {
    /// None without pairs.
    fn of(ratios: &[f64]) -> Option<Self> {
        let sample = Sample::new(ratios.to_vec());
        Some(Self {
            pairs: ratios.len(),
            median: sample.percentile(50.0)?,
            quartiles: [sample.percentile(25.0)?, sample.percentile(75.0)?],
        })
    }
}

/// Where plain reading stands among the rates.
pub(super) const READS: usize = 3;

/// What was measured of one batch.
pub(super) struct Measured {
    /// Prefill, decode, weights and plain reading, each per second, and weights by plain reading.
    pub rates: [Rates; 5],
    /// Of prefill and of decode; nothing where the device always times its operations.
    pub inflation: BTreeMap<&'static str, Inflation>,
    /// The share of each kernel in the time of decode steps that were timed.
    pub decode_shares: BTreeMap<&'static str, f64>,
}

/// The same steps twice, or once where the device always times them.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    weight_bytes: u64,
    untimed: Nanos,
    timed: Option<Nanos>,
}

impl Pair {
    fn ratio(&self) -> Option<f64> {
        let timed = self.timed.filter(|_| self.untimed > Nanos::ZERO)?;
        Some(timed.as_secs_f64() / self.untimed.as_secs_f64())
    }

    /// The time of what told the shares.
    fn told(&self) -> Nanos {
        self.timed.unwrap_or(self.untimed)
    }
}

/// Measures one batch, in turns with plain reading. Whether the timed steps of a pair come before
/// the others changes from pair to pair.
pub(super) fn measure(
    bench: &mut Bench,
    (probe, clock): (&Probe, WallClock),
    batch: u32,
    args: &BenchArgs,
) -> Result<Measured, DeviceError> {
    let mut rates = [const { Vec::new() }; 5];
    let [mut prefills, mut decodes] = [const { Vec::new() }; 2];
    let (mut took, mut told) = (BTreeMap::<Kernel, Nanos>::new(), Nanos::ZERO);
    // The first step only warms up.
    pair(bench, clock, false, |bench| bench.decode(batch, 0..1))?;
    for repeat in 0..args.repeats {
        let timed_first = repeat % 2 == 1;
        let prefilled = pair(bench, clock, timed_first, |bench| bench.prefill(batch).map(|()| 0))?;
        prefills.extend(prefilled.ratio());
        bench.take_times();
        let (mut weight_bytes, mut decoded) = (0, Nanos::ZERO);
        let (mut read_bytes, mut reading) = (0, Nanos::ZERO);
        for (done, turn) in (0..args.generate).step_by(TURN as usize).zip(repeat..) {
            let tokens = done..args.generate.min(done + TURN);
            let pair =
                pair(bench, clock, turn % 2 == 1, |bench| bench.decode(batch, tokens.clone()))?;
            (weight_bytes, decoded) = (weight_bytes + pair.weight_bytes, decoded + pair.untimed);
            decodes.extend(pair.ratio());
            told += pair.told();
            for (kernel, time) in bench.take_times() {
                *took.entry(kernel).or_default() += time;
            }
            let (bytes, time) = probe.read(&bench.device)?;
            (read_bytes, reading) = (read_bytes + bytes, reading + time);
        }
        let tokens = |each: u32| f64::from(batch) * f64::from(each);
        let weight_rate = per_second(weight_bytes as f64, decoded);
        let read_rate = per_second(read_bytes as f64, reading);
        let repeat = [
            per_second(tokens(args.prompt), prefilled.untimed),
            per_second(tokens(args.generate), decoded),
            weight_rate,
            read_rate,
            weight_rate / read_rate,
        ];
        rates.iter_mut().zip(repeat).for_each(|(all, one)| all.push(one));
    }
    let inflation = [("prefill", prefills), ("decode", decodes)];
    let inflation = inflation.iter().filter_map(|(of, all)| Some((*of, Inflation::of(all)?)));
    let share = |time: Nanos| time.0 as f64 / told.0.max(1) as f64;
    Ok(Measured {
        rates: rates.map(Rates::of),
        inflation: inflation.collect(),
        decode_shares: took.iter().map(|(kernel, time)| (kernel.name(), share(*time))).collect(),
    })
}

/// Runs the same steps without the times of their operations and with them.
fn pair(
    bench: &mut Bench,
    clock: WallClock,
    timed_first: bool,
    mut work: impl FnMut(&mut Bench) -> Result<u64, DeviceError>,
) -> Result<Pair, DeviceError> {
    let mut pair = Pair::default();
    for each in [timed_first, !timed_first] {
        let timed = bench.time_operations(each);
        if timed && !each {
            // It always times them: what it does when asked to is the same.
            continue;
        }
        let start = clock.now();
        pair.weight_bytes = work(bench)?;
        let time = clock.now().saturating_sub(start);
        if timed { pair.timed = Some(time) } else { pair.untimed = time }
    }
    match pair.timed {
        Some(time) if pair.untimed == Nanos::ZERO => {
            Ok(Pair { untimed: time, timed: None, ..pair })
        }
        _ => Ok(pair),
    }
}

fn per_second(amount: f64, time: Nanos) -> f64 {
    if time == Nanos::ZERO { 0.0 } else { amount / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_middle_and_ends() {
        for (rates, expected) in [
            (vec![], [0.0, 0.0, 0.0]),
            (vec![4.0], [4.0, 4.0, 4.0]),
            (vec![3.0, 1.0], [2.0, 1.0, 3.0]),
            (vec![3.0, 1.0, 2.0], [2.0, 1.0, 3.0]),
        ] {
            let Rates { median, least, most } = Rates::of(rates);
            assert_eq!([median, least, most], expected);
        }
    }

    #[test]
    fn inflation_is_of_pairs() {
        assert_eq!(Inflation::of(&[]), None);
        let found = Inflation::of(&[1.3, 1.1, 1.2, 1.0]);
        let expected = Inflation { pairs: 4, median: 1.1, quartiles: [1.0, 1.2] };
        assert_eq!(found, Some(expected));
        let pair = |untimed, timed| Pair {
            weight_bytes: 0,
            untimed: Nanos(untimed),
            timed: Option::map(timed, Nanos),
        };
        assert_eq!(pair(200, Some(250)).ratio(), Some(1.25));
        assert_eq!(pair(200, None).ratio(), None);
        assert_eq!([pair(200, Some(250)), pair(200, None)].map(|p| p.told().0), [250, 200]);
    }
}
