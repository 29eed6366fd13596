//! Steps on the device: how they are launched, when the next one may follow before a result is
//! known, and how a result is taken.

use std::collections::HashMap;

use crate::backend::{DeviceError, LateSpans, Op, Sampling, StepInputs};
use crate::cost::Budget;
use crate::event::{DeviceState, Fate, Recorder, RequestId};
use crate::schedule::{AWAITED, BlockCount, Decision, Scheduled};
use crate::unit::Nanos;

use super::forward;
use super::held::{Ended, Telling};
use super::order::Answer;
use super::step::{Engine, Live};

/// A step that was launched and whose result was not taken.
pub(super) struct Flight {
    pub(super) decision: Decision,
    pub(super) operations: Vec<(Op, Budget)>,
    /// What its fact says beside the decision.
    pub(super) queued: u32,
    pub(super) blocks: BlockCount,
    /// When the device had nothing else left to do: when the host began to prepare the step, or
    /// when the step before ended.
    pub(super) host_start: Nanos,
    /// Whether the device says when each operation ran.
    pub(super) timed: bool,
    /// When the device could begin: when its first operation was handed over, or when the step
    /// before ended.
    pub(super) start: Nanos,
    /// When the host had the results of the step before, where it is not known yet when that ended:
    /// host and device begin then at the latest.
    pub(super) behind: Nanos,
    /// Whose first turn it is, where it is not known yet when it began.
    pub(super) first: Vec<RequestId>,
}

impl Flight {
    /// Since when the device had nothing else left to do, as far as is known.
    pub(super) fn since(&self) -> Nanos {
        self.host_start.max(self.behind)
    }
}

/// A step whose result was taken.
struct Landed {
    /// When it ended, or when the host noticed if that is not known yet.
    end: Nanos,
    late: bool,
    /// Whose answers became whole with it.
    ended: Vec<RequestId>,
}

/// The most steps whose times came late that are told at once: a device that has been given its
/// next step must not wait for all that is said of a quarter of a second.
const TOLD_AT_ONCE: usize = 8;

/// After so long with a step in flight the engine waits for the device once: a device tells times
/// by a clock of its own, which is set by the host's when nothing is in flight.
const IN_FLIGHT: Nanos = Nanos(1_000_000_000);

