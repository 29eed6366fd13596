//! `gemba run`: the main job. Runs a workload, writes the run folder and the report, prints the
//! books.

mod args;
pub(super) mod folder;
mod progress;
mod recording;
mod terms;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::account::{Account, account, write_derived};
use super::device::{DeviceName, Placement};
use super::report::write_page;
use super::telemetry::Telemetry;
use super::watch::{self, Beside};
use super::{Done, Failure, print, print_json};
use crate::cli::{Paint, render_books};
use crate::event::Recorder;
use crate::model::{self, Model};
use crate::report::SummaryJson;
use crate::session::{self, Limit, Outcome, Preparation, SessionOptions, Words, World};
use crate::trace::{Header, ModelHeader, RunWriter, Slo, TraceError, WorkloadHeader};
use crate::waste::BooksOptions;
use crate::workload::Workload;

pub use args::{EngineArgs, Flags, OutputArgs, RunArgs, Ui, observer_pairs};
pub(super) use recording::{Recording, Scratch};
pub use terms::TermArgs;

/// What a run is going to be.
struct Plan {
    model: Model,
    workload: Workload,
    options: SessionOptions,
    placement: Placement,
    slo: Slo,
    folder: PathBuf,
}

/// Runs a workload, writes its folder and report, and prints the books.
///
/// # Errors
/// [`Failure`] if the workload, the model or a flag does not work, or the run could not begin.
/// A run that fails underway leaves a readable folder and ends with a failure too.
pub fn run(args: &RunArgs) -> Result<Done, Failure> {
    let tui = watch::wanted(args.output.ui)?;
    let plan = plan(args)?;
    let telemetry = Telemetry::prepare(&args.telemetry)?;
    // Set by Ctrl-C, by SIGTERM, and by the writer if the disk fails.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        listen(signal, &stop, tui)?;
    }
    let header = begin(args, &plan)?;
    let writer = RunWriter::create(&plan.folder, &header, Arc::clone(&stop))?;
    let beside = if tui { Some(Beside::open(&plan.folder, Arc::clone(&stop))?) } else { None };
    let (outcome, written) =
        record(args, &plan, header, writer, (&stop, beside.as_ref()), telemetry)?;
    written?;
    let account = finish(&plan.folder)?;
    if let Some(Err(failure)) = beside.map(Beside::wait) {
        note(&format!("the dashboard failed to {}", failure.message));
    }
    show(args, &plan.folder, &account)?;
    if let Some(error) = outcome.failure {
        let hint = format!("what was recorded until then is in {}", plan.folder.display());
        return Err(Failure::new(format!("run the workload: {error}"), Some(hint)));
    }
    Ok(if account.books.balanced() { Done::Pass } else { Done::Broken })
}

const NO_HINT: Option<&str> = None;
const FLAGS: Flags = Flags("run");

/// Lets a signal set `stop`. The second signal ends the process at once, unless a dashboard
/// holds the terminal: it must be given back first.
fn listen(signal: i32, stop: &Arc<AtomicBool>, tui: bool) -> Result<(), Failure> {
    let shutdown = match tui {
        true => Ok(()),
        false => signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(stop))
            .map(|_| ()),
    };
    shutdown
        .and_then(|()| signal_hook::flag::register(signal, Arc::clone(stop)).map(|_| ()))
        .map_err(|error| Failure::new(format!("listen for {signal}: {error}"), NO_HINT))
}

/// Talk, on stderr.
fn note(text: &str) {
    // Where stderr is gone there is nobody left to tell.
    let _ = std::io::stderr().write_all(format!("note: {text}\n").as_bytes());
}

fn plan(args: &RunArgs) -> Result<Plan, Failure> {
    let engine = &args.engine;
    let device = DeviceName::find(&engine.device)?;
    let workload = args.read.open(&args.workload, args.format)?;
    let seed = args.read.seed.unwrap_or(workload.seed);
    let model = model::open(&engine.model, seed)?;
    let workload = fitted(args, workload, model.shape().context)?;
    let longest = u32::try_from(workload.max_context_tokens()).unwrap_or(u32::MAX);
    let switches = engine.options(FLAGS, device, longest)?;
    let placement = engine.placement(FLAGS, device, &model, &switches)?;
    let options = SessionOptions {
        engine: switches,
        generation: args.tokens.generation(model.markers().end.clone(), seed)?,
        limit: Limit::default(),
        preparation: Preparation { warm_up: true, observer_pairs: args.output.observer_pairs },
        keep_answers: false,
    };
    let folder = match &args.output.output_dir {
        Some(folder) => folder.clone(),
        None => folder::next(&workload.name, switches.batching.scheduling.code())?,
    };
    Ok(Plan {
        slo: args.terms.slo(FLAGS, workload.slo)?,
        model,
        workload,
        options,
        placement,
        folder,
    })
}

