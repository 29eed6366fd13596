//! The dashboard beside a run that this process makes: it follows the run's own log, so that
//! the engine neither waits for it nor knows of it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::Failure;
use super::dashboard::{Dashboard, terminal};
use super::folder::FolderFeed;
use crate::trace::read_header;
use crate::tui::{Screen, Wish};
use crate::waste::BooksOptions;

/// A line that changes faster cannot be read.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// What the run and its dashboard tell each other.
#[derive(Debug, Default)]
struct Shared {
    /// The dashboard is on the terminal.
    open: AtomicBool,
    /// The dashboard must go.
    leave: AtomicBool,
    progress: Mutex<String>,
}

/// A dashboard in a thread of its own.
pub(crate) struct Beside {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

impl Beside {
    /// Opens a dashboard on the run in `folder`, which has been begun. `stop` is set if the user
    /// wants the run to stop.
    ///
    /// # Errors
    /// [`Failure`] if the terminal cannot be used.
    pub(crate) fn open(folder: &Path, stop: Arc<AtomicBool>) -> Result<Self, Failure> {
        let mut screen = Screen::take().map_err(terminal)?;
        let shared = Arc::new(Shared { open: AtomicBool::new(true), ..Shared::default() });
        let (theirs, folder) = (Arc::clone(&shared), folder.to_path_buf());
        let body = move || {
            let shown = show(&folder, &theirs, &stop, &mut screen);
            drop(screen);
            theirs.open.store(false, Ordering::Release);
            shown
        };
        let thread = std::thread::Builder::new().name("gemba-dashboard".to_owned()).spawn(body);
        let thread = thread.map_err(|error| {
            Failure::new(format!("open the dashboard: {error}"), None::<String>)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether it is still on the terminal.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Says how far the run is.
    pub(crate) fn tell(&self, progress: String) {
        *self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// Waits until the user has seen enough.
    ///
    /// # Errors
    /// What went wrong in the dashboard; the run is not harmed by it.
    pub(crate) fn wait(mut self) -> Result<(), Failure> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(shown)) => shown,
            Some(Err(_)) => Err(Failure::new("draw the dashboard: it panicked", None::<String>)),
            None => Ok(()),
        }
    }
}

impl Drop for Beside {
    /// A run that could not be made takes its dashboard with it.
    fn drop(&mut self) {
        self.shared.leave.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // The error that matters is the run's.
            let _ = thread.join();
        }
    }
}

fn show(
    folder: &Path,
    shared: &Shared,
    stop: &AtomicBool,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let header = read_header(folder)?;
    let mut dashboard = Dashboard::new(&header, &BooksOptions::default());
    let mut feed = FolderFeed::open(folder, header)?;
    let mut interrupted = false;
    let (mut progress, mut asked) = (String::new(), None::<Instant>);
    while !shared.leave.load(Ordering::Acquire) {
        if asked.is_none_or(|asked| asked.elapsed() >= PROGRESS_EVERY) {
            asked = Some(Instant::now());
            progress.clone_from(&shared.progress.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let message = match (dashboard.over(), stop.load(Ordering::Acquire)) {
            (true, true) => return Ok(()),
            (true, false) => Some("the run is over: q leaves and prints the books".to_owned()),
            (false, true) => Some("stopping; Ctrl-C again gives up".to_owned()),
            (false, false) if progress.is_empty() => None,
            (false, false) => Some(format!("{progress}   ? keys  q leave  Ctrl-C stop")),
        };
        dashboard.say(message);
        match dashboard.turn(&mut feed, screen)? {
            Wish::Leave => return Ok(()),
            Wish::Interrupt if dashboard.over() => return Ok(()),
            Wish::Interrupt if interrupted => {
                screen.give_back();
                std::process::exit(130);
            }
            Wish::Interrupt => {
                interrupted = true;
                stop.store(true, Ordering::Release);
            }
            _ => {}
        }
    }
    Ok(())
}
