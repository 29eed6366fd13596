//! The headline figures: exact quotients of ledger sums, and what the requests experienced.

use super::books::Books;
use super::catalogue::{Cause, Level, Muda};
use super::posting::{Account, Commodity};
use crate::event::Outcome;
use crate::trace::Run;
use crate::unit::Share;

/// Where a posting of device time leaves the way from all of it down to value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Nothing was asked for.
    Demand,
    /// It could not run.
    Availability,
    /// It was thrown away or done twice.
    Yield,
    /// A better engine would not have spent it.
    Performance,
    /// Any engine must move it.
    Movement,
    /// It does not: it is value.
    Value,
}

impl Rung {
    /// How many there are.
    const COUNT: usize = 6;

    /// The losses, from all device time down.
    pub const LOSSES: [Self; 5] =
        [Self::Demand, Self::Availability, Self::Yield, Self::Performance, Self::Movement];

    /// The rung of an account.
    #[must_use]
    pub fn of(account: &Account) -> Self {
        match account.cause {
            Cause::NoDemand => Self::Demand,
            Cause::SloHeadroom
            | Cause::Upstream
            | Cause::BatchFill
            | Cause::Capacity
            | Cause::Changeover
            // Whoever measures has the device to itself: requests do not run.
            | Cause::Observer
            | Cause::FaultRecovery => Self::Availability,
            Cause::Host
            | Cause::LaunchGap
            | Cause::Peer
            | Cause::Throttle
            | Cause::KernelSlack
            | Cause::ExcessBytes => Self::Performance,
            Cause::UnderfilledBatch if account.level == Level::Waste => Self::Performance,
            Cause::ValuePrefill | Cause::ValueDecode => Self::Value,
            // By the catalogue's own map: another opinion on mudas must not move the headline.
            cause => match cause.entry().muda {
                Muda::Overproduction | Muda::Overprocessing | Muda::Defects => Self::Yield,
                _ => Self::Movement,
            },
        }
    }
}

/// The five sums that telescope, in device nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ladder {
    /// All device time.
    pub total: i128,
    /// Less the time in which nothing was asked for.
    pub demanded: i128,
    /// Less the time in which it could not run.
    pub running: i128,
    /// Less what was thrown away or done twice.
    pub good: i128,
    /// Less what a better engine would not have spent.
    pub effective: i128,
    /// Compute-floor time of delivered rows.
    pub value: i128,
}

impl Ladder {
    /// The sums of `total` device nanoseconds that are booked so.
    pub(super) fn of(total: u128, postings: impl Iterator<Item = (Account, u128)>) -> Self {
        let mut lost = [0_i128; Rung::COUNT];
        for (account, amount) in postings {
            lost[Rung::of(&account) as usize] += amount as i128;
        }
        let [empty, stopped, thrown, slow, _, value] = lost;
        let total = total as i128;
        let demanded = total - empty;
        let running = demanded - stopped;
        let good = running - thrown;
        Self { total, demanded, running, good, effective: good - slow, value }
    }

    /// The share of the time in which something was asked for.
    #[must_use]
    pub const fn loading(&self) -> Share {
        Share::new(self.demanded, self.total)
    }

    /// A: the share of that in which the device could run.
    #[must_use]
    pub const fn availability(&self) -> Share {
        Share::new(self.running, self.demanded)
    }

    /// Y: the share of that which made good rows.
    #[must_use]
    pub const fn quality(&self) -> Share {
        Share::new(self.good, self.running)
    }

    /// P: the share of that which a better engine would have needed too.
    #[must_use]
    pub const fn performance(&self) -> Share {
        Share::new(self.effective, self.good)
    }

    /// Overall inference effectiveness, A × Y × P.
    #[must_use]
    pub const fn oie(&self) -> Share {
        Share::new(self.effective, self.demanded)
    }

    /// The share of all device time that transformed the output.
    #[must_use]
    pub const fn value_share(&self) -> Share {
        Share::new(self.value, self.total)
    }
}

/// Counts of requests and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that came.
    pub requests: u64,
    /// Requests delivered and accepted.
    pub completed: u64,
    /// Of those, the ones that kept the promise; all of them where none was made.
    pub good: u64,
    /// Requests whose end the run did not see.
    pub open: u64,
    /// Prompt tokens of completed requests.
    pub prompt_tokens: u64,
    /// Prompt tokens that the prefix cache gave.
    pub cached_tokens: u64,
    /// Output tokens of completed requests.
    pub accepted_tokens: u64,
}

/// The headline figures of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Headline {
    /// The sums that telescope.
    pub ladder: Ladder,
    /// Requests and tokens.
    pub counts: Counts,
    /// KV memory that held tokens somebody used, of all KV memory that was held.
    pub kv_use: Share,
    /// Bytes moved, of what read bandwidth could have moved in all device time.
    pub bandwidth_use: Share,
    /// Nanoseconds that demand leaves for a token: the span in which requests came, over the
    /// tokens they asked for.
    pub takt_nanos: Option<f64>,
    /// Cycle time, which is what an accepted token took the device, over takt.
    pub takt_ratio: Option<f64>,
}

