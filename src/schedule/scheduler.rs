//! The one loop: running sequences first, then waiting ones, under one token budget.

use std::collections::VecDeque;

use super::answered::Answered;
use super::block::BlockPool;
use super::decision::{Decision, Idle, Outlook, Scheduled};
use super::fate::split_rows;
use super::options::{Options, OptionsError, Scheduling};
use super::policy::{Gate, Queue, gate};
use super::sequence::{Refusal, Sequence, Submission};
use super::shadow::Shadow;
use crate::event::{Fate, Phase, RequestId, Row, StepId};
use crate::unit::Nanos;

/// KV blocks by what they are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCount {
    /// Held by sequences.
    pub held: u32,
    /// Held by nobody, kept in the prefix cache.
    pub cached: u32,
    /// Free.
    pub free: u32,
}

impl BlockCount {
    /// All blocks.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.held + self.cached + self.free
    }
}

/// Decides which rows run next.
///
/// The caller submits and cancels requests, asks [`Scheduler::decide`], says with
/// [`Scheduler::launched`] that the rows are on the device, and tells the result to
/// [`Scheduler::commit`] before it asks again; or one step later, where [`Scheduler::foresees`]
/// allows it.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(super) options: Options,
    /// By age of admission, oldest first.
    pub(super) running: Vec<Sequence>,
    pub(super) waiting: VecDeque<Sequence>,
    pub(super) pool: BlockPool,
    pub(super) shadow: Shadow,
    pub(super) answered: Answered,
    /// Slots of the running batch whose request has ended.
    pub(super) burning: u32,
    pub(super) steps: u64,
    pub(super) steps_since_check: u32,
}

