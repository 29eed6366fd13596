//! The laws of the books, over arbitrary sequences of facts: whatever an engine says happened,
//! every ledger closes, and nothing that should not matter matters.

#![expect(clippy::expect_used, reason = "a test says what it expects")]

use gemba::event::{
    Arrival, Calibration, Cargo, Ceilings, DeviceState, Direction, Driver, Dtype, Fact, Fate,
    Finish, KernelId, Launch, Memory, MemoryChange, MemoryClass, MemoryCopy, Outcome, Phase, Power,
    Provenance, RequestId, Row, StateChange, Step, StepId, Throttle,
};
use gemba::trace::{DeviceHeader, EnergyModel, Header, Observer, Price, Run, Slo, Window};
use gemba::unit::{Bytes, Nanos, Ops};
use gemba::waste::{Account, Books, BooksOptions, Cause, Commodity, Costing, Grain, Level};
use proptest::prelude::*;
use proptest::sample::select;

const KERNELS: [&str; 3] = ["qkv", "attention_decode", "head"];
const REQUESTS: u64 = 4;
const STEPS: u64 = 5;
const END: u64 = 2_000;

/// A step that no run has: an operation of it is outside any step.
const NO_STEP: StepId = StepId(1_000);

fn header(devices: u16) -> Header {
    let mut header = Header::begin();
    header.window = Window { start_ns: Nanos(0), end_ns: Nanos(END) };
    let calibration = |kernel: &str| Calibration {
        kernel: kernel.to_owned(),
        driver: Driver::Rows,
        points: vec![(1, 10), (4, 12), (16, 60)],
    };
    header.devices = (0..devices)
        .map(|id| DeviceHeader {
            id,
            kind: "cpu".to_owned(),
            name: String::new(),
            memory_bytes: Bytes(1 << 20),
            ceilings: Ceilings {
                read_bytes_per_s: 1_000_000_000,
                copy_bytes_per_s: 1_000_000_000,
                cache_bytes_per_s: 4_000_000_000,
                ops_per_s: [(Dtype::Q8_0, 7_000_000_000)].into(),
                launch_floor_ns: Nanos(3),
            },
            calibration: vec![calibration(KERNELS[0])],
        })
        .collect();
    header.reference_batch = 4;
    header.slo = Slo { ttft_ns: Some(Nanos(300)), ..Slo::default() };
    header.price = Some(Price { picodollars_per_device_hour: 50_000_000_000_000_000 });
    header.energy = Some(EnergyModel { idle_mw: 70_000, busy_mw: 300_000 });
    header.observer = Some(Observer { pairs: 3, ns_per_launch: 2, ..Observer::default() });
    header
}

fn arrivals() -> impl Strategy<Value = Vec<Fact>> {
    let one = (0..END, 0..END, prop::option::of(select(&Outcome::ALL[..])));
    prop::collection::vec(one, REQUESTS as usize).prop_map(|requests| {
        let mut facts = Vec::new();
        for (id, (a, b, outcome)) in requests.into_iter().enumerate() {
            let request = RequestId(id as u64);
            facts.push(Fact::Arrival(Arrival {
                request,
                parent: None,
                task: None,
                attempt: 1,
                class: String::new(),
                route: String::new(),
                at: Nanos(a.min(b)),
                prompt_tokens: 8,
                max_tokens: 8,
            }));
            facts.extend(outcome.map(|outcome| {
                Fact::Finish(Finish {
                    request,
                    at: Nanos(a.max(b)),
                    first_scheduled: Some(Nanos(a.min(b))),
                    first_token: Some(Nanos(a.midpoint(b))),
                    cached_tokens: 0,
                    output_tokens: 4,
                    outcome,
                })
            }));
        }
        facts
    })
}

/// A step's rows, and the step that counts them.
fn steps() -> impl Strategy<Value = Vec<Fact>> {
    let row = (
        prop::option::of(0..REQUESTS),
        select(&Phase::ALL[..]),
        1u32..6,
        0u32..40,
        select(&Fate::ALL[..]),
    );
    let step = (0..END, 0..200u64, 0..200u64, 0u32..3, prop::collection::vec(row, 0..5));
    prop::collection::vec(step, STEPS as usize).prop_map(|steps| {
        let mut facts = Vec::new();
        for (id, (at, host, length, queued, rows)) in steps.into_iter().enumerate() {
            let id = StepId(id as u64);
            let mut step = Step {
                step: id,
                host_start: Nanos(at),
                start: Nanos((at + host).min(END)),
                end: Nanos((at + host + length).min(END)),
                queued,
                ..Step::default()
            };
            step.host_start = step.host_start.min(step.start);
            for (request, phase, rows, context_tokens, fate) in rows {
                *match phase {
                    Phase::Prefill => &mut step.rows_prefill,
                    Phase::Decode => &mut step.rows_decode,
                    Phase::Draft => &mut step.rows_draft,
                    Phase::Verify => &mut step.rows_verify,
                    Phase::Ownerless => &mut step.rows_ownerless,
                } += rows;
                facts.push(Fact::Row(Row {
                    step: id,
                    request: request.map(RequestId),
                    phase,
                    rows,
                    context_tokens,
                    cached_tokens: 0,
                    sequence_rows: rows,
                    logits_rows: rows.min(1),
                    fate,
                }));
            }
            facts.push(Fact::Step(step));
        }
        facts
    })
}

