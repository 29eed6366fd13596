//! Laws that hold in every world: random switches, requests, cancellations, time limits and
//! pauses, checked after every decision and every step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::sequence::Sequence;
use super::*;
use crate::event::{Fate, MemoryChange, Phase, RequestId, Row};
use crate::unit::Nanos;

#[derive(Clone, Debug)]
struct World {
    options: Options,
    requests: Vec<(Submission, Option<u64>)>,
}

fn any_options() -> impl Strategy<Value = Options> {
    let batching = (0usize..3, 1u32..5, 0u32..20, any::<bool>(), (0u64..12, any::<bool>()));
    let memory = (10u32..30, 1u32..5, any::<bool>(), any::<bool>());
    (batching, memory, 1u32..4, any::<bool>()).prop_map(|(b, m, check_interval, honour_cancel)| {
        let (scheduling, max_num_seqs, extra_budget, chunked_prefill, (window, decode_buckets)) = b;
        let (kv_blocks, block_tokens, reserved, prefix_cache) = m;
        let max_sequence_tokens = if reserved { kv_blocks * block_tokens / 2 } else { 40 };
        let least = if chunked_prefill { max_num_seqs } else { max_sequence_tokens };
        Options {
            batching: Batching {
                scheduling: Scheduling::ALL[scheduling],
                max_num_seqs,
                max_num_batched_tokens: least.max(max_num_seqs) + extra_budget,
                chunked_prefill,
                window_ns: Nanos(window),
                decode_buckets,
            },
            memory: KvMemory {
                kv_blocks,
                block_tokens,
                max_sequence_tokens,
                allocation: if reserved { Allocation::Reserved } else { Allocation::Paged },
                prefix_cache,
            },
            stopping: Stopping { check_interval, honour_cancel },
        }
    })
}

prop_compose! {
    fn any_request()(
        arrived in 0u64..30,
        prompt in prop::collection::vec(0u32..2, 0..14),
        max_tokens in 1u32..9,
        deterministic in any::<bool>(),
        limit in prop::option::weighted(0.15, 0u64..30),
        cancel in prop::option::weighted(0.15, 0u64..40),
        pauses in prop::collection::vec((1u32..8, 0u64..20), 0..2),
    ) -> (Submission, Option<u64>) {
        let pauses = pauses.into_iter()
            .map(|(after_tokens, length)| Pause { after_tokens, length: Nanos(length) })
            .collect();
        let deadline = limit.map(|limit| Nanos(arrived + limit));
        let submission = Submission {
            request: RequestId(0), arrived: Nanos(arrived), prompt, max_tokens, deterministic,
            deadline, pauses,
        };
        (submission, cancel)
    }
}

fn any_world() -> impl Strategy<Value = World> {
    let requests = prop::collection::vec(any_request(), 0..12);
    (any_options(), requests).prop_map(|(options, mut requests)| {
        requests.sort_by_key(|(submission, _)| submission.arrived);
        for (index, (submission, _)) in requests.iter_mut().enumerate() {
            submission.request = RequestId(index as u64);
        }
        World { options, requests }
    })
}

/// What a block is, as a reader of the memory facts would see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    Free,
    Held,
    Cached,
}

/// Everything the checks need to remember.
#[derive(Default)]
struct Witness {
    seen: BTreeMap<u32, (Seen, u32, bool)>,
    ended: BTreeSet<RequestId>,
    admitted: Vec<RequestId>,
    /// Tokens of every sequence as far as they were computed.
    computed: Vec<Vec<u32>>,
    padding: u32,
    /// Decisions that were made before the result of the step before was known.
    ahead: u32,
    story: Vec<Decision>,
}