impl Scheduler {
    /// A scheduler with an empty queue and a free pool.
    ///
    /// # Errors
    /// [`OptionsError`] if the switches cannot work together.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        options.check()?;
        let memory = options.memory;
        Ok(Self {
            options,
            running: Vec::new(),
            waiting: VecDeque::new(),
            pool: BlockPool::new(memory.kv_blocks, memory.block_tokens),
            shadow: Shadow::new(memory.block_tokens),
            answered: Answered::default(),
            burning: 0,
            steps: 0,
            steps_since_check: 0,
        })
    }

    /// The switches it was made with.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Puts a request at the end of the queue.
    ///
    /// # Errors
    /// [`Refusal`] if it could never run to its end.
    pub fn submit(&mut self, submission: Submission) -> Result<(), Refusal> {
        let memory = &self.options.memory;
        let (prompt_tokens, max_tokens) = (submission.prompt.len(), submission.max_tokens);
        if prompt_tokens == 0 || max_tokens == 0 {
            return Err(Refusal::Nothing { prompt_tokens, max_tokens });
        }
        let tokens = prompt_tokens as u64 + u64::from(max_tokens);
        let max_sequence_tokens = memory.max_sequence_tokens;
        if tokens > u64::from(max_sequence_tokens) {
            return Err(Refusal::TooLong { tokens, max_sequence_tokens });
        }
        let (needed, kv_blocks) = (memory.blocks_for(tokens as u32), memory.kv_blocks);
        if needed > kv_blocks {
            return Err(Refusal::TooLarge { needed, kv_blocks });
        }
        self.waiting.push_back(Sequence::new(submission));
        Ok(())
    }

    /// The client of `request` went away. What follows is said by the next decision.
    pub fn cancel(&mut self, request: RequestId) {
        let live = self.running.iter_mut().chain(&mut self.waiting);
        for sequence in live.filter(|sequence| sequence.request == request) {
            sequence.gone = true;
        }
    }

    /// Takes every live request out of the system, running ones first: the device failed.
    pub fn abandon(&mut self) -> Vec<(RequestId, u32)> {
        self.burning = 0;
        let live = self.running.drain(..).chain(self.waiting.drain(..));
        live.filter(|sequence| !sequence.reported)
            .map(|sequence| (sequence.request, sequence.output_tokens()))
            .collect()
    }

    /// Requests that wait, and requests that run.
    #[must_use]
    pub fn live(&self) -> (usize, usize) {
        (self.waiting.len(), self.running.len())
    }

    /// KV blocks by what they are used for.
    #[must_use]
    pub fn blocks(&self) -> BlockCount {
        let (free, cached) = (self.pool.free(), self.pool.cached());
        BlockCount { held: self.pool.total() - free - cached, cached, free }
    }

    /// The tokens of a scheduled sequence: its prompt, then what it generated. The last may be
    /// [`AWAITED`](super::AWAITED).
    #[must_use]
    pub fn tokens(&self, scheduled: &Scheduled) -> &[u32] {
        &self.running[scheduled.slot].tokens
    }

    /// How many tokens the answer of a scheduled entry has, those that are awaited with them.
    #[must_use]
    pub fn answer_tokens(&self, scheduled: &Scheduled) -> u32 {
        match scheduled.request {
            Some(_) => {
                let sequence = &self.running[scheduled.slot];
                sequence.len() - sequence.prompt_tokens
            }
            None => 0,
        }
    }

    /// The KV blocks of a scheduled sequence, in order of position.
    #[must_use]
    pub fn block_table(&self, scheduled: &Scheduled) -> &[u32] {
        &self.running[scheduled.slot].blocks
    }

    /// What runs next. If anything does, it must be launched before the next decision.
    #[must_use]
    pub fn decide(&mut self, now: Nanos, outlook: Outlook) -> Decision {
        let mut decision = Decision {
            step: StepId(self.steps),
            scheduled: Vec::new(),
            rows: Vec::new(),
            admitted: Vec::new(),
            preempted: Vec::new(),
            ended: Vec::new(),
            memory: Vec::new(),
            idle: None,
            wake: None,
        };
        self.notice(now, &mut decision);
        // Finished slots of a batch take their rows first, unless a whole prompt needs the room.
        let burning = self.burning;
        let most = self.options.batching.max_num_batched_tokens;
        let mut budget = if self.options.batching.chunked_prefill { most - burning } else { most };
        self.run(now, &mut budget, &mut decision);
        let robbed = !decision.preempted.is_empty();
        let stuck = decision.scheduled.is_empty();
        if stuck {
            // The last that could run may have lost its memory, and without a step there is no
            // later check.
            self.notice(now, &mut decision);
        }
        let gate = self.gate(now, outlook);
        if gate == Gate::Open && (stuck || !robbed) {
            self.admit(&mut budget, &mut decision);
        }
        if decision.scheduled.is_empty() {
            self.rest(gate, outlook, &mut decision);
        } else {
            // A slot that fell free in this very decision burns from the next step on.
            let width: u32 = decision.scheduled.iter().map(Scheduled::width).sum();
            self.burn(burning.min(self.burning).min(most - width), &mut decision);
            self.fill_up(&mut decision);
            self.lay_out(&mut decision);
        }
        decision
    }

    fn gate(&self, now: Nanos, outlook: Outlook) -> Gate {
        let came = self.waiting.iter().filter(|s| s.paused_until.is_none()).map(|s| s.arrived);
        let queue = match self.options.batching.scheduling {
            // Its gate is open whatever the queue is, and the queue may be long.
            Scheduling::Continuous => Queue::default(),
            Scheduling::Static | Scheduling::Window => Queue {
                requests: came.clone().count() as u32,
                oldest: came.clone().min().unwrap_or_default(),
                newest: came.max().unwrap_or_default(),
            },
        };
        gate(&self.options.batching, queue, self.running.len(), now, outlook)
    }

    /// Why nothing runs, and when to ask again.
    fn rest(&self, gate: Gate, outlook: Outlook, decision: &mut Decision) {
        let live = || self.running.iter().chain(&self.waiting);
        let queued = self.waiting.iter().any(|sequence| sequence.paused_until.is_none());
        let closes = match gate {
            Gate::Held(closes) => closes,
            Gate::Open => None,
        };
        let idle = match gate {
            Gate::Held(_) if queued => Idle::Holding,
            Gate::Open if queued => Idle::Blocked,
            _ if outlook.external > 0 || live().next().is_some() => Idle::External,
            _ => Idle::Empty,
        };
        let returns = live().filter_map(|sequence| sequence.paused_until);
        let deadlines = live().filter_map(|sequence| sequence.deadline);
        decision.wake = returns.chain(deadlines).chain(closes).min();
        decision.idle = Some(idle);
    }

    /// One row for each slot of the batch whose request has ended.
    fn burn(&self, burning: u32, decision: &mut Decision) {
        decision.scheduled.extend((0..burning as usize).map(Scheduled::nobody));
    }

    /// Rows of nobody until a step of decoded rows alone has one of few numbers of rows.
    fn fill_up(&self, decision: &mut Decision) {
        let batching = &self.options.batching;
        let rows = decision.scheduled.len() as u32;
        let decoded = |scheduled: &Scheduled| scheduled.samples && scheduled.width() == 1;
        if !decision.scheduled.iter().all(decoded) {
            return;
        }
        let nobody = decision.scheduled.iter().filter(|s| s.request.is_none()).count();
        let more = batching.bucket(rows) - rows;
        let slots = nobody..nobody + more as usize;
        decision.scheduled.extend(slots.map(Scheduled::nobody));
    }

    /// Puts sequences with one row first, as devices want them, and says the rows' fates.
    fn lay_out(&self, decision: &mut Decision) {
        decision.scheduled.sort_by_key(|scheduled| scheduled.width() > 1);
        for scheduled in &decision.scheduled {
            if scheduled.request.is_some() {
                let sequence = &self.running[scheduled.slot];
                split_rows(sequence, &self.options, decision.step, scheduled, &mut decision.rows);
            }
            if scheduled.padding > 0 {
                decision.rows.push(Row {
                    step: decision.step,
                    request: None,
                    phase: Phase::Ownerless,
                    rows: scheduled.padding,
                    context_tokens: scheduled.context + scheduled.rows,
                    cached_tokens: 0,
                    sequence_rows: scheduled.width(),
                    logits_rows: u32::from(scheduled.samples && scheduled.request.is_none()),
                    fate: Fate::Padding,
                });
            }
        }
    }
}