impl Engine<'_> {
    /// Whether the next step may be launched before the result of the one in flight is known.
    pub(super) fn goes_ahead(&self, now: Nanos) -> bool {
        let waits = |request: RequestId| {
            let live = self.live.get(&request);
            live.and_then(|live| live.consumer.as_ref()).is_some_and(|consumer| consumer.waits())
        };
        let mut scheduled = self.flight.iter().flat_map(|flight| &flight.decision.scheduled);
        self.backend.steps_in_flight() > 1
            && now.saturating_sub(self.alone) < IN_FLIGHT
            && self.scheduler.foresees(now)
            && !scheduled.any(|scheduled| scheduled.request.is_some_and(waits))
    }

    /// Launches the step of `decision`, then takes the result of the one before, if one is in
    /// flight.
    pub(super) fn step(
        &mut self,
        decision: Decision,
        host_start: Nanos,
        before: Option<Flight>,
        recorder: &mut Telling<'_>,
    ) -> Result<(), DeviceError> {
        let Some(mut before) = before else {
            self.alone = host_start;
            self.schedule(&decision, host_start);
            let room = recorder.held.room();
            self.flight = Some(self.launch((decision, room), host_start, None)?);
            return Ok(());
        };
        let room = recorder.held.room();
        let mut next = self.launch((decision, room), host_start, Some(&before.decision))?;
        // The decision took its blocks before the result gave others back.
        for flight in [&mut before, &mut next] {
            let changes = std::mem::take(&mut flight.decision.memory);
            self.chronicle.blocks(flight.host_start, &changes, recorder);
        }
        let Landed { end, late, ended } = self.land(before, true, recorder)?;
        if late {
            next.behind = end;
        } else {
            next.host_start = next.host_start.max(end);
            next.start = next.start.max(end);
        }
        for row in &mut next.decision.rows {
            // Its answer was whole before it ran.
            if row.request.is_some_and(|request| ended.contains(&request)) {
                row.fate = Fate::Overrun;
            }
        }
        let first = self.schedule(&next.decision, next.since());
        if late {
            next.first = first;
        }
        self.flight = Some(next);
        Ok(())
    }

    /// Takes the result of the step in flight, if there is one, and says all that waited for times.
    ///
    /// # Errors
    /// [`DeviceError`] if the device failed; [`Engine::fail`] must follow.
    pub fn settle(&mut self, recorder: &mut dyn Recorder) -> Result<(), DeviceError> {
        self.telling(recorder, |engine, telling| {
            engine.land_last(telling)?;
            engine.release(usize::MAX, telling)
        })
    }

    /// Takes the result of the step in flight, if there is one. Nothing is in flight then.
    pub(super) fn land_last(&mut self, recorder: &mut Telling<'_>) -> Result<(), DeviceError> {
        let Some(flight) = self.flight.take() else { return Ok(()) };
        let since = flight.since();
        self.land(flight, false, recorder).inspect_err(|_| {
            // Nothing is known of the time since.
            self.chronicle.states.enter(DeviceState::Faulted, since, recorder);
        })?;
        Ok(())
    }

    /// Says up to so many of the steps whose times came late, and what waited for them.
    pub(super) fn release(
        &mut self,
        most: usize,
        telling: &mut Telling<'_>,
    ) -> Result<(), DeviceError> {
        for _ in 0..most {
            let Some(operations) = telling.waits_for().map(<[_]>::len) else { return Ok(()) };
            self.spans.clear();
            match self.backend.late_spans(&mut self.spans)? {
                LateSpans::Awaited => return Ok(()),
                LateSpans::Told if self.spans.len() != operations => {
                    let returned = self.spans.len();
                    return Err(DeviceError::Lost(format!(
                        "{returned} times for {operations} timed operations"
                    )));
                }
                LateSpans::Told | LateSpans::Untold => {
                    telling.release(&self.chronicle, &mut self.spans);
                }
            }
        }
        Ok(())
    }

    /// Says up to [`TOLD_AT_ONCE`] of them.
    pub(super) fn release_some(&mut self, telling: &mut Telling<'_>) -> Result<(), DeviceError> {
        self.release(TOLD_AT_ONCE, telling)
    }

    /// Takes the result of a step, `followed` by another one or not, and says what it was, or has
    /// it said when its times are known.
    fn land(
        &mut self,
        flight: Flight,
        followed: bool,
        recorder: &mut Telling<'_>,
    ) -> Result<Landed, DeviceError> {
        let noticed = self.collect(&flight)?;
        let late = self.backend.late_steps() > 0;
        let sampled = self.take_tokens(&flight.decision, noticed);
        let effects = self.scheduler.commit(&flight.decision, &sampled, noticed);
        // Unless another step is in flight, the device is idle from here on: everything is said
        // after its work.
        self.chronicle.blocks(flight.host_start, &flight.decision.memory, recorder);
        self.count(&flight);
        let step = self.fact(&flight, noticed);
        let Flight { decision, operations, mut first, .. } = flight;
        first.retain(|request| self.live.get(request).is_some_and(|live| !live.left));
        let (rows, copies) = (decision.rows, self.backend.copies().to_vec());
        let ended = Ended { step, followed, rows, operations, copies, first };
        let end = match late {
            true => {
                recorder.hold(ended);
                noticed
            }
            false => recorder.say(ended, &self.chronicle, &mut self.spans),
        };
        self.chronicle.blocks(noticed, &effects.memory, recorder);
        self.end(&effects.ended, noticed, recorder);
        let ended = effects.ended.iter().map(|ended| ended.request).collect();
        Ok(Landed { end, late, ended })
    }

    /// Hands the rows of a decision to the device, behind those of `before`, which is in flight.
    /// There is room for its operations.
    fn launch(
        &mut self,
        (decision, mut operations): (Decision, Vec<(Op, Budget)>),
        host_start: Nanos,
        before: Option<&Decision>,
    ) -> Result<Flight, DeviceError> {
        let Self { backend, scheduler, inputs, live, .. } = self;
        let chosen = choices(before);
        inputs.fill(
            &decision,
            scheduler,
            |request| chosen.get(&request).copied(),
            |scheduled| sampling(scheduled, scheduler.answer_tokens(scheduled), live),
        );
        inputs.mask(&decision, |scheduled, words| {
            words.extend_from_slice(allowed(scheduled, live).unwrap_or_default());
        });
        let masks = inputs.masks();
        let sequences = inputs.sequences(&decision, scheduler);
        let load = self.formulas.load(
            sequences.iter().map(|rows| (rows.context, rows.rows.len() as u32)),
            inputs.logits_rows.len() as u32,
        );
        operations.clear();
        operations.extend(forward::step(&self.formulas, backend.shape().layers, &load));
        backend.begin_step(&StepInputs {
            tokens: &inputs.tokens,
            awaited: &inputs.awaited,
            sequences: &sequences,
            logits_rows: &inputs.logits_rows,
            sampling: &inputs.sampling,
            masks: &masks,
        })?;
        let start = self.clock.now();
        for (op, _) in &operations {
            backend.launch(*op)?;
        }
        backend.submit()?;
        let (queued, blocks) = (scheduler.live().0 as u32, scheduler.blocks());
        let samples = decision.scheduled.iter().filter(|scheduled| scheduled.samples);
        let foreseen: Vec<u32> = samples
            .map(|scheduled| pinned(scheduled, scheduler.answer_tokens(scheduled), live))
            .map(|token| token.unwrap_or(AWAITED))
            .collect();
        scheduler.launched(&decision, &foreseen);
        let timed = self.timed;
        let (behind, first) = (Nanos::ZERO, Vec::new());
        Ok(Flight { decision, operations, queued, blocks, timed, host_start, start, behind, first })
    }

    /// Waits for a step and takes its times and tokens. Gives when the host had them.
    fn collect(&mut self, flight: &Flight) -> Result<Nanos, DeviceError> {
        self.spans.clear();
        self.sampled.clear();
        self.backend.end_step(&mut self.spans, &mut self.sampled)?;
        let told = flight.timed && self.backend.late_steps() == 0;
        let timed = if told { flight.operations.len() } else { 0 };
        let returned = self.spans.len();
        let samples = flight.decision.scheduled.iter().filter(|scheduled| scheduled.samples);
        let (asked, sampled) = (samples.count(), self.sampled.len());
        if timed != returned || asked != sampled {
            return Err(DeviceError::Lost(format!(
                "{returned} times for {timed} timed operations, {sampled} tokens for {asked} rows"
            )));
        }
        Ok(self.clock.now())
    }
}

