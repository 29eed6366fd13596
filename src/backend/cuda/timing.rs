//! When the operations of a step ran.
//!
//! Where the driver has records of kernels they tell it, and nothing stands between kernels. Else
//! events do, one before and one after each operation. Steps can also run with nothing that tells
//! it: so fast is the device when nobody looks.
//!
//! A library that multiplies launches kernels of its own, as many as it likes. The steps in which
//! it may, those of many rows, are timed by events.
//!
//! Several steps may be in flight while records time them; what their times are is known later
//! (`late`). A library that multiplies may launch in one of them: its records are known by their
//! names, and passed over.
//!
//! Records may be dropped, and then it is not known whose the others are. No time is made up. A
//! step that nothing followed is asked for once more, with events: it is a function of its inputs,
//! which still lie on the device, so that it computes the same once more and these are times that
//! it took. Of steps that others followed no operation has a time. What they took stands in the
//! books as time in which nothing of them ran, and how many there are is said with the reason. From
//! then on events tell the times, as a device that drops some records will drop more.

use std::rc::Rc;

use crate::backend::{DeviceError, Span, TimedBy};
use crate::unit::Nanos;

use super::device::Cuda;
use super::driver::{Driver, DriverError};
use super::flights::Flight;
use super::join::{Ran, Template, Told};
use super::late::Late;
use super::timeline::{Clocks, Launches};

/// What tells the times of a step's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    Records,
    Events,
    Nothing,
}

/// How a device's operations are timed, and what is known of the running step.
pub(super) struct Timing {
    each: bool,
    /// Why there are no records, if there are none.
    untraced: Option<String>,
    /// What was launched one by one in this step, or written down.
    pub launches: Launches,
    /// The graph that was replayed, if one was.
    pub replayed: Option<Rc<Template>>,
    /// When it began by both clocks.
    begun: [Nanos; 2],
    /// Whether a library launches kernels of its own in this step.
    foreign: bool,
    /// Steps whose times records will tell.
    pub late: Late,
}

impl Timing {
    /// Each operation, by records if there are any.
    pub fn new(driver: &dyn Driver) -> Self {
        Self {
            each: true,
            untraced: driver.tracer().err().map(str::to_owned),
            launches: Launches::default(),
            replayed: None,
            begun: [Nanos::ZERO; 2],
            foreign: false,
            late: Late::default(),
        }
    }

    /// What tells the times of this step.
    pub const fn way(&self) -> Way {
        match (self.each, self.traces()) {
            (false, _) => Way::Nothing,
            (true, true) if !self.foreign => Way::Records,
            (true, _) => Way::Events,
        }
    }

    /// Whether kernels are recorded.
    pub const fn traces(&self) -> bool {
        self.each && self.untraced.is_none()
    }

    /// Why kernels are not recorded, if they are not.
    pub const fn untraced(&self) -> Option<&String> {
        self.untraced.as_ref()
    }

    /// Another step comes; `foreign` if a library may launch kernels of its own in it.
    pub fn begin_step(&mut self, foreign: bool) {
        self.launches.clear();
        self.replayed = None;
        self.foreign = foreign;
    }

    /// With a library of dense products or without.
    pub fn timed_by(&self, library: bool) -> TimedBy {
        match &self.untraced {
            None => TimedBy::Records { library },
            Some(why) => TimedBy::Events(why.clone()),
        }
    }
}

impl Cuda {
    /// The device comes to a step, of which so many operations are known: times of its operations
    /// count from here.
    pub(super) fn begin(&mut self, operations: usize) -> Result<(), DriverError> {
        let (way, asked) = (self.timing.way(), self.step.placed.asked as usize);
        // The device comes to it after this, so that no span begins before its launch.
        let now = self.clock.now();
        let traced = self.timing.traces();
        if traced {
            self.timing.late.begin(now, self.flights.flying() > 0);
            match self.records_now() {
                Ok(records) => self.timing.begun = [now, records],
                // Whoever asks for the spans is told what failed.
                Err(why) => self.timing.late.cannot_read(why),
            }
        }
        // A step that a library's products are in may follow, which events time.
        let marked = traced && self.plan.has_library();
        self.flights.begin(&*self.driver, (way, marked), [operations, asked], now)?;
        self.take_awaited()?;
        if traced {
            self.note_launched();
            self.timing.launches.end_of_none();
        }
        Ok(())
    }

