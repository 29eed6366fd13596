//! A finished run, played again.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::Failure;
use super::feed::{Feed, News};
use super::folder::open_log;
use crate::event::Fact;
use crate::trace::{Header, LogTail, TraceError};
use crate::tui::Wish;
use crate::unit::Nanos;

/// Facts given in one go, so that keys are heard while much is skipped.
const FACTS: usize = 1 << 12;

/// Plays the log of a finished run.
pub(super) struct Replay {
    folder: PathBuf,
    header: Header,
    tail: LogTail<File>,
    waiting: VecDeque<Fact>,
    drained: bool,
    /// The latest moment that a given fact speaks of.
    given: Nanos,
    /// Where the picture is to be, in nanoseconds of run time.
    target: f64,
    speed: f64,
    halted: bool,
    hurry: bool,
    asked: Instant,
    anew: bool,
    over: bool,
}

impl Replay {
    pub(super) fn open(
        folder: &Path,
        header: Header,
        speed: f64,
        at: f64,
        hurry: bool,
    ) -> Result<Self, TraceError> {
        let tail = open_log(folder)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            target: header.window.start_ns.0 as f64 + at * 1e9,
            header,
            tail,
            waiting: VecDeque::new(),
            drained: false,
            given: Nanos::ZERO,
            speed,
            halted: false,
            hurry,
            asked: Instant::now(),
            anew: false,
            over: false,
        })
    }

    fn end(&self) -> f64 {
        self.header.window.end_ns.0 as f64
    }

    fn seek(&mut self, target: f64) {
        self.target = target.clamp(self.header.window.start_ns.0 as f64, self.end());
        if self.target < self.given.0 as f64 {
            self.anew = true;
        }
    }

    /// Fetches facts from the log. `false` at its end.
    fn fetch(&mut self) -> Result<bool, TraceError> {
        let mut facts = Vec::new();
        while facts.is_empty() && !self.drained {
            self.drained = !self.tail.poll(&mut facts)?;
        }
        self.waiting.extend(facts);
        Ok(!self.waiting.is_empty())
    }
}

/// When a fact was said at the earliest; rows, operations, copies and names follow what was said
/// before.
fn moment(fact: &Fact) -> Option<Nanos> {
    match fact {
        Fact::State(change) => Some(change.at),
        Fact::Step(step) => Some(step.end),
        Fact::Memory(change) => Some(change.at),
        Fact::Arrival(arrival) => Some(arrival.at),
        Fact::Finish(finish) => Some(finish.at),
        Fact::Power(power) => Some(power.at),
        Fact::Kernel { .. } | Fact::Row(_) | Fact::Launch(_) | Fact::Copy(_) => None,
    }
}

impl Feed for Replay {
    fn header(&self) -> &Header {
        &self.header
    }

    fn poll(&mut self, facts: &mut Vec<Fact>) -> Result<News, Failure> {
        let elapsed = self.asked.elapsed();
        self.asked = Instant::now();
        if self.anew {
            self.tail = open_log(&self.folder)?;
            self.waiting.clear();
            (self.anew, self.drained, self.over, self.given) = (false, false, false, Nanos::ZERO);
            return Ok(News::Anew);
        }
        if self.over {
            return Ok(News::Quiet);
        }
        if self.hurry {
            self.target = self.end();
        } else if !self.halted {
            let moved = elapsed.as_nanos() as f64 * self.speed;
            self.target = (self.target + moved).min(self.end());
        }
        let before = facts.len();
        while facts.len() - before < FACTS {
            if self.waiting.is_empty() && !self.fetch()? {
                break;
            }
            let at = self.waiting.front().and_then(moment);
            // The last facts may lie a nanosecond behind the window's end.
            let all = self.target >= self.end();
            if !all && at.is_some_and(|at| at.0 as f64 > self.target) {
                break;
            }
            self.given = self.given.max(at.unwrap_or_default());
            facts.extend(self.waiting.pop_front());
        }
        let more = facts.len() > before;
        if !more && self.drained && self.waiting.is_empty() && self.target >= self.end() {
            self.over = true;
            return Ok(News::Over(Some(self.header.window.end_ns)));
        }
        Ok(if more { News::Facts } else { News::Quiet })
    }

    fn playback(&self) -> String {
        let speed = match self.speed {
            speed if speed >= 1.0 => format!("{speed}×"),
            speed => format!("{speed:.3}×"),
        };
        let moving = match (self.over, self.halted) {
            (true, _) => "at its end".to_owned(),
            (_, true) => "halted".to_owned(),
            _ => speed,
        };
        format!("replay {moving} of {}", crate::unit::si_nanos(self.header.window.end_ns))
    }

    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Seek(seconds) => self.seek(self.target + seconds as f64 * 1e9),
            Wish::Begin => self.seek(0.0),
            Wish::End => self.seek(self.end()),
            Wish::Faster => self.speed = (self.speed * 2.0).min(1e6),
            Wish::Slower => self.speed = (self.speed / 2.0).max(1.0 / 1024.0),
            Wish::Pause => self.halted = !self.halted,
            Wish::Draw | Wish::Leave | Wish::Interrupt | Wish::Mouse => {}
        }
    }
}
