//! Which record of a kernel belongs to which launch of a step, and what an operation's time follows
//! from. Which records are of the step is known ([`join`](super::join)).
//!
//! All work is in one order. So records outside graphs belong, in the order of their starts, one to
//! one to what was launched. Those of a graph carry the node that ran: the first replay teaches
//! which node stands where in the order, and later ones are put there by their nodes. Every record
//! must be of the kernel that was launched in its place. Records that are missing, too many, of
//! another kernel or without times that make sense are a [`Misfit`] of all: one that is missing
//! would give each behind it the time of another.

use std::collections::HashMap;

use crate::backend::Span;
use crate::unit::Nanos;

use super::driver::Function;

/// A kernel as it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which; `None` if the driver was never asked for a kernel of its name.
    pub kernel: Option<Function>,
    /// When it began, by the records' own clock; 0 if that is not known.
    pub start: Nanos,
    /// When it ended, by the same clock; 0 if that is not known.
    pub end: Nanos,
    /// The node of the graph that it ran in; 0 outside graphs.
    pub node: u64,
}

/// Why records are not those of what was launched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Some were dropped on their way.
    #[error("records that were dropped: {0}")]
    Dropped(u64),
    /// There are more or fewer than launches.
    #[error("{records} records for {launches} launches")]
    Count {
        /// Launches.
        launches: usize,
        /// Records.
        records: usize,
    },
    /// One came twice.
    #[error("record {0} came twice")]
    Doubled(usize),
    /// One is of another kernel than the one that was launched in its place.
    #[error("record {0} is of another kernel than launch {0}")]
    Kernel(usize),
    /// One ran in a graph where none was replayed, or outside, or in an unknown node of it, or in
    /// one that another ran in.
    #[error("record {0} is of another node than launch {0}")]
    Node(usize),
    /// One has no times, or they lie outside the step or before the record before it.
    #[error("record {0} has no time within its step")]
    Time(usize),
}

/// The kernels of a step, in the order of their launches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launches {
    /// All of them.
    pub kernels: Vec<Function>,
    /// How many came before the first operation and belong to none.
    before: usize,
    /// How many there were when each operation ended.
    ends: Vec<usize>,
}

/// Which node of a graph stands where in the order of launches; empty until a replay taught it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    places: HashMap<u64, u64>,
}

/// Both clocks, when a step began and once all of it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Ours at the beginning and the end.
    pub ours: [Nanos; 2],
    /// That of records when it began, and after its end.
    pub records: [Nanos; 2],
}

/// How far a record may lie outside its step: clocks of host and card are held together within
/// microseconds.
const APART: Nanos = Nanos(100_000);

impl Launches {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.kernels.clear();
        self.before = 0;
        self.ends.clear();
    }

    /// What was launched so far belongs to no operation.
    pub fn end_of_none(&mut self) {
        self.before = self.kernels.len();
        self.ends.clear();
    }

    /// What was launched since the last call is one operation.
    pub fn end_operation(&mut self) {
        self.ends.push(self.kernels.len());
    }

    /// Takes records that are in the order of their starts for those of launches outside graphs.
    ///
    /// # Errors
    /// [`Misfit`] if they are not the records of these launches; their order is not defined then.
    pub fn order(&self, records: &[Record]) -> Result<(), Misfit> {
        self.named(records)?;
        match records.iter().position(|record| record.node != 0) {
            Some(at) => Err(Misfit::Node(at)),
            None => Ok(()),
        }
    }

    /// Puts records of one replay of a graph that holds these launches, which are in the order of
    /// their starts, in the order of the launches, and learns its `nodes` if they are not known
    /// yet. The node of each record becomes its place.
    ///
    /// # Errors
    /// [`Misfit`] if they are not the records of these launches; their order is not defined then,
    /// and nothing is learned.
    pub fn order_replayed(&self, nodes: &mut Nodes, records: &mut [Record]) -> Result<(), Misfit> {
        if nodes.places.is_empty() {
            self.named(records)?;
            *nodes = Nodes::of(records)?;
        }
        self.count(records)?;
        // One look for each, not one for each comparison.
        for (at, record) in records.iter_mut().enumerate() {
            record.node = *nodes.places.get(&record.node).ok_or(Misfit::Node(at))?;
        }
        records.sort_unstable_by_key(|record| record.node);
        // As many as places, in their order, each in its own: every place is taken once.
        match records.iter().zip(0..).position(|(record, place)| record.node != place) {
            Some(at) => Err(Misfit::Node(at)),
            None => self.named(records),
        }
    }

    const fn count(&self, records: &[Record]) -> Result<(), Misfit> {
        let (launches, records) = (self.kernels.len(), records.len());
        if launches == records { Ok(()) } else { Err(Misfit::Count { launches, records }) }
    }

    fn named(&self, records: &[Record]) -> Result<(), Misfit> {
        self.count(records)?;
        let mut pairs = self.kernels.iter().zip(records);
        match pairs.position(|(kernel, record)| record.kernel != Some(*kernel)) {
            Some(at) => Err(Misfit::Kernel(at)),
            None => Ok(()),
        }
    }

    /// Appends the span of each operation, from records in the order of the launches: from the
    /// beginning of its first kernel to the end of its last one. One that launched nothing has an
    /// empty span where the one before it ended. All lie within the step by our clock and not
    /// before `after`, one behind another.
    ///
    /// # Errors
    /// [`Misfit::Time`] if the times of a record make no sense; nothing is appended then.
    pub fn spans(
        &self,
        records: &[Record],
        clocks: &Clocks,
        after: Nanos,
        spans: &mut Vec<Span>,
    ) -> Result<(), Misfit> {
        let mut before = Nanos::ZERO;
        for (at, record) in records.iter().enumerate() {
            if !clocks.hold(record) || record.start < before {
                return Err(Misfit::Time(at));
            }
            before = record.start;
        }
        let (mut first, mut ended) = (self.before, clocks.ours[0].max(after));
        spans.extend(self.ends.iter().map(|end| {
            let of = &records[first..*end];
            first = *end;
            let start = of.first().map_or(ended, |record| clocks.ours(record.start).max(ended));
            ended = of.last().map_or(ended, |record| clocks.ours(record.end).max(start));
            Span { start, end: ended }
        }));
        Ok(())
    }
}

