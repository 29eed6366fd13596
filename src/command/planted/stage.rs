//! The stage of every scenario: a small model on the modelled device, played by the engine on a
//! clock that stands still until it is moved. A byte of weights or KV takes a nanosecond.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicBool;

use super::PlantError;
use crate::backend::modelled::{ManualClock, ModelledDevice, Timing, small_shape};
use crate::backend::{Backend, Description, DeviceError};
use crate::cost::{Storage, Techniques};
use crate::engine::{Answer, Engine, Order, States, Turn, Verdict, limits};
use crate::event::{
    Arrival, Ceilings, Clock, Dtype, Fact, Finish, Launch, Outcome, Recorder, RequestId, Step,
};
use crate::model::Precision;
use crate::schedule::{Options, Outlook};
use crate::session::{self, DeviceSource, Preparation, SessionOptions, World};
use crate::trace::{DeviceHeader, Header, Run, Slo, Status, Window};
use crate::unit::{Bytes, Nanos};
use crate::waste::{Books, BooksOptions};
use crate::workload::{Class, Format, RequestSpec, Workload};

/// Memory of the device that nothing on the stage takes.
const SPARE: Bytes = Bytes(1 << 20);
/// What a launch costs the host at least.
pub(super) const LAUNCH_FLOOR: Nanos = Nanos(1_000);

fn storage(options: &Options, quantized_rows: bool) -> Storage {
    Storage {
        weights: Precision::F32.into(),
        kv: Precision::F32.into(),
        activation_bytes: 4,
        activation_dtype: Dtype::F32,
        block_tokens: options.memory.block_tokens,
        piece_tokens: None,
        quantized_rows,
        swiglu_rows: None,
        wide_rows: None,
        techniques: Techniques::ALL,
    }
}

/// A device without gaps, slack and host work: whatever it has of these is planted.
pub(super) fn timing() -> Timing {
    let ceilings = Ceilings {
        read_bytes_per_s: 1_000_000_000,
        copy_bytes_per_s: 1_000_000_000,
        cache_bytes_per_s: 100_000_000_000,
        ops_per_s: BTreeMap::from([(Dtype::F32, 1_000_000_000_000)]),
        launch_floor_ns: LAUNCH_FLOOR,
    };
    Timing { ceilings, ..Timing::default() }
}

/// Four requests at once, small blocks, and no prefix cache.
pub(super) fn options() -> Options {
    let mut options = Options::default();
    options.batching.max_num_seqs = 4;
    options.batching.max_num_batched_tokens = 256;
    options.memory.block_tokens = 4;
    options.memory.kv_blocks = 256;
    options.memory.max_sequence_tokens = 256;
    options.memory.prefix_cache = false;
    options
}

/// The order of request `id`, which comes at zero and is answered with `output` tokens.
pub(super) fn order(id: u64, prompt: Vec<u32>, output: u32) -> Order<'static> {
    Order {
        arrival: Arrival {
            request: RequestId(id),
            parent: None,
            task: None,
            attempt: 1,
            class: "planted".to_owned(),
            route: String::new(),
            at: Nanos::ZERO,
            prompt_tokens: prompt.len() as u32,
            max_tokens: output,
        },
        prompt,
        answer: Answer::Pinned(vec![3; output as usize]),
        verdict: Verdict::Recorded(Outcome::Completed),
        deadline: None,
        pauses: Vec::new(),
    }
}

/// A prompt that shares no token of its beginning with that of any other id.
pub(super) fn own(id: u64, tokens: usize) -> Vec<u32> {
    let mut prompt = vec![1; tokens];
    if let Some(first) = prompt.first_mut() {
        *first = id as u32;
    }
    prompt
}

/// Six requests of unlike length, all there from the beginning.
pub(super) fn demand() -> Vec<Order<'static>> {
    (0..6).map(|id| order(id, own(id, 8 + id as usize), 3 + 4 * id as u32)).collect()
}

