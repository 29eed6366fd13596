//! `gemba serve`: the reference engine behind the OpenAI-compatible API, writing a run folder.

mod live;

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;

use super::device::{DeviceName, Placement};
use super::run::{self, EngineArgs, Flags, Recording, Scratch, TermArgs, folder};
use super::telemetry::{Telemetry, TelemetryArgs};
use super::{Done, Failure};
use crate::event::Recorder;
use crate::model::{self, Model};
use crate::schedule;
use crate::serve::{self, Feed, Limits, Served, Serving, Words, World};
use crate::session::{Outcome, Preparation};
use crate::trace::{Header, ModelHeader, RunWriter, TraceError, WorkloadHeader};
use crate::unit::Nanos;
use live::LivePage;

/// The longest sequence where nothing is said, if the model holds as much.
const LONGEST: u32 = 4096;
/// Where the key may stand, so that it is in no list of processes.
const KEY_VARIABLE: &str = "GEMBA_API_KEY";
const NO_HINT: Option<&str> = None;
const FLAGS: Flags = Flags("serve");

/// `gemba serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where it listens
    #[command(flatten)]
    pub address: AddressArgs,
    /// What clients may take
    #[command(flatten)]
    pub limits: LimitArgs,
    /// What it runs on
    #[command(flatten)]
    pub engine: EngineArgs,
    /// What is promised and what it costs
    #[command(flatten)]
    pub terms: TermArgs,
    /// The longest sequence, prompt and answer together [default: the model's context, at most
    /// 4096]
    #[arg(long, value_name = "N")]
    pub max_model_len: Option<u32>,
    /// Of the weights of a shape: model
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The run folder to make [default: the next free runs/NNNN-serve-SCHEDULER]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Pairs of short runs, recorded and not, that measure what recording costs; 0 for none
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = run::observer_pairs())]
    pub observer_pairs: u32,
    /// Where telemetry goes
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Where a server listens.
#[derive(Debug, Args)]
#[command(next_help_heading = "Address")]
pub struct AddressArgs {
    /// The address to listen on; 0.0.0.0 for all networks
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// The port; 0 for a free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    pub port: u16,
    /// The model's name for clients [default: as --model]
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,
    /// Clients of /v1 must bring this key; GEMBA_API_KEY in the environment does the same
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
}

/// What clients may take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Requests that may wait beside those that run; more are answered with 429
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_queue: u32,
    /// Connections at once; more wait
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_connections: u32,
    /// Bytes of a request's body
    #[arg(long, value_name = "N", default_value_t = 8 << 20)]
    pub max_body_bytes: usize,
    /// Seconds from a request's arrival to the end of its answer
    #[arg(long, value_name = "S", default_value_t = 600.0, allow_negative_numbers = true)]
    pub request_timeout: f64,
    /// Seconds for a request's head, and again for its body, to arrive
    #[arg(long, value_name = "S", default_value_t = 30.0, allow_negative_numbers = true)]
    pub read_timeout: f64,
    /// Seconds that a client may leave its answer unread
    #[arg(long, value_name = "S", default_value_t = 300.0, allow_negative_numbers = true)]
    pub stall_timeout: f64,
    /// Seconds to finish what runs after Ctrl-C or SIGTERM
    #[arg(long, value_name = "S", default_value_t = 30.0, allow_negative_numbers = true)]
    pub drain_timeout: f64,
}

impl LimitArgs {
    fn limits(&self) -> Result<Limits, Failure> {
        let time = |flag: &str, seconds: f64| {
            if !(0.001..1e9).contains(&seconds) {
                let message = format!("set {flag}: expected 0.001 to 1e9 seconds, found {seconds}");
                return Err(FLAGS.wrong(message));
            }
            Ok(Nanos::from_secs_f64(seconds))
        };
        for (flag, value) in [
            ("--max-connections", u64::from(self.max_connections)),
            ("--max-body-bytes", self.max_body_bytes as u64),
        ] {
            if value == 0 {
                return Err(FLAGS.wrong(format!("set {flag}: expected at least 1, found 0")));
            }
        }
        Ok(Limits {
            queue: self.max_queue,
            connections: self.max_connections,
            body_bytes: self.max_body_bytes,
            request: time("--request-timeout", self.request_timeout)?,
            read: time("--read-timeout", self.read_timeout)?,
            stall: time("--stall-timeout", self.stall_timeout)?,
            drain: time("--drain-timeout", self.drain_timeout)?,
            ..Limits::default()
        })
    }
}

