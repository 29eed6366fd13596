//! A whole run, stage by stage.

use std::sync::atomic::AtomicBool;

use crate::backend::{Backend, Description, DeviceError, TimedBy};
use crate::engine::{Counts, Engine, EngineError, Finished, States};
use crate::event::{Calibration, Clock, DeviceState, Recorder, RequestId};
use crate::model::ModelError;
use crate::schedule;
use crate::trace::{Observer, Status, Window};
use crate::unit::{Nanos, Tokens};
use crate::workload::Workload;

use super::demand::{Demand, Words};
use super::observe::observe;
use super::options::{Preparation, SessionOptions};
use super::play::{Ending, Player};
use super::progress::{Progress, Stage, Teller};
use super::warm_up::{PrepareError, warm_up};

/// Where a session's device comes from.
pub struct DeviceSource<'a> {
    /// Loads it; recorded as loading. It must be built with the session's clock and for
    /// [`engine::limits`](crate::engine::limits) of the session's switches.
    pub load: Box<dyn FnOnce() -> Result<Box<dyn Backend>, DeviceError> + 'a>,
    /// Measures its kernels, if that is wanted; recorded as calibration.
    pub calibrate: Option<Box<Calibrate<'a>>>,
}

/// Measures the kernels of a device.
pub type Calibrate<'a> = dyn FnOnce(&mut dyn Backend) -> Result<Vec<Calibration>, DeviceError> + 'a;

/// What a session touches.
pub struct World<'a> {
    /// The only source of time. The window begins where it reads zero.
    pub clock: &'a dyn Clock,
    /// Where facts go.
    pub recorder: &'a mut dyn Recorder,
    /// Like `recorder`, but what it takes is thrown away: the cost of recording is measured
    /// with it. Without one it is not measured.
    pub scratch: Option<&'a mut dyn Recorder>,
    /// Set by whoever wants the run to stop.
    pub stop: &'a AtomicBool,
    /// Told about ten times a second.
    pub progress: &'a mut dyn FnMut(&Progress),
}

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// Complete, also where a time limit ended it; truncated where it was stopped; failed where
    /// the device did.
    pub status: Status,
    /// The time that is accounted for.
    pub window: Window,
    /// When the workload's time began: after loading, measuring and warming up.
    pub play_start: Nanos,
    /// What was done.
    pub counts: Counts,
    /// The device.
    pub device: Description,
    /// What told the times of its operations, at the end.
    pub timed_by: TimedBy,
    /// Bytes of KV cache per token.
    pub kv_bytes_per_token: u64,
    /// The measured time of each kernel, if it was asked for.
    pub calibration: Vec<Calibration>,
    /// What recording costs, if it was asked for.
    pub observer: Option<Observer>,
    /// The tokens of every answer, if they were asked for, in the order requests left.
    pub answers: Vec<Finished>,
    /// Why the device failed.
    pub failure: Option<DeviceError>,
}

/// Why a run could not be.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The device could not be loaded, measured or warmed up.
    #[error("prepare the device: {0}")]
    Device(#[from] DeviceError),
    /// The switches do not work together, or not on this device.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A prompt could not be put into tokens.
    #[error("read the prompt of request {}: {error}", request.0)]
    Text {
        /// Whose prompt.
        request: RequestId,
        /// Why.
        error: ModelError,
    },
}

impl From<PrepareError> for SessionError {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Engine(error) => Self::Engine(error),
            PrepareError::Device(error) => Self::Device(error),
        }
    }
}

/// An engine on a device that is loaded, measured and warm.
pub struct Prepared<'c> {
    /// The engine, its queue empty, what it holds said.
    pub engine: Engine<'c>,
    /// The device.
    pub device: Description,
    /// The measured time of each kernel, if it was asked for.
    pub calibration: Vec<Calibration>,
    /// What recording costs, if it was asked for.
    pub observer: Option<Observer>,
}