/// What is played, and on what.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub(super) options: Options,
    pub(super) timing: Timing,
    /// Whether rows are written out again before products: excess bytes.
    pub(super) quantized_rows: bool,
    pub(super) orders: Vec<Order<'static>>,
    pub(super) cancels: Vec<(RequestId, Nanos)>,
    /// The window ends here; else when the last request has left.
    pub(super) until: Option<Nanos>,
    /// The run ends after so many steps.
    pub(super) most_steps: u64,
    pub(super) reference_batch: u32,
    pub(super) slo: Slo,
}

impl Stage {
    /// Plays `orders` on a device without waste of its own.
    pub(super) fn of(orders: Vec<Order<'static>>) -> Self {
        Self {
            options: options(),
            timing: timing(),
            quantized_rows: false,
            orders,
            cancels: Vec::new(),
            until: None,
            most_steps: u64::MAX,
            reference_batch: 1,
            slo: Slo::default(),
        }
    }

    /// The same with a change.
    pub(super) fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut stage = self.clone();
        change(&mut stage);
        stage
    }

    /// Plays to the end.
    pub(super) fn play(&self) -> Result<Played, PlantError> {
        let clock = ManualClock::start();
        let storage = storage(&self.options, self.quantized_rows);
        let (limits, timing) = (limits(&self.options), self.timing.clone());
        let device = ModelledDevice::new(small_shape(), storage, limits, timing, clock.clone());
        let mut engine = Engine::new(Box::new(device), self.options, 0, &clock)?;
        let mut facts: Vec<Fact> = Vec::new();
        engine.begin(States::new(0), &mut facts);
        let mut coming = self.orders.clone();
        coming.sort_by_key(|order| (order.arrival.at, order.arrival.request));
        let (mut coming, mut cancels) = (VecDeque::from(coming), self.cancels.clone());
        let ended = |now: Nanos| self.until.is_some_and(|until| until <= now);
        while !ended(clock.now()) && engine.counts().steps < self.most_steps {
            let now = clock.now();
            while let Some(order) = coming.pop_front_if(|order| order.arrival.at <= now) {
                engine.submit(order, &mut facts);
            }
            for (request, _) in cancels.extract_if(.., |(_, at)| *at <= now) {
                engine.cancel(request);
            }
            let outlook = Outlook { closed: coming.is_empty(), external: 0 };
            let turn = engine.turn(outlook, &mut facts)?;
            let Turn::Idle { wake, .. } = turn else { continue };
            let arrival = coming.front().map(|order| order.arrival.at);
            let cancel = cancels.iter().map(|(_, at)| *at).min();
            let next = arrival.into_iter().chain(wake).chain(cancel).min();
            match next.into_iter().chain(self.until).min() {
                Some(next) => clock.sleep_until(next),
                None => break,
            }
        }
        let mut header = header(engine.backend().description(), &self.timing.ceilings);
        header.window = Window { start_ns: Nanos::ZERO, end_ns: clock.now() };
        (header.reference_batch, header.slo) = (self.reference_batch, self.slo);
        Ok(Played { header, facts })
    }
}

fn header(device: &Description, ceilings: &Ceilings) -> Header {
    let mut header = Header::begin();
    header.status = Status::Complete;
    header.devices = vec![DeviceHeader {
        id: 0,
        kind: device.kind.to_owned(),
        name: device.name.clone(),
        memory_bytes: device.memory + SPARE,
        ceilings: ceilings.clone(),
        calibration: Vec::new(),
    }];
    header
}

/// A run as it was recorded.
#[derive(Clone, Debug)]
pub(super) struct Played {
    pub(super) header: Header,
    pub(super) facts: Vec<Fact>,
}

impl Played {
    /// Its books.
    pub(super) fn books(&self) -> Result<Books, PlantError> {
        let run = Run::from_facts(self.header.clone(), self.facts.clone());
        let run = run.map_err(PlantError::Facts)?;
        let books = Books::of(&run, &BooksOptions::default())?;
        if books.balanced() { Ok(books) } else { Err(PlantError::Unbalanced) }
    }