/// What is going to be served.
struct Plan {
    model: Model,
    words: Arc<Words>,
    engine: schedule::Options,
    placement: Placement,
    limits: Limits,
    served: Served,
    folder: PathBuf,
}

/// Serves until Ctrl-C or SIGTERM, then finishes what runs and closes the run folder.
///
/// # Errors
/// [`Failure`] if the model, the address or a flag does not work, or the device fails.
pub fn run(args: &ServeArgs) -> Result<Done, Failure> {
    let plan = plan(args)?;
    let telemetry = Telemetry::prepare(&args.telemetry)?;
    let address = SocketAddr::new(args.address.host, args.address.port);
    let listener = TcpListener::bind(address).map_err(|error| {
        let hint = "--port names another port, --port 0 takes a free one";
        Failure::new(format!("listen on {address}: {error}"), Some(hint))
    })?;
    // Set by Ctrl-C, by SIGTERM, and by the writer if the disk fails.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second signal ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| Failure::new(format!("listen for {signal}: {error}"), NO_HINT))?;
    }
    let header = begin(args, &plan)?;
    let writer = RunWriter::create(&plan.folder, &header, Arc::clone(&stop))?;
    let folder = plan.folder.clone();
    let (outcome, written) = record(args, plan, header, (listener, writer), stop, telemetry)?;
    written?;
    let counts = outcome.counts;
    say(&format!(
        "{} requests, {} answered whole, {} tokens\nrun     {}\nreport  gemba report {}\n",
        counts.arrived,
        counts.completed,
        counts.output_tokens,
        folder.display(),
        folder.display()
    ));
    match outcome.failure {
        None => Ok(Done::Pass),
        Some(error) => {
            let hint = format!("what was recorded until then is in {}", folder.display());
            Err(Failure::new(format!("serve: {error}"), Some(hint)))
        }
    }
}

fn plan(args: &ServeArgs) -> Result<Plan, Failure> {
    let engine = &args.engine;
    let device = DeviceName::find(&engine.device)?;
    let limits = args.limits.limits()?;
    let model = model::open(&engine.model, args.seed)?;
    let words = Arc::new(Words::of(&model)?);
    let context = model.shape().context;
    let longest = args.max_model_len.unwrap_or(context.min(LONGEST));
    if longest == 0 {
        let message = "set --max-model-len: expected at least 1, found 0".to_owned();
        return Err(FLAGS.wrong(message));
    }
    if longest > context {
        let message =
            format!("set --max-model-len: the model holds {context} tokens, found {longest}");
        return Err(Failure::new(message, Some("leave --max-model-len out to take the model's")));
    }
    let switches = engine.options(FLAGS, device, longest)?;
    let placement = engine.placement(FLAGS, device, &model, &switches)?;
    let folder = match &args.output_dir {
        Some(folder) => folder.clone(),
        None => folder::next("serve", switches.batching.scheduling.code())?,
    };
    if args.address.api_key.as_deref() == Some("") {
        let hint = "leave --api-key out to serve without one; \"$NAME\" of a variable that is not \
                    set is empty";
        return Err(Failure::new("set --api-key: expected a key, found nothing", Some(hint)));
    }
    let key = args.address.api_key.clone().or_else(|| std::env::var(KEY_VARIABLE).ok());
    let name = args.address.served_model_name.clone();
    let served = Served {
        model: name.unwrap_or_else(|| model.name().to_owned()),
        api_key: key.filter(|key| !key.is_empty()),
        feed: Some(Feed { header: folder.join("run.json"), log: folder.join("events.log") }),
    };
    Ok(Plan { model, words, engine: switches, placement, limits, served, folder })
}