/// The workload as it is to be replayed, its lengths scaled to the model's context where they
/// exceed it.
fn fitted(args: &RunArgs, workload: Workload, context: u32) -> Result<Workload, Failure> {
    let mut replay = args.replay.replay()?;
    if let Some(wanted) = replay.lengths.context_tokens.filter(|wanted| *wanted > context) {
        let message = format!("set --context: the model holds {context} tokens, found {wanted}");
        return Err(Failure::new(message, Some("leave --context out to scale to the model")));
    }
    let replayed = workload.clone().replayed(&replay)?;
    if replayed.max_context_tokens() <= context.into() {
        return Ok(replayed);
    }
    replay.lengths.context_tokens = Some(context);
    Ok(workload.replayed(&replay)?)
}

/// The header of the run, as far as it is known before it.
fn begin(args: &RunArgs, plan: &Plan) -> Result<Header, Failure> {
    let json = |value| {
        serde_json::to_value(value)
            .map_err(|error| Failure::new(format!("encode run.json: {error}"), NO_HINT))
    };
    let Plan { model, workload, options, placement, slo, .. } = plan;
    let mut engine = json(&options.engine)?;
    if let Some(fields) = engine.as_object_mut() {
        let generation = serde_json::to_value(&options.generation).unwrap_or_default();
        fields.insert("generation".to_owned(), generation);
    }
    placement.describe(&mut engine);
    Ok(Header {
        model: ModelHeader {
            name: model.name().to_owned(),
            sha256: model.fingerprint().sha256.clone(),
            shape: serde_json::to_value(model.shape()).unwrap_or_default(),
            precision: placement.precision.code().to_owned(),
            kv_precision: placement.kv_precision.code().to_owned(),
        },
        engine,
        reference_batch: options.engine.batching.max_num_seqs,
        workload: WorkloadHeader {
            name: workload.name.clone(),
            sha256: workload.sha256.clone(),
            seed: workload.seed,
            requests: workload.requests.len() as u64,
            notes: workload.notes.iter().map(ToString::to_string).collect(),
        },
        slo: *slo,
        price: args.terms.price(FLAGS)?,
        energy: args.terms.energy(FLAGS)?,
        ..Header::begin()
    })
}

/// Runs the session and closes the folder; the second result is how closing went.
fn record(
    args: &RunArgs,
    plan: &Plan,
    header: Header,
    mut writer: RunWriter,
    (stop, beside): (&AtomicBool, Option<&Beside>),
    telemetry: Option<Telemetry>,
) -> Result<(Outcome, Result<(), TraceError>), Failure> {
    let recording = Recording::begin(&plan.folder, header, &writer);
    let start = recording.start();
    let following = telemetry.map(|told| told.follow(&plan.folder, start)).transpose()?;
    let clock = recording.clock();
    let words = Words {
        encode: &|text| plan.model.tokenizer()?.encode(text),
        decode: &|tokens| plan.model.tokenizer()?.decode(tokens),
    };
    let mut scratch = recording.scratch(plan.options.preparation.observer_pairs)?;
    let mut bar = progress::Bar::new(args.output.ui, beside);
    let outcome = session::run(
        &plan.options,
        &plan.workload,
        Some(&words),
        recording.source(&plan.model, plan.placement),
        World {
            clock: &clock,
            recorder: &mut writer,
            scratch: scratch.as_mut().and_then(Scratch::recorder).map(|to| to as &mut dyn Recorder),
            stop,
            progress: &mut |progress| bar.show(progress),
        },
    );
    bar.finish();
    drop(scratch);
    match outcome {
        Ok(outcome) => {
            let written = recording.end(writer, &outcome, |_| ());
            if let Some(following) = following {
                note(&following.end());
            }
            Ok((outcome, written))
        }
        Err(error) => {
            recording.fail(writer);
            Err(Failure::new(error, NO_HINT))
        }
    }
}

/// Books the run and writes what is derived from it.
fn finish(folder: &Path) -> Result<Account, Failure> {
    let account = account(folder, &BooksOptions::default())?;
    write_derived(folder, &account)?;
    write_page(&folder.join("report.html"), &account.report)?;
    Ok(account)
}

/// What `gemba run --json` prints.
#[derive(Serialize)]
struct RunJson<'a> {
    run: &'a Path,
    report: PathBuf,
    #[serde(flatten)]
    summary: &'a SummaryJson,
}

fn show(args: &RunArgs, folder: &Path, account: &Account) -> Result<(), Failure> {
    let report = folder.join("report.html");
    if args.output.json {
        return print_json(&RunJson { run: folder, report, summary: &account.summary });
    }
    let paint = Paint::when(std::io::stdout().is_terminal());
    print(&render_books(&account.report, false, paint))?;
    print(&format!("\nrun     {}\nreport  {}\n", folder.display(), report.display()))
}
