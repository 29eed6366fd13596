//! Records of several steps together, and whose each is.
//!
//! Two steps that replay one graph launch the same kernels in the same nodes: neither names nor
//! nodes tell which of them a record is of, and clocks of host and card do not where steps are
//! short. What tells it is that all are there. So the records of all steps between two moments at
//! which nothing ran are joined at once: in the order of their starts they must be those of every
//! launch of every step, one for one. If one is missing, doubled, or of a kernel that none of them
//! launched, it could be of any step, and none of them is told a time.
//!
//! A library that multiplies launches kernels that nobody noted, under names that nobody asked for.
//! They may stand among the records of a step in which it was called, and nowhere else; of such a
//! step only what was noted is looked for, and its times are told by events.

use std::cell::RefCell;
use std::rc::Rc;

use crate::backend::Span;
use crate::unit::Nanos;

use super::timeline::{Clocks, Launches, Misfit, Nodes, Record};

/// What a graph launches, and what is known of its nodes.
#[derive(Debug, Default)]
pub struct Template {
    /// Its kernels, by operation.
    pub launches: Launches,
    /// Which node stands where.
    pub nodes: RefCell<Nodes>,
}

/// What told the times of a step's operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Records of kernels will.
    Records,
    /// Something else has: its spans, and a library's kernels may have run in it.
    Otherwise(Vec<Span>),
}

/// A step that ran.
#[derive(Debug)]
pub struct Ran {
    /// What was launched by itself, and before a replay if there was one.
    pub launches: Launches,
    /// What was replayed behind it.
    pub replayed: Option<Rc<Template>>,
    /// Both clocks when it began and once all of it was done.
    pub clocks: Clocks,
    /// What tells its times.
    pub told: Told,
    /// Whether somebody waits for its spans.
    pub awaited: bool,
}

impl Ran {
    /// Records that there must be of it.
    #[must_use]
    pub fn kernels(&self) -> usize {
        let replayed = self.replayed.as_ref().map_or(0, |graph| graph.launches.kernels.len());
        self.launches.kernels.len() + replayed
    }

    const fn is_foreign(&self) -> bool {
        matches!(self.told, Told::Otherwise(_))
    }
}

/// The spans of each of these steps, which ran in this order, from all records of what ran with
/// them: within its step, none before `after`, one behind another.
///
/// # Errors
/// [`Misfit`] if these are not the records of these steps, and of a library in those where it may
/// launch kernels. No time of any of them is known then.
pub fn join(steps: &[Ran], records: &mut [Record], after: Nanos) -> Result<Vec<Vec<Span>>, Misfit> {
    // They come in few pieces, each in order: a stable sort goes through once.
    records.sort_by_key(|record| (record.start, record.end));
    if let Some(at) = records.windows(2).position(|pair| pair[0] == pair[1]) {
        return Err(Misfit::Doubled(at));
    }
    let foreign = steps.iter().any(Ran::is_foreign);
    let launches = steps.iter().map(Ran::kernels).sum();
    let own = records.iter().filter(|record| !foreign || record.kernel.is_some()).count();
    if own != launches {
        return Err(Misfit::Count { launches, records: own });
    }
    let mut walk = Walk { records, after_foreign: false };
    let mut after = after;
    let mut all = Vec::with_capacity(steps.len());
    for step in steps {
        let spans = match &step.told {
            Told::Records => walk.timed(step, after)?,
            Told::Otherwise(spans) => {
                walk.pass(step)?;
                let later =
                    |span: &Span| Span { start: span.start.max(after), end: span.end.max(after) };
                spans.iter().map(later).collect()
            }
        };
        after = spans.last().map_or(after, |span| span.end);
        all.push(spans);
    }
    walk.end()?;
    Ok(all)
}

/// The records that are still to be given to steps.
struct Walk<'r> {
    records: &'r mut [Record],
    /// Whether kernels of a library may still come.
    after_foreign: bool,
}

