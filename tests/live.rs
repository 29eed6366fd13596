//! Books kept while a run goes on end as the books of the finished run, account by account.

#![expect(clippy::expect_used, reason = "a test says what it expects")]

use std::collections::BTreeMap;

use gemba::event::{DeviceState, Fact, KernelId, Outcome, RequestId};
use gemba::trace::{Header, Run, Status};
use gemba::unit::Nanos;
use gemba::waste::live::LiveBooks;
use gemba::waste::{Account, Books, BooksOptions, Cause, Commodity, Costing, Grain};
use proptest::prelude::*;

#[path = "live/kinds.rs"]
mod kinds;
#[path = "live/recording.rs"]
mod recording;
#[path = "live/session.rs"]
mod session;

const INTERVAL: Nanos = Nanos(100);

/// Accounts with the names of their kernels in place of numbers.
type Named = BTreeMap<(Commodity, String, Option<String>), u128>;

fn named(account: &Account, kernel: Option<&str>) -> (String, Option<String>) {
    let account = Account { kernel: None, ..*account };
    (format!("{account:?}"), kernel.map(str::to_owned))
}

fn recorded(header: &Header, facts: &[Fact], options: &BooksOptions) -> (Named, Books) {
    let run = Run::from_facts(header.clone(), facts.to_vec()).expect("the facts agree");
    let books = Books::of(&run, options).expect("facts in memory can be read");
    let mut sums = Named::new();
    for commodity in books.commodities() {
        for (key, amount) in books.postings(commodity) {
            let (account, kernel) = named(&key.account, books.kernel_name(&key.account));
            *sums.entry((commodity, account, kernel)).or_default() += amount;
        }
    }
    // These follow from device time and are not kept apart while a run goes on.
    sums.retain(|key, _| !matches!(key.0, Commodity::Money | Commodity::Energy));
    (sums, books)
}

fn live_sums(live: &LiveBooks) -> Named {
    let mut sums = Named::new();
    for ((commodity, account), amount) in live.sums() {
        let (name, kernel) = named(&account, live.kernel_name(&account));
        *sums.entry((commodity, name, kernel)).or_default() += amount;
    }
    sums
}

/// Feeds facts in chunks, and closes the run.
fn watched(header: &Header, facts: &[Fact], chunk: usize, options: &BooksOptions) -> LiveBooks {
    let mut live = LiveBooks::new(header, options, INTERVAL);
    for facts in facts.chunks(chunk) {
        live.extend(facts.iter().cloned());
        for (commodity, balance) in live.trial_balances(&live.sums()) {
            assert!(balance.balanced(), "underway, {commodity:?}: {balance}");
        }
    }
    live.close(header.window.end_ns);
    live
}

fn compare(header: &Header, facts: &[Fact], chunk: usize, costing: Costing) {
    let options = BooksOptions { costing, grain: Grain::Run, ..BooksOptions::default() };
    let (expected, books) = recorded(header, facts, &options);
    let live = watched(header, facts, chunk, &options);
    let found = live_sums(&live);
    for (key, amount) in &expected {
        let live = found.get(key).copied().unwrap_or(0);
        assert_eq!(live, *amount, "{key:?}: live against recorded");
    }
    assert_eq!(found.len(), expected.len(), "no account stands only in the live books");
    for (commodity, balance) in live.trial_balances(&live.sums()) {
        assert_eq!(Some(balance), books.trial_balance(commodity), "{commodity:?}");
        assert!(balance.balanced(), "{commodity:?}: {balance}");
    }
    assert_eq!(live.broken_ceilings(), books.broken_ceilings());
    assert_eq!(live.kernels().count(), books.kernels().len());
    assert_eq!(live.doubts(), (0, Nanos::ZERO));
}