/// Which choice of a step each of its requests gets.
fn choices(step: Option<&Decision>) -> HashMap<RequestId, u32> {
    let scheduled = step.into_iter().flat_map(|decision| &decision.scheduled);
    let samples = scheduled.filter(|scheduled| scheduled.samples);
    samples.zip(0..).filter_map(|(scheduled, at)| Some((scheduled.request?, at))).collect()
}

/// How a scheduled entry samples the token behind `before` tokens of its answer.
fn sampling(scheduled: &Scheduled, before: u32, live: &HashMap<RequestId, Live<'_>>) -> Sampling {
    let live = scheduled.request.and_then(|request| live.get(&request));
    match live {
        Some(Live { answer: Answer::Free { sampling, .. }, .. }) => {
            // A draw of its own for each place in the answer, whatever step it falls in.
            let place = (u64::from(before) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Sampling { seed: sampling.seed ^ place, ..*sampling }
        }
        _ => Sampling::GREEDY,
    }
}

/// The token behind `before` tokens of the answer of a scheduled entry, if it is known already.
fn pinned(scheduled: &Scheduled, before: u32, live: &HashMap<RequestId, Live<'_>>) -> Option<u32> {
    match &live.get(&scheduled.request?)?.answer {
        Answer::Pinned(tokens) => tokens.get(before as usize).copied(),
        Answer::Free { .. } => None,
    }
}

/// The tokens that a scheduled entry may choose among, if somebody says so.
fn allowed<'l>(
    scheduled: &Scheduled,
    live: &'l mut HashMap<RequestId, Live<'_>>,
) -> Option<&'l [u32]> {
    live.get_mut(&scheduled.request?)?.consumer.as_mut()?.allowed()
}
