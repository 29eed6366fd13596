//! Steps that were handed to the device and whose results were not taken.
//!
//! Two may be there at once, one that runs and one that waits behind it, so that the device need
//! not wait for the host. What the host and the device leave for each other of a step, its inputs,
//! when each operation began and ended and which tokens were chosen, the next step must not
//! overwrite before it was read: there are two [`Set`]s of it, used in turns. They lie in memory
//! that the device copies by itself: with other memory a copy makes the host wait for what runs.
//!
//! Where events tell when its operations ran, the device's clock is set by the host's where a step
//! begins with nothing in flight: the device comes to it as soon as it was handed over. Behind
//! another step it begins when that one ends, which only the device knows: its time is counted from
//! the beginning of the one before.

use std::collections::VecDeque;

use crate::backend::{DeviceError, Sampled, Span};
use crate::unit::Nanos;

use super::driver::{Address, Driver, DriverError, Event, Shelf};
use super::timing::Way;

/// What a step and the host leave for each other.
struct Set {
    /// The step's inputs, on their way.
    inputs: Shelf,
    /// When each operation began and ended.
    operations: Vec<[Event; 2]>,
    /// What it chose has been copied.
    copied: Event,
    /// Tokens, then their log-probabilities, with room for as many as may be asked for.
    chosen: Shelf,
}

/// A step that was handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// Its number.
    step: usize,
    /// What tells when its operations ran.
    pub way: Way,
    /// How many operations it has, and how many rows asked for logits.
    pub operations: usize,
    asked: usize,
    /// The host's time just before it was handed over.
    pub handed: Nanos,
    /// Whether an event tells when it began.
    marked: bool,
    /// Whether the step before was still in flight.
    follows: bool,
}

/// The steps in flight, and what was there of the last one.
pub(super) struct Flights {
    sets: Vec<Set>,
    /// When each step began, in turns. The last step's is needed until the next one has ended, and
    /// by then one more may have begun.
    begun: [Event; 3],
    flying: VecDeque<Flight>,
    /// Steps that were begun.
    begins: usize,
    /// Whether the device has nothing to do although results were not taken.
    idle: bool,
    /// The last step that ended and that an event marked, and when it began.
    last: Option<(usize, Nanos)>,
    /// When it ended.
    end: Nanos,
    /// Bytes of a shelf, and what is read of one.
    bytes: Vec<u8>,
}

impl Flights {
    /// For up to `most` steps of up to `operations` operations, `asked` rows that ask for logits
    /// and so many bytes of inputs.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or [`DeviceError::Lost`] if the device failed.
    pub fn new(
        driver: &dyn Driver,
        most: u32,
        [operations, asked]: [usize; 2],
        inputs: u64,
    ) -> Result<Self, DeviceError> {
        let bytes = shelf_bytes(asked);
        let set = |_| -> Result<Set, DeviceError> {
            let pair = |_| Ok::<_, DriverError>([driver.event()?, driver.event()?]);
            Ok(Set {
                inputs: driver.shelf(inputs)?,
                operations: (0..operations).map(pair).collect::<Result<_, _>>()?,
                copied: driver.event()?,
                chosen: driver.shelf(bytes as u64)?,
            })
        };
        Ok(Self {
            sets: (0..most).map(set).collect::<Result<_, _>>()?,
            begun: [driver.event()?, driver.event()?, driver.event()?],
            flying: VecDeque::with_capacity(most as usize),
            begins: 0,
            idle: false,
            last: None,
            end: Nanos::ZERO,
            bytes: vec![0; bytes],
        })
    }

    /// How many sets there are.
    pub fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Which set the next step to be handed over writes.
    pub fn set(&self) -> usize {
        self.begins % self.sets.len()
    }

    /// What the inputs of the next step to be handed over are sent by: those of the last step of
    /// its set have arrived, as it has ended.
    pub fn inputs(&self) -> Shelf {
        self.sets[self.set()].inputs
    }

    /// The events of the operations of a set.
    pub fn operations(&self, set: usize) -> &[[Event; 2]] {
        &self.sets[set].operations
    }

    /// What will be recorded when the choices of the next step to be handed over have been copied.
    pub fn copied(&self) -> Event {
        self.sets[self.set()].copied
    }

    /// How many tokens the last step that was handed over chooses.
    pub fn choices(&self) -> usize {
        self.flying.back().map_or(0, |flight| flight.asked)
    }

    /// How many steps have not ended.
    pub fn flying(&self) -> usize {
        self.flying.len()
    }

    /// The device has done all that was handed over.
    pub const fn idle(&mut self) {
        self.idle = true;
    }

