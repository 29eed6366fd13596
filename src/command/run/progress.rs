//! The progress of a run: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Ui;
use crate::session::{Progress, Stage};
use crate::unit::{si_count, si_nanos};

/// Without a terminal, a line is printed this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress on stderr.
pub(super) enum Bar {
    Terminal(ProgressBar),
    Lines { stage: Option<Stage>, printed: Instant },
    Silent,
}

impl Bar {
    pub(super) fn new(ui: Ui) -> Self {
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
        if let Self::Terminal(bar) = self {
            bar.finish_and_clear();
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
