//! The progress of a run: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::watch::Beside;
use super::Ui;
use crate::session::{Progress, Stage};
use crate::unit::{si_count, si_nanos};

/// Without a terminal, a line is printed this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress on stderr.
pub(super) enum Bar<'a> {
    /// The dashboard shows it while it is open.
    Dashboard(&'a Beside, Box<Self>),
    Terminal(ProgressBar),
    Lines {
        stage: Option<Stage>,
        printed: Instant,
    },
    Silent,
}

impl<'a> Bar<'a> {
    pub(super) fn new(ui: Ui, beside: Option<&'a Beside>) -> Self {
        if let Some(beside) = beside {
            return Self::Dashboard(beside, Box::new(Self::new(Ui::Plain, None)));
        }
        if ui == Ui::Tui {
            super::note("no terminal here: progress in place of the dashboard");
        }
        match ui {
            Ui::None => Self::Silent,
            _ if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::new(0);
                // A template that does not parse leaves the default style.
                if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}") {
                    bar.set_style(style);
                }
                Self::Terminal(bar)
            }
            _ => Self::Lines { stage: None, printed: Instant::now() },
        }
    }

    pub(super) fn show(&mut self, progress: &Progress) {
        match self {
            Self::Silent => {}
            Self::Dashboard(beside, bar) => match beside.is_open() {
                true => {
                    let (done, total) = (progress.counts.finished, progress.requests_total);
                    beside.tell(format!("{done}/{total} {}", message(progress)));
                }
                // The user has left it, and the run goes on.
                false => bar.show(progress),
            },
            Self::Terminal(bar) => {
                bar.set_length(progress.requests_total);
                bar.set_position(progress.counts.finished);
                bar.set_message(message(progress));
            }
            Self::Lines { stage, printed } => {
                let changed = stage.replace(progress.stage) != Some(progress.stage);
                if changed || printed.elapsed() >= LINE_EVERY {
                    *printed = Instant::now();
                    let (done, total) = (progress.counts.finished, progress.requests_total);
                    let line = format!("{done}/{total} {}\n", message(progress));
                    // Where stderr is gone there is nobody left to tell.
                    let _ = std::io::stderr().write_all(line.as_bytes());
                }
            }
        }
    }

    pub(super) fn finish(self) {
        match self {
            Self::Terminal(bar) => bar.finish_and_clear(),
            Self::Dashboard(_, bar) => bar.finish(),
            Self::Lines { .. } | Self::Silent => {}
        }
    }
}

fn message(progress: &Progress) -> String {
    match progress.stage {
        Stage::Load => "loading weights".to_owned(),
        Stage::Calibrate => "measuring this machine".to_owned(),
        Stage::WarmUp => "warming up".to_owned(),
        Stage::Done => "done".to_owned(),
        Stage::Play => {
            let left = progress
                .remaining
                .map_or_else(String::new, |left| format!(", about {} left", si_nanos(left)));
            format!(
                "requests, {} running, {} tokens/s{left}",
                progress.live,
                si_count(progress.tokens_per_s)
            )
        }
    }
}