    /// Whether one more may be handed over where `most` may be in flight.
    ///
    /// # Errors
    /// [`DeviceError::Limits`] if not.
    pub fn check(&self, most: u32) -> Result<(), DeviceError> {
        match self.flying.len() {
            flying if flying < most as usize => Ok(()),
            flying => {
                Err(DeviceError::Limits(format!("a step behind {flying} that have not ended")))
            }
        }
    }

    /// The device comes to a step of so many operations and rows that ask for logits; `now` was
    /// before this. An event marks its beginning where `marked`, or where events time it.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device failed.
    pub fn begin(
        &mut self,
        driver: &dyn Driver,
        (way, marked): (Way, bool),
        [operations, asked]: [usize; 2],
        now: Nanos,
    ) -> Result<(), DriverError> {
        let idle = std::mem::take(&mut self.idle);
        let (step, follows) = (self.begins, !self.flying.is_empty() && !idle);
        let marked = marked || way == Way::Events;
        if marked {
            driver.record(self.begun[step % 3])?;
        }
        let handed = now;
        self.flying.push_back(Flight { step, way, operations, asked, handed, marked, follows });
        Ok(())
    }

    /// The step that was begun last has one operation more.
    pub fn add_operation(&mut self) {
        if let Some(flight) = self.flying.back_mut() {
            flight.operations += 1;
        }
    }

    /// The step that was begun last has all its operations: what it chose is copied from `chosen`.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device failed.
    pub fn finish(&mut self, driver: &dyn Driver, chosen: Address) -> Result<(), DriverError> {
        let set = &self.sets[self.set()];
        driver.fetch(chosen, set.chosen)?;
        driver.record(set.copied)?;
        self.begins += 1;
        Ok(())
    }

    /// Waits for the oldest step and takes what it chose.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device failed, [`DeviceError::Limits`] if none is in flight.
    pub fn land(
        &mut self,
        driver: &dyn Driver,
        sampled: &mut Vec<Sampled>,
    ) -> Result<Flight, DeviceError> {
        let none = || DeviceError::Limits("no step is in flight".to_owned());
        let flight = self.flying.pop_front().ok_or_else(none)?;
        let set = &self.sets[flight.step % self.sets.len()];
        driver.wait_for(set.copied)?;
        driver.fetched(set.chosen, &mut self.bytes)?;
        let (tokens, logprobs) = self.bytes.split_at(self.bytes.len() / 2);
        let chosen = tokens.as_chunks().0.iter().zip(logprobs.as_chunks().0);
        sampled.extend(chosen.take(flight.asked).map(|(token, logprob)| Sampled {
            token: u32::from_le_bytes(*token),
            logprob: f32::from_le_bytes(*logprob),
        }));
        Ok(flight)
    }

    /// When a step began that an event marked, the last one that landed.
    fn begun(&mut self, driver: &dyn Driver, flight: &Flight) -> Result<Nanos, DriverError> {
        let begun = self.begun[flight.step % 3];
        let start = match self.last.filter(|_| flight.follows) {
            Some((step, start)) => start + driver.elapsed(self.begun[step % 3], begun)?,
            None => flight.handed,
        };
        // Neither before it was handed over nor before the step before had ended.
        let start = start.max(flight.handed).max(self.end);
        self.last = Some((flight.step, start));
        Ok(start)
    }

    /// A step landed, the last one, whose operations something else times: one behind it may be
    /// timed by events.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device failed.
    pub fn pass(&mut self, driver: &dyn Driver, flight: &Flight) -> Result<(), DriverError> {
        match flight.marked {
            true => self.begun(driver, flight).map(|_| ()),
            false => Ok(()),
        }
    }

    /// Appends when the operations of a step ran, the last one that landed, by its events; all of
    /// them were done at `now`.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device failed.
    pub fn spans(
        &mut self,
        driver: &dyn Driver,
        flight: &Flight,
        now: Nanos,
        spans: &mut Vec<Span>,
    ) -> Result<(), DeviceError> {
        let start = self.begun(driver, flight)?;
        let set = &self.sets[flight.step % self.sets.len()];
        let begun = self.begun[flight.step % 3];
        for [first, last] in &set.operations[..flight.operations] {
            let at = |event| -> Result<Nanos, DeviceError> {
                // The card's clock is not the host's: it may run a little faster.
                Ok((start + driver.elapsed(begun, event)?).min(now))
            };
            let span = Span { start: at(*first)?.max(self.end), end: at(*last)?.max(self.end) };
            spans.push(span);
        }
        self.end = spans.last().map_or(self.end, |span| span.end);
        Ok(())
    }
}

/// Bytes of the tokens and log-probabilities of so many rows.
pub(super) const fn shelf_bytes(asked: usize) -> usize {
    2 * 4 * asked.next_multiple_of(4)
}