/// The header of the run, as far as it is known before it.
fn begin(args: &ServeArgs, plan: &Plan) -> Result<Header, Failure> {
    let Plan { model, words, engine, placement, .. } = plan;
    let mut switches = serde_json::to_value(engine)
        .map_err(|error| Failure::new(format!("encode run.json: {error}"), NO_HINT))?;
    placement.describe(&mut switches);
    let mut notes = vec![
        "Requests came from clients of a server; tokens are the model's own, so that another run \
         may do other work."
            .to_owned(),
    ];
    notes.extend(words.notes().iter().map(ToString::to_string));
    Ok(Header {
        model: ModelHeader {
            name: model.name().to_owned(),
            sha256: model.fingerprint().sha256.clone(),
            shape: serde_json::to_value(model.shape()).unwrap_or_default(),
            precision: placement.precision.code().to_owned(),
            kv_precision: placement.kv_precision.code().to_owned(),
        },
        engine: switches,
        reference_batch: engine.batching.max_num_seqs,
        workload: WorkloadHeader {
            name: "serve".to_owned(),
            seed: args.seed,
            notes,
            ..WorkloadHeader::default()
        },
        slo: args.terms.slo(FLAGS, crate::workload::Slo::default())?,
        price: args.terms.price(FLAGS)?,
        energy: args.terms.energy(FLAGS)?,
        ..Header::begin()
    })
}

/// Serves and closes the folder; the second result is how closing went.
fn record(
    args: &ServeArgs,
    plan: Plan,
    header: Header,
    (listener, mut writer): (TcpListener, RunWriter),
    stop: Arc<AtomicBool>,
    telemetry: Option<Telemetry>,
) -> Result<(Outcome, Result<(), TraceError>), Failure> {
    let Plan { model, words, engine, placement, limits, served, folder } = plan;
    let recording = Recording::begin(&folder, header, &writer);
    let start = recording.start();
    let following = telemetry.map(|told| told.follow(&folder, start)).transpose()?;
    let pairs = args.observer_pairs;
    let mut scratch = recording.scratch(pairs)?;
    let preparation = Preparation { warm_up: true, observer_pairs: pairs };
    let address = listener.local_addr().map_or_else(|error| error.to_string(), |a| a.to_string());
    let model_name = served.model.clone();
    let mut notes: Vec<String> = words.notes().iter().map(ToString::to_string).collect();
    notes.extend(small_pool(&engine.memory));
    let books = LivePage::new(&folder);
    let extra_metrics: Option<Arc<serve::ExtraMetrics>> = Some(Arc::new(move || books.page()));
    let serving = Serving { served, limits, engine, preparation, words, extra_metrics };
    let outcome = serve::serve(
        serving,
        recording.source(&model, placement),
        World {
            listener,
            clock: recording.clock(),
            recorder: &mut writer,
            scratch: scratch.as_mut().and_then(Scratch::recorder).map(|to| to as &mut dyn Recorder),
            stop,
            ready: &mut || {
                say(&format!("serving {model_name} on http://{address}\n"));
                notes.iter().for_each(|note| say(&format!("note: {note}\n")));
            },
        },
    );
    drop(scratch);
    match outcome {
        Ok(outcome) => {
            let arrived = outcome.counts.arrived;
            let written =
                recording.end(writer, &outcome, |header| header.workload.requests = arrived);
            if let Some(following) = following {
                say(&format!("note: {}\n", following.end()));
            }
            Ok((outcome, written))
        }
        Err(error) => {
            recording.fail(writer);
            Err(Failure::new(error, NO_HINT))
        }
    }
}

/// What clients must know of a pool that holds less than the longest sequence.
fn small_pool(memory: &schedule::KvMemory) -> Option<String> {
    let tokens = u64::from(memory.kv_blocks) * u64::from(memory.block_tokens);
    (tokens < memory.max_sequence_tokens.into()).then(|| {
        format!(
            "the KV pool holds {tokens} tokens, --max-model-len is {}: requests that need more \
             than the pool are refused",
            memory.max_sequence_tokens
        )
    })
}

/// Tells whoever watches stderr; where it is gone there is nobody left to tell.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Allocation, KvMemory};

    #[test]
    fn a_pool_below_the_longest_sequence_is_said() {
        let memory = |kv_blocks| KvMemory {
            kv_blocks,
            block_tokens: 16,
            max_sequence_tokens: 4096,
            allocation: Allocation::Paged,
            prefix_cache: true,
        };
        let said = small_pool(&memory(1)).unwrap();
        assert!(said.starts_with("the KV pool holds 16 tokens, --max-model-len is 4096"), "{said}");
        assert_eq!(small_pool(&memory(256)), None);
    }
}