#[test]
fn sessions_of_every_kind_end_with_the_same_books() {
    for (name, header, facts) in kinds::all() {
        for chunk in [1, 7, 100_000] {
            eprintln!("{name}, {chunk} facts at a time");
            compare(&header, &facts, chunk, Costing::UsefulFirst);
            compare(&header, &facts, chunk, Costing::Proportional);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_recording_in_order_ends_with_the_same_books(
        facts in recording::recording(),
        chunk in 1usize..40,
        proportional in any::<bool>(),
    ) {
        let costing = if proportional { Costing::Proportional } else { Costing::UsefulFirst };
        compare(&recording::header(), &facts, chunk, costing);
    }
}

#[test]
fn work_of_requests_under_way_is_open_until_they_leave() {
    let (_, header, facts) = kinds::all().remove(0);
    let mut running = header.clone();
    running.status = Status::Running;
    running.window.end_ns = Nanos::ZERO;
    let mut live = LiveBooks::new(&running, &BooksOptions::default(), INTERVAL);
    let time = |live: &LiveBooks, causes: &[Cause]| -> u128 {
        let of = |(commodity, account): &(Commodity, Account)| {
            *commodity == Commodity::DeviceTime && causes.contains(&account.cause)
        };
        live.sums().iter().filter(|(key, _)| of(key)).map(|(_, amount)| amount).sum()
    };
    let value = [Cause::ValuePrefill, Cause::ValueDecode];
    let first_end = facts
        .iter()
        .position(|fact| matches!(fact, Fact::Finish(f) if f.outcome == Outcome::Completed))
        .expect("a request is delivered");
    live.extend(facts[..first_end].iter().cloned());
    assert_eq!(time(&live, &value), 0, "nothing has been delivered");
    assert!(time(&live, &[Cause::WipOpen]) > 0);
    assert!(live.counts().open > 0);
    live.extend(facts[first_end..].iter().cloned());
    live.close(header.window.end_ns);
    assert!(time(&live, &value) > 0);
    assert_eq!(time(&live, &[Cause::WipOpen]), 0, "everybody has left");
}

#[test]
fn the_screen_can_be_told_what_was_dear() {
    let (_, header, facts) = kinds::all().remove(0);
    let mut live = LiveBooks::new(&header, &BooksOptions::default(), Nanos(10_000_000));
    live.extend(facts.iter().cloned());
    live.close(header.window.end_ns);
    let steps = live.top_steps(Cause::WeightStreaming);
    assert!(!steps.is_empty());
    assert!(steps.is_sorted_by_key(|(_, amount)| std::cmp::Reverse(*amount)));
    assert!(!live.top_requests(Cause::WeightStreaming).is_empty());
    let (_, _, intervals) = live.recent();
    let intervals: Vec<_> = intervals.collect();
    let drawn: u64 = intervals.iter().map(|interval| interval.device_nanos()).sum();
    assert!(drawn <= header.window.end_ns.0);
    let tokens: u64 = intervals.iter().map(|interval| interval.output_tokens).sum();
    assert_eq!(tokens, live.counts().accepted_tokens);
    assert!(live.latency().itl.is_some());
    assert!(live.stall().is_some_and(|stall| stall.nanos > Nanos::ZERO));
    let request = live.requests().next().expect("there were requests");
    let lead = request.finish.expect("it has left").at.saturating_sub(request.arrival.at);
    let time: u64 = request.time.iter().map(|(_, nanos)| nanos).sum();
    assert_eq!(time, lead.0, "the whole life of a request is explained");
}

#[test]
fn facts_of_unknown_devices_and_kernels_do_no_harm() {
    let (_, header, facts) = kinds::all().remove(0);
    let mut live = LiveBooks::new(&header, &BooksOptions::default(), INTERVAL);
    let mut odd = facts;
    for fact in &mut odd {
        match fact {
            Fact::State(change) => change.device = 7,
            Fact::Launch(launch) => launch.kernel = KernelId(900),
            Fact::Finish(finish) => finish.request = RequestId(finish.request.0 + 1_000),
            _ => {}
        }
    }
    live.extend(odd);
    live.close(header.window.end_ns);
    assert!(live.state().is_none_or(|state| state == DeviceState::Empty));
}
