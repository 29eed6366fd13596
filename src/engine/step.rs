//! The loop: decide, launch, commit, tell. Where a device takes a step while another one runs, the
//! next is decided and launched before the last is committed, so that the device need not wait for
//! the host.

use std::collections::HashMap;

use crate::backend::{Backend, DeviceError, Limits, Sampled, Span};
use crate::cost::Formulas;
use crate::event::{
    Arrival, Clock, DeviceState, Fact, Fate, Finish, Outcome, Phase, Recorder, RequestId, Row, Step,
};
use crate::schedule::{
    self, Decision, End, Ended, Idle, Options, OptionsError, Outlook, Refusal, Scheduler,
    Submission,
};
use crate::unit::Nanos;

use super::chronicle::{Chronicle, States};
use super::flight::Flight;
use super::held::{Held, Telling};
use super::inputs::Inputs;
use super::order::{Answer, Consumer, Finished, Order, Verdict};

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The switches do not work together.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The backend was built for less than the switches ask for.
    #[error("fit the switches to the device: {what} needs {needed}, it was built for {found}")]
    Backend {
        /// What.
        what: &'static str,
        /// What the switches need.
        needed: u32,
        /// What the backend has.
        found: u32,
    },
}

/// How large a backend must be built for these switches. Rows of nobody need KV blocks beyond the
/// pool, one for each: they write there, and devices let only one sequence of a step write to a
/// block.
#[must_use]
pub fn limits(options: &Options) -> Limits {
    let (batching, memory) = (&options.batching, &options.memory);
    Limits {
        rows: batching.max_num_batched_tokens,
        logits_rows: batching.max_num_seqs,
        kv_blocks: memory.kv_blocks + batching.most_ownerless(),
        block_tokens: memory.block_tokens,
    }
}

/// What came of asking the engine to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A step ran.
    Ran,
    /// Nothing could run.
    Idle {
        /// Why.
        idle: Idle,
        /// When to ask again although nothing was submitted or cancelled.
        wake: Option<Nanos>,
    },
}

/// What an engine has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that came.
    pub arrived: u64,
    /// Requests that left, however.
    pub finished: u64,
    /// Of these, requests that were delivered whole and accepted.
    pub completed: u64,
    /// Tokens of prompts that were computed or found in the prefix cache.
    pub prompt_tokens: u64,
    /// Tokens of requests that have left.
    pub output_tokens: u64,
    /// Tokens of answers so far, finished or not.
    pub output_tokens_sampled: u64,
    /// Steps.
    pub steps: u64,
    /// Launches.
    pub launches: u64,
    /// Running requests that lost their memory.
    pub preemptions: u64,
}

/// A request inside the engine.
pub(super) struct Live<'c> {
    pub(super) answer: Answer,
    pub(super) verdict: Verdict<'c>,
    pub(super) consumer: Option<Box<dyn Consumer + 'c>>,
    pub(super) output: Vec<u32>,
    pub(super) first_scheduled: Option<Nanos>,
    pub(super) first_token: Option<Nanos>,
    pub(super) cached_tokens: u32,
    pub(super) arrived: Nanos,
    /// It has left, though its rows may go on.
    pub(super) left: bool,
}

/// Runs requests on one device.
pub struct Engine<'c> {
    pub(super) backend: Box<dyn Backend>,
    pub(super) scheduler: Scheduler,
    pub(super) clock: &'c dyn Clock,
    pub(super) formulas: Formulas,
    pub(super) chronicle: Chronicle,
    pub(super) inputs: Inputs,
    pub(super) live: HashMap<RequestId, Live<'c>>,
    pub(super) finished: Vec<Finished>,
    pub(super) counts: Counts,
    /// The step that runs on the device.
    pub(super) flight: Option<Flight>,
    /// When a step was last launched with no other in flight.
    pub(super) alone: Nanos,
    /// What waits for times that a device tells late.
    pub(super) held: Held,
    /// Kept from step to step.
    pub(super) spans: Vec<Span>,
    pub(super) sampled: Vec<Sampled>,
    /// Whether the device says when each operation ran.
    pub(super) timed: bool,
}

