//! A server for one test: a tiny model on one thread, a run folder that is thrown away.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gemba::backend::cpu::{Cpu, Options as CpuOptions};
use gemba::backend::{
    Backend, Description, DeviceError, Limits as Sizes, Op, Sampled, Span, StepInputs,
};
use gemba::cost::Storage;
use gemba::engine::limits;
use gemba::event::{Arrival, Ceilings, Fact, Finish, Memory, MemoryChange, MemoryClass, WallClock};
use gemba::model::{Family, Model, Precision, Rope, Shape};
use gemba::schedule::Options;
use gemba::serve::{Feed, Limits, Served, Serving, Words, World, serve};
use gemba::session::{DeviceSource, Outcome, Preparation};
use gemba::trace::{DeviceHeader, Header, LogReader, RunWriter};
use tempfile::TempDir;

pub const MODEL: &str = "tiny";
pub const CONTEXT: u32 = 4096;

/// How a test's server differs from the usual one.
#[derive(Default)]
pub struct Setting {
    pub engine: Options,
    pub limits: Limits,
    pub api_key: Option<String>,
    /// The step in which the device fails.
    pub fails_at: Option<u64>,
}

impl Setting {
    pub fn new() -> Self {
        let mut setting = Self::default();
        setting.engine.batching.max_num_seqs = 8;
        setting.engine.batching.max_num_batched_tokens = 64;
        setting.engine.memory.max_sequence_tokens = CONTEXT;
        setting.engine.memory.kv_blocks = 600;
        setting
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub folder: TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Outcome>>,
}

/// What is left of a server.
pub struct Ended {
    pub outcome: Outcome,
    pub facts: Vec<Fact>,
}

fn shape() -> Shape {
    Shape {
        family: Family::Llama,
        layers: 1,
        hidden: 64,
        ffn: 96,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        vocab: 1024,
        context: CONTEXT,
        rope: Rope { theta: 10_000.0, scaling: None },
        norm_eps: 1e-5,
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: false,
        sliding_window: None,
    }
}

impl Server {
    /// A server that takes requests.
    pub fn start(setting: Setting) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, path) = (Arc::clone(&stop), folder.path().join("run"));
        let (sender, ready) = channel();
        let thread = std::thread::spawn(move || {
            host(setting, listener, theirs, &path, &mut || sender.send(()).unwrap())
        });
        ready.recv().unwrap();
        Self { address, folder, stop, thread: Some(thread) }
    }

    pub fn usual() -> Self {
        Self::start(Setting::new())
    }

    /// Asks the server to finish what runs.
    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub fn run_folder(&self) -> std::path::PathBuf {
        self.folder.path().join("run")
    }

    /// Waits for the end, and reads what was recorded.
    pub fn end(mut self) -> Ended {
        self.ask_to_stop();
        let outcome = self.thread.take().unwrap().join().unwrap();
        Ended { outcome, facts: facts(&self.run_folder()) }
    }

    /// A line of `/metrics`, by its start.
    pub fn metric(&self, name: &str) -> f64 {
        let page = super::client::get(self.address, "/metrics").text();
        let line = page.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until a metric has a value.
    pub fn wait_for(&self, name: &str, value: f64) {
        wait(name, || self.metric(name) == value);
    }
}

/// Waits until something holds.
pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ask_to_stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn facts(folder: &Path) -> Vec<Fact> {
    let mut reader = LogReader::open(&folder.join("events.log")).unwrap();
    let mut facts = Vec::new();
    while reader.next_frame(&mut facts).unwrap() {}
    assert!(reader.intact());
    facts
}

impl Ended {
    pub fn finishes(&self) -> Vec<Finish> {
        let finish = |fact: &Fact| match fact {
            Fact::Finish(finish) => Some(*finish),
            _ => None,
        };
        self.facts.iter().filter_map(finish).collect()
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        let arrival = |fact: &Fact| match fact {
            Fact::Arrival(arrival) => Some(arrival.clone()),
            _ => None,
        };
        self.facts.iter().filter_map(arrival).collect()
    }

