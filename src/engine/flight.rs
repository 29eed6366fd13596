//! Steps on the device: how they are launched, when the next one may follow before a result is
//! known, and how a result is taken.

use std::collections::HashMap;

use crate::backend::{DeviceError, Op, Sampling, StepInputs};
use crate::cost::Budget;
use crate::event::{DeviceState, Fate, Recorder, RequestId};
use crate::schedule::{AWAITED, BlockCount, Decision, Scheduled};
use crate::unit::Nanos;

use super::forward;
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
}

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
        recorder: &mut dyn Recorder,
    ) -> Result<(), DeviceError> {
        let Some(mut before) = before else {
            self.alone = host_start;
            self.schedule(&decision, host_start);
            self.flight = Some(self.launch(decision, host_start, None)?);
            return Ok(());
        };
        let mut next = self.launch(decision, host_start, Some(&before.decision))?;
        // The decision took its blocks before the result gave others back.
        for flight in [&mut before, &mut next] {
            let changes = std::mem::take(&mut flight.decision.memory);
            self.chronicle.blocks(flight.host_start, &changes, recorder);
        }
        let (end, ended) = self.land(before, true, recorder)?;
        next.host_start = next.host_start.max(end);
        next.start = next.start.max(end);
        for row in &mut next.decision.rows {
            // Its answer was whole before it ran.
            if row.request.is_some_and(|request| ended.contains(&request)) {
                row.fate = Fate::Overrun;
            }
        }
        self.schedule(&next.decision, next.host_start);
        self.flight = Some(next);
        Ok(())
    }

    /// Takes the result of the step in flight, if there is one.
    ///
    /// # Errors
    /// [`DeviceError`] if the device failed; [`Engine::fail`] must follow.
    pub fn settle(&mut self, recorder: &mut dyn Recorder) -> Result<(), DeviceError> {
        let Some(flight) = self.flight.take() else { return Ok(()) };
        let since = flight.host_start;
        self.land(flight, false, recorder).inspect_err(|_| {
            // Nothing is known of the time since.
            self.chronicle.states.enter(DeviceState::Faulted, since, recorder);
        })?;
        Ok(())
    }

    /// Takes the result of a step, `followed` by another one or not, and says what it was. Gives
    /// when it ended, and whose answers became whole with it.
    fn land(
        &mut self,
        flight: Flight,
        followed: bool,
        recorder: &mut dyn Recorder,
    ) -> Result<(Nanos, Vec<RequestId>), DeviceError> {
        let noticed = self.collect(&flight)?;
        // The host may have been busy with the next step when the results came.
        let last = self.spans.last().filter(|_| followed);
        let copied = self.backend.copies().last().map_or(Nanos::ZERO, |copy| copy.span.end);
        let end = last.map_or(noticed, |span| span.end.max(copied).max(flight.start));
        let sampled = self.take_tokens(&flight.decision, noticed);
        let effects = self.scheduler.commit(&flight.decision, &sampled, noticed);
        // Unless another step is in flight, the device is idle from here on: everything is said
        // after its work.
        self.chronicle.blocks(flight.host_start, &flight.decision.memory, recorder);
        self.tell(&flight, end, recorder);
        self.operations = flight.operations;
        self.chronicle.blocks(noticed, &effects.memory, recorder);
        self.end(&effects.ended, noticed, recorder);
        Ok((end, effects.ended.iter().map(|ended| ended.request).collect()))
    }

    /// Hands the rows of a decision to the device, behind those of `before`, which is in flight.
    fn launch(
        &mut self,
        decision: Decision,
        host_start: Nanos,
        before: Option<&Decision>,
    ) -> Result<Flight, DeviceError> {
        let Self { backend, scheduler, inputs, live, .. } = self;
        let mut operations = std::mem::take(&mut self.operations);
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
        Ok(Flight { decision, operations, queued, blocks, timed, host_start, start })
    }

    /// Waits for a step and takes its times and tokens. Gives when the host had them.
    fn collect(&mut self, flight: &Flight) -> Result<Nanos, DeviceError> {
        self.spans.clear();
        self.sampled.clear();
        self.backend.end_step(&mut self.spans, &mut self.sampled)?;
        let timed = if flight.timed { flight.operations.len() } else { 0 };
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
