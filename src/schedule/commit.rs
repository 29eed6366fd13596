//! What a step did to the sequences it ran.

use super::decision::{BlockChange, Decision, Effects, Sampled, Scheduled};
use super::scheduler::Scheduler;
use super::sequence::Pause;
use crate::unit::Nanos;

impl Scheduler {
    /// Takes the result of the step that `decision` asked for: one token for each scheduled
    /// entry that samples, in order. `now` is when the step had ended.
    pub fn commit(&mut self, decision: &Decision, sampled: &[Sampled], now: Nanos) -> Effects {
        let mut effects = Effects::default();
        let mut sampled = sampled.iter();
        for scheduled in &decision.scheduled {
            let token = if scheduled.samples { sampled.next() } else { None };
            if scheduled.request.is_some() {
                self.advance(scheduled, &mut effects.memory);
                if let Some(token) = token {
                    self.append(scheduled.slot, *token, now, &mut effects.memory);
                }
            }
        }
        self.steps += 1;
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

    /// The scheduled tokens are in the KV cache now.
    fn advance(&mut self, scheduled: &Scheduled, memory: &mut Vec<BlockChange>) {
        let limits = self.options.memory;
        let sequence = &mut self.running[scheduled.slot];
        sequence.padding -= scheduled.padding;
        let before = sequence.computed;
        sequence.computed += scheduled.rows;
        let publishes = limits.prefix_cache && sequence.stopped.is_none();
        if publishes {
            sequence.hash_blocks(limits.block_tokens);
        }
        for index in before / limits.block_tokens..limits.blocks_for(sequence.computed) {
            let start = index * limits.block_tokens;
            let written = (sequence.computed - start).min(limits.block_tokens);
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
    fn append(&mut self, slot: usize, token: Sampled, now: Nanos, memory: &mut Vec<BlockChange>) {
        let sequence = &mut self.running[slot];
        sequence.tokens.push(token.token);
        if sequence.stopped.is_some() {
            return;
        }
        let output_tokens = sequence.len() - sequence.prompt_tokens;
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
