//! When the copies of a step ran: its inputs to the device, what it chose back to the host.
//!
//! Events tell it, one on each side of a copy, whatever tells the times of operations: none of them
//! stands between two kernels. The device's clock is set by the host's just before the inputs are
//! handed over where nothing is in flight; behind another step time is counted from the inputs of
//! the one before. A copy of inputs that the device comes to at once takes as long as it takes the
//! host to put them on their shelf, too.

use std::collections::VecDeque;

use crate::backend::{CopySpan, DeviceError, Span};
use crate::event::{Cargo, Direction};
use crate::unit::{Bytes, Nanos};

use super::driver::{Driver, DriverError, Event};

/// The inputs of a step in flight.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// The step's number.
    step: usize,
    /// The host's time just before they were handed over.
    handed: Nanos,
    /// Whether the step before was still in flight.
    follows: bool,
    bytes: u64,
    /// What the step chose has been copied.
    copied: Event,
    timed: bool,
}

/// Copies of the steps in flight, and of the one that ended last.
pub(super) struct Copies {
    /// Before and behind the copy of the inputs, and before that of what was chosen; of a step and
    /// of the two before it, from which its time is counted.
    events: [[Event; 3]; 3],
    /// Bytes of what is chosen.
    chosen: u64,
    steps: usize,
    flying: VecDeque<Sent>,
    /// When the device came to the inputs of the last step whose times were asked for.
    last: Option<(usize, Nanos)>,
    /// When that step ended.
    end: Nanos,
    told: Vec<CopySpan>,
}

impl Copies {
    /// Of up to `most` steps in flight that copy so many bytes of choices.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost.
    pub fn new(driver: &dyn Driver, most: u32, chosen: u64) -> Result<Self, DriverError> {
        let set = || Ok::<_, DriverError>([driver.event()?, driver.event()?, driver.event()?]);
        Ok(Self {
            events: [set()?, set()?, set()?],
            chosen,
            steps: 0,
            flying: VecDeque::with_capacity(most as usize),
            last: None,
            end: Nanos::ZERO,
            told: Vec::with_capacity(2),
        })
    }

    /// What is to be recorded before and behind the inputs of the next step.
    pub const fn around_inputs(&self) -> [Event; 2] {
        let [before, behind, _] = self.events[self.steps % 3];
        [before, behind]
    }

    /// So many bytes of inputs were handed over after `handed`, with events around them if `timed`;
    /// behind `copied` what the step chose will be there.
    pub fn sent(&mut self, bytes: u64, handed: Nanos, copied: Event, timed: bool) {
        let (step, follows) = (self.steps, !self.flying.is_empty());
        self.steps += 1;
        self.flying.push_back(Sent { step, handed, follows, bytes, copied, timed });
    }

    /// What is to be recorded before the choices of the step that was sent last are copied, if it
    /// is timed.
    pub fn before_choices(&self) -> Option<Event> {
        let sent = self.flying.back().filter(|sent| sent.timed)?;
        Some(self.events[sent.step % 3][2])
    }

    /// The oldest step has ended, all of which was done at `now`, and was not asked for once more.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device failed.
    pub fn land(&mut self, driver: &dyn Driver, now: Nanos) -> Result<(), DeviceError> {
        self.told.clear();
        let Some(sent) = self.flying.pop_front().filter(|sent| sent.timed) else { return Ok(()) };
        let [before, behind, choices] = self.events[sent.step % 3];
        let start = match self.last.filter(|_| sent.follows) {
            Some((step, start)) => start + driver.elapsed(self.events[step % 3][0], before)?,
            None => sent.handed,
        };
        // Neither before they were handed over nor before the step before had ended.
        let start = start.max(sent.handed).max(self.end).min(now);
        self.last = Some((sent.step, start));
        let at = |event| -> Result<Nanos, DeviceError> {
            // The card's clock is not the host's: it may run a little faster.
            Ok((start + driver.elapsed(before, event)?).min(now))
        };
        let inputs = Span { start, end: at(behind)? };
        let chosen = Span { start: at(choices)?, end: at(sent.copied)? };
        for (span, direction, bytes) in
            [(inputs, Direction::ToDevice, sent.bytes), (chosen, Direction::ToHost, self.chosen)]
        {
            self.told.push(CopySpan { span, cargo: Cargo::Data, direction, bytes: Bytes(bytes) });
        }
        self.end = chosen.end;
        Ok(())
    }

    /// These are the spans of the operations of the step that ended last: no copy of the next one
    /// begins before they end.
    pub fn ran(&mut self, spans: &[Span]) {
        self.end = spans.last().map_or(self.end, |span| span.end.max(self.end));
    }

    /// Those of the step that ended last.
    pub fn told(&self) -> &[CopySpan] {
        &self.told
    }
}
