//! What recording costs: the same short runs with it and without it, in pairs. A recorded run
//! ends when the recorder has dealt with all of it, so what it leaves to a thread of its own
//! counts in full. Nor are the operations of a run that is forgotten timed, where the device can
//! leave that: what tells their times is a part of recording them.
//!
//! A pair is decode steps of the same sequences in four runs: recorded, forgotten, forgotten,
//! recorded; the next pair the other way round. Whatever grows along evenly, as contexts do,
//! then falls on both halves alike.

use crate::backend::Backend;
use crate::engine::{Engine, States};
use crate::event::{Clock, Forget, Recorder, RequestId};
use crate::schedule::Options;
use crate::trace::Observer;
use crate::unit::Nanos;

use super::warm_up::{PrepareError, engine, order, step};

/// The most sequences that decode together: more would only dilute the cost.
const SEQUENCES: u32 = 4;
/// Each of the four runs takes about so long, if the sequences can grow so far.
const RUN: Nanos = Nanos(40_000_000);
/// But has so many steps at least.
const STEPS: u32 = 4;
const PROMPT_TOKENS: u32 = 4;

/// Runs of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Timed {
    nanos: u64,
    launches: u64,
}

impl Timed {
    fn add(&mut self, other: Self) {
        self.nanos += other.nanos;
        self.launches += other.launches;
    }
}

/// Runs `pairs` pairs, the recorded half into `scratch`, and gives the device back.
pub(super) fn observe(
    backend: Box<dyn Backend>,
    options: Options,
    pairs: u32,
    clock: &dyn Clock,
    scratch: &mut dyn Recorder,
) -> Result<(Box<dyn Backend>, Option<Observer>), PrepareError> {
    let memory = options.memory;
    let sequences = SEQUENCES.min(options.batching.max_num_seqs);
    let room = (memory.kv_blocks / sequences).saturating_mul(memory.block_tokens);
    let room = room.min(memory.max_sequence_tokens);
    // The four runs of a pair, a step of each kind to find out how long a step is, and the prompt.
    let most = room.saturating_sub(PROMPT_TOKENS + 3) / 4;
    let mut engine = engine(backend, options, clock)?;
    if most == 0 || pairs == 0 {
        return Ok((engine.into_backend(), None));
    }
    engine.begin(States::new(0), scratch);
    let mut differences = Vec::new();
    for pair in 0..pairs {
        let first = u64::from(pair * sequences);
        for request in first..first + u64::from(sequences) {
            engine.submit(order(request, PROMPT_TOKENS, room - PROMPT_TOKENS), &mut Forget);
        }
        step(&mut engine, &mut Forget)?;
        engine.settle(&mut Forget)?;
        timed(&mut engine, (1, true), clock, &mut Forget)?;
        let one = timed(&mut engine, (1, false), clock, &mut Forget)?;
        let wanted = (RUN.0 / one.nanos.max(1)).max(STEPS.into());
        let steps = wanted.min(u64::from(most)) as u32;
        let (mut with, mut without) = (Timed::default(), Timed::default());
        for quarter in 0..4 {
            let outer = quarter == 0 || quarter == 3;
            if outer == (pair % 2 == 0) {
                with.add(timed(&mut engine, (steps, true), clock, scratch)?);
            } else {
                without.add(timed(&mut engine, (steps, false), clock, &mut Forget)?);
            }
        }
        differences.push((with, without));
        for request in first..first + u64::from(sequences) {
            engine.cancel(RequestId(request));
        }
        while step(&mut engine, &mut Forget)? {}
        engine.take_finished();
    }
    Ok((engine.into_backend(), Some(summary(&differences))))
}

/// Runs so many steps, with the times of their operations or without.
fn timed(
    engine: &mut Engine<'_>,
    (steps, operations): (u32, bool),
    clock: &dyn Clock,
    recorder: &mut dyn Recorder,
) -> Result<Timed, PrepareError> {
    engine.time_operations(operations);
    let (start, launches) = (clock.now(), engine.counts().launches);
    for _ in 0..steps {
        step(engine, recorder)?;
    }
    engine.settle(recorder)?;
    recorder.settle();
    let nanos = clock.now().saturating_sub(start).0;
    Ok(Timed { nanos, launches: engine.counts().launches - launches })
}

/// The medians over all pairs. A cost of which the lower quartile is not above zero could not be
/// told from nothing, and nothing is what is booked for it.
fn summary(pairs: &[(Timed, Timed)]) -> Observer {
    let extra =
        |(with, without): &(Timed, Timed)| i128::from(with.nanos) - i128::from(without.nanos);
    let sorted = |of: &dyn Fn(&(Timed, Timed)) -> i128| {
        let mut values: Vec<i128> = pairs.iter().map(of).collect();
        values.sort_unstable();
        values
    };
    let per_launch = sorted(&|pair| extra(pair) / i128::from(pair.0.launches.max(1)));
    let ppm = sorted(&|pair| extra(pair) * 1_000_000 / i128::from(pair.1.nanos.max(1)));
    let narrow = |value: i128| i64::try_from(value).unwrap_or(i64::MAX);
    let seen = quantile(&per_launch, 1) > 0;
    let ns_per_launch = if seen { quantile(&per_launch, 2) } else { 0 };
    Observer {
        pairs: pairs.len() as u32,
        ns_per_launch: u64::try_from(ns_per_launch).unwrap_or(0),
        share_ppm: narrow(quantile(&ppm, 2)),
        share_ppm_quartiles: [narrow(quantile(&ppm, 1)), narrow(quantile(&ppm, 3))],
    }
}

/// The `quarter`th quartile of sorted values, between two values their mean by distance.
fn quantile(sorted: &[i128], quarter: usize) -> i128 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0 };
    let (at, rest) = (last * quarter / 4, (last * quarter % 4) as i128);
    let above = sorted[(at + 1).min(last)];
    sorted[at] + (above - sorted[at]) * rest / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_values() {
        assert_eq!([1, 2, 3].map(|quarter| quantile(&[0, 10, 20, 30, 40], quarter)), [10, 20, 30]);
        assert_eq!([1, 2, 3].map(|quarter| quantile(&[0, 100], quarter)), [25, 50, 75]);
        assert_eq!(quantile(&[7], 2), 7);
        assert_eq!(quantile(&[], 2), 0);
    }

    #[test]
    fn the_median_pair_decides_and_noise_is_no_cost() {
        let pair = |with, without| {
            (Timed { nanos: with, launches: 100 }, Timed { nanos: without, launches: 100 })
        };
        let seen = summary(&[pair(10_500, 10_000), pair(90_000, 10_000), pair(10_300, 10_000)]);
        assert_eq!((seen.pairs, seen.ns_per_launch, seen.share_ppm), (3, 5, 50_000));
        let noise = summary(&[pair(9_000, 10_000)]);
        assert_eq!((noise.ns_per_launch, noise.share_ppm), (0, -100_000));
        let unclear = [9_000, 9_500, 10_200, 10_300, 10_400].map(|with| pair(with, 10_000));
        let unclear = summary(&unclear);
        assert_eq!((unclear.ns_per_launch, unclear.share_ppm), (0, 20_000));
    }
}