impl Nodes {
    /// Of records in the order of their launches.
    fn of(records: &[Record]) -> Result<Self, Misfit> {
        let mut places = HashMap::with_capacity(records.len());
        for (at, record) in records.iter().enumerate() {
            if record.node == 0 || places.insert(record.node, at as u64).is_some() {
                return Err(Misfit::Node(at));
            }
        }
        Ok(Self { places })
    }
}

impl Clocks {
    fn hold(&self, record: &Record) -> bool {
        let [began, ended] = self.records;
        let known = record.start > Nanos::ZERO && record.start <= record.end;
        known && record.start + APART >= began && record.end <= ended + APART
    }

    /// A time of a record by our clock, inside the step.
    fn ours(&self, time: Nanos) -> Nanos {
        let ([began, ended], [records_began, _]) = (self.ours, self.records);
        (began + time.saturating_sub(records_began)).min(ended)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Operations of so many launches each, kernels numbered as they come.
    fn launches(of_each: &[usize]) -> Launches {
        let mut launches = Launches::default();
        for count in of_each {
            let next = launches.kernels.len() as u64;
            launches.kernels.extend((next..next + *count as u64).map(|at| Function(at % 3)));
            launches.end_operation();
        }
        launches
    }

    /// Records of `launches`, each of 10 ns behind 5 ns of nothing, in a graph or not.
    fn records(launches: &Launches, began: u64, first_node: Option<u64>) -> Vec<Record> {
        let each = launches.kernels.iter().zip(0..);
        each.map(|(kernel, at)| Record {
            kernel: Some(*kernel),
            start: Nanos(began + 5 + 15 * at),
            end: Nanos(began + 15 + 15 * at),
            // Nodes are not numbered in their order.
            node: first_node.map_or(0, |first| first + 1000 - at),
        })
        .collect()
    }

    fn times(records: &[Record]) -> Vec<(Option<Function>, Nanos, Nanos)> {
        records.iter().map(|record| (record.kernel, record.start, record.end)).collect()
    }

    const CLOCKS: Clocks =
        Clocks { ours: [Nanos(1000), Nanos(9000)], records: [Nanos(5_000_000), Nanos(5_008_000)] };

    fn spans(launches: &Launches, records: &[Record]) -> Vec<(u64, u64)> {
        let mut spans = Vec::new();
        launches.spans(records, &CLOCKS, Nanos::ZERO, &mut spans).unwrap();
        spans.iter().map(|span| (span.start.0, span.end.0)).collect()
    }

    #[test]
    fn an_operation_lasts_from_its_first_kernel_to_its_last() {
        let launches = launches(&[0, 1, 2, 0, 3]);
        let records = records(&launches, 5_000_000, None);
        let expected = [(1000, 1000), (1005, 1015), (1020, 1045), (1045, 1045), (1050, 1090)];
        assert_eq!(spans(&launches, &records), expected);
    }

    #[test]
    fn spans_lie_within_the_step_one_behind_another() {
        let launches = launches(&[1, 1, 1]);
        let mut records = records(&launches, 5_000_000, None);
        // By clocks that are not quite together: before the step, into the next one, behind it.
        records[0].start = Nanos(4_999_990);
        records[0].end = Nanos(5_000_030);
        records[2].end = Nanos(5_009_000);
        let expected = [(1000, 1030), (1030, 1030), (1035, 9000)];
        assert_eq!(spans(&launches, &records), expected);
    }

    #[test]
    fn times_that_make_no_sense_are_refused() {
        let launches = launches(&[1, 2]);
        let good = records(&launches, 5_000_000, None);
        for (at, start, end) in [
            (0, 0, 0),
            (1, 5_000_020, 0),
            (1, 5_000_020, 5_000_019),
            (0, 4_000_000, 4_000_010),
            (2, 5_000_035, 6_000_000),
            (2, 5_000_019, 5_000_040),
        ] {
            let mut records = good.clone();
            (records[at].start, records[at].end) = (Nanos(start), Nanos(end));
            let mut spans = Vec::new();
            let found = launches.spans(&records, &CLOCKS, Nanos::ZERO, &mut spans);
            assert_eq!((found, spans), (Err(Misfit::Time(at)), Vec::new()));
        }
    }

    #[test]
    fn a_graphs_nodes_are_learned_once() {
        let launches = launches(&[1, 2, 0, 1]);
        let mut nodes = Nodes::default();
        let first = records(&launches, 5_000_000, Some(1));
        launches.order_replayed(&mut nodes, &mut first.clone()).unwrap();
        // A later replay says nothing by its order.
        let mut again = records(&launches, 5_001_000, Some(1));
        again.reverse();
        launches.order_replayed(&mut nodes, &mut again).unwrap();
        assert_eq!(times(&again), times(&records(&launches, 5_001_000, Some(1))));
        // Another graph has other nodes.
        let mut other = records(&launches, 5_001_000, Some(2000));
        assert_eq!(launches.order_replayed(&mut nodes, &mut other), Err(Misfit::Node(0)));
        // Nor does one teach what it is not sure of.
        let mut nodes = Nodes::default();
        for (records, expected) in [
            (&mut first[1..].to_vec(), Misfit::Count { launches: 4, records: 3 }),
            (&mut records(&launches, 5_000_000, None), Misfit::Node(0)),
        ] {
            assert_eq!(launches.order_replayed(&mut nodes, records), Err(expected));
            assert_eq!(nodes, Nodes::default());
        }
    }

    #[test]
    fn a_record_of_a_graph_is_none_of_a_launch() {
        let launches = launches(&[2]);
        let mut records = records(&launches, 5_000_000, None);
        records[1].node = 7;
        assert_eq!(launches.order(&records), Err(Misfit::Node(1)));
    }

    proptest! {
        /// Records find their launches in the order of their starts, and those of a graph that is
        /// known in any order.
        #[test]
        fn records_find_their_launches(
            of_each in prop::collection::vec(0_usize..4, 0..20),
            first_node in prop::option::of(1_u64..1000),
            shuffle in any::<u64>(),
        ) {
            let launches = launches(&of_each);
            let expected = records(&launches, 5_000_000, first_node);
            let mut nodes = Nodes::default();
            for replay in 0..3 {
                let mut found = expected.clone();
                let key = |record: &Record| {
                    record.start.0.wrapping_mul(shuffle.wrapping_add(replay) | 1) >> 7
                };
                if !nodes.places.is_empty() {
                    found.sort_by_key(key);
                }
                match first_node {
                    None => launches.order(&found).unwrap(),
                    Some(_) => launches.order_replayed(&mut nodes, &mut found).unwrap(),
                }
                prop_assert_eq!(times(&found), times(&expected));
            }
            let mut spans = Vec::new();
            launches.spans(&expected, &CLOCKS, Nanos::ZERO, &mut spans).unwrap();
            prop_assert_eq!(spans.len(), of_each.len());
            prop_assert!(spans.iter().all(|span| span.start <= span.end));
            prop_assert!(spans.is_sorted_by(|a, b| a.end <= b.start));
        }

        /// One record that is missing, doubled or of another kernel is never taken for a fit.
        #[test]
        fn what_does_not_fit_is_found(
            of_each in prop::collection::vec(0_usize..4, 1..20),
            in_graph in any::<bool>(),
            known in any::<bool>(),
            at in any::<prop::sample::Index>(),
            harm in 0..3,
        ) {
            let launches = launches(&of_each);
            prop_assume!(!launches.kernels.is_empty());
            let mut nodes = Nodes::default();
            let mut found = records(&launches, 5_000_000, in_graph.then_some(1));
            if in_graph && known {
                launches.order_replayed(&mut nodes, &mut found.clone()).unwrap();
            }
            let at = at.index(found.len());
            match harm {
                0 => drop(found.remove(at)),
                1 => found.push(found[at]),
                _ => found[at].kernel = None,
            }
            found.sort_by_key(|record| record.start);
            let fit = match in_graph {
                false => launches.order(&found),
                true => launches.order_replayed(&mut nodes, &mut found),
            };
            prop_assert!(fit.is_err());
        }
    }
}
