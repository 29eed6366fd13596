//! Steps whose times records will tell, until they do.
//!
//! Records can be had when nothing runs: a flush that waits for none hands back only buffers in
//! which every kernel has ended, and the last one of a device that works never is; a forced one
//! hands back kernels that run as if they had no times, once and for all. And only when all of them
//! are there is it known whose each is (`join`). So while steps follow each other their records
//! gather, in buffers that come back as they are filled, on a thread of the library's. A quarter of
//! a second after the first one began, or where they are very many, the device says that it takes
//! no step behind another ([`steps_in_flight`](crate::backend::Backend::steps_in_flight)). The one
//! in flight ends, nothing runs, and all records are taken at once. Whose they are is looked at
//! when somebody asks, with the next step already running.

use std::collections::VecDeque;

use crate::backend::{DeviceError, LateSpans, Span};
use crate::unit::Nanos;

use super::device::Cuda;
use super::driver::DriverError;
use super::join::{Ran, Told, join};
use super::timeline::{Launches, Misfit, Record};

/// Records are taken so long after the first step began whose times are not known.
const GATHER: Nanos = Nanos(250_000_000);
/// Or when so many launches wait for theirs: some ten megabytes here and twenty in the library.
const MOST: usize = 100_000;

/// Steps of which there are records, in the order in which they were handed over.
#[derive(Default)]
pub(super) struct Late {
    /// Those that have not ended.
    flying: VecDeque<Ran>,
    /// Those that have ended since nothing ran.
    ended: Vec<Ran>,
    /// Those that have ended before that, and what was recorded of them.
    gathered: Option<Gathered>,
    /// The spans of those before, as far as nobody asked; none where nothing told them.
    told: VecDeque<Option<Vec<Span>>>,
    /// When the last operation ended whose time is known.
    reached: Nanos,
    /// When the first step began that is neither gathered nor told, and launches since.
    since: Nanos,
    launches: usize,
    /// Whether they wait for the device to have nothing to do.
    due: bool,
    /// Why the clock of records could not be read.
    unread: Option<String>,
    /// Room that was used.
    spare: Vec<Launches>,
    records: Vec<Record>,
}

struct Gathered {
    steps: Vec<Ran>,
    /// All of them, or why they could not be had.
    records: Result<Vec<Record>, String>,
}

impl Late {
    /// A step begins; whether others are in flight.
    pub fn begin(&mut self, now: Nanos, others: bool) {
        if !others {
            (self.since, self.launches, self.due) = (now, 0, false);
        }
        self.look(now);
    }

    /// The clock of records could not be read.
    pub fn cannot_read(&mut self, why: String) {
        self.unread.get_or_insert(why);
    }

    /// A step was handed over.
    pub fn hand_over(&mut self, ran: Ran) {
        self.launches += ran.kernels();
        self.flying.push_back(ran);
    }

    /// Room for what a step launches.
    pub fn room(&mut self) -> Launches {
        self.spare.pop().unwrap_or_default()
    }

    /// Whether the device is to have nothing to do soon.
    pub const fn is_due(&self) -> bool {
        self.due
    }

    fn look(&mut self, now: Nanos) {
        self.due |= now.saturating_sub(self.since) >= GATHER || self.launches >= MOST;
    }

    /// Steps that have ended and whose spans were not handed over.
    pub fn waiting(&self) -> usize {
        let gathered = self.gathered.iter().flat_map(|gathered| &gathered.steps);
        let ended = self.ended.iter().chain(gathered);
        self.told.len() + ended.filter(|ran| ran.awaited).count()
    }

    /// Hands over spans, or keeps them behind those that are waited for.
    fn answer(&mut self, mut answer: Vec<Span>, spans: &mut Vec<Span>) -> Option<Vec<Span>> {
        if self.waiting() > 0 {
            return Some(answer);
        }
        for span in &mut answer {
            (span.start, span.end) = (span.start.max(self.reached), span.end.max(self.reached));
        }
        self.reach(&answer);
        spans.append(&mut answer);
        None
    }