impl<'c> Engine<'c> {
    /// An engine for `device` with an empty queue. The backend was built with `clock`.
    ///
    /// # Errors
    /// [`EngineError`] if the switches do not work together or ask for more than the backend
    /// has.
    pub fn new(
        backend: Box<dyn Backend>,
        options: Options,
        device: u16,
        clock: &'c dyn Clock,
    ) -> Result<Self, EngineError> {
        let scheduler = Scheduler::new(options)?;
        let (needed, has) = (limits(&options), backend.limits());
        let context = backend.shape().context;
        for (what, needed, found) in [
            ("max_num_batched_tokens", needed.rows, has.rows),
            ("max_num_seqs", needed.logits_rows, has.logits_rows),
            ("kv_blocks", needed.kv_blocks, has.kv_blocks),
            ("max_sequence_tokens", options.memory.max_sequence_tokens, context),
        ] {
            if needed > found {
                return Err(EngineError::Backend { what, needed, found });
            }
        }
        let (needed, found) = (needed.block_tokens, has.block_tokens);
        if needed != found {
            return Err(EngineError::Backend { what: "block_tokens", needed, found });
        }
        let formulas = Formulas::new(backend.shape(), *backend.storage());
        let chronicle = Chronicle::new(device, backend.shape(), backend.storage(), has);
        let scratch = options.memory.kv_blocks..limits(&options).kv_blocks;
        Ok(Self {
            backend,
            scheduler,
            clock,
            formulas,
            chronicle,
            inputs: Inputs::new(scratch),
            live: HashMap::new(),
            finished: Vec::new(),
            counts: Counts::default(),
            flight: None,
            alone: Nanos::ZERO,
            held: Held::default(),
            spans: Vec::new(),
            sampled: Vec::new(),
            timed: true,
        })
    }

    /// Says the kernels' names and the memory that is held from the beginning. `states` is what
    /// was said of the device before there was an engine.
    pub fn begin(&mut self, states: States, recorder: &mut dyn Recorder) {
        self.chronicle.states = states;
        let memory = self.scheduler.options().memory;
        let scratch = memory.kv_blocks..limits(self.scheduler.options()).kv_blocks;
        let (at, device) = (self.clock.now(), self.backend.description());
        self.chronicle.begin(at, device, memory.block_tokens, scratch, recorder);
    }

    /// The device.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The device, to run steps of one's own. Whatever they leave in KV blocks that no request
    /// holds is overwritten before it is read.
    pub fn backend_mut(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }

    /// Whether each operation is to be timed from the next step on; a device may do it anyway.
    /// Of steps that are not timed no launches are told. No step is in flight, see
    /// [`Engine::settle`].
    pub fn time_operations(&mut self, each: bool) {
        self.timed = self.backend.time_operations(each);
    }

    /// Gives the device back, every operation of which is timed.
    #[must_use]
    pub fn into_backend(mut self) -> Box<dyn Backend> {
        self.time_operations(true);
        self.backend
    }

    /// The scheduler.
    #[must_use]
    pub const fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Bytes of KV cache per token.
    #[must_use]
    pub fn kv_bytes_per_token(&self) -> u64 {
        self.chronicle.kv_bytes_per_token()
    }

    /// What has been done so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Requests that have left since the last call, in the order they left.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// A request comes. It is refused, and has thereby left, if it could never run to its end.
    pub fn submit(&mut self, order: Order<'c>, recorder: &mut dyn Recorder) -> Option<Refusal> {
        self.submit_for(order, None, recorder)
    }

    /// As [`Engine::submit`], with somebody who follows the answer.
    pub fn submit_for(
        &mut self,
        order: Order<'c>,
        consumer: Option<Box<dyn Consumer + 'c>>,
        recorder: &mut dyn Recorder,
    ) -> Option<Refusal> {
        self.telling(recorder, |engine, telling| engine.take_in(order, consumer, telling))
    }