    /// Takes what the driver noted.
    fn note_launched(&mut self) {
        if let Ok(tracer) = self.driver.tracer() {
            tracer.launched(&mut self.timing.launches.kernels);
        }
    }

    /// Launches operation `at` of the step, with what tells its times: where events do, those of a
    /// set.
    pub(super) fn run_at(&mut self, at: usize, set: usize) -> Result<(), DriverError> {
        let (op, [start, end]) = (self.ops[at], self.flights.operations(set)[at]);
        match self.timing.way() {
            Way::Records | Way::Nothing => self.run(op)?,
            Way::Events => {
                self.driver.record(start)?;
                self.run(op)?;
                self.driver.record(end)?;
            }
        }
        if self.timing.traces() {
            self.note_launched();
            self.timing.launches.end_operation();
        }
        Ok(())
    }

    /// Launches all operations of the step, with the events of a set.
    pub(super) fn run_ops(&mut self, set: usize) -> Result<(), DriverError> {
        (0..self.ops.len()).try_for_each(|at| self.run_at(at, set))
    }

    /// The step that was begun last has all its operations.
    pub(super) fn hand_over(&mut self) {
        if !self.timing.traces() {
            return;
        }
        let Timing { launches, replayed, begun: [ours, records], foreign, late, .. } =
            &mut self.timing;
        let launches = std::mem::replace(launches, late.room());
        let told = match foreign {
            true => Told::Otherwise(Vec::new()),
            false => Told::Records,
        };
        let clocks = Clocks { ours: [*ours; 2], records: [*records; 2] };
        let replayed = replayed.take();
        late.hand_over(Ran { launches, replayed, clocks, told, awaited: true });
    }

    /// Appends the span of each operation of a step that has ended, all of which were done at
    /// `now`; none if nothing tells them, or not yet.
    pub(super) fn spans(
        &mut self,
        flight: &Flight,
        now: Nanos,
        spans: &mut Vec<Span>,
    ) -> Result<(), DeviceError> {
        let known = match flight.way {
            Way::Nothing => return Ok(()),
            Way::Events if !self.timing.traces() && self.timing.late.waiting() == 0 => {
                return self.flights.spans(&*self.driver, flight, now, spans);
            }
            Way::Events => {
                let mut known = Vec::with_capacity(flight.operations);
                self.flights.spans(&*self.driver, flight, now, &mut known)?;
                Some(known)
            }
            Way::Records => {
                self.flights.pass(&*self.driver, flight)?;
                None
            }
        };
        self.land_recorded(known, now, spans)
    }

    /// Events tell the times from now on. Nothing runs.
    pub(super) fn give_up(&mut self, why: String) -> Result<(), DriverError> {
        if let Ok(tracer) = self.driver.tracer() {
            // Whether it stops or not, it is not asked again.
            let _ = tracer.trace(false);
        }
        self.timing.untraced = Some(why);
        self.graphs.forget(&*self.driver, Way::Records)
    }

    /// Whether operations are timed from the next step on.
    pub(super) fn time_each(&mut self, each: bool) {
        let before = std::mem::replace(&mut self.timing.each, each);
        if before == each || self.timing.untraced.is_some() {
            return;
        }
        if let Ok(tracer) = self.driver.tracer() {
            // Without its records the next step that is timed goes back to events.
            let _ = tracer.trace(each);
        }
    }

    /// Does `work` without records of it.
    pub(super) fn untraced<T>(&self, work: impl FnOnce() -> T) -> T {
        let tracer = match self.timing.traces() {
            true => self.driver.tracer().ok(),
            false => None,
        };
        let Some(tracer) = tracer else { return work() };
        // As above.
        let _ = tracer.trace(false);
        let done = work();
        let _ = tracer.trace(true);
        done
    }
}