fn launches() -> impl Strategy<Value = Vec<Fact>> {
    let launch = (
        (0..END + 100, 0..150u64, 0u16..2),
        prop::option::of(0..STEPS + 1),
        0..KERNELS.len() as u16,
        prop::array::uniform5(0..500u64),
        select(Driver::ALL),
    );
    prop::collection::vec(launch, 0..40).prop_map(|launches| {
        let launch = |(span, step, kernel, amounts, driver)| {
            let (at, length, stream): (u64, u64, u16) = span;
            let (step, amounts): (Option<u64>, [u64; 5]) = (step, amounts);
            Fact::Launch(Launch {
                device: 0,
                stream,
                step: step.map(|id| if id < STEPS { StepId(id) } else { NO_STEP }),
                layer: None,
                kernel: KernelId(kernel),
                start: Nanos(at),
                end: Nanos(at + length),
                weight_bytes: Bytes(amounts[0]),
                kv_bytes: Bytes(amounts[1]),
                activation_bytes: Bytes(amounts[2]),
                excess_bytes: Bytes(amounts[3]),
                ops: Ops(amounts[4]),
                dtype: Dtype::Q8_0,
                driver,
            })
        };
        launches.into_iter().map(launch).collect()
    })
}

/// Copies beside operations, hidden by them, in a step and outside any.
fn copies() -> impl Strategy<Value = Vec<Fact>> {
    let copy = (
        (0..END + 100, 0..150u64, 0u16..2),
        prop::option::of(0..STEPS + 1),
        (select(Cargo::ALL), select(Direction::ALL), 0..500u64),
    );
    prop::collection::vec(copy, 0..12).prop_map(|copies| {
        let copy = |((at, length, stream), step, (cargo, direction, bytes))| {
            let (at, length, step): (u64, u64, Option<u64>) = (at, length, step);
            Fact::Copy(MemoryCopy {
                device: 0,
                stream,
                step: step.map(|id| if id < STEPS { StepId(id) } else { NO_STEP }),
                start: Nanos(at),
                end: Nanos(at + length),
                cargo,
                direction,
                bytes: Bytes(bytes),
            })
        };
        copies.into_iter().map(copy).collect()
    })
}

fn states() -> impl Strategy<Value = Vec<Fact>> {
    let change = (0..END, select(&DeviceState::ALL[..]));
    prop::collection::vec(change, 0..8).prop_map(|changes| {
        let change = |(at, state)| Fact::State(StateChange { device: 0, at: Nanos(at), state });
        changes.into_iter().map(change).collect()
    })
}

/// Memory changes of a small pool, and the pieces that are there from the start.
fn memory() -> impl Strategy<Value = Vec<Fact>> {
    let change = (0..END, 0u32..6, select(MemoryChange::ALL), 0..64u64);
    prop::collection::vec(change, 0..30).prop_map(|mut changes| {
        changes.sort_by_key(|change| change.0);
        let fact = |at, class, block, change, bytes| {
            let (at, bytes) = (Nanos(at), Bytes(bytes));
            Fact::Memory(Memory { device: 0, at, class, block, change, bytes })
        };
        let fixed = [(MemoryClass::Weights, 999), (MemoryClass::KvPool, 64 * 6)];
        let mut facts: Vec<Fact> = fixed
            .iter()
            .map(|(class, bytes)| fact(0, *class, 0, MemoryChange::Allocate, *bytes))
            .collect();
        for (at, block, change, bytes) in changes {
            let bytes = if change == MemoryChange::Allocate { 64 } else { bytes };
            facts.push(fact(at, MemoryClass::KvBlock, block, change, bytes));
        }
        facts
    })
}

