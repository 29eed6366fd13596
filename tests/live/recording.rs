//! Arbitrary recordings that keep the order which every recorder keeps: facts of a device come
//! in order of time, rows, operations and copies after their step.

use gemba::event::{
    Arrival, Calibration, Cargo, Ceilings, DeviceState, Direction, Driver, Dtype, Fact, Fate,
    Finish, KernelId, Launch, Memory, MemoryChange, MemoryClass, MemoryCopy, Outcome, Phase, Power,
    Provenance, RequestId, Row, StateChange, Step, StepId, Throttle,
};
use gemba::trace::{DeviceHeader, Header, Observer, Status, Window};
use gemba::unit::{Bytes, Nanos, Ops};
use proptest::prelude::*;
use proptest::sample::select;

const KERNELS: [&str; 3] = ["qkv", "attention_decode", "head"];
const REQUESTS: u64 = 5;
const BLOCKS: u32 = 4;

/// Longer than any recording.
pub const END: u64 = 20_000;

pub fn header() -> Header {
    let mut header = Header::begin();
    header.status = Status::Complete;
    header.window = Window { start_ns: Nanos(0), end_ns: Nanos(END) };
    header.devices = vec![DeviceHeader {
        id: 0,
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
        calibration: vec![Calibration {
            kernel: KERNELS[0].to_owned(),
            driver: Driver::Rows,
            points: vec![(1, 10), (4, 12), (16, 60)],
        }],
    }];
    header.reference_batch = 4;
    header.observer = Some(Observer { pairs: 3, ns_per_launch: 2, ..Observer::default() });
    header
}

#[derive(Clone, Debug)]
struct RowDraft {
    request: Option<u64>,
    phase: Phase,
    rows: u32,
    fate: Fate,
}

#[derive(Clone, Debug)]
struct LaunchDraft {
    /// From the last operation's start on, so that operations may overlap.
    after: u64,
    length: u64,
    stream: u16,
    owned: bool,
    kernel: u16,
    amounts: [u64; 5],
    driver: Driver,
}

#[derive(Clone, Debug)]
struct CopyDraft {
    /// From the beginning of the step's preparation on.
    after: u64,
    length: u64,
    owned: bool,
    cargo: Cargo,
    direction: Direction,
    bytes: u64,
}

/// A clock, and what holds it down.
type ReadingDraft = (u32, Throttle);

#[derive(Clone, Debug)]
enum Event {
    State(u64, DeviceState),
    Step {
        host: u64,
        queued: u32,
        rows: Vec<RowDraft>,
        launches: Vec<LaunchDraft>,
        copies: Vec<CopyDraft>,
        rest: u64,
        /// Somewhere in the step.
        reading: Option<(u64, ReadingDraft)>,
    },
    Reading(u64, ReadingDraft),
    Finish(u64, Outcome),
    Memory(u32, MemoryChange, u64),
}

