//! How much of the idle time the promise needs.
//!
//! The run's requests are replayed through a single server that is slowed down: each takes the
//! device time it took, longer by the slow-down, first come first served. The largest slow-down
//! that keeps the promise says how small the device could have been; the idle time that such a
//! device would still have is headroom, the rest is not. The replay is a model: a batching
//! engine is not a single server.

use std::collections::HashMap;

use super::catalogue::Cause;
use super::posting::{Account, Basis, Commodity, Key};
use crate::event::Request;
use crate::ledger::{Book, Splitter};
use crate::trace::{Run, Slo};

/// The promise counts as kept when this share of requests keeps it, or as many as in the run.
const KEPT: f64 = 0.99;

/// Moves the part of `no_demand` that the promise needs to `slo_headroom`; gives how much that
/// is, in device nanoseconds.
pub(super) fn reclassify(run: &Run, books: &mut HashMap<Commodity, Book<Key>>) -> u128 {
    if !run.header.slo.is_some() {
        return 0;
    }
    let Some(book) = books.get_mut(&Commodity::DeviceTime) else { return 0 };
    let needed = needed_idle(run, book);
    let idle: Vec<(Key, u128)> = book
        .accounts()
        .filter(|(key, _)| key.account.cause == Cause::NoDemand)
        .map(|(key, amount)| (*key, amount))
        .collect();
    let available: u128 = idle.iter().map(|(_, amount)| amount).sum();
    let mut splitter = Splitter::default();
    splitter.weigh(idle.iter().map(|(_, amount)| *amount));
    let headroom = Account::of(Cause::SloHeadroom, Basis::Modelled);
    let mut sum = 0;
    splitter.split(needed.min(available), |i, part| {
        let (from, held) = idle[i];
        sum += part.min(held);
        let to = Key { account: headroom, ..from };
        // A part of a sum is never larger than its own summand here, up to rounding.
        let moved = book.reclassify(&from, to, part.min(held));
        debug_assert!(moved.is_ok());
    });
    sum
}

/// One request as the single server sees it, in nanoseconds.
struct Job {
    arrival: f64,
    work: f64,
    to_first_token: f64,
    per_token: Option<f64>,
}

/// Idle nanoseconds of the smallest device that would have kept the promise.
fn needed_idle(run: &Run, book: &Book<Key>) -> u128 {
    let mut work: HashMap<u64, u128> = HashMap::new();
    for (key, amount) in book.accounts() {
        if let Some(request) = key.request {
            *work.entry(request).or_default() += amount;
        }
    }
    let jobs: Vec<Job> = run.requests.iter().filter_map(|r| job(r, &work)).collect();
    let busy: u128 = work.values().sum();
    let length = book.trial_balance().capacity;
    if jobs.is_empty() || busy == 0 || busy >= length {
        return 0;
    }
    let slo = run.header.slo;
    let wanted = kept(&jobs, 1.0, &slo).min(KEPT);
    // The share of the device that is kept: between what the work fills and all of it.
    let (mut low, mut high) = (busy as f64 / length as f64, 1.0);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if kept(&jobs, middle, &slo) >= wanted { high = middle } else { low = middle }
    }
    let smallest = (high * length as f64) as u128;
    smallest.saturating_sub(busy)
}

fn job(request: &Request, work: &HashMap<u64, u128>) -> Option<Job> {
    let finish = request.finish.as_ref()?;
    let first = finish.first_token?;
    let scheduled = finish.first_scheduled?;
    let work = *work.get(&request.arrival.request.0)?;
    let after_first = u64::from(finish.output_tokens).saturating_sub(1);
    Some(Job {
        arrival: request.arrival.at.0 as f64,
        work: work as f64,
        to_first_token: first.saturating_sub(scheduled).0 as f64,
        per_token: (after_first > 0)
            .then(|| finish.at.saturating_sub(first).0 as f64 / after_first as f64),
    })
}

/// The share of jobs that keep the promise on a device of `size`.
fn kept(jobs: &[Job], size: f64, slo: &Slo) -> f64 {
    let within = |time: f64, limit: Option<crate::unit::Nanos>| {
        limit.is_none_or(|limit| time <= limit.0 as f64)
    };
    let mut free = 0.0_f64;
    let mut count = 0_usize;
    for job in jobs {
        let start = free.max(job.arrival);
        free = start + job.work / size;
        let ttft = start - job.arrival + job.to_first_token / size;
        let tpot = job.per_token.is_none_or(|time| within(time / size, slo.tpot_ns));
        let e2e = free - job.arrival;
        count += usize::from(within(ttft, slo.ttft_ns) && tpot && within(e2e, slo.e2e_ns));
    }
    count as f64 / jobs.len() as f64
}