    fn reach(&mut self, spans: &[Span]) {
        self.reached = spans.last().map_or(self.reached, |span| span.end);
    }

    /// Takes the spans of what was gathered.
    fn take(&mut self, steps: Vec<Ran>, joined: Vec<Vec<Span>>) {
        for (mut ran, spans) in steps.into_iter().zip(joined) {
            if ran.awaited {
                self.reach(&spans);
                self.told.push_back(Some(spans));
            }
            ran.launches.clear();
            self.spare.push(ran.launches);
        }
    }

    /// Nothing will tell the times of these steps, but what told some already. How many are left
    /// without.
    fn leave(&mut self, steps: Vec<Ran>) -> usize {
        let mut without = 0;
        for ran in steps.into_iter().filter(|ran| ran.awaited) {
            match ran.told {
                Told::Otherwise(mut spans) => {
                    for span in &mut spans {
                        span.start = span.start.max(self.reached);
                        span.end = span.end.max(self.reached);
                    }
                    self.reach(&spans);
                    self.told.push_back(Some(spans));
                }
                Told::Records => {
                    without += 1;
                    self.told.push_back(None);
                }
            }
        }
        without
    }
}

impl Cuda {
    /// A step landed of which there are records; all of it was done at `now`. Appends its spans if
    /// `known` or if records tell them at once; otherwise they are asked for later.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device failed.
    pub(super) fn land_recorded(
        &mut self,
        known: Option<Vec<Span>>,
        now: Nanos,
        spans: &mut Vec<Span>,
    ) -> Result<(), DeviceError> {
        let ended = self.records_now();
        let late = &mut self.timing.late;
        let Some(mut ran) = late.flying.pop_front() else {
            // Records were given up while it ran.
            let rest = match known {
                Some(known) => late.answer(known, spans).map(Some),
                None => Some(None),
            };
            late.told.extend(rest);
            return Ok(());
        };
        match ended {
            Ok(ended) => ran.clocks.records[1] = ended,
            Err(why) => late.cannot_read(why),
        }
        ran.clocks.ours[1] = now;
        if let Some(known) = known {
            let rest = late.answer(known, spans);
            ran.awaited = rest.is_some();
            ran.told = Told::Otherwise(rest.unwrap_or_default());
        }
        late.ended.push(ran);
        if self.flights.flying() > 0 {
            late.look(now);
            return Ok(());
        }
        self.gather()?;
        self.answer_at_once(spans)
    }

    /// Takes the records of all steps that have ended: nothing runs.
    fn gather(&mut self) -> Result<(), DeviceError> {
        // Those before come first.
        self.tell_gathered()?;
        let late = &mut self.timing.late;
        let steps = std::mem::take(&mut late.ended);
        (late.launches, late.due) = (0, false);
        let unread = late.unread.take();
        let mut records = std::mem::take(&mut late.records);
        records.clear();
        let least = steps.iter().map(Ran::kernels).sum();
        let taken = self.driver.tracer().map_err(str::to_owned).and_then(|tracer| {
            let dropped = tracer.records(least, &mut records).map_err(|error| error.to_string())?;
            match (unread, dropped) {
                (Some(why), _) => Err(why),
                (None, 0) => Ok(()),
                (None, dropped) => Err(Misfit::Dropped(dropped).to_string()),
            }
        });
        // Where nobody waits for any, they are forgotten.
        if !steps.iter().any(|ran| ran.awaited) {
            self.timing.late.records = records;
            return match taken {
                Ok(()) => Ok(()),
                Err(_) if self.timing.untraced().is_some() => Ok(()),
                Err(why) => Ok(
                    self.give_up(format!("from a step on whose records could not be had ({why})"))?
                ),
            };
        }
        self.timing.late.gathered = Some(Gathered { steps, records: taken.map(|()| records) });
        Ok(())
    }