fn event() -> impl Strategy<Value = Event> {
    let reading = || (select(&[0, 600, 1_000, 1_500, 1_501][..]), select(Throttle::ALL));
    let row = (
        prop::option::of(0..REQUESTS),
        select(&Phase::ALL[..]),
        1u32..6,
        // Most rows wait for their request.
        prop_oneof![3 => Just(Fate::Open), 2 => select(&Fate::ALL[..])],
    )
        .prop_map(|(request, phase, rows, fate)| RowDraft { request, phase, rows, fate });
    let launch =
        (
            (0..60u64, 0..90u64, 0u16..2, prop::bool::weighted(0.9)),
            0..KERNELS.len() as u16,
            prop::array::uniform5(0..500u64),
            select(Driver::ALL),
        )
            .prop_map(|((after, length, stream, owned), kernel, amounts, driver)| {
                LaunchDraft { after, length, stream, owned, kernel, amounts, driver }
            });
    let copy = (
        (0..300u64, 0..90u64, prop::bool::weighted(0.9)),
        (select(Cargo::ALL), select(Direction::ALL), 0..500u64),
    )
        .prop_map(|((after, length, owned), (cargo, direction, bytes))| CopyDraft {
            after,
            length,
            owned,
            cargo,
            direction,
            bytes,
        });
    let step =
        (
            0..40u64,
            0u32..3,
            prop::collection::vec(row, 0..5),
            prop::collection::vec(launch, 0..6),
            prop::collection::vec(copy, 0..3),
            0..40u64,
            prop::option::of((0..500u64, reading())),
        )
            .prop_map(|(host, queued, rows, launches, copies, rest, reading)| {
                Event::Step { host, queued, rows, launches, copies, rest, reading }
            });
    prop_oneof![
        2 => (0..60u64, select(&DeviceState::ALL[..])).prop_map(|(rest, s)| Event::State(rest, s)),
        4 => step,
        2 => (0..60u64, reading()).prop_map(|(rest, r)| Event::Reading(rest, r)),
        2 => (0..REQUESTS, select(&Outcome::ALL[..])).prop_map(|(r, o)| Event::Finish(r, o)),
        1 => (0..BLOCKS, select(MemoryChange::ALL), 0..64u64)
            .prop_map(|(block, change, bytes)| Event::Memory(block, change, bytes)),
    ]
}

/// Facts in the order of their saying.
pub fn recording() -> impl Strategy<Value = Vec<Fact>> {
    (prop::collection::vec(0..300u64, REQUESTS as usize), prop::collection::vec(event(), 0..30))
        .prop_map(|(arrivals, events)| {
            let mut recorder = Recorder::begin(&arrivals);
            events.into_iter().for_each(|event| recorder.say(event));
            recorder.facts
        })
}

struct Recorder {
    facts: Vec<Fact>,
    now: u64,
    step: u64,
    context: u32,
    left: Vec<u64>,
}

impl Recorder {
    fn begin(arrivals: &[u64]) -> Self {
        let name = |(id, name): (usize, &&str)| Fact::Kernel {
            id: KernelId(id as u16),
            name: (*name).to_owned(),
        };
        let mut facts: Vec<Fact> = KERNELS.iter().enumerate().map(name).collect();
        for (class, bytes) in [(MemoryClass::Weights, 999), (MemoryClass::KvPool, 64 * 4)] {
            facts.push(memory(0, class, 0, MemoryChange::Allocate, bytes));
        }
        for (id, at) in arrivals.iter().enumerate() {
            facts.push(Fact::Arrival(Arrival {
                request: RequestId(id as u64),
                parent: None,
                task: None,
                attempt: 1,
                class: String::new(),
                route: String::new(),
                at: Nanos(*at),
                prompt_tokens: 8,
                max_tokens: 8,
            }));
        }
        Self { facts, now: 300, step: 0, context: 0, left: Vec::new() }
    }

    fn say(&mut self, event: Event) {
        match event {
            Event::State(rest, state) => {
                // No two states at the same nanosecond.
                self.now += rest + 1;
                let at = Nanos(self.now);
                self.facts.push(Fact::State(StateChange { device: 0, at, state }));
                self.now += 1;
            }
            Event::Memory(block, change, bytes) => {
                self.now += 1;
                let bytes = if change == MemoryChange::Allocate { 64 } else { bytes };
                self.facts.push(memory(self.now, MemoryClass::KvBlock, block, change, bytes));
            }
            Event::Finish(request, outcome) => {
                if self.left.contains(&request) {
                    return;
                }
                self.left.push(request);
                self.facts.push(Fact::Finish(Finish {
                    request: RequestId(request),
                    at: Nanos(self.now),
                    first_scheduled: None,
                    first_token: None,
                    cached_tokens: 0,
                    output_tokens: 4,
                    outcome,
                }));
            }
            Event::Reading(rest, reading) => {
                self.now += rest + 1;
                self.facts.push(power(self.now, reading));
                self.now += 1;
            }
            Event::Step { host, queued, rows, launches, copies, rest, reading } => {
                let (begin, place) = (self.now, self.facts.len());
                self.step(host, queued, &rows, (&launches, &copies), rest);
                // A meter says so while the step goes on; the step is said at its end.
                if let Some((after, reading)) = reading
                    && let Some(within) = after.checked_rem(self.now - begin)
                {
                    self.facts.insert(place, power(begin + within, reading));
                }
            }
        }
    }