impl Witness {
    /// The memory facts as a life of each block.
    fn memory(&mut self, changes: &[BlockChange], block_tokens: u32) {
        for change in changes {
            let (seen, written, paused) = self.seen.entry(change.block).or_default();
            match (change.change, *seen) {
                (MemoryChange::Allocate, Seen::Free) => {
                    (*seen, *written) = (Seen::Held, 0);
                    assert_eq!(change.tokens, block_tokens);
                    continue;
                }
                (MemoryChange::Write, Seen::Held) => {
                    assert!(change.tokens > *written && change.tokens <= block_tokens);
                    *written = change.tokens;
                }
                (MemoryChange::Release, Seen::Held) => *seen = Seen::Cached,
                (MemoryChange::Hit, Seen::Held | Seen::Cached) => *seen = Seen::Held,
                (MemoryChange::Evict, Seen::Held | Seen::Cached) => *seen = Seen::Free,
                (MemoryChange::Pause, Seen::Held) => {
                    assert!(!std::mem::replace(paused, true));
                }
                (MemoryChange::Resume, Seen::Held) => {
                    assert!(std::mem::replace(paused, false));
                }
                impossible => panic!("{impossible:?} of block {}", change.block),
            }
            assert_eq!(change.tokens, *written, "{change:?}");
            assert!(*seen == Seen::Held || !*paused);
        }
    }

    fn ended(&mut self, ended: &[Ended]) {
        for end in ended {
            assert!(self.ended.insert(end.request), "{:?} ended twice", end.request);
        }
    }

    /// The longest common start of `tokens` with anything computed, by comparing everything.
    fn known(&self, tokens: &[u32]) -> u32 {
        let common =
            |other: &Vec<u32>| other.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.computed.iter().map(common).max().unwrap_or(0) as u32
    }

    fn decision(&mut self, decision: &Decision, scheduler: &Scheduler) {
        let options = scheduler.options();
        self.ended(&decision.ended);
        self.memory(&decision.memory, options.memory.block_tokens);
        let width: u32 = decision.scheduled.iter().map(Scheduled::width).sum();
        assert!(width <= options.batching.max_num_batched_tokens, "budget exceeded: {width}");
        assert!(decision.scheduled.len() as u32 <= options.batching.max_num_seqs);
        assert_eq!(decision.rows.iter().map(|row| row.rows).sum::<u32>(), width);
        assert_eq!(decision.idle.is_some(), decision.scheduled.is_empty());
        let nobody = decision.scheduled.iter().filter(|s| s.request.is_none());
        let slots: Vec<usize> = nobody.map(|s| s.slot).collect();
        assert!(slots.len() as u32 <= options.batching.most_ownerless(), "{slots:?}");
        assert!(slots.iter().copied().eq(0..slots.len()), "a KV block each: {slots:?}");
        let decodes = |s: &Scheduled| s.samples && s.width() == 1;
        if decision.idle.is_none() && decision.scheduled.iter().all(decodes) {
            assert_eq!(width, options.batching.bucket(width), "a step of any size");
        }
        assert!(decision.scheduled.is_sorted_by_key(|scheduled| scheduled.width() > 1));
        for scheduled in decision.scheduled.iter().filter(|s| s.request.is_some()) {
            let sequence = &scheduler.running[scheduled.slot];
            assert_eq!(scheduled.request, Some(sequence.request));
            assert_eq!(scheduled.context, sequence.computed);
            let room = sequence.blocks.len() as u32 * options.memory.block_tokens;
            assert!(scheduled.context + scheduled.width() <= room);
            let ends_known = scheduled.context + scheduled.rows == sequence.len();
            assert_eq!(scheduled.samples, ends_known && scheduled.rows > 0);
        }
        self.padding +=
            decision.rows.iter().filter(|r| r.request.is_none()).map(|r| r.rows).sum::<u32>();
        for admission in &decision.admitted {
            let sequence = scheduler
                .running
                .iter()
                .find(|sequence| sequence.request == admission.request)
                .expect("an admitted request runs");
            let prompt = &sequence.tokens[..sequence.prompt_tokens as usize - 1];
            assert_eq!(sequence.known.tokens, self.known(prompt), "the shadow cache is exact");
            let reachable = self.known(&sequence.tokens[..sequence.tokens.len() - 1]);
            assert!(admission.cached_tokens <= reachable, "a hit on what was never computed");
            assert_eq!(admission.again, self.admitted.contains(&admission.request));
            if !admission.again {
                self.admitted.push(admission.request);
            }
        }
        self.story.push(decision.clone());
    }