    /// Every request that came has left, and no KV block is held by anyone.
    pub fn check_nothing_is_left(&self) {
        let came: Vec<_> = self.arrivals().iter().map(|arrival| arrival.request).collect();
        let mut left: Vec<_> = self.finishes().iter().map(|finish| finish.request).collect();
        left.sort_unstable();
        assert_eq!(came, left, "requests that came, requests that left");
        let mut held = std::collections::BTreeMap::new();
        for fact in &self.facts {
            let Fact::Memory(Memory { class: MemoryClass::KvBlock, block, change, .. }) = fact
            else {
                continue;
            };
            match change {
                MemoryChange::Allocate | MemoryChange::Hit => *held.entry(*block).or_insert(0) += 1,
                // A cached block that is given up was held by nobody.
                MemoryChange::Release | MemoryChange::Evict => {
                    held.remove(block);
                }
                _ => {}
            }
        }
        assert!(held.is_empty(), "blocks still held: {held:?}");
    }
}

fn host(
    setting: Setting,
    listener: TcpListener,
    stop: Arc<AtomicBool>,
    folder: &Path,
    ready: &mut dyn FnMut(),
) -> Outcome {
    let model = Model::random(MODEL, shape(), 7);
    let words = Arc::new(Words::of(&model).unwrap());
    let clock = WallClock::start();
    let Setting { engine, limits: patience, api_key, fails_at } = setting;
    let options = CpuOptions {
        precision: Precision::F32,
        kv_precision: Precision::F32,
        limits: limits(&engine),
        threads: 1,
    };
    let source = DeviceSource {
        load: Box::new(|| {
            let cpu = Cpu::load(&model, options, Arc::new(clock))?;
            Ok(Box::new(Frail { inner: Box::new(cpu), steps: 0, fails_at }) as Box<dyn Backend>)
        }),
        calibrate: None,
    };
    let mut writer = RunWriter::create(folder, &Header::begin(), Arc::default()).unwrap();
    let feed = Feed { header: folder.join("run.json"), log: folder.join("events.log") };
    let served = Served { model: MODEL.to_owned(), api_key, feed: Some(feed) };
    let serving = Serving {
        served,
        limits: patience,
        engine,
        preparation: Preparation { warm_up: false, observer_pairs: 0 },
        words,
        extra_metrics: Some(Arc::new(|| "gemba_test_extra 1\n".to_owned())),
    };
    let world = World { listener, clock, recorder: &mut writer, scratch: None, stop, ready };
    let outcome = serve(serving, source, world).unwrap();
    let device = DeviceHeader {
        id: 0,
        kind: outcome.device.kind.to_owned(),
        name: outcome.device.name.clone(),
        memory_bytes: outcome.device.memory,
        ceilings: Ceilings::default(),
        calibration: Vec::new(),
    };
    let header = Header {
        status: outcome.status,
        window: outcome.window,
        devices: vec![device],
        kv_bytes_per_token: outcome.kv_bytes_per_token,
        ..Header::begin()
    };
    writer.close(&header).unwrap();
    outcome
}

/// A device that fails when it is told to.
struct Frail {
    inner: Box<dyn Backend>,
    steps: u64,
    fails_at: Option<u64>,
}

impl Backend for Frail {
    fn description(&self) -> &Description {
        self.inner.description()
    }

    fn shape(&self) -> &Shape {
        self.inner.shape()
    }

    fn limits(&self) -> Sizes {
        self.inner.limits()
    }

    fn ceilings(&self, folder: Option<&Path>) -> Result<Ceilings, DeviceError> {
        self.inner.ceilings(folder)
    }

    fn storage(&self) -> &Storage {
        self.inner.storage()
    }

    fn begin_step(&mut self, inputs: &StepInputs<'_>) -> Result<(), DeviceError> {
        self.steps += 1;
        if self.fails_at == Some(self.steps) {
            return Err(DeviceError::Lost("it was to fail".to_owned()));
        }
        self.inner.begin_step(inputs)
    }

    fn launch(&mut self, op: Op) -> Result<(), DeviceError> {
        self.inner.launch(op)
    }

    fn end_step(
        &mut self,
        spans: &mut Vec<Span>,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), DeviceError> {
        self.inner.end_step(spans, sampled)
    }

    fn logits(&self) -> &[f32] {
        self.inner.logits()
    }
}
