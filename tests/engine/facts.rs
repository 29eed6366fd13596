//! What must hold for the facts of any run, whatever the switches.

use std::collections::{BTreeMap, BTreeSet};

use gemba::event::{
    Fact, Fate, Launch, MemoryChange, MemoryClass, MemoryCopy, Outcome, Phase, RequestId, Row,
    Step, StepId,
};
use gemba::unit::Nanos;

/// The facts of a run, by kind.
#[derive(Debug, Default)]
pub struct Facts {
    pub steps: Vec<Step>,
    pub rows: Vec<Row>,
    pub launches: Vec<Launch>,
    pub copies: Vec<MemoryCopy>,
    pub states: Vec<(Nanos, gemba::event::DeviceState)>,
    pub memory: Vec<gemba::event::Memory>,
    pub arrivals: Vec<gemba::event::Arrival>,
    pub finishes: BTreeMap<RequestId, gemba::event::Finish>,
}

impl Facts {
    /// Sorts facts by kind and checks every law below.
    pub fn checked(facts: &[Fact]) -> Self {
        let mut sorted = Self::default();
        let mut kernels = BTreeSet::new();
        for fact in facts {
            match fact {
                Fact::Kernel { id, name } => assert!(kernels.insert(*id), "{name} twice"),
                Fact::State(change) => sorted.states.push((change.at, change.state)),
                Fact::Step(step) => sorted.steps.push(*step),
                Fact::Row(row) => sorted.rows.push(*row),
                Fact::Launch(launch) => {
                    assert!(kernels.contains(&launch.kernel), "a kernel without a name");
                    sorted.launches.push(*launch);
                }
                Fact::Memory(memory) => sorted.memory.push(*memory),
                Fact::Arrival(arrival) => sorted.arrivals.push(arrival.clone()),
                Fact::Finish(finish) => {
                    assert!(sorted.finishes.insert(finish.request, *finish).is_none());
                }
                Fact::Copy(copy) => sorted.copies.push(*copy),
                Fact::Power(_) => {}
            }
        }
        sorted.check_steps();
        sorted.check_copies();
        sorted.check_requests();
        sorted.check_states();
        sorted.check_memory();
        sorted
    }

    /// Steps follow each other; their rows and launches are theirs.
    fn check_steps(&self) {
        let ids: Vec<u64> = self.steps.iter().map(|step| step.step.0).collect();
        assert!(ids.iter().copied().eq(0..ids.len() as u64), "steps are numbered in order");
        for pair in self.steps.windows(2) {
            assert!(pair[0].end <= pair[1].host_start, "{pair:?}");
        }
        let mut rows: BTreeMap<StepId, Vec<&Row>> = BTreeMap::new();
        self.rows.iter().for_each(|row| rows.entry(row.step).or_default().push(row));
        let mut launches: BTreeMap<StepId, Vec<&Launch>> = BTreeMap::new();
        for launch in &self.launches {
            launches.entry(launch.step.unwrap()).or_default().push(launch);
        }
        assert_eq!(rows.len(), self.steps.len());
        assert_eq!(launches.len(), self.steps.len());
        for step in &self.steps {
            assert!(step.host_start <= step.start && step.start <= step.end);
            assert!(step.kv_blocks_used <= step.kv_blocks_total);
            let own = &rows[&step.step];
            let count = |phase| -> u32 {
                own.iter().filter(|row| row.phase == phase).map(|row| row.rows).sum()
            };
            assert_eq!(count(Phase::Prefill), step.rows_prefill);
            assert_eq!(count(Phase::Decode), step.rows_decode);
            assert_eq!(count(Phase::Ownerless), step.rows_ownerless);
            assert_eq!(step.rows(), own.iter().map(|row| row.rows).sum::<u32>());
            let requests: BTreeSet<_> = own.iter().filter_map(|row| row.request).collect();
            assert_eq!(requests.len() as u32, step.requests);
            for row in own {
                assert!(row.rows > 0 && row.cached_tokens <= row.context_tokens);
                assert_eq!(row.request.is_none(), row.fate == Fate::Padding);
            }
            let mut before = step.start;
            for launch in &launches[&step.step] {
                assert!(before <= launch.start && launch.start <= launch.end, "{launch:?}");
                before = launch.end;
            }
            assert!(before <= step.end, "launches end in their step");
        }
    }

