//! When the operations of a step ran.
//!
//! Where the driver has records of kernels they tell it, and nothing stands between kernels. Else
//! events do, one before and one after each operation. Steps can also run with nothing that tells
//! it: so fast is the device when nobody looks.
//!
//! A library that multiplies launches kernels of its own, as many as it likes. The steps in which
//! it may, those of many rows, are timed by events; their records are taken and forgotten.
//!
//! Records may be dropped, and then it is not known whose the others are. No time is made up: such
//! a step is asked for once more, with events. A step is a function of its inputs, which still lie
//! on the device, so that it computes the same once more and these are times that it took; what
//! the first time took stands in the books as time in which nothing of it ran. From that step on
//! events tell the times, as a device that drops some records will drop more.

use crate::backend::{DeviceError, Span, TimedBy};
use crate::unit::Nanos;

use super::device::Cuda;
use super::driver::{Driver, DriverError};
use super::flights::Flight;
use super::graphs::Form;
use super::timeline::{Clocks, Launches, Misfit, Record};

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
    records: Vec<Record>,
    /// The time of records when it began.
    begun: Result<Nanos, String>,
    /// The form whose graph was replayed, if one was.
    pub replayed: Option<Form>,
    /// Whether a library launches kernels of its own in this step.
    foreign: bool,
}

impl Timing {
    /// Each operation, by records if there are any.
    pub fn new(driver: &dyn Driver) -> Self {
        Self {
            each: true,
            untraced: driver.tracer().err().map(str::to_owned),
            launches: Launches::default(),
            records: Vec::new(),
            begun: Ok(Nanos::ZERO),
            replayed: None,
            foreign: false,
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
        if way == Way::Records {
            // Whoever asks for the spans is told what failed.
            self.timing.begun = self.records_now();
        }
        self.flights.begin(&*self.driver, way, [operations, asked], now)?;
        self.take_awaited()
    }

    /// Launches operation `at` of the step, with what tells its times: where events do, those of a
    /// set.
    pub(super) fn run_at(&mut self, at: usize, set: usize) -> Result<(), DriverError> {
        let (op, [start, end]) = (self.ops[at], self.flights.operations(set)[at]);
        match self.timing.way() {
            Way::Records => {
                self.run(op)?;
                if let Ok(tracer) = self.driver.tracer() {
                    tracer.launched(&mut self.timing.launches.kernels);
                }
                self.timing.launches.end_operation();
                Ok(())
            }
            Way::Events => {
                self.driver.record(start)?;
                self.run(op)?;
                self.driver.record(end)
            }
            Way::Nothing => self.run(op),
        }
    }

    /// Launches all operations of the step, with the events of a set.
    pub(super) fn run_ops(&mut self, set: usize) -> Result<(), DriverError> {
        (0..self.ops.len()).try_for_each(|at| self.run_at(at, set))
    }

    /// Appends the span of each operation of a step that has ended, all of which were done at
    /// `now`; none if nothing tells them.
    pub(super) fn spans(
        &mut self,
        flight: &Flight,
        now: Nanos,
        spans: &mut Vec<Span>,
    ) -> Result<(), DeviceError> {
        match flight.way {
            Way::Nothing => return Ok(()),
            _ if flight.operations == 0 => return Ok(()),
            Way::Events => {
                if self.timing.traces()
                    && let Err(error) = self.forget_records()
                {
                    self.give_up(format!(
                        "from a step on whose records could not be had ({error})"
                    ))?;
                }
                return self.flights.spans(&*self.driver, flight, now, spans);
            }
            Way::Records => {}
        }
        let Err(why) = self.record_spans([flight.handed, now], spans) else { return Ok(()) };
        self.give_up(format!("from a step on whose records do not tell its times ({why})"))?;
        // No other step was begun since: what it is made of is all there.
        let set = self.flights.set();
        self.begin(self.ops.len())?;
        self.run_ops(set)?;
        self.flights.finish(&*self.driver, self.rooms.chosen[0])?;
        let again = self.flights.land(&*self.driver, &mut Vec::new())?;
        self.flights.spans(&*self.driver, &again, self.clock.now(), spans)
    }

    /// Appends spans from records, or says why they cannot be had.
    fn record_spans(&mut self, ours: [Nanos; 2], spans: &mut Vec<Span>) -> Result<(), String> {
        self.timing.records.clear();
        let dropped = self.driver.tracer()?.records(&mut self.timing.records).map_err(said)?;
        let records = [self.timing.begun.clone()?, self.records_now()?];
        let joined = match dropped {
            0 => self.join(&Clocks { ours, records }, spans),
            dropped => Err(Misfit::Dropped(dropped)),
        };
        joined.map_err(|misfit| misfit.to_string())
    }

    /// Takes what was noted and recorded of a step that events timed.
    fn forget_records(&mut self) -> Result<(), DriverError> {
        if let Ok(tracer) = self.driver.tracer() {
            tracer.launched(&mut self.timing.launches.kernels);
            tracer.records(&mut self.timing.records)?;
        }
        self.timing.launches.clear();
        self.timing.records.clear();
        Ok(())
    }

    fn records_now(&self) -> Result<Nanos, String> {
        self.driver.tracer()?.now().map_err(said)
    }

    fn join(&mut self, clocks: &Clocks, spans: &mut Vec<Span>) -> Result<(), Misfit> {
        let Timing { launches, records, replayed, .. } = &mut self.timing;
        let Some(form) = replayed else {
            launches.order(records)?;
            return launches.spans(records, clocks, spans);
        };
        match self.graphs.captured(*form) {
            Some((launches, nodes)) => {
                launches.order_replayed(nodes, records)?;
                launches.spans(records, clocks, spans)
            }
            None => Err(Misfit::Count { launches: 0, records: records.len() }),
        }
    }

    /// Events tell the times from now on.
    fn give_up(&mut self, why: String) -> Result<(), DriverError> {
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

fn said(error: DriverError) -> String {
    error.to_string()
}