/// Readings of a meter that falls, rises and is held down, some of them at the same time.
fn readings() -> impl Strategy<Value = Vec<Fact>> {
    let clock = select(&[0, 600, 1_000, 1_500, 1_501][..]);
    let reading = (0..END, clock, select(Throttle::ALL), prop::bool::weighted(0.8));
    prop::collection::vec(reading, 0..8).prop_map(|readings| {
        let fact = |(at, clock_mhz, throttle, measured)| {
            let basis = if measured { Provenance::Measured } else { Provenance::Modelled };
            let (at, energy_uj) = (Nanos(at), at * 7);
            Fact::Power(Power { device: 0, at, energy_uj, power_mw: 7, clock_mhz, throttle, basis })
        };
        readings.into_iter().map(fact).collect()
    })
}

fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let parts = (arrivals(), steps(), launches(), copies(), states(), memory(), readings());
    parts.prop_map(|(a, b, c, d, e, f, g)| {
        let name = |(id, name): (usize, &&str)| Fact::Kernel {
            id: KernelId(id as u16),
            name: (*name).to_owned(),
        };
        let kernels = KERNELS.iter().enumerate().map(name);
        kernels.chain(a).chain(b).chain(c).chain(d).chain(e).chain(f).chain(g).collect()
    })
}

fn options() -> impl Strategy<Value = BooksOptions> {
    let costing = select(&[Costing::UsefulFirst, Costing::Proportional][..]);
    (costing, select(&[Grain::Step, Grain::Run][..])).prop_map(|(costing, grain)| BooksOptions {
        costing,
        grain,
        ..BooksOptions::default()
    })
}

fn books(header: Header, facts: Vec<Fact>, options: &BooksOptions) -> Books {
    let run = Run::from_facts(header, facts).expect("the facts do not contradict each other");
    Books::of(&run, options).expect("facts in memory can be read")
}

fn postings(books: &Books) -> Vec<(Commodity, String, u128)> {
    let line = |commodity| {
        books.postings(commodity).map(move |(key, a)| (commodity, format!("{key:?}"), a))
    };
    books.commodities().flat_map(line).collect()
}