impl<'r> Walk<'r> {
    /// So many records that come next.
    fn take(&mut self, count: usize) -> Result<&'r mut [Record], Misfit> {
        let records = std::mem::take(&mut self.records);
        if records.len() < count {
            return Err(Misfit::Count { launches: count, records: records.len() });
        }
        let (taken, rest) = records.split_at_mut(count);
        self.records = rest;
        Ok(taken)
    }

    /// Passes over kernels of a library.
    fn skip(&mut self) {
        let others = self.records.iter().take_while(|record| record.kernel.is_none()).count();
        let records = std::mem::take(&mut self.records);
        self.records = &mut records[others..];
    }

    fn timed(&mut self, step: &Ran, after: Nanos) -> Result<Vec<Span>, Misfit> {
        if std::mem::take(&mut self.after_foreign) {
            self.skip();
        }
        let mut spans = Vec::new();
        let alone = self.take(step.launches.kernels.len())?;
        step.launches.order(alone)?;
        step.launches.spans(alone, &step.clocks, after, &mut spans)?;
        if let Some(graph) = &step.replayed {
            let replayed = self.take(graph.launches.kernels.len())?;
            graph.launches.order_replayed(&mut graph.nodes.borrow_mut(), replayed)?;
            graph.launches.spans(replayed, &step.clocks, after, &mut spans)?;
        }
        Ok(spans)
    }

    /// Passes over the records of a step that something else timed.
    fn pass(&mut self, step: &Ran) -> Result<(), Misfit> {
        let replayed = step.replayed.as_ref().map(|graph| &graph.launches.kernels);
        let noted = step.launches.kernels.iter().chain(replayed.into_iter().flatten());
        for (at, kernel) in noted.enumerate() {
            self.skip();
            let [record] = self.take(1)? else { return Err(Misfit::Kernel(at)) };
            if record.kernel != Some(*kernel) {
                return Err(Misfit::Kernel(at));
            }
        }
        self.after_foreign = true;
        Ok(())
    }

    /// Nothing is left but kernels of a library.
    fn end(mut self) -> Result<(), Misfit> {
        if self.after_foreign {
            self.skip();
        }
        match self.records.len() {
            0 => Ok(()),
            records => Err(Misfit::Count { launches: 0, records }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::super::driver::Function;
    use super::*;

    /// Of a step in a test: operations of so many launches each, what it launches before them, and
    /// how it is run.
    #[derive(Clone, Debug)]
    struct Sketch {
        of_each: Vec<usize>,
        before: usize,
        /// Which graph it replays, if one.
        graph: Option<usize>,
        /// Kernels of a library behind each of its own.
        library: Option<usize>,
    }

    fn launches(of_each: &[usize], before: usize) -> Launches {
        let mut launches = Launches::default();
        let kernel = |at: usize| Function(at as u64 % 3);
        launches.kernels.extend((0..before).map(kernel));
        launches.end_of_none();
        for count in of_each {
            let next = launches.kernels.len();
            launches.kernels.extend((next..next + count).map(kernel));
            launches.end_operation();
        }
        launches
    }

    /// Where time stands, by the clock of records and by ours.
    const BEGINS: u64 = 5_000_000;
    const OURS: u64 = 1000;

    /// Steps and all their records in order: kernels of 10 ns, 5 ns apart. Steps of one graph have
    /// the operations of the first of them.
    fn ran(sketches: &[Sketch]) -> (Vec<Ran>, Vec<Record>, Vec<Vec<Span>>) {
        let mut graphs: [Option<Rc<Template>>; 2] = [const { None }; 2];
        let (mut steps, mut records, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        let mut time = BEGINS;
        let mut run = |kernel, node, records: &mut Vec<Record>| {
            let [start, end] = [time + 5, time + 15].map(Nanos);
            time = end.0;
            records.push(Record { kernel, start, end, node });
            Span { start: Nanos(start.0 - BEGINS + OURS), end: Nanos(end.0 - BEGINS + OURS) }
        };
        let mut ended = Nanos(OURS);
        for sketch in sketches {
            let graph = sketch.graph.map(|graph| {
                let template = || Template {
                    launches: launches(&sketch.of_each, 0),
                    nodes: RefCell::default(),
                };
                Rc::clone(graphs[graph].get_or_insert_with(|| Rc::new(template())))
            });
            let own = match &graph {
                Some(_) => launches(&[], sketch.before),
                None => launches(&sketch.of_each, sketch.before),
            };
            let began = records.last().map_or(BEGINS, |record: &Record| record.end.0);
            ended = ended.max(Nanos(began - BEGINS + OURS));
            let mut times = Vec::new();
            let replayed = graph.iter().flat_map(|graph| &graph.launches.kernels);
            for (at, kernel) in own.kernels.iter().chain(replayed).enumerate() {
                let behind = at.checked_sub(own.kernels.len());
                let node = behind.zip(sketch.graph).map_or(0, |(at, graph)| 900 * (graph + 1) - at);
                times.push(run(Some(*kernel), node as u64, &mut records));
                for _ in 0..sketch.library.unwrap_or(0) {
                    run(None, node as u64, &mut records);
                }
            }
            // Each operation from its first kernel to its last.
            let mut at = sketch.before;
            let counts = graph.as_ref().map_or(&sketch.of_each, |graph| {
                let first = sketches.iter().find(|other| other.graph == sketch.graph);
                assert!(Rc::strong_count(graph) > 0);
                &first.unwrap().of_each
            });
            let spans: Vec<Span> = counts
                .iter()
                .map(|count| {
                    let of = &times[at..at + count];
                    at += count;
                    let start = of.first().map_or(ended, |span| span.start);
                    ended = of.last().map_or(ended, |span| span.end);
                    Span { start, end: ended }
                })
                .collect();
            let done = records.last().map_or(BEGINS, |record| record.end.0);
            let ours = |time: u64| Nanos(time - BEGINS + OURS);
            steps.push(Ran {
                launches: own,
                replayed: graph,
                clocks: Clocks {
                    ours: [ours(began), ours(done)],
                    records: [Nanos(began), Nanos(done)],
                },
                told: match sketch.library {
                    Some(_) => Told::Otherwise(spans.clone()),
                    None => Told::Records,
                },
                awaited: true,
            });
            expected.push(spans);
        }
        (steps, records, expected)
    }

    fn sketch() -> impl Strategy<Value = Sketch> {
        let of_each = prop::collection::vec(0_usize..4, 1..6);
        let graph = prop::option::of(0_usize..2);
        let library = prop::option::weighted(0.2, 0_usize..3);
        (of_each, 0_usize..3, graph, library).prop_map(|(of_each, before, graph, library)| Sketch {
            of_each,
            before,
            graph,
            library,
        })
    }

    /// In any order, as buffers may come.
    fn shuffled(records: &[Record], buffer: usize, salt: u64) -> Vec<Record> {
        let mut buffers: Vec<_> = records.chunks(buffer.max(1)).zip(0_u64..).collect();
        buffers.sort_by_key(|(_, at)| at.wrapping_mul(salt | 1).wrapping_add(salt) >> 5);
        buffers.iter().flat_map(|(records, _)| records.iter().copied()).collect()
    }

    #[test]
    fn two_replays_of_one_graph_are_told_apart_by_being_all_there() {
        let each = Sketch { of_each: vec![1, 2], before: 1, graph: Some(0), library: None };
        let (steps, records, expected) = ran(&[each.clone(), each.clone(), each]);
        assert_eq!(join(&steps, &mut shuffled(&records, 3, 9), Nanos::ZERO), Ok(expected));
        // Those of the first are the very kernels and nodes of the second.
        let found = join(&steps, &mut records[4..].to_vec(), Nanos::ZERO);
        assert_eq!(found, Err(Misfit::Count { launches: 12, records: 8 }));
    }

    #[test]
    fn a_librarys_kernels_are_those_of_its_step_and_of_no_other() {
        let own = Sketch { of_each: vec![1, 1], before: 0, graph: None, library: None };
        let with = Sketch { library: Some(2), ..own.clone() };
        let (steps, records, expected) = ran(&[own.clone(), with, own]);
        assert_eq!(join(&steps, &mut records.clone(), Nanos::ZERO), Ok(expected));
        // Between two kernels of the first step.
        let mut foreign = records;
        let between = Nanos(foreign[0].end.0 + 1);
        foreign.push(Record { kernel: None, start: between, end: between, node: 0 });
        assert!(join(&steps, &mut foreign, Nanos::ZERO).is_err());
    }

    #[test]
    fn no_span_begins_before_what_was_told_before() {
        let own = Sketch { of_each: vec![1, 1], before: 0, graph: None, library: None };
        let (steps, mut records, _) = ran(&[own.clone(), Sketch { library: Some(0), ..own }]);
        let spans = join(&steps, &mut records, Nanos(OURS + 40)).unwrap().concat();
        let times: Vec<_> = spans.iter().map(|span| (span.start.0, span.end.0)).collect();
        let at = OURS + 40;
        // By our clock each step has ended by then at the latest.
        assert_eq!(times, [(at, at), (at, at), (at, OURS + 45), (OURS + 50, OURS + 60)]);
    }

    proptest! {
        /// Whatever buffers they come in, and in whatever order these do.
        #[test]
        fn records_of_several_steps_find_their_launches(
            sketches in prop::collection::vec(sketch(), 1..6),
            buffer in 1_usize..9,
            salt in any::<u64>(),
        ) {
            let (steps, records, expected) = ran(&sketches);
            for replay in 0..2 {
                let mut found = shuffled(&records, buffer, salt.wrapping_add(replay));
                prop_assert_eq!(join(&steps, &mut found, Nanos::ZERO), Ok(expected.clone()));
            }
        }

        /// One that is missing, doubled, of no kernel of ours, without an end or of another node is
        /// never taken for a fit, whichever step it is of.
        #[test]
        fn what_is_wrong_with_one_is_a_misfit_of_all(
            sketches in prop::collection::vec(sketch(), 1..6),
            known in any::<bool>(),
            (at, harm, buffer, salt) in (any::<Index>(), 0..6, 1_usize..9, any::<u64>()),
        ) {
            let (steps, mut records, _) = ran(&sketches);
            // A library's own may be as many as they like.
            let own: Vec<usize> =
                (0..records.len()).filter(|at| records[*at].kernel.is_some()).collect();
            prop_assume!(!own.is_empty());
            if known {
                // Nodes were learned before.
                join(&steps, &mut records.clone(), Nanos::ZERO).unwrap();
            }
            let at = own[at.index(own.len())];
            let foreign = steps.iter().any(Ran::is_foreign);
            match harm {
                0 => drop(records.remove(at)),
                1 => records.push(records[at]),
                2 => records[at].kernel = None,
                3 => records[at].kernel = Some(Function(7)),
                4 => {
                    // Of a step that something else times no time is looked at.
                    prop_assume!(!foreign);
                    records[at].end = Nanos::ZERO;
                }
                _ => {
                    // A replay that is the first of its graph may have any nodes.
                    prop_assume!(known && !foreign);
                    records[at].node = 77;
                }
            }
            let mut found = shuffled(&records, buffer, salt);
            prop_assert!(join(&steps, &mut found, Nanos::ZERO).is_err());
        }

        /// As many as there should be, but one is missing and another one came twice.
        #[test]
        fn one_too_few_and_one_too_many_is_no_fit(
            sketches in prop::collection::vec(sketch(), 1..6),
            (lost, twice) in any::<(Index, Index)>(),
            (buffer, salt) in (1_usize..9, any::<u64>()),
        ) {
            let (steps, mut records, _) = ran(&sketches);
            records.retain(|record| record.kernel.is_some());
            prop_assume!(records.len() > 1);
            records.remove(lost.index(records.len()));
            records.push(records[twice.index(records.len())]);
            let mut found = shuffled(&records, buffer, salt);
            prop_assert!(join(&steps, &mut found, Nanos::ZERO).is_err());
        }
    }
}