/// Loads the device of `source`, measures and warms it as `preparation` says, and gives an
/// engine with the switches `options`. Facts go to `recorder`; what `scratch`
/// takes is thrown away, and without it the cost of recording is not measured. `stage` is told what
/// happens.
///
/// # Errors
/// [`SessionError`] if the device cannot be had, or the switches do not suit it.
pub fn prepare<'c>(
    options: schedule::Options,
    preparation: Preparation,
    source: DeviceSource<'_>,
    clock: &'c dyn Clock,
    recorder: &mut dyn Recorder,
    scratch: Option<&mut dyn Recorder>,
    stage: &mut dyn FnMut(Stage),
) -> Result<Prepared<'c>, SessionError> {
    let mut states = States::new(0);
    states.enter(DeviceState::Load, clock.now(), recorder);
    stage(Stage::Load);
    let mut backend = (source.load)()?;
    let mut calibration = Vec::new();
    if let Some(calibrate) = source.calibrate {
        states.enter(DeviceState::Calibrate, clock.now(), recorder);
        stage(Stage::Calibrate);
        calibration = calibrate(&mut *backend)?;
    }
    if preparation.warm_up {
        states.enter(DeviceState::WarmUp, clock.now(), recorder);
        stage(Stage::WarmUp);
        backend = warm_up(backend, options, clock)?;
    }
    let mut observer = None;
    if let (Some(scratch), 1..) = (scratch, preparation.observer_pairs) {
        states.enter(DeviceState::Calibrate, clock.now(), recorder);
        stage(Stage::Calibrate);
        let pairs = preparation.observer_pairs;
        (backend, observer) = observe(backend, options, pairs, clock, scratch)?;
    }
    let device = backend.description().clone();
    let mut engine = Engine::new(backend, options, 0, clock)?;
    engine.begin(states, recorder);
    Ok(Prepared { engine, device, calibration, observer })
}

/// Runs `workload` from loading to the end. `words` is the model's tokenizer, needed only where
/// the workload holds text or wants answers checked.
///
/// # Errors
/// [`SessionError`] if the run could not be; a device that fails while requests run ends the
/// run with [`Status::Failed`] instead, its requests failed and all else recorded.
pub fn run(
    options: &SessionOptions,
    workload: &Workload,
    words: Option<&Words<'_>>,
    source: DeviceSource<'_>,
    world: World<'_>,
) -> Result<Outcome, SessionError> {
    let World { clock, recorder, scratch, stop, progress } = world;
    let mut teller = Teller::new(progress, total(options, workload));
    let none = Counts::default();
    let mut tell = |stage| teller.stage(stage, none, Nanos::ZERO);
    let (switches, preparation) = (options.engine, options.preparation);
    let prepared =
        prepare(switches, preparation, source, clock, &mut *recorder, scratch, &mut tell)?;
    let Prepared { engine, device, calibration, observer } = prepared;
    let vocabulary = engine.backend().shape().vocab;
    let demand = Demand::new(workload, vocabulary, &options.generation, words);
    let kv_bytes_per_token = engine.kv_bytes_per_token();
    teller.stage(Stage::Play, none, Nanos::ZERO);
    let play_start = clock.now();
    let mut player = Player::new(engine, &demand, clock, recorder, teller, options.limit);
    if options.keep_answers {
        player = player.keep_answers();
    }
    let ending = player.play(stop);
    let end_ns = clock.now();
    player.tell_end();
    let (engine, answers) = player.into_parts();
    let (status, failure) = match ending {
        Ending::Played | Ending::TimeUp => (Status::Complete, None),
        Ending::Stopped => (Status::Truncated, None),
        Ending::Failed(error) => (Status::Failed, Some(error)),
        Ending::Unreadable { request, error } => return Err(SessionError::Text { request, error }),
    };
    Ok(Outcome {
        status,
        window: Window { start_ns: Nanos::ZERO, end_ns },
        play_start,
        counts: engine.counts(),
        device,
        timed_by: engine.backend().timed_by(),
        kv_bytes_per_token,
        calibration,
        observer,
        answers: answers.unwrap_or_default(),
        failure,
    })
}

/// Requests to be played, and tokens of their prompts and answers.
fn total(options: &SessionOptions, workload: &Workload) -> (u64, Tokens) {
    let most = options.limit.num_requests.map_or(usize::MAX, |most| most as usize);
    let requests = workload.requests.iter().take(most);
    let tokens = |spec: &crate::workload::RequestSpec| {
        Tokens(u64::from(spec.prompt_tokens) + u64::from(spec.output_tokens))
    };
    (requests.len() as u64, requests.map(tokens).sum())
}
