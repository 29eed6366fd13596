//! Waiting requests become running sequences.

use super::decision::{Admission, Decision};
use super::options::Allocation;
use super::scheduler::Scheduler;
use super::sequence::{KnownPrefix, Sequence};

/// What the admission of one sequence would take.
struct Plan {
    /// Cached or held blocks with the beginning of its tokens.
    hits: Vec<u32>,
    /// Rows of padding behind its tokens.
    padding: u32,
    /// All blocks it would hold.
    blocks: u32,
}

impl Scheduler {
    /// Admits waiting requests in order, as slots, memory and budget allow. The gate is open.
    pub(super) fn admit(&mut self, budget: &mut u32, decision: &mut Decision) {
        if self.options.batching.scheduling.is_batched() {
            self.admit_batch(budget, decision);
            return;
        }
        let batching = self.options.batching;
        while self.going_on() < batching.max_num_seqs && *budget > 0 {
            let Some(place) = self.admissible(1).pop() else { break };
            let plan = self.plan(place);
            let rows = self.waiting[place].len() - self.cached_tokens(&plan);
            let too_wide = rows > *budget && !batching.chunked_prefill;
            if too_wide || !self.fits(&[plan.taken(self)]) {
                break;
            }
            self.hold(&plan, decision);
            self.enter(place, plan, decision);
            self.schedule(self.running.len() - 1, budget, decision);
        }
    }

    /// Running sequences that have rows to come.
    pub(super) fn going_on(&self) -> u32 {
        self.running.iter().filter(|sequence| !sequence.ends_with_the_step()).count() as u32
    }

    /// Admits a whole batch: as many of the first requests as memory has room for, each padded
    /// to the most rows that one of them needs.
    fn admit_batch(&mut self, budget: &mut u32, decision: &mut Decision) {
        let mut places = self.admissible(self.options.batching.max_num_seqs as usize);
        let plans = loop {
            let plans = self.plan_batch(&places);
            let taken: Vec<u32> = plans.iter().map(|plan| plan.taken(self)).collect();
            if self.fits(&taken) {
                break plans;
            }
            places.pop();
        };
        // All hits before any fresh block: a fresh one may be a cached one that nobody holds.
        plans.iter().for_each(|plan| self.hold(plan, decision));
        for (entered, (place, plan)) in places.into_iter().zip(plans).enumerate() {
            self.enter(place - entered, plan, decision);
            self.schedule(self.running.len() - 1, budget, decision);
        }
    }

    /// Where the first `count` waiting sequences stand that do not wait outside.
    fn admissible(&self, count: usize) -> Vec<usize> {
        let inside = |&place: &usize| self.waiting[place].paused_until.is_none();
        (0..self.waiting.len()).filter(inside).take(count).collect()
    }

    fn plan_batch(&mut self, places: &[usize]) -> Vec<Plan> {
        let mut plans: Vec<Plan> = places.iter().map(|&place| self.plan(place)).collect();
        let rows = |plan: &Plan, place: usize| self.waiting[place].len() - self.cached_tokens(plan);
        let widest = plans.iter().zip(places).map(|(plan, &place)| rows(plan, place)).max();
        let limits = self.options.memory;
        for (plan, &place) in plans.iter_mut().zip(places) {
            let own = rows(plan, place);
            let room = limits.max_sequence_tokens - self.waiting[place].len();
            plan.padding = (widest.unwrap_or(own) - own).min(room);
            let padded = limits.blocks_for(self.waiting[place].len() + plan.padding);
            plan.blocks = plan.blocks.max(padded);
        }
        plans
    }

    /// What the waiting sequence at `place` would take, without padding.
    fn plan(&mut self, place: usize) -> Plan {
        let limits = self.options.memory;
        let sequence = &mut self.waiting[place];
        let blocks = match limits.allocation {
            Allocation::Paged => limits.blocks_for(sequence.len()),
            Allocation::Reserved => limits.blocks_for(limits.max_sequence_tokens),
        };
        let mut hits = Vec::new();
        if limits.prefix_cache {
            sequence.hash_blocks(limits.block_tokens);
            // At least one row must run: only it brings the logits.
            for index in 0..((sequence.len() - 1) / limits.block_tokens) as usize {
                let tokens = sequence.block(index, limits.block_tokens);
                let hash = sequence.hashes[index];
                match self.pool.find(sequence.parent(index), hash, tokens) {
                    Some(block) => hits.push(block),
                    None => break,
                }
            }
        }
        Plan { hits, padding: 0, blocks }
    }

    fn cached_tokens(&self, plan: &Plan) -> u32 {
        plan.hits.len() as u32 * self.options.memory.block_tokens
    }

    fn fits(&self, taken: &[u32]) -> bool {
        let taken: u64 = taken.iter().map(|&blocks| u64::from(blocks)).sum();
        taken <= u64::from(self.pool.available())
    }

    fn hold(&mut self, plan: &Plan, decision: &mut Decision) {
        for &block in &plan.hits {
            self.pool.hit(block, &mut decision.memory);
        }
    }

    /// Makes the waiting sequence at `place` the newest running one. Its plan fits, and the
    /// blocks that it found are held.
    fn enter(&mut self, place: usize, plan: Plan, decision: &mut Decision) {
        let Some(mut sequence) = self.waiting.remove(place) else { return };
        let cached_tokens = self.cached_tokens(&plan);
        sequence.blocks = plan.hits;
        while (sequence.blocks.len() as u32) < plan.blocks {
            let Some(block) = self.pool.take(&mut decision.memory) else { break };
            sequence.blocks.push(block);
        }
        sequence.computed = cached_tokens;
        sequence.written = cached_tokens;
        sequence.cached = cached_tokens;
        sequence.padding = plan.padding;
        sequence.known = self.known_prefix(&sequence);
        let again = std::mem::replace(&mut sequence.admitted, true);
        if !again {
            let answered = |question| self.answered.contains(&question);
            sequence.duplicate = sequence.question.is_some_and(answered);
        }
        decision.admitted.push(Admission { request: sequence.request, cached_tokens, again });
        self.running.push(sequence);
    }

    /// Which prompt rows an unlimited prefix cache would save. The last token of a prompt must
    /// always be computed.
    fn known_prefix(&mut self, sequence: &Sequence) -> KnownPrefix {
        for running in &mut self.running {
            let mut cursor = running.cursor;
            self.shadow.learn(&mut cursor, running.learnable());
            running.cursor = cursor;
        }
        let prompt = &sequence.tokens[..sequence.prompt_tokens as usize - 1];
        let tokens = self.shadow.known_prefix(prompt);
        let whole = tokens / self.options.memory.block_tokens * self.options.memory.block_tokens;
        // Without the cache nothing of it is saved, whether blocks are whole or not.
        let aligned = if self.options.memory.prefix_cache { whole } else { tokens };
        KnownPrefix { aligned, tokens }
    }
}

impl Plan {
    /// Blocks that could not be given to anyone else afterwards and could be before.
    fn taken(&self, scheduler: &Scheduler) -> u32 {
        let held = self.hits.iter().filter(|&&block| scheduler.pool.holders(block) > 0).count();
        self.blocks - held as u32
    }
}