    fn take_in(
        &mut self,
        order: Order<'c>,
        consumer: Option<Box<dyn Consumer + 'c>>,
        recorder: &mut Telling<'_>,
    ) -> Option<Refusal> {
        let steered = consumer.as_ref().is_some_and(|consumer| consumer.steers());
        let deterministic = order.is_deterministic() && !steered;
        let Order { arrival, prompt, answer, verdict, deadline, pauses } = order;
        let (request, arrived) = (arrival.request, arrival.at);
        let max_tokens = arrival.max_tokens;
        recorder.record(Fact::Arrival(arrival));
        self.counts.arrived += 1;
        let live = Live {
            answer,
            verdict,
            consumer,
            output: Vec::new(),
            first_scheduled: None,
            first_token: None,
            cached_tokens: 0,
            arrived,
            left: false,
        };
        self.live.insert(request, live);
        let submission =
            Submission { request, arrived, prompt, max_tokens, deterministic, deadline, pauses };
        let refusal = self.scheduler.submit(submission).err();
        if refusal.is_some() {
            let at = self.clock.now();
            self.leave(request, Outcome::Rejected, 0, at, recorder);
        } else if matches!(
            self.chronicle.states.now(),
            None | Some(DeviceState::Empty | DeviceState::External)
        ) {
            // Its work was there from its arrival on, whenever the host woke up to it.
            self.chronicle.states.enter(DeviceState::Host, arrived, recorder);
        }
        refusal
    }

    /// A request comes and is turned away before the engine looks at it.
    pub fn turn_away(&mut self, arrival: Arrival, recorder: &mut dyn Recorder) {
        let (request, at) = (arrival.request, self.clock.now().max(arrival.at));
        self.telling(recorder, |_, telling| {
            telling.record(Fact::Arrival(arrival));
            telling.record(Fact::Finish(Finish {
                request,
                at,
                first_scheduled: None,
                first_token: None,
                cached_tokens: 0,
                output_tokens: 0,
                outcome: Outcome::Rejected,
            }));
        });
        self.counts.arrived += 1;
        self.counts.finished += 1;
    }