    fn step(
        &mut self,
        host: u64,
        queued: u32,
        rows: &[RowDraft],
        (launches, copies): (&[LaunchDraft], &[CopyDraft]),
        rest: u64,
    ) {
        let id = StepId(self.step);
        self.step += 1;
        let host_start = self.now;
        let start = host_start + host;
        let mut spans = Vec::new();
        let (mut at, mut end) = (start, start);
        for launch in launches {
            at += launch.after;
            spans.push((at, at + launch.length));
            end = end.max(at + launch.length);
        }
        for copy in copies {
            end = end.max(host_start + copy.after + copy.length);
        }
        end += rest;
        self.now = end;
        let mut step = Step {
            step: id,
            host_start: Nanos(host_start),
            start: Nanos(start),
            end: Nanos(end),
            queued,
            ..Step::default()
        };
        let mut said = Vec::new();
        for row in rows {
            *match row.phase {
                Phase::Prefill => &mut step.rows_prefill,
                Phase::Decode => &mut step.rows_decode,
                Phase::Draft => &mut step.rows_draft,
                Phase::Verify => &mut step.rows_verify,
                Phase::Ownerless => &mut step.rows_ownerless,
            } += row.rows;
            // Rows of a request follow one another: no two begin at the same context.
            self.context += 1;
            said.push(Fact::Row(Row {
                step: id,
                request: row.request.map(RequestId),
                phase: row.phase,
                rows: row.rows,
                context_tokens: self.context,
                cached_tokens: 0,
                sequence_rows: row.rows,
                logits_rows: row.rows.min(1),
                fate: row.fate,
            }));
        }
        self.facts.push(Fact::Step(step));
        self.facts.extend(said);
        for (launch, (start, end)) in launches.iter().zip(spans) {
            let [weights, kv, activations, excess, ops] = launch.amounts;
            self.facts.push(Fact::Launch(Launch {
                device: 0,
                stream: launch.stream,
                step: launch.owned.then_some(id),
                layer: None,
                kernel: KernelId(launch.kernel),
                start: Nanos(start),
                end: Nanos(end),
                weight_bytes: Bytes(weights),
                kv_bytes: Bytes(kv),
                activation_bytes: Bytes(activations),
                excess_bytes: Bytes(excess),
                ops: Ops(ops),
                dtype: Dtype::Q8_0,
                driver: launch.driver,
            }));
        }
        for copy in copies {
            let start = host_start + copy.after;
            self.facts.push(Fact::Copy(MemoryCopy {
                device: 0,
                stream: 0,
                step: copy.owned.then_some(id),
                start: Nanos(start),
                end: Nanos(start + copy.length),
                cargo: copy.cargo,
                direction: copy.direction,
                bytes: Bytes(copy.bytes),
            }));
        }
    }
}

fn power(at: u64, (clock_mhz, throttle): ReadingDraft) -> Fact {
    let (at, energy_uj, basis) = (Nanos(at), at, Provenance::Measured);
    Fact::Power(Power { device: 0, at, energy_uj, power_mw: 7, clock_mhz, throttle, basis })
}

fn memory(at: u64, class: MemoryClass, block: u32, change: MemoryChange, bytes: u64) -> Fact {
    Fact::Memory(Memory { device: 0, at: Nanos(at), class, block, change, bytes: Bytes(bytes) })
}