    /// The rows of a decision are computed, and are about to be committed.
    fn ran(&mut self, decision: &Decision, scheduler: &Scheduler) {
        for scheduled in decision.scheduled.iter().filter(|s| s.request.is_some()) {
            let of = |sequence: &&Sequence| Some(sequence.request) == scheduled.request;
            // Whoever has left since ran in vain.
            let Some(sequence) = scheduler.running.iter().find(of) else { continue };
            let answer = sequence.prompt_tokens + sequence.output_tokens();
            let computed = (scheduled.context + scheduled.rows).min(answer);
            self.computed.push(sequence.tokens[..computed as usize].to_vec());
        }
    }

    fn scheduler(&self, scheduler: &Scheduler) {
        let blocks = scheduler.blocks();
        let count =
            |wanted| self.seen.values().filter(|(seen, _, _)| *seen == wanted).count() as u32;
        assert_eq!(blocks.total(), scheduler.options().memory.kv_blocks);
        assert_eq!((blocks.held, blocks.cached), (count(Seen::Held), count(Seen::Cached)));
        let mut holders: BTreeMap<u32, u32> = BTreeMap::new();
        for sequence in &scheduler.running {
            let distinct: BTreeSet<u32> = sequence.blocks.iter().copied().collect();
            assert_eq!(distinct.len(), sequence.blocks.len(), "a block twice in one table");
            distinct.into_iter().for_each(|block| *holders.entry(block).or_default() += 1);
        }
        assert_eq!(holders.len() as u32, blocks.held);
        for (block, count) in holders {
            assert_eq!(scheduler.pool.holders(block), count, "holders of block {block}");
        }
        assert!(scheduler.waiting.iter().all(|sequence| sequence.blocks.is_empty()));
    }
}

fn next_token(tokens: &[u32]) -> u32 {
    tokens.iter().fold(1u32, |hash, token| hash.wrapping_mul(33).wrapping_add(*token)) % 3
}

/// Lives until everyone has left; `ahead`, each decision is made before the result of the step
/// before is known, wherever that is allowed.
fn live_forever(world: &World, ahead: bool) -> Witness {
    let mut scheduler = Scheduler::new(world.options).expect("the switches work together");
    let mut witness = Witness::default();
    let mut coming: std::collections::VecDeque<_> = world.requests.clone().into();
    let mut cancels = BTreeMap::new();
    let mut now = Nanos::ZERO;
    let mut refused = BTreeSet::new();
    let mut flight: Option<Decision> = None;
    for turn in 0.. {
        assert!(turn < 3000, "it starves: {:?}", scheduler.live());
        while let Some((submission, cancel)) = coming.pop_front_if(|(s, _)| s.arrived <= now) {
            let request = submission.request;
            cancels.extend(cancel.map(|after| (request, submission.arrived + Nanos(after))));
            if scheduler.submit(submission).is_err() {
                refused.insert(request);
            }
        }
        cancels.retain(|&request, at| {
            if *at <= now {
                scheduler.cancel(request);
            }
            *at > now
        });
        if let Some(before) = flight.take_if(|_| !scheduler.foresees(now)) {
            land(&mut scheduler, &mut witness, &before, now);
            continue;
        }
        let outlook = Outlook { closed: coming.is_empty(), external: 0 };
        let decision = scheduler.decide(now, outlook);
        witness.decision(&decision, &scheduler);
        witness.scheduler(&scheduler);
        decision.ended.iter().for_each(|ended| scheduler.accept(ended));
        let before = flight.take();
        if before.is_some() {
            assert!(decision.ended.is_empty() && decision.preempted.is_empty(), "{decision:?}");
            witness.ahead += 1;
        }
        if decision.idle.is_none() {
            now += Nanos(1);
            scheduler.launched(&decision, &[]);
            if let Some(before) = before {
                land(&mut scheduler, &mut witness, &before, now);
            }
            match ahead {
                true => flight = Some(decision),
                false => land(&mut scheduler, &mut witness, &decision, now),
            }
            continue;
        }
        if let Some(before) = before {
            land(&mut scheduler, &mut witness, &before, now);
            continue;
        }
        assert_eq!(decision.idle == Some(Idle::Empty), scheduler.live() == (0, 0));
        let arrival = coming.front().map(|(submission, _)| submission.arrived);
        match arrival.into_iter().chain(cancels.values().copied()).chain(decision.wake).min() {
            Some(next) => {
                assert!(next > now, "it would ask again and again");
                now = next;
            }
            None => break,
        }
    }
    assert_eq!(scheduler.live(), (0, 0), "someone is forgotten");
    assert_eq!(scheduler.blocks().held, 0, "memory is lost");
    let all: BTreeSet<_> = world.requests.iter().map(|(s, _)| s.request).collect();
    assert_eq!(&witness.ended | &refused, all, "everyone ends");
    assert!(witness.ended.is_disjoint(&refused));
    witness
}

