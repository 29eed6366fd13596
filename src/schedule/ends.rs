//! How requests leave the scheduler, and how they come back from outside.

use super::decision::{BlockChange, Decision, End, Ended};
use super::scheduler::Scheduler;
use super::sequence::Sequence;
use crate::unit::Nanos;

impl Scheduler {
    /// The answer of a request that had stopped was accepted: whoever asks the same again,
    /// asks for what is known.
    pub fn accept(&mut self, ended: &Ended) {
        self.answered.extend(ended.question);
    }

    /// Cancellations and timeouts since the last step, and requests that are back from outside.
    pub(super) fn notice(&mut self, now: Nanos, decision: &mut Decision) {
        let honour = self.options.stopping.honour_cancel;
        let outside = |sequence: &Sequence| sequence.paused_until.is_some_and(|until| until > now);
        // Without a step there will be no later check.
        if self.steps_since_check == 0 || self.running.iter().all(outside) {
            let mut slot = 0;
            while slot < self.running.len() {
                match verdict(&self.running[slot], honour, now) {
                    Some(end) => {
                        let ended = self.finish(slot, end, &mut decision.memory);
                        decision.ended.extend(ended);
                    }
                    None => slot += 1,
                }
            }
        }
        self.waiting.retain(|sequence| match verdict(sequence, honour, now) {
            Some(end) => {
                decision.ended.extend(ended(sequence, end));
                false
            }
            None => true,
        });
        for sequence in self.running.iter_mut().chain(&mut self.waiting) {
            if sequence.gone && !honour {
                decision.ended.extend(ended(sequence, End::Cancelled));
                sequence.reported = true;
            }
            if sequence.paused_until.is_some_and(|until| until <= now) {
                sequence.paused_until = None;
                for &block in &sequence.blocks {
                    self.pool.resume(block, &mut decision.memory);
                }
            }
        }
    }

    /// How a running sequence ends that has stopped, and whose answer is handed over now: its
    /// client may have gone since.
    pub(super) fn end_of_stopped(&self, slot: usize, now: Nanos) -> End {
        let honour = self.options.stopping.honour_cancel;
        verdict(&self.running[slot], honour, now).unwrap_or(End::Stopped)
    }

    /// Ends a running sequence. `None` if its end was told before.
    pub(super) fn finish(
        &mut self,
        slot: usize,
        end: End,
        memory: &mut Vec<BlockChange>,
    ) -> Option<Ended> {
        self.give_back(slot, memory);
        let mut sequence = self.running.remove(slot);
        self.learn(&mut sequence);
        // The slot of a batch stays taken until the batch ends.
        if self.options.batching.scheduling.is_batched() {
            self.burning = if self.running.is_empty() { 0 } else { self.burning + 1 };
        }
        ended(&sequence, end)
    }

    /// Returns the blocks of a running sequence to the pool, last first, so that the beginning
    /// of a prefix stays cached longest.
    pub(super) fn give_back(&mut self, slot: usize, memory: &mut Vec<BlockChange>) {
        let sequence = &mut self.running[slot];
        let paused = sequence.paused_until.is_some();
        while let Some(block) = sequence.blocks.pop() {
            if paused {
                self.pool.resume(block, memory);
            }
            self.pool.release(block, memory);
        }
    }

    /// Tells the shadow cache what a sequence has computed.
    pub(super) fn learn(&mut self, sequence: &mut Sequence) {
        let mut cursor = sequence.cursor;
        self.shadow.learn(&mut cursor, sequence.learnable());
        sequence.cursor = cursor;
    }
}

/// Whether a sequence must leave although it has not stopped.
pub(super) fn verdict(sequence: &Sequence, honour_cancel: bool, now: Nanos) -> Option<End> {
    if sequence.gone && honour_cancel {
        Some(End::Cancelled)
    } else if sequence.deadline.is_some_and(|deadline| deadline <= now) {
        Some(End::TimedOut)
    } else {
        None
    }
}

fn ended(sequence: &Sequence, end: End) -> Option<Ended> {
    let Sequence { request, question, .. } = *sequence;
    let question = question.filter(|_| end == End::Stopped);
    let output_tokens = sequence.output_tokens();
    (!sequence.reported).then_some(Ended { request, end, output_tokens, question })
}