fn by_cause(books: &Books, commodity: Commodity) -> Vec<(Cause, u128)> {
    let mut sums = std::collections::BTreeMap::new();
    for (key, amount) in books.postings(commodity) {
        *sums.entry(key.account.cause).or_insert(0) += amount;
    }
    sums.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_ledger_closes(facts in facts(), options in options()) {
        let books = books(header(1), facts, &options);
        for commodity in Commodity::ALL {
            let balance = books.trial_balance(commodity).expect("every commodity has a book");
            prop_assert!(balance.balanced(), "{}: {balance}", commodity.code());
        }
    }

    #[test]
    fn the_slices_of_a_cause_sum_to_its_account(facts in facts(), options in options()) {
        let books = books(header(2), facts, &options);
        let mut course: Vec<(Cause, u128)> = Vec::new();
        for (cause, _, slices) in books.course().rows() {
            let sum: u128 = slices.iter().sum();
            match course.last_mut() {
                Some((same, amount)) if *same == cause => *amount += sum,
                _ => course.push((cause, sum)),
            }
        }
        prop_assert_eq!(course, by_cause(&books, Commodity::DeviceTime));
    }

    #[test]
    fn the_order_of_facts_changes_nothing(
        facts in facts().prop_flat_map(|facts| (Just(facts.clone()), Just(facts).prop_shuffle())),
        options in options(),
    ) {
        let (ordered, shuffled) = facts;
        let a = books(header(1), ordered, &options);
        let b = books(header(1), shuffled, &options);
        prop_assert_eq!(postings(&a), postings(&b));
    }

    #[test]
    fn every_grain_and_basis_gives_the_same_totals(facts in facts()) {
        let with = |costing, grain| {
            let options = BooksOptions { costing, grain, ..BooksOptions::default() };
            books(header(1), facts.clone(), &options)
        };
        let useful_first = with(Costing::UsefulFirst, Grain::Run);
        let by_step = with(Costing::UsefulFirst, Grain::Step);
        let proportional = with(Costing::Proportional, Grain::Run);
        for commodity in Commodity::ALL {
            let total = useful_first.trial_balance(commodity);
            prop_assert_eq!(total, by_step.trial_balance(commodity));
            prop_assert_eq!(total, proportional.trial_balance(commodity));
        }
        for commodity in [Commodity::DeviceTime, Commodity::Bytes, Commodity::Rows] {
            prop_assert_eq!(by_cause(&useful_first, commodity), by_cause(&by_step, commodity));
        }
    }

    #[test]
    fn scaling_the_price_scales_only_money(facts in facts()) {
        let mut dear = header(1);
        let price = dear.price.as_mut().expect("the header has a price");
        price.picodollars_per_device_hour *= 3;
        let options = BooksOptions::default();
        let (a, b) = (books(header(1), facts.clone(), &options), books(dear, facts, &options));
        let but_money = |books: &Books| {
            let mut all = postings(books);
            all.retain(|posting| posting.0 != Commodity::Money);
            all
        };
        prop_assert_eq!(but_money(&a), but_money(&b));
        let money = |books: &Books| books.trial_balance(Commodity::Money).map(|b| b.capacity);
        let (a, b) = (money(&a).unwrap_or(0), money(&b).unwrap_or(0));
        prop_assert!(b.abs_diff(3 * a) <= 2);
    }

    #[test]
    fn an_idle_device_moves_only_idle_accounts(facts in facts()) {
        let idle = Fact::State(StateChange { device: 1, at: Nanos(0), state: DeviceState::Empty });
        let mut with = facts.clone();
        with.push(idle);
        let mut quiet = header(1);
        let mut joined = header(2);
        // The promise decides how much of the idle time is headroom; that is another law.
        (quiet.slo, joined.slo) = (Slo::default(), Slo::default());
        let options = BooksOptions::default();
        let (a, b) = (books(quiet, facts, &options), books(joined, with, &options));
        let busy = |books: &Books| {
            let mut sums = by_cause(books, Commodity::DeviceTime);
            sums.retain(|(cause, _)| *cause != Cause::NoDemand);
            sums
        };
        prop_assert_eq!(busy(&a), busy(&b));
        let idle = |books: &Books| {
            books.sum(Commodity::DeviceTime, |account| account.cause == Cause::NoDemand)
        };
        prop_assert_eq!(idle(&a) + u128::from(END), idle(&b));
    }

    #[test]
    fn what_a_held_clock_took_was_slack(facts in facts(), options in options()) {
        let mut unread = facts.clone();
        unread.retain(|fact| !matches!(fact, Fact::Power(_)));
        let (a, b) = (books(header(1), unread, &options), books(header(1), facts, &options));
        let throttled = |books: &Books| {
            books.sum(Commodity::DeviceTime, |account| account.cause == Cause::Throttle)
        };
        prop_assert_eq!(throttled(&a), 0);
        let together = |books: &Books| {
            let mut sums = by_cause(books, Commodity::DeviceTime);
            let joined = [Cause::Throttle, Cause::KernelSlack];
            let either = sums.iter().filter(|(cause, _)| joined.contains(cause));
            let slack: u128 = either.map(|(_, amount)| amount).sum();
            sums.retain(|(cause, _)| !joined.contains(cause));
            (slack, sums)
        };
        prop_assert_eq!(together(&a), together(&b));
        for commodity in [Commodity::Bytes, Commodity::Rows] {
            prop_assert_eq!(by_cause(&a, commodity), by_cause(&b, commodity));
        }
    }

    /// Copies take what nothing else owned: idle time of whatever cause. What computes owns as
    /// much as if there were none, and bytes are those of the copies more.
    #[test]
    fn copies_take_idle_time_and_nothing_else(facts in facts(), options in options()) {
        let mut without = facts.clone();
        without.retain(|fact| !matches!(fact, Fact::Copy(_)));
        let moved: u128 = facts.iter().map(|fact| match fact {
            Fact::Copy(copy) => u128::from(copy.moved()),
            _ => 0,
        }).sum();
        let (a, b) = (books(header(1), without, &options), books(header(1), facts, &options));
        let copies = |account: &Account| {
            matches!(account.cause, Cause::HostCopy | Cause::KvMove)
        };
        prop_assert_eq!(a.sum(Commodity::DeviceTime, copies), 0);
        prop_assert_eq!(b.sum(Commodity::Bytes, copies), moved);
        for commodity in [Commodity::DeviceTime, Commodity::Bytes] {
            let computed = |books: &Books| books.sum(commodity, |account| account.kernel.is_some());
            prop_assert_eq!(computed(&a), computed(&b));
        }
        prop_assert_eq!(by_cause(&a, Commodity::Rows), by_cause(&b, Commodity::Rows));
    }

    #[test]
    fn rows_without_an_owner_never_raise_value(facts in facts(), extra in 1u32..50) {
        let value = |facts: Vec<Fact>| {
            let books = books(header(1), facts, &BooksOptions::default());
            books.sum(Commodity::DeviceTime, |account| account.level == Level::Value)
        };
        let mut padded = facts.clone();
        for fact in &mut padded {
            if let Fact::Step(step) = fact {
                step.rows_ownerless += extra;
            }
        }
        for step in 0..STEPS {
            padded.push(Fact::Row(Row {
                step: StepId(step),
                request: None,
                phase: Phase::Ownerless,
                rows: extra,
                context_tokens: 0,
                cached_tokens: 0,
                sequence_rows: 1,
                logits_rows: extra,
                fate: Fate::Padding,
            }));
        }
        prop_assert!(value(padded) <= value(facts));
    }

    #[test]
    fn what_requests_pay_and_what_nobody_pays_is_all(facts in facts(), options in options()) {
        let books = books(header(1), facts, &options);
        for commodity in [Commodity::DeviceTime, Commodity::Money, Commodity::RequestTime] {
            let (mut paid, mut unpaid) = (0, 0);
            for (key, amount) in books.postings(commodity) {
                *(if key.request.is_some() { &mut paid } else { &mut unpaid }) += amount;
            }
            let balance = books.trial_balance(commodity).expect("every commodity has a book");
            prop_assert_eq!(paid + unpaid, balance.capacity);
        }
        let capacity = [Cause::NoDemand, Cause::SloHeadroom, Cause::Capacity, Cause::Changeover];
        for (key, _) in books.postings(Commodity::DeviceTime) {
            prop_assert!(key.request.is_none() || !capacity.contains(&key.account.cause));
        }
    }

    /// Two windows that meet where no step is open and nothing runs hold together what the
    /// whole holds.
    #[test]
    fn a_window_split_at_rest_adds_up(facts in facts()) {
        let window = |from, to| {
            let mut header = header(1);
            header.window = Window { start_ns: Nanos(from), end_ns: Nanos(to) };
            header.slo = Slo::default();
            // Recording is paid in the host time that follows, across the cut.
            header.observer = None;
            header
        };
        // The facts again, three windows later.
        let mut both = facts.clone();
        both.extend(shifted(&facts));
        let options = BooksOptions::default();
        let early = books(window(0, 3 * END), both.clone(), &options);
        let late = books(window(3 * END, 4 * END), both.clone(), &options);
        let whole = books(window(0, 4 * END), both, &options);
        let mut sums = std::collections::BTreeMap::new();
        for part in [&early, &late] {
            for (cause, amount) in by_cause(part, Commodity::DeviceTime) {
                *sums.entry(cause).or_insert(0) += amount;
            }
        }
        let sums: Vec<_> = sums.into_iter().collect();
        prop_assert_eq!(sums, by_cause(&whole, Commodity::DeviceTime));
        let request_time = |books: &Books| {
            books.trial_balance(Commodity::RequestTime).map_or(0, |balance| balance.posted)
        };
        prop_assert_eq!(request_time(&early) + request_time(&late), request_time(&whole));
    }
}