    /// Appends the spans of the last step if it is the only one that waits for them. If its records
    /// do not tell them it runs once more, between events: its inputs are still on the device.
    fn answer_at_once(&mut self, spans: &mut Vec<Span>) -> Result<(), DeviceError> {
        let late = &mut self.timing.late;
        let last = late.gathered.as_ref().and_then(|gathered| gathered.steps.last());
        if late.waiting() != 1 || !last.is_some_and(|ran| ran.awaited) {
            return Ok(());
        }
        match self.join_gathered() {
            None => Ok(()),
            Some((_, Ok(()))) => {
                let told = self.timing.late.told.pop_front().flatten();
                spans.extend(told.unwrap_or_default());
                Ok(())
            }
            Some((_, Err(why))) => {
                self.give_up(format!(
                    "from a step on whose records do not tell its times ({why})"
                ))?;
                self.run_again(spans)
            }
        }
    }

    /// Looks whose the gathered records are. If they do not tell it, gives the steps back and why.
    fn join_gathered(&mut self) -> Option<(Vec<Ran>, Result<(), String>)> {
        let late = &mut self.timing.late;
        let Gathered { steps, records } = late.gathered.take()?;
        let joined = records.and_then(|mut records| {
            let joined = join(&steps, &mut records, late.reached);
            late.records = records;
            joined.map_err(|misfit| misfit.to_string())
        });
        match joined {
            Ok(joined) => {
                late.take(steps, joined);
                Some((Vec::new(), Ok(())))
            }
            Err(why) => Some((steps, Err(why))),
        }
    }

    /// Has the gathered records tell the times of their steps. If they do not, none of them has
    /// any, nor those since: they lie behind them, and their inputs are gone.
    fn tell_gathered(&mut self) -> Result<(), DeviceError> {
        let Some((steps, Err(why))) = self.join_gathered() else { return Ok(()) };
        // What is still in flight is recorded, too.
        self.driver.wait()?;
        self.flights.idle();
        let late = &mut self.timing.late;
        let ended = std::mem::take(&mut late.ended);
        let flying = std::mem::take(&mut late.flying);
        let timed = flying.iter().filter(|ran| matches!(ran.told, Told::Records)).count();
        let without = late.leave(steps) + late.leave(ended) + timed;
        let these = match without {
            1 => "1 step has".to_owned(),
            more => format!("{more} steps have"),
        };
        Ok(self.give_up(format!(
            "from a step on whose records do not tell its times ({why}); {these} no times of \
             operations"
        ))?)
    }

    /// The spans of the oldest step that has ended and was not told.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device failed.
    pub(super) fn next_late(&mut self, spans: &mut Vec<Span>) -> Result<LateSpans, DeviceError> {
        if self.timing.late.told.is_empty() {
            self.tell_gathered()?;
        }
        Ok(match self.timing.late.told.pop_front() {
            None => LateSpans::Awaited,
            Some(None) => LateSpans::Untold,
            Some(Some(told)) => {
                spans.extend(told);
                LateSpans::Told
            }
        })
    }

    /// Runs the last step once more, with events.
    fn run_again(&mut self, spans: &mut Vec<Span>) -> Result<(), DeviceError> {
        // No other step was begun since: what it is made of is all there.
        let set = self.flights.set();
        self.begin(self.ops.len())?;
        self.run_ops(set)?;
        self.flights.finish(&*self.driver, self.rooms.chosen[0])?;
        let again = self.flights.land(&*self.driver, &mut Vec::new())?;
        self.flights.spans(&*self.driver, &again, self.clock.now(), spans)
    }

    /// The time now, by the clock of records.
    pub(super) fn records_now(&self) -> Result<Nanos, String> {
        self.driver.tracer()?.now().map_err(|error: DriverError| error.to_string())
    }
}
