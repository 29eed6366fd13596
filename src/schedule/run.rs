//! Rows for the sequences that already run, and whose memory is taken when there is too little.

use super::decision::{Decision, Scheduled};
use super::ends::verdict;
use super::scheduler::Scheduler;
use crate::unit::Nanos;

impl Scheduler {
    /// Gives rows to running sequences: first to those that decode, so that no prompt delays
    /// them.
    pub(super) fn run(&mut self, now: Nanos, budget: &mut u32, decision: &mut Decision) {
        for decoding in [true, false] {
            let mut slot = 0;
            while slot < self.running.len() {
                let sequence = &self.running[slot];
                let runs = sequence.decodes() == decoding
                    && sequence.paused_until.is_none()
                    && !sequence.ends_with_the_step();
                if !runs {
                    slot += 1;
                } else if self.make_room(slot, now, decision) {
                    self.schedule(slot, budget, decision);
                    slot += 1;
                }
            }
        }
    }

    /// Gives the sequence at `slot` the blocks for its known tokens, and takes memory from the
    /// newest running sequences if need be. `false` if it left the running ones over this.
    fn make_room(&mut self, slot: usize, now: Nanos, decision: &mut Decision) -> bool {
        let limits = self.options.memory;
        loop {
            let sequence = &self.running[slot];
            let needed = limits.blocks_for(sequence.len()) as usize;
            if sequence.blocks.len() >= needed {
                return true;
            }
            let overruns = sequence.stopped.is_some();
            let too_long = sequence.len() > limits.max_sequence_tokens;
            let taken = if too_long { None } else { self.pool.take(&mut decision.memory) };
            if let Some(block) = taken {
                self.running[slot].blocks.push(block);
            } else if overruns {
                // Its answer is whole, and running on is not worth anyone's memory.
                let end = self.end_of_stopped(slot, now);
                decision.ended.extend(self.finish(slot, end, &mut decision.memory));
                return false;
            } else {
                let newest = self.running.len() - 1;
                self.preempt(newest, now, decision);
                if newest == slot {
                    return false;
                }
            }
        }
    }

    /// Takes all memory of a running sequence. It will be computed again.
    fn preempt(&mut self, slot: usize, now: Nanos, decision: &mut Decision) {
        let sequence = &self.running[slot];
        let over = match sequence.stopped {
            Some(_) => Some(self.end_of_stopped(slot, now)),
            None => verdict(sequence, self.options.stopping.honour_cancel, now),
        };
        if let Some(end) = over {
            // Nobody had looked yet. It need not come back.
            let ended = self.finish(slot, end, &mut decision.memory);
            decision.ended.extend(ended);
            return;
        }
        self.give_back(slot, &mut decision.memory);
        let mut sequence = self.running.remove(slot);
        self.learn(&mut sequence);
        sequence.high_water = sequence.high_water.max(sequence.computed);
        sequence.computed = 0;
        sequence.written = 0;
        sequence.cached = 0;
        sequence.padding = 0;
        decision.preempted.push(sequence.request);
        self.waiting.push_front(sequence);
        if self.running.is_empty() {
            self.burning = 0;
        }
    }

    /// Gives rows to the running sequence at `slot`, as the budget allows.
    pub(super) fn schedule(&self, slot: usize, budget: &mut u32, decision: &mut Decision) {
        let sequence = &self.running[slot];
        let (pending, padding) = (sequence.pending(), sequence.padding);
        let whole = pending + padding <= *budget;
        if *budget == 0 || !(whole || self.options.batching.chunked_prefill) {
            return;
        }
        // A padded sequence samples once, at the end of its prompt, and then only pads.
        let sampled = padding > 0 && sequence.output_tokens() > 0 && pending == 1;
        let rows = if sampled { 0 } else { pending.min(*budget) };
        let padding = padding.min(*budget - rows);
        *budget -= rows + padding;
        decision.scheduled.push(Scheduled {
            request: Some(sequence.request),
            slot,
            context: sequence.computed,
            rows,
            padding,
            samples: rows > 0 && rows == pending,
        });
    }
}