impl Headline {
    /// Draws the figures from a run and its books.
    #[must_use]
    pub fn of(run: &Run, books: &Books) -> Self {
        let counts = counts(run);
        let ladder = ladder(books);
        let takt_nanos = takt_nanos(run);
        Self {
            ladder,
            counts,
            kv_use: kv_use(books),
            bandwidth_use: bandwidth_use(run, books),
            takt_nanos,
            takt_ratio: takt_nanos
                .filter(|_| counts.accepted_tokens > 0)
                .map(|takt| ladder.running as f64 / counts.accepted_tokens as f64 / takt),
        }
    }
}

fn ladder(books: &Books) -> Ladder {
    let total = books.trial_balance(Commodity::DeviceTime).map_or(0, |b| b.capacity);
    let postings = books.postings(Commodity::DeviceTime);
    Ladder::of(total, postings.map(|(key, amount)| (key.account, amount)))
}

fn counts(run: &Run) -> Counts {
    let mut counts = Counts { requests: run.requests.len() as u64, ..Counts::default() };
    for request in &run.requests {
        let Some(finish) = &request.finish else {
            counts.open += 1;
            continue;
        };
        counts.cached_tokens += u64::from(finish.cached_tokens);
        if finish.outcome != Outcome::Completed {
            continue;
        }
        counts.completed += 1;
        counts.prompt_tokens += u64::from(request.arrival.prompt_tokens);
        counts.accepted_tokens += u64::from(finish.output_tokens);
        counts.good += u64::from(super::latency::keeps(&run.header.slo, request, finish));
    }
    counts
}

fn kv_use(books: &Books) -> Share {
    let sum = |causes: &[Cause]| {
        books.sum(Commodity::Memory, |account| causes.contains(&account.cause)) as i128
    };
    let used = sum(&[Cause::HoldKvLive, Cause::HoldKvReused]);
    let idle = sum(&[Cause::KvReserved, Cause::KvFragment, Cause::KvCold, Cause::KvPaused]);
    Share::new(used, used + idle)
}

fn bandwidth_use(run: &Run, books: &Books) -> Share {
    let moved = books.moved_in_memory();
    let window = run.header.window;
    let nanos = u128::from(window.end_ns.saturating_sub(window.start_ns).0);
    let could: u128 = run
        .header
        .devices
        .iter()
        .map(|device| u128::from(device.ceilings.read_bytes_per_s) * nanos / 1_000_000_000)
        .sum();
    Share::new(moved as i128, could as i128)
}

fn takt_nanos(run: &Run) -> Option<f64> {
    let arrivals = || run.requests.iter().map(|request| request.arrival.at);
    let span = arrivals().max()?.saturating_sub(arrivals().min()?).0;
    let asked: u64 = run.requests.iter().map(|r| u64::from(r.arrival.max_tokens)).sum();
    (asked > 0 && span > 0).then(|| span as f64 / asked as f64)
}

#[cfg(test)]
mod tests {
    use super::super::posting::Basis;
    use super::*;

    /// Where four of ten device nanoseconds of a cause are lost on the way to effective time.
    fn lost_as(cause: Cause) -> &'static str {
        let account = Account::of(cause, Basis::Measured);
        let ladder = Ladder::of(10, std::iter::once((account, 4)));
        let Ladder { total, demanded, running, good, effective, .. } = ladder;
        match [total - demanded, demanded - running, running - good, good - effective] {
            [4, 0, 0, 0] => "demand",
            [0, 4, 0, 0] => "availability",
            [0, 0, 4, 0] => "yield",
            [0, 0, 0, 4] => "performance",
            [0, 0, 0, 0] => "nothing",
            other => panic!("{cause:?} is lost twice: {other:?}"),
        }
    }

    #[test]
    fn every_loss_has_one_rung() {
        for (cause, rung) in [
            (Cause::NoDemand, "demand"),
            (Cause::SloHeadroom, "availability"),
            (Cause::BatchFill, "availability"),
            (Cause::Changeover, "availability"),
            // While the machine is measured it serves nobody.
            (Cause::Observer, "availability"),
            (Cause::FaultRecovery, "availability"),
            (Cause::Padding, "yield"),
            (Cause::PrefixRecompute, "yield"),
            (Cause::Malformed, "yield"),
            (Cause::Host, "performance"),
            (Cause::Throttle, "performance"),
            (Cause::KernelSlack, "performance"),
            (Cause::WeightStreaming, "nothing"),
            (Cause::ValueDecode, "nothing"),
        ] {
            assert_eq!(lost_as(cause), rung, "{cause:?}");
        }
    }

    /// An hour of calibration makes a run no more effective.
    #[test]
    fn measuring_raises_no_figure() {
        let of = |cause, amount| (Account::of(cause, Basis::Measured), amount);
        let served = [of(Cause::ValueDecode, 60), of(Cause::Host, 40)];
        let before = Ladder::of(100, served.into_iter());
        let after = Ladder::of(1_000, served.into_iter().chain([of(Cause::Observer, 900)]));
        assert_eq!(after.running, before.running);
        assert_eq!(after.performance(), before.performance());
        assert!(after.oie().fraction() < before.oie().fraction());
    }
}