    /// Copies run one after another, each while its step is prepared or runs.
    fn check_copies(&self) {
        let mut before = Nanos::ZERO;
        for copy in &self.copies {
            let step = self.steps[copy.step.unwrap().0 as usize];
            assert!(step.host_start <= copy.start && copy.end <= step.end, "{copy:?} in {step:?}");
            assert!(before <= copy.start && copy.start <= copy.end, "{copy:?}");
            before = copy.end;
        }
    }

    fn check_requests(&self) {
        let arrived: BTreeSet<_> = self.arrivals.iter().map(|arrival| arrival.request).collect();
        assert_eq!(arrived.len(), self.arrivals.len(), "nobody arrives twice");
        for arrival in &self.arrivals {
            let Some(finish) = self.finishes.get(&arrival.request) else { continue };
            let times = [Some(arrival.at), finish.first_scheduled, finish.first_token];
            let times: Vec<_> = times.into_iter().flatten().chain([finish.at]).collect();
            assert!(times.is_sorted(), "{finish:?}");
            assert!(finish.output_tokens <= arrival.max_tokens);
            if matches!(finish.outcome, Outcome::Completed | Outcome::Malformed) {
                assert!(finish.output_tokens > 0);
            }
        }
        for request in
            self.finishes.keys().chain(self.rows.iter().filter_map(|r| r.request.as_ref()))
        {
            assert!(arrived.contains(request), "{request:?} never arrived");
        }
        self.check_rows_of_requests();
    }

    /// Without its defects, a delivered request ran each of its tokens but the last once.
    fn check_rows_of_requests(&self) {
        let mut useful: BTreeMap<RequestId, u32> = BTreeMap::new();
        for row in &self.rows {
            let (Some(request), false) = (row.request, again(row.fate)) else { continue };
            *useful.entry(request).or_default() += row.rows;
        }
        for arrival in &self.arrivals {
            let Some(finish) = self.finishes.get(&arrival.request) else { continue };
            if finish.outcome != Outcome::Completed {
                continue;
            }
            let tokens = arrival.prompt_tokens + finish.output_tokens - 1;
            let rows = useful.get(&arrival.request).copied().unwrap_or(0);
            let cached = finish.cached_tokens;
            assert_eq!(rows + cached, tokens, "{finish:?}");
        }
    }

    fn check_states(&self) {
        for pair in self.states.windows(2) {
            assert!(pair[0].0 < pair[1].0, "a state lasts: {pair:?}");
            assert_ne!(pair[0].1, pair[1].1, "a state changes");
        }
    }

    /// Every block's life, told by times that never stand still for one block.
    fn check_memory(&self) {
        let mut last: BTreeMap<(MemoryClass, u32), Nanos> = BTreeMap::new();
        let mut held: BTreeMap<u32, Option<(bool, u64)>> = BTreeMap::new();
        assert!(self.memory.is_sorted_by_key(|memory| memory.at), "memory is told in order");
        for memory in &self.memory {
            let key = (memory.class, memory.block);
            assert!(last.insert(key, memory.at).is_none_or(|before| before < memory.at));
            if memory.class != MemoryClass::KvBlock {
                assert_eq!(memory.change, MemoryChange::Allocate);
                continue;
            }
            let block = held.entry(memory.block).or_default();
            *block = match (memory.change, *block) {
                (MemoryChange::Allocate, None) => Some((true, 0)),
                (MemoryChange::Write, Some((true, level))) => {
                    assert!(memory.bytes.0 > level);
                    Some((true, memory.bytes.0))
                }
                (MemoryChange::Release, Some((true, level))) => Some((false, level)),
                (MemoryChange::Hit, Some((_, level))) => Some((true, level)),
                (MemoryChange::Pause | MemoryChange::Resume, Some((true, level))) => {
                    Some((true, level))
                }
                (MemoryChange::Evict, Some(_)) => None,
                impossible => panic!("{impossible:?} of block {}", memory.block),
            };
        }
    }

    /// Rows of a fate.
    pub fn rows_of(&self, fate: Fate) -> u32 {
        self.rows.iter().filter(|row| row.fate == fate).map(|row| row.rows).sum()
    }
}

/// Whether rows of this fate came on top of the ones a request needs.
fn again(fate: Fate) -> bool {
    matches!(fate, Fate::PreemptRecompute | Fate::Overrun)
}
