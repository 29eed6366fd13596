//! What a card's own counters see of decode steps, beside what their launches had to move.

use std::io::Write;

use serde::Serialize;

use super::super::device::Device;
use super::sequences::Bench;
use crate::backend::DeviceError;
use crate::backend::cuda::Counters;
use crate::cost::Budget;
use crate::event::{Activity, Clock, WallClock};
use crate::unit::Nanos;

/// How long steps are counted. Nothing else runs then, plain reading neither.
const WINDOW: Nanos = Nanos(1_000_000_000);

/// What the counters saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Counted {
    /// Decode steps that were counted.
    steps: u64,
    /// How long that took.
    seconds: f64,
    /// What the memory could move at best, by its highest clock and the width of its bus: what the
    /// counters tell is a share of it.
    peak_bytes_per_s: u64,
    /// Bytes that went to and from the card's memory, past its second-level cache.
    memory_bytes: u64,
    /// The same, by what the launches had to move.
    ratio: f64,
    /// What the launches of these steps had to move.
    budget: Moved,
    /// The rest of what the counters tell.
    activity: Activity,
    /// Why the ratio does not hold, if it does not.
    doubt: Option<String>,
}

/// Bytes by their budgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Moved {
    weight_bytes: u64,
    kv_bytes: u64,
    activation_bytes: u64,
    /// What forms that are not fused move beyond these.
    excess_bytes: u64,
}

impl Moved {
    fn add(&mut self, budgets: &[Budget]) {
        for budget in budgets {
            self.weight_bytes += budget.weight_bytes.0;
            self.kv_bytes += budget.kv_bytes.0;
            self.activation_bytes += budget.activation_bytes.0;
            self.excess_bytes += budget.excess_bytes.0;
        }
    }

    const fn all(&self) -> u64 {
        self.weight_bytes + self.kv_bytes + self.activation_bytes + self.excess_bytes
    }
}

/// Decodes `batch` sequences until there is enough to count. `None` where the device has no
/// counters of its own; the inner error says why a card's cannot be read.
pub(super) fn counted(
    bench: &mut Bench,
    (batch, generate): (u32, u32),
    clock: WallClock,
    read_bytes_per_s: f64,
) -> Result<Option<Result<Counted, String>>, DeviceError> {
    let Device::Cuda(cuda) = &bench.device else { return Ok(None) };
    let counters = match Counters::begin(&cuda.card().uuid, clock) {
        Ok(counters) => counters,
        Err(error) => return Ok(Some(Err(error.to_string()))),
    };
    let (peak, began) = (counters.peak_bytes_per_s(), clock.now());
    let (mut budget, mut steps) = (Moved::default(), 0);
    for done in (0..generate.max(1)).cycle() {
        bench.decode(batch, done..done + 1)?;
        budget.add(&bench.budgets);
        steps += 1;
        if clock.now().saturating_sub(began) >= WINDOW {
            break;
        }
    }
    // The counters may be read once more behind the last step, when nothing moves any more.
    let steps = (steps, clock.now().saturating_sub(began));
    let told = counters.end().map_err(|error| error.to_string());
    let held = |stretches: Vec<Activity>| {
        let all = Activity::within(&stretches, Nanos::ZERO, Nanos(u64::MAX));
        all.and_then(|activity| Counted::of(activity, peak, budget, steps, read_bytes_per_s))
            .ok_or_else(|| "they told nothing of the memory".to_owned())
    };
    Ok(Some(told.and_then(held)))
}

impl Counted {
    fn of(
        activity: Activity,
        peak: u64,
        budget: Moved,
        (steps, time): (u64, Nanos),
        read_bytes_per_s: f64,
    ) -> Option<Self> {
        let memory_bytes = activity.memory_bytes?;
        let doubt = if read_bytes_per_s > peak as f64 {
            Some("plain reading beat the memory's peak, which is too low or was read from a cache")
        } else if activity.memory_ppm > Some(1_000_000) {
            Some("the counter tells more than all of its peak")
        } else {
            None
        };
        Some(Self {
            steps,
            seconds: time.as_secs_f64(),
            peak_bytes_per_s: peak,
            memory_bytes,
            ratio: memory_bytes as f64 / budget.all().max(1) as f64,
            budget,
            activity,
            doubt: doubt.map(str::to_owned),
        })
    }

    /// Prints it below the other figures, and what it can mean.
    pub(super) fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let rate = self.memory_bytes as f64 / self.seconds / 1e9;
        let (name, ratio) = ("decode, counted, GB/s", self.ratio);
        writeln!(out, "{name:28}{rate:>12.1}  ({ratio:.3} of the budgets)")?;
        writeln!(
            out,
            "{:28}the card's own counters, over {} steps: they see what passes its second-level\n\
             {:28}cache. What stays there is in the budgets alone; what is read twice, and what\n\
             {:28}a launch keeps for itself, is in the counters alone.",
            "", self.steps, "", ""
        )?;
        if let Some(doubt) = &self.doubt {
            writeln!(out, "{:28}the ratio does not hold: {doubt}", "")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(weight_bytes: u64) -> Moved {
        Moved { weight_bytes, kv_bytes: 30, activation_bytes: 20, excess_bytes: 50 }
    }

    #[test]
    fn counted_bytes_are_held_against_budgets_and_a_peak_that_can_be() {
        let activity = Activity {
            end_ns: Nanos(500_000_000),
            memory_bytes: Some(300),
            memory_ppm: Some(600_000),
            ..Activity::default()
        };
        let of = |activity, budget, read| {
            Counted::of(activity, 1000, budget, (7, Nanos(500_000_000)), read)
        };
        let found = of(activity, moved(100), 900.0).unwrap();
        assert_eq!((found.steps, found.seconds, found.memory_bytes), (7, 0.5, 300));
        assert_eq!((found.ratio, &found.doubt), (1.5, &None));
        let doubt = |activity, read| of(activity, moved(100), read).unwrap().doubt.unwrap();
        assert!(doubt(activity, 1001.0).starts_with("plain reading beat"));
        let more = Activity { memory_ppm: Some(1_000_001), ..activity };
        assert!(doubt(more, 900.0).starts_with("the counter tells more"));
        let silent = Activity { memory_bytes: None, ..activity };
        assert_eq!(of(silent, moved(100), 900.0), None);
    }

    #[test]
    fn it_says_what_the_counters_can_see() {
        let activity = Activity {
            end_ns: Nanos(1_000_000_000),
            memory_bytes: Some(3_000_000_000),
            ..Activity::default()
        };
        let steps = (9, Nanos(1_000_000_000));
        let counted = Counted::of(activity, 1, moved(2_999_999_900), steps, 2.0).unwrap();
        let mut text = Vec::new();
        counted.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("decode, counted, GB/s                3.0  (1.000 of "), "{text}");
        assert!(text.contains("over 9 steps: they see what passes its second-level\n"), "{text}");
        assert!(text.contains("does not hold: plain reading beat the memory's peak"), "{text}");
    }
}
