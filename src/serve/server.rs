//! A server from its first second to its last.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::door::{Door, Stage};
use super::host::{Ending, Host};
use super::http::{Site, listen};
use super::words::Words;
use super::{Limits, Served};
use crate::backend::DeviceError;
use crate::event::{Clock, Recorder, WallClock};
use crate::schedule;
use crate::session::{self, DeviceSource, Outcome, Preparation, Prepared, SessionError};
use crate::trace::{Status, Window};
use crate::unit::Nanos;

/// Threads that speak with clients.
const HTTP_THREADS: usize = 2;
/// Threads that read requests: tokenize, render templates, compile grammars.
const READING_THREADS: usize = 4;
/// The stop flag is looked at this often.
const STOP_LATENCY: Duration = Duration::from_millis(50);

/// Text for `/metrics` beside the server's own counters, in Prometheus' format.
pub type ExtraMetrics = dyn Fn() -> String + Send + Sync;

/// What a server is made of.
pub struct Serving {
    /// What is served, and to whom.
    pub served: Served,
    /// What clients may take.
    pub limits: Limits,
    /// The scheduler's switches.
    pub engine: schedule::Options,
    /// What is done before the first request.
    pub preparation: Preparation,
    /// The model's words.
    pub words: Arc<Words>,
    /// What else `/metrics` shows.
    pub extra_metrics: Option<Arc<ExtraMetrics>>,
}

/// What a server touches.
pub struct World<'a> {
    /// Where clients come. It answers "not yet" until the device is ready.
    pub listener: TcpListener,
    /// The only source of time. The window begins where it reads zero.
    pub clock: WallClock,
    /// Where facts go.
    pub recorder: &'a mut dyn Recorder,
    /// Like `recorder`, but what it takes is thrown away, to measure what recording costs.
    pub scratch: Option<&'a mut dyn Recorder>,
    /// Set by whoever wants the server to finish what runs and to end.
    pub stop: Arc<AtomicBool>,
    /// Told once, when requests are taken.
    pub ready: &'a mut dyn FnMut(),
}

/// Serves until it is asked to stop. The engine runs on the calling thread. What had been taken
/// by then is finished, unless that takes longer than the limits allow: then the status is
/// [`Status::Truncated`]. A device that fails ends the server with [`Status::Failed`].
///
/// # Errors
/// [`SessionError`] if the device could not be prepared.
pub fn serve(
    serving: Serving,
    source: DeviceSource<'_>,
    world: World<'_>,
) -> Result<Outcome, SessionError> {
    let World { listener, clock, recorder, scratch, stop, ready } = world;
    let Serving { served, limits, engine, preparation, words, extra_metrics } = serving;
    let (sender, commands) = channel();
    let door = Door::new((served, limits), &engine, words, clock, sender);
    let door = Arc::new(door);
    let runtime = runtime()?;
    let (closing, closed) = watch::channel(false);
    let site = Site { door: Arc::clone(&door), extra_metrics };
    let listening = runtime.spawn(listen(listener, site, closed));
    runtime.spawn(watch_stop(Arc::clone(&stop), Arc::clone(&door)));
    let (window_clock, mut quiet) = (&clock as &dyn Clock, |_| ());
    let prepared = session::prepare(
        engine,
        preparation,
        source,
        window_clock,
        &mut *recorder,
        scratch,
        &mut quiet,
    );
    let Prepared { engine, device, calibration, observer } = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            runtime.shutdown_background();
            return Err(error);
        }
    };
    let kv_bytes_per_token = engine.kv_bytes_per_token();
    let play_start = clock.now();
    door.enter(Stage::Serving);
    ready();
    let mut host = Host::new(engine, recorder, Arc::clone(&door), commands);
    let ending = host.serve();
    let end_ns = clock.now();
    let engine = host.into_engine();
    let (counts, timed_by) = (engine.counts(), engine.backend().timed_by());
    door.enter(Stage::Draining);
    close(runtime, closing, listening, limits);
    let (status, failure) = match ending {
        Ending::Drained => (Status::Complete, None),
        Ending::Cut => (Status::Truncated, None),
        Ending::Failed(error) => (Status::Failed, Some(error)),
    };
    Ok(Outcome {
        status,
        window: Window { start_ns: Nanos::ZERO, end_ns },
        play_start,
        counts,
        device,
        timed_by,
        kv_bytes_per_token,
        calibration,
        observer,
        answers: Vec::new(),
        failure,
    })
}

fn runtime() -> Result<Runtime, SessionError> {
    Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .max_blocking_threads(READING_THREADS)
        .thread_name("gemba-http")
        .enable_all()
        .build()
        .map_err(|error| DeviceError::Unsupported(format!("start threads: {error}")).into())
}

/// Lets clients read what is on its way to them, as long as the limits allow.
fn close(
    runtime: Runtime,
    closing: watch::Sender<bool>,
    listening: tokio::task::JoinHandle<()>,
    limits: Limits,
) {
    // Nobody listening means nobody to tell.
    let _ = closing.send(true);
    let patience = Duration::from_nanos(limits.drain.0);
    // Whether they were all quick enough changes nothing any more.
    let _ = runtime.block_on(async { tokio::time::timeout(patience, listening).await });
    runtime.shutdown_background();
}

async fn watch_stop(stop: Arc<AtomicBool>, door: Arc<Door>) {
    while !stop.load(Ordering::Acquire) {
        tokio::time::sleep(STOP_LATENCY).await;
    }
    door.drain();
}
