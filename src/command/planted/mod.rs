//! `gemba planted`: the planted-waste matrix. For each cause a scenario plants a known amount of
//! exactly that waste into a run on the modelled device; the books must find it there, and
//! nowhere else.
//!
//! It stands in the roof because it needs both arms: the engine that runs and the books that
//! explain. Every run is instant and the same for ever.

mod clock;
mod copies;
mod edit;
mod memory;
mod rows;
mod scenario;
mod show;
mod stage;
mod time;

use clap::Args;
use serde::Serialize;

use super::{Done, Failure, print, print_json};
use crate::backend::DeviceError;
use crate::engine::EngineError;
use crate::session::SessionError;
use crate::trace::TraceError;
use crate::waste::{CAUSES, Cause, Entry, Muda};

pub use scenario::{Kind, Row, Scenario};
pub use show::{markdown, text};

/// `gemba planted`.
#[derive(Debug, Args)]
pub struct PlantedArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Why a scenario could not be played.
#[derive(Debug, thiserror::Error)]
pub enum PlantError {
    /// The stage's switches do not fit its device.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The modelled device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A session could not be.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The facts contradict each other.
    #[error("read the planted facts: {0}")]
    Facts(String),
    /// The launches cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The books of a run do not close.
    #[error("book a planted run: expected books that close to zero")]
    Unbalanced,
    /// A run lacks what the scenario is about.
    #[error("plant into a run: expected {0}, found none")]
    Missing(String),
}

/// Every scenario, in the order of the catalogue of causes.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    let parts =
        [time::SCENARIOS, clock::SCENARIOS, copies::SCENARIOS, rows::SCENARIOS, memory::SCENARIOS];
    let mut all = parts.concat();
    all.sort_by_key(|scenario| scenario.cause);
    all
}

/// Plays every scenario.
///
/// # Errors
/// [`PlantError`] if one could not be played; that a row does not hold is no error here.
pub fn matrix() -> Result<Vec<Row>, PlantError> {
    scenarios().iter().map(Scenario::row).collect()
}

/// The causes that nothing is planted for, each with the reason.
#[must_use]
pub fn unplanted() -> Vec<(&'static Entry, &'static str)> {
    let planted = |cause: Cause| scenarios().iter().any(|scenario| scenario.cause == cause);
    let rest = CAUSES.iter().filter(|entry| !planted(entry.cause));
    rest.filter_map(|entry| Some((entry, reason(entry)?))).collect()
}

/// Why nothing is planted for a cause.
fn reason(entry: &Entry) -> Option<&'static str> {
    if entry.verified_only {
        return Some("No run shows it by itself: only a re-run that passed its quality floor.");
    }
    if entry.muda == Muda::Value {
        return Some("It is no waste: it is what the others are planted beside.");
    }
    match entry.cause {
        Cause::Peer | Cause::Collective => Some("The engine runs on one device."),
        Cause::UnusedSample => Some("The engine gives one sample for each request."),
        Cause::Inspection => Some("The engine has no fact for the time of a validator."),
        Cause::Wrong | Cause::AbandonedRun => {
            Some("No rule books it yet: a judged task needs more than the facts of one run.")
        }
        Cause::Interference => Some(
            "It is a share by rows of a step's time, not a stretch of time of its own: there is \
             no amount that could be planted.",
        ),
        _ => None,
    }
}

/// What `gemba planted --json` prints.
#[derive(Serialize)]
struct MatrixJson<'a> {
    holds: bool,
    rows: &'a [Row],
    unplanted: Vec<UnplantedJson>,
}

#[derive(Serialize)]
struct UnplantedJson {
    cause: &'static str,
    reason: &'static str,
}

/// Prints the matrix. A row that does not hold ends with exit code 1.
///
/// # Errors
/// [`Failure`] if a scenario could not be played.
pub fn run(args: &PlantedArgs) -> Result<Done, Failure> {
    let rows = matrix().map_err(|error| Failure::new(error, None::<String>))?;
    let holds = rows.iter().all(|row| row.holds);
    if args.json {
        let unplanted = unplanted();
        let reasons =
            unplanted.iter().map(|(entry, reason)| UnplantedJson { cause: entry.code, reason });
        print_json(&MatrixJson { holds, rows: &rows, unplanted: reasons.collect() })?;
    } else {
        print(&text(&rows))?;
    }
    Ok(if holds { Done::Pass } else { Done::Broken })
}
