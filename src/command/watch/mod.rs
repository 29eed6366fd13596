//! `gemba watch`: the dashboard on a run that goes on, on a server, or on a replay.

mod beside;
mod dashboard;
mod feed;
mod folder;
mod replay;
mod server;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;

use super::ledger::BooksArgs;
use super::run::Ui;
use super::{Done, Failure};
use crate::trace::{Status, read_header};
use dashboard::Dashboard;
use feed::Feed;
use folder::FolderFeed;
use replay::Replay;
use server::{PATIENCE, ServerFeed};

pub(super) use beside::Beside;

/// `gemba watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// A run folder, growing or finished, or the address of a server: http://HOST:PORT
    #[arg(value_name = "URL|RUN")]
    pub source: String,
    /// What to show; without a terminal, lines
    #[arg(long, value_enum, default_value_t = Ui::Tui)]
    pub ui: Ui,
    /// How fast a finished run is replayed
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub speed: f64,
    /// Where the replay begins, in seconds of run time
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, allow_negative_numbers = true)]
    pub at: f64,
    /// The server's API key, if it wants one
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// How the books are kept
    #[command(flatten)]
    pub books: BooksArgs,
}

/// Watches until the user leaves; without a terminal, until the run is over.
///
/// # Errors
/// [`Failure`] if the run cannot be read, the server cannot be reached, or the terminal fails.
pub fn run(args: &WatchArgs) -> Result<Done, Failure> {
    let options = args.books.options()?;
    let mut feed = feed(args)?;
    let stop = Arc::new(AtomicBool::new(false));
    // A terminal that is gone ends it at once: there is nothing left to give back.
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(|error| {
            Failure::new(format!("listen for {signal}: {error}"), None::<String>)
        })?;
    }
    let mut dashboard = Dashboard::new(feed.header(), &options);
    match dashboard::ui(args.ui) {
        Ui::Tui => dashboard.show(&mut *feed, &stop)?,
        Ui::Plain | Ui::None => dashboard.print(&mut *feed, &stop, args.ui != Ui::None)?,
    }
    Ok(if dashboard.balanced() { Done::Pass } else { Done::Broken })
}

/// Where facts come from.
fn feed(args: &WatchArgs) -> Result<Box<dyn Feed>, Failure> {
    let usage = |message: String| Failure::new(message, Some("`gemba watch --help` says more"));
    if !(args.speed > 0.0 && args.speed <= 1e6) {
        return Err(usage(format!("set --speed: expected 0 to 1e6, found {}", args.speed)));
    }
    if !(0.0..=1e9).contains(&args.at) {
        return Err(usage(format!("set --at: expected 0 to 1e9 seconds, found {}", args.at)));
    }
    if args.source.starts_with("http://") {
        return Ok(Box::new(ServerFeed::open(&args.source, args.api_key.clone(), PATIENCE)?));
    }
    if let Some((scheme, _)) = args.source.split_once("://") {
        let message =
            format!("watch {}: expected http:// or a folder, found {scheme}://", args.source);
        let hint = "gemba speaks plain HTTP; put a tunnel in front of a server that does not";
        return Err(Failure::new(message, Some(hint)));
    }
    let path = Path::new(&args.source);
    let header = read_header(path)?;
    if header.status == Status::Running {
        return Ok(Box::new(FolderFeed::open(path, header)?));
    }
    // Without somebody to look at it, a replay has no reason to take its time.
    let hurry = dashboard::ui(args.ui) != Ui::Tui;
    Ok(Box::new(Replay::open(path, header, args.speed, args.at, hurry)?))
}

/// Whether a run shows a dashboard: it was asked for, and there is a terminal.
///
/// # Errors
/// None here; a build without dashboards refuses.
pub(super) fn wanted(ui: Ui) -> Result<bool, Failure> {
    Ok(ui == Ui::Tui && is_terminal())
}

/// Whether there is a terminal to draw on and keys to read.
fn is_terminal() -> bool {
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal()
}