    /// How long its window is.
    pub(super) fn length(&self) -> u128 {
        self.header.window.end_ns.saturating_sub(self.header.window.start_ns).0.into()
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.facts.iter().filter_map(|fact| match fact {
            Fact::Step(step) => Some(step),
            _ => None,
        })
    }

    pub(super) fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.facts.iter().filter_map(|fact| match fact {
            Fact::Launch(launch) => Some(launch),
            _ => None,
        })
    }

    /// How request `id` ended.
    pub(super) fn finish(&self, id: u64) -> Result<Finish, PlantError> {
        let finish = self.facts.iter().find_map(|fact| match fact {
            Fact::Finish(finish) if finish.request.0 == id => Some(*finish),
            _ => None,
        });
        finish.ok_or_else(|| PlantError::Missing(format!("the end of request {id}")))
    }
}

/// A recorder that takes its time for each launch.
struct Slow {
    facts: Vec<Fact>,
    clock: ManualClock,
    per_launch: Nanos,
}

impl Recorder for Slow {
    fn record(&mut self, fact: Fact) {
        if matches!(fact, Fact::Launch(_)) {
            self.clock.advance(self.per_launch);
        }
        self.facts.push(fact);
    }
}

/// A whole session, with what comes before the first request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sitting {
    /// Loading takes so long.
    pub(super) load: Nanos,
    /// Measuring the kernels takes so long.
    pub(super) calibrate: Nanos,
    /// Recording a launch takes so long.
    pub(super) per_launch: Nanos,
    /// Pairs of runs that measure what recording costs.
    pub(super) observer_pairs: u32,
}

impl Sitting {
    /// Plays to the end. Also gives how many launches were recorded, those of the paired runs
    /// included.
    pub(super) fn play(&self) -> Result<(Played, u64), PlantError> {
        let clock = ManualClock::start();
        let preparation = Preparation { warm_up: true, observer_pairs: self.observer_pairs };
        let engine = options();
        let switches = SessionOptions { engine, preparation, ..SessionOptions::default() };
        let (device_clock, measuring, load) = (clock.clone(), clock.clone(), self.load);
        let calibrate = self.calibrate;
        let source = DeviceSource {
            load: Box::new(move || -> Result<Box<dyn Backend>, DeviceError> {
                device_clock.advance(load);
                let (storage, limits) = (storage(&engine, false), limits(&engine));
                let clock = device_clock.clone();
                Ok(Box::new(ModelledDevice::new(small_shape(), storage, limits, timing(), clock)))
            }),
            calibrate: Some(Box::new(move |_| {
                measuring.advance(calibrate);
                Ok(Vec::new())
            })),
        };
        let slow = || Slow { facts: Vec::new(), clock: clock.clone(), per_launch: self.per_launch };
        let (mut recorder, mut scratch, stop) = (slow(), slow(), AtomicBool::new(false));
        let world = World {
            clock: &clock,
            recorder: &mut recorder,
            scratch: Some(&mut scratch),
            stop: &stop,
            progress: &mut |_| (),
        };
        let outcome = session::run(&switches, &workload(), None, source, world)?;
        let mut header = header(&outcome.device, &timing().ceilings);
        (header.window, header.observer) = (outcome.window, outcome.observer);
        let launches = |facts: &[Fact]| {
            facts.iter().filter(|fact| matches!(fact, Fact::Launch(_))).count() as u64
        };
        let recorded = launches(&recorder.facts) + launches(&scratch.facts);
        Ok((Played { header, facts: recorder.facts }, recorded))
    }
}

/// The same six requests as a workload.
fn workload() -> Workload {
    let spec = |id: u32| RequestSpec::new(Nanos::ZERO, 8 + id, 3 + 4 * id);
    Workload {
        name: "planted".to_owned(),
        format: Format::Synthetic,
        sha256: String::new(),
        seed: 1,
        block_tokens: None,
        classes: vec![Class::named("planted")],
        slo: crate::workload::Slo::default(),
        requests: (0..6).map(spec).collect(),
        notes: Vec::new(),
        recorded_start_unix_nanos: None,
    }
}