/// The result of a step is there.
fn land(scheduler: &mut Scheduler, witness: &mut Witness, decision: &Decision, now: Nanos) {
    let samples = decision.scheduled.iter().filter(|scheduled| scheduled.samples);
    let sampled: Vec<Sampled> = samples
        .map(|scheduled| {
            let of = |sequence: &&Sequence| Some(sequence.request) == scheduled.request;
            // Whoever has left since gets a token too, and nobody sees it.
            let known = scheduler.running.iter().find(of).map(|sequence| &sequence.tokens);
            let behind = (scheduled.context + scheduled.rows) as usize;
            known.map_or(0, |tokens| next_token(&tokens[..behind]))
        })
        .map(|token| Sampled { token, stop: token == 2 })
        .collect();
    witness.ran(decision, scheduler);
    let effects = scheduler.commit(decision, &sampled, now);
    witness.ended(&effects.ended);
    effects.ended.iter().for_each(|ended| scheduler.accept(ended));
    witness.memory(&effects.memory, scheduler.options().memory.block_tokens);
    witness.scheduler(scheduler);
}

fn rows(witness: &Witness) -> impl Iterator<Item = &Row> {
    witness.story.iter().flat_map(|decision| &decision.rows)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_world_conserves_blocks_and_ends_everyone_once(
        world in any_world(), ahead in any::<bool>(),
    ) {
        let witness = live_forever(&world, ahead);
        prop_assert!(ahead || witness.ahead == 0);
        if world.options.batching.scheduling == Scheduling::Continuous {
            prop_assert!(witness.padding == 0 || world.options.batching.decode_buckets);
            prop_assert!(witness.admitted.is_sorted(), "nobody overtakes");
        }
        if !world.options.memory.prefix_cache {
            prop_assert!(rows(&witness).all(|row| row.cached_tokens == 0));
        }
        if world.options.stopping.check_interval == 1 {
            prop_assert!(rows(&witness).all(|row| row.fate != Fate::Overrun));
        }
        if world.options.stopping.honour_cancel && world.options.stopping.check_interval == 1 {
            prop_assert!(rows(&witness).all(|row| row.fate != Fate::Orphaned));
        }
        for row in rows(&witness) {
            prop_assert_eq!(row.request.is_none(), row.phase == Phase::Ownerless);
            prop_assert_eq!(row.request.is_none(), row.fate == Fate::Padding);
            prop_assert!(row.cached_tokens <= row.context_tokens);
        }
    }

    #[test]
    fn the_same_world_goes_the_same_way(world in any_world()) {
        prop_assert_eq!(live_forever(&world, true).story, live_forever(&world, true).story);
    }

    /// Where nobody is dropped, every token of prompt and answer but the last runs once, and
    /// what runs again is told apart.
    #[test]
    fn first_computations_are_never_counted_as_repeated(world in any_world()) {
        let mut world = world;
        world.options.stopping.check_interval = 1;
        for (submission, cancel) in &mut world.requests {
            (submission.deadline, *cancel, submission.deterministic) = (None, None, false);
        }
        let witness = live_forever(&world, false);
        let mut again: BTreeMap<RequestId, BTreeSet<u32>> = BTreeMap::new();
        for decision in &witness.story {
            for admission in &decision.admitted {
                // Whoever computed them: the request had them in its memory.
                let positions = again.entry(admission.request).or_default();
                (0..admission.cached_tokens).for_each(|position| { positions.insert(position); });
            }
            for row in &decision.rows {
                let Some(request) = row.request else { continue };
                let positions = again.entry(request).or_default();
                for position in row.context_tokens..row.context_tokens + row.rows {
                    let first = positions.insert(position);
                    prop_assert_eq!(row.fate == Fate::PreemptRecompute, !first);
                }
            }
        }
    }
}