    /// The client of `request` goes away.
    pub fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request);
    }

    /// Launches a step, takes the result of one, or both; or says why neither can be done.
    ///
    /// # Errors
    /// [`DeviceError`] if the device failed; [`Engine::fail`] must follow.
    pub fn turn(
        &mut self,
        outlook: Outlook,
        recorder: &mut dyn Recorder,
    ) -> Result<Turn, DeviceError> {
        self.telling(recorder, |engine, telling| engine.go_on(outlook, telling))
    }

    /// Does `work`, whose facts may have to wait.
    pub(super) fn telling<T>(
        &mut self,
        recorder: &mut dyn Recorder,
        work: impl FnOnce(&mut Self, &mut Telling<'_>) -> T,
    ) -> T {
        let mut telling = Telling { held: std::mem::take(&mut self.held), to: recorder };
        let done = work(self, &mut telling);
        self.held = telling.held;
        done
    }

    fn go_on(&mut self, outlook: Outlook, recorder: &mut Telling<'_>) -> Result<Turn, DeviceError> {
        let host_start = self.clock.now();
        if self.flight.is_some() && !self.goes_ahead(host_start) {
            self.land_last(recorder)?;
            return Ok(Turn::Ran);
        }
        let decision = self.scheduler.decide(host_start, outlook);
        if decision.idle.is_some() && self.flight.is_some() {
            // What comes of the step in flight is not known to the decision.
            self.land_last(recorder)?;
            return Ok(Turn::Ran);
        }
        self.end(&decision.ended, host_start, recorder);
        if let Some(idle) = decision.idle {
            self.chronicle.blocks(host_start, &decision.memory, recorder);
            self.live.retain(|_, live| !live.left);
            let state = match idle {
                Idle::Empty => DeviceState::Empty,
                Idle::External => DeviceState::External,
                Idle::Holding => DeviceState::Holding,
                Idle::Blocked => DeviceState::Blocked,
            };
            self.chronicle.states.enter(state, host_start, recorder);
            // The device has nothing to do: now there is time to say all.
            self.release(usize::MAX, recorder)?;
            return Ok(Turn::Idle { idle, wake: decision.wake });
        }
        self.chronicle.states.enter(DeviceState::Host, host_start, recorder);
        let before = self.flight.take();
        let since = before.as_ref().map_or(host_start, Flight::since);
        let ran = self.step(decision, host_start, before, recorder);
        ran.inspect_err(|_| {
            // Nothing is known of the time since.
            self.chronicle.states.enter(DeviceState::Faulted, since, recorder);
        })?;
        if self.backend.steps_in_flight() < 2 {
            self.land_last(recorder)?;
        }
        self.release_some(recorder)?;
        Ok(Turn::Ran)
    }

    /// After the device has failed: every live request fails with it.
    pub fn fail(&mut self, recorder: &mut dyn Recorder) {
        self.flight = None;
        self.telling(recorder, |engine, telling| {
            // Nothing will tell the times of these.
            while telling.waits_for().is_some() {
                telling.release(&engine.chronicle, &mut []);
            }
            let at = engine.clock.now();
            for (request, output_tokens) in engine.scheduler.abandon() {
                engine.leave(request, Outcome::Failed, output_tokens, at, telling);
            }
        });
    }

    /// Notes when requests are first given rows, and gives those that are.
    pub(super) fn schedule(&mut self, decision: &Decision, at: Nanos) -> Vec<RequestId> {
        self.counts.preemptions += decision.preempted.len() as u64;
        for admission in &decision.admitted {
            if let Some(live) = self.live.get_mut(&admission.request)
                && !admission.again
            {
                live.cached_tokens = admission.cached_tokens;
                self.counts.prompt_tokens += u64::from(admission.cached_tokens);
            }
        }
        let mut first = Vec::new();
        for scheduled in decision.scheduled.iter().filter(|scheduled| scheduled.rows > 0) {
            let Some(request) = scheduled.request else { continue };
            if let Some(live) = self.live.get_mut(&request)
                && live.first_scheduled.is_none()
            {
                live.first_scheduled = Some(at);
                first.push(request);
            }
        }
        first
    }

    /// The token of each entry that samples: pinned ones in place of the device's.
    pub(super) fn take_tokens(&mut self, decision: &Decision, at: Nanos) -> Vec<schedule::Sampled> {
        let samples = decision.scheduled.iter().filter(|scheduled| scheduled.samples);
        let vocab = self.backend.shape().vocab as usize;
        let mut tokens = Vec::with_capacity(self.sampled.len());
        for (row, (scheduled, sampled)) in samples.zip(&self.sampled).enumerate() {
            let live = scheduled.request.and_then(|request| self.live.get_mut(&request));
            // Rows without an owner, and rows behind the end of a told request.
            let Some(live) = live else {
                tokens.push(schedule::Sampled { token: sampled.token, stop: false });
                continue;
            };
            let token = match &live.answer {
                Answer::Pinned(pinned) => pinned.get(live.output.len()).copied(),
                Answer::Free { .. } => None,
            };
            let token = token.unwrap_or(sampled.token);
            let stop = match &live.answer {
                Answer::Pinned(_) => false,
                Answer::Free { end_tokens, .. } => end_tokens.contains(&token),
            };
            let stop = stop
                | live.consumer.as_mut().is_some_and(|consumer| {
                    let logits = match consumer.waits() {
                        true => &self.backend.logits()[row * vocab..(row + 1) * vocab],
                        false => &[],
                    };
                    consumer.take(Sampled { token, ..*sampled }, logits, at)
                });
            live.first_token.get_or_insert(at);
            live.output.push(token);
            self.counts.output_tokens_sampled += 1;
            tokens.push(schedule::Sampled { token, stop });
        }
        tokens
    }

    /// The fact of a step.
    pub(super) fn fact(&self, flight: &Flight, end: Nanos) -> Step {
        let Flight { decision, queued, blocks, host_start, start, .. } = flight;
        let rows = |phase| -> u32 {
            decision.rows.iter().filter(|row| row.phase == phase).map(|row| row.rows).sum()
        };
        let requests = decision.scheduled.iter().filter(|scheduled| scheduled.rows > 0);
        Step {
            step: decision.step,
            device: self.chronicle.device(),
            host_start: *host_start,
            start: *start,
            end,
            rows_prefill: rows(Phase::Prefill),
            rows_decode: rows(Phase::Decode),
            rows_draft: 0,
            rows_verify: 0,
            rows_ownerless: rows(Phase::Ownerless),
            requests: requests.count() as u32,
            queued: *queued,
            kv_blocks_used: blocks.held + blocks.cached,
            kv_blocks_total: blocks.total(),
        }
    }

    /// Counts a step that has ended.
    pub(super) fn count(&mut self, flight: &Flight) {
        self.counts.steps += 1;
        self.counts.launches += flight.operations.len() as u64;
        self.counts.prompt_tokens += flight.decision.rows.iter().map(prompt_tokens).sum::<u64>();
    }

    /// Requests came to their end.
    pub(super) fn end(&mut self, ended: &[Ended], at: Nanos, recorder: &mut dyn Recorder) {
        for ended in ended {
            let Ended { request, output_tokens, .. } = *ended;
            let outcome = match ended.end {
                End::Cancelled => Outcome::Cancelled,
                End::TimedOut => Outcome::TimedOut,
                End::Stopped => self.judge(request, output_tokens),
            };
            if outcome == Outcome::Completed {
                self.scheduler.accept(ended);
            }
            self.leave(request, outcome, output_tokens, at, recorder);
        }
    }

    /// How a request ended whose answer is whole.
    fn judge(&self, request: RequestId, output_tokens: u32) -> Outcome {
        let Some(live) = self.live.get(&request) else { return Outcome::Completed };
        if live.consumer.as_ref().is_some_and(|consumer| !consumer.accepts()) {
            return Outcome::Malformed;
        }
        match &live.verdict {
            Verdict::Recorded(outcome) => *outcome,
            Verdict::Checked(checker) => {
                let whole = live.output.len().min(output_tokens as usize);
                match checker.accepts(&live.output[..whole]) {
                    true => Outcome::Completed,
                    false => Outcome::Malformed,
                }
            }
        }
    }

    /// A request leaves.
    fn leave(
        &mut self,
        request: RequestId,
        outcome: Outcome,
        output_tokens: u32,
        at: Nanos,
        recorder: &mut dyn Recorder,
    ) {
        let Some(live) = self.live.get_mut(&request).filter(|live| !live.left) else { return };
        live.left = true;
        let mut output = live.output.clone();
        output.truncate(output_tokens as usize);
        let finish = Finish {
            request,
            at: at.max(live.arrived),
            first_scheduled: live.first_scheduled,
            first_token: live.first_token,
            cached_tokens: live.cached_tokens,
            output_tokens,
            outcome,
        };
        if let Some(consumer) = &mut live.consumer {
            consumer.leave(&finish);
        }
        // A request whose cancellation is not honoured runs on for nobody, on the same tokens.
        if outcome != Outcome::Cancelled || self.scheduler.options().stopping.honour_cancel {
            self.live.remove(&request);
        }
        recorder.record(Fact::Finish(finish));
        self.counts.finished += 1;
        self.counts.completed += u64::from(outcome == Outcome::Completed);
        self.counts.output_tokens += u64::from(output_tokens);
        self.finished.push(Finished { finish, output });
    }
}

/// Prompt tokens that a row computed for the first time.
fn prompt_tokens(row: &Row) -> u64 {
    let first = row.phase == Phase::Prefill && row.fate != Fate::PreemptRecompute;
    if first { u64::from(row.rows) } else { 0 }
}