/// The same facts three windows later, as other steps of other requests.
fn shifted(facts: &[Fact]) -> Vec<Fact> {
    let later = |at: Nanos| Nanos(at.0 + 3 * END);
    let shift = |fact: &Fact| match fact.clone() {
        Fact::Kernel { .. } | Fact::Memory(_) => None,
        Fact::Power(power) => Some(Fact::Power(Power { at: later(power.at), ..power })),
        Fact::State(change) => Some(Fact::State(StateChange { at: later(change.at), ..change })),
        Fact::Step(step) => Some(Fact::Step(Step {
            step: StepId(step.step.0 + STEPS),
            host_start: later(step.host_start),
            start: later(step.start),
            end: later(step.end),
            ..step
        })),
        Fact::Row(row) => Some(Fact::Row(Row {
            step: StepId(row.step.0 + STEPS),
            request: row.request.map(|id| RequestId(id.0 + REQUESTS)),
            ..row
        })),
        Fact::Launch(launch) => Some(Fact::Launch(Launch {
            step: launch.step.map(|id| if id == NO_STEP { id } else { StepId(id.0 + STEPS) }),
            start: later(launch.start),
            end: later(launch.end),
            ..launch
        })),
        Fact::Copy(copy) => Some(Fact::Copy(MemoryCopy {
            step: copy.step.map(|id| if id == NO_STEP { id } else { StepId(id.0 + STEPS) }),
            start: later(copy.start),
            end: later(copy.end),
            ..copy
        })),
        Fact::Arrival(arrival) => Some(Fact::Arrival(Arrival {
            request: RequestId(arrival.request.0 + REQUESTS),
            at: later(arrival.at),
            ..arrival
        })),
        Fact::Finish(finish) => Some(Fact::Finish(Finish {
            request: RequestId(finish.request.0 + REQUESTS),
            at: later(finish.at),
            first_scheduled: finish.first_scheduled.map(later),
            first_token: finish.first_token.map(later),
            ..finish
        })),
    };
    facts.iter().filter_map(shift).collect()
}
