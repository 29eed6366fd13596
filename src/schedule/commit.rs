//! What a step does to the sequences it runs: what is sure when it is launched, and what came of
//! it.

use super::decision::{BlockChange, Decision, Effects, Sampled, Scheduled};
use super::scheduler::Scheduler;
use super::sequence::{AWAITED, Pause, Sequence};
use crate::unit::Nanos;

impl Scheduler {
    /// The rows of `decision` are on the device: its sequences stand behind them from now on.
    /// `foreseen` has one entry for each scheduled entry that samples, in order: the token if it
    /// is known already, else [`AWAITED`].
    pub fn launched(&mut self, decision: &Decision, foreseen: &[u32]) {
        let mut foreseen = foreseen.iter();
        for scheduled in &decision.scheduled {
            let token = if scheduled.samples { foreseen.next() } else { None };
            if scheduled.request.is_none() {
                continue;
            }
            let sequence = &mut self.running[scheduled.slot];
            sequence.padding -= scheduled.padding;
            sequence.computed += scheduled.rows;
            if scheduled.samples {
                sequence.tokens.push(token.copied().unwrap_or(AWAITED));
                sequence.awaited += 1;
            }
        }
        self.steps += 1;
    }

    /// Whether the next decision can be made before the result of the last step is known: whatever
    /// it is, nobody will have left by then, been sent outside or lose its memory, and nobody is
    /// let in who could find a prompt in the prefix cache that is only being read.
    #[must_use]
    pub fn foresees(&self, now: Nanos) -> bool {
        let (options, memory) = (&self.options, &self.options.memory);
        let simple =
            !options.batching.scheduling.is_batched() && options.stopping.check_interval == 1;
        let honour = options.stopping.honour_cancel;
        let stays = |sequence: &Sequence| {
            let leaves = sequence.gone && (honour || !sequence.reported);
            !leaves
                && sequence.deadline.is_none_or(|deadline| deadline > now)
                && sequence.paused_until.is_none_or(|until| until > now)
                && !sequence.is_sent_outside()
        };
        let needed = |sequence: &Sequence| {
            memory.blocks_for(sequence.len()).saturating_sub(sequence.blocks.len() as u32)
        };
        let going_on = || self.running.iter().filter(|sequence| !sequence.ends_with_the_step());
        let lets_in = self.going_on() < options.batching.max_num_seqs
            && self.waiting.iter().any(|sequence| sequence.paused_until.is_none());
        let may_find = memory.prefix_cache && self.running.iter().any(Sequence::reads_its_prompt);
        simple
            && !(lets_in && may_find)
            && self.running.iter().chain(&self.waiting).all(stays)
            && going_on().map(needed).sum::<u32>() <= self.pool.available()
    }

    /// Takes the result of the step that `decision` asked for, which was launched: one token for
    /// each scheduled entry that samples, in order. `now` is when the step had ended.
    pub fn commit(&mut self, decision: &Decision, sampled: &[Sampled], now: Nanos) -> Effects {
        let mut effects = Effects::default();
        let mut sampled = sampled.iter();
        for scheduled in &decision.scheduled {
            let token = if scheduled.samples { sampled.next() } else { None };
            // Who ended with the step before ran in vain.
            let Some(slot) = self.slot_of(scheduled) else { continue };
            self.write(slot, scheduled, &mut effects.memory);
            if let Some(token) = token {
                self.take(slot, *token, now, &mut effects.memory);
            }
        }
        self.steps_since_check += 1;
        if self.steps_since_check >= self.options.stopping.check_interval {
            self.steps_since_check = 0;
            let mut slot = 0;
            while slot < self.running.len() {
                if self.running[slot].stopped.is_some() {
                    let end = self.end_of_stopped(slot, now);
                    effects.ended.extend(self.finish(slot, end, &mut effects.memory));
                } else {
                    slot += 1;
                }
            }
        }
        effects
    }

    /// Where the sequence of a launched entry stands now: where it stood, or before, if others
    /// have left since.
    fn slot_of(&self, scheduled: &Scheduled) -> Option<usize> {
        let request = scheduled.request?;
        let last = scheduled.slot.min(self.running.len().checked_sub(1)?);
        (0..=last).rev().find(|slot| self.running[*slot].request == request)
    }

    /// The scheduled tokens are in the KV cache now.
    fn write(&mut self, slot: usize, scheduled: &Scheduled, memory: &mut Vec<BlockChange>) {
        let limits = self.options.memory;
        let sequence = &mut self.running[slot];
        let (before, computed) = (scheduled.context, scheduled.context + scheduled.rows);
        sequence.written = computed;
        let publishes = limits.prefix_cache && sequence.stopped.is_none();
        if publishes {
            sequence.hash_blocks(limits.block_tokens);
        }
        for index in before / limits.block_tokens..limits.blocks_for(computed) {
            let start = index * limits.block_tokens;
            let written = (computed - start).min(limits.block_tokens);
            if start + written <= before {
                continue;
            }
            let index = index as usize;
            let block = sequence.blocks[index];
            self.pool.write(block, written, memory);
            if publishes && written == limits.block_tokens {
                let tokens = sequence.block(index, limits.block_tokens);
                self.pool.publish(block, sequence.parent(index), sequence.hashes[index], tokens);
            }
        }
    }

    /// A sequence has its next token.
    fn take(&mut self, slot: usize, token: Sampled, now: Nanos, memory: &mut Vec<BlockChange>) {
        let sequence = &mut self.running[slot];
        let place = sequence.known_len() as usize;
        sequence.tokens[place] = token.token;
        sequence.awaited -= 1;
        if sequence.stopped.is_some() {
            return;
        }
        let output_tokens = sequence.output_tokens();
        if token.stop || output_tokens >= sequence.max_tokens {
            sequence.stopped = Some(output_tokens);
            return;
        }
        let due = |pause: &Pause| pause.after_tokens <= output_tokens;
        let mut length = None;
        while let Some(pause) = sequence.pauses.pop_front_if(|pause| due(pause)) {
            let before = length.unwrap_or(Nanos::ZERO);
            length = Some(Nanos(before.0.saturating_add(pause.length.0)));
        }
        if let Some(length) = length {
            sequence.paused_until = Some(Nanos(now.0.saturating_add(length.0)));
            for &block in &sequence.blocks {
                self.pool.pause(block, memory);
            }
        }
    }
}
