//! Facts that wait for the times of operations.
//!
//! A device may tell when the operations of a step ran some steps after it told its tokens
//! ([`Backend::late_spans`](crate::backend::Backend::late_spans)). When the step began and ended
//! follows from those times, too, and whoever reads facts reads them in their order. So the facts
//! of such a step wait, and all facts behind them. They are said a few steps at a time, each time
//! the device has been given its next one, and all of them where it has nothing left to do.

use std::collections::{HashMap, VecDeque};

use crate::backend::{CopySpan, Op, Span};
use crate::cost::Budget;
use crate::event::{Direction, Fact, Recorder, RequestId, Row, Step};
use crate::unit::Nanos;

use super::chronicle::Chronicle;

/// A step that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// As far as the host knows: it may have begun later, behind the one before, and ended sooner,
    /// if the next one was in flight.
    pub step: Step,
    pub followed: bool,
    pub rows: Vec<Row>,
    pub operations: Vec<(Op, Budget)>,
    /// When they ran as events tell it.
    pub copies: Vec<CopySpan>,
    /// Whose first turn it was, of those that have not left: they had it when it began.
    pub first: Vec<RequestId>,
}

#[derive(Debug)]
enum Entry {
    Fact(Fact),
    Step(Box<Ended>),
}

/// What waits, in order; a step comes first if anything waits at all.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: VecDeque<Entry>,
    /// When the last step ended that was said.
    last_end: Nanos,
    /// When requests had their first turn that have not been said to have left.
    turns: HashMap<RequestId, Nanos>,
    /// Room that was used.
    spare: Vec<Vec<(Op, Budget)>>,
}

/// Where an engine says its facts while some may wait.
pub(super) struct Telling<'r> {
    pub held: Held,
    pub to: &'r mut dyn Recorder,
}

impl Ended {
    /// The spans of its operations came late, by another clock than that of its copies: what a copy
    /// took stays, and it lies before the operations, and not before `after`, or behind them if it
    /// carries to the host what they gave. Where nothing tells the times of operations nothing is
    /// said of copies.
    fn fit_copies(&mut self, spans: &[Span], after: Nanos) {
        let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
            return self.copies.clear();
        };
        let took = |copy: &CopySpan| copy.span.end.saturating_sub(copy.span.start);
        let is_result = |copy: &&mut CopySpan| copy.direction == Direction::ToHost;
        let (results, inputs): (Vec<_>, Vec<_>) = self.copies.iter_mut().partition(is_result);
        let mut end = first.start;
        for copy in inputs.into_iter().rev() {
            let start = end.saturating_sub(took(copy)).max(after).min(end);
            (copy.span, end) = (Span { start, end }, start);
        }
        let mut start = last.end;
        for copy in results {
            let end = start + took(copy);
            // The host has noticed since.
            let end = end.min(self.step.end.max(start));
            (copy.span, start) = (Span { start, end }, end);
        }
    }
}

impl Held {
    /// Room for the operations of a step.
    pub fn room(&mut self) -> Vec<(Op, Budget)> {
        self.spare.pop().unwrap_or_default()
    }

    /// As it lies behind the last step that was said. Operations and copies, and one step and the
    /// next, may be timed by clocks that are microseconds apart.
    fn behind(&self, span: Span) -> Span {
        Span { start: span.start.max(self.last_end), end: span.end.max(self.last_end) }
    }
}

impl Recorder for Telling<'_> {
    fn record(&mut self, fact: Fact) {
        match self.held.entries.is_empty() {
            true => self.pass(fact),
            false => self.held.entries.push_back(Entry::Fact(fact)),
        }
    }
}

impl Telling<'_> {
    /// A step ended whose times come later.
    pub fn hold(&mut self, ended: Ended) {
        self.held.entries.push_back(Entry::Step(Box::new(ended)));
    }

    /// The operations of the step that is waited for, if one is.
    pub fn waits_for(&self) -> Option<&[(Op, Budget)]> {
        match self.held.entries.front()? {
            Entry::Step(ended) => Some(&ended.operations),
            Entry::Fact(_) => None,
        }
    }

    /// Says the step that is waited for, with the spans of its operations or of none, and all that
    /// waits for it alone.
    pub fn release(&mut self, chronicle: &Chronicle, spans: &mut [Span]) {
        if let Some(Entry::Step(mut ended)) = self.held.entries.pop_front() {
            spans.iter_mut().for_each(|span| *span = self.held.behind(*span));
            ended.fit_copies(spans, self.held.last_end);
            self.say(*ended, chronicle, spans);
        }
        while let Some(Entry::Fact(_)) = self.held.entries.front()
            && let Some(Entry::Fact(fact)) = self.held.entries.pop_front()
        {
            self.pass(fact);
        }
    }

    fn pass(&mut self, mut fact: Fact) {
        if let Fact::Finish(finish) = &mut fact
            && let Some(turn) = self.held.turns.remove(&finish.request)
        {
            finish.first_scheduled = Some(turn);
        }
        self.to.record(fact);
    }

    /// Says a step, its rows and its launches, if there are times. Gives when it ended.
    pub fn say(&mut self, ended: Ended, chronicle: &Chronicle, spans: &mut [Span]) -> Nanos {
        let Ended { mut step, followed, rows, mut operations, mut copies, first } = ended;
        spans.iter_mut().for_each(|span| *span = self.held.behind(*span));
        copies.iter_mut().for_each(|copy| copy.span = self.held.behind(copy.span));
        step.host_start = step.host_start.max(self.held.last_end);
        self.held.turns.extend(first.into_iter().map(|request| (request, step.host_start)));
        step.start = step.start.max(self.held.last_end);
        if let (true, Some(last)) = (followed, spans.last()) {
            // The host may have been busy with the next step when the results came.
            step.end = copies.last().map_or(last.end, |copy| copy.span.end.max(last.end));
        }
        step.end = step.end.max(step.start);
        self.held.last_end = step.end;
        self.to.record(Fact::Step(step));
        for row in rows {
            self.to.record(Fact::Row(row));
        }
        for (operation, span) in operations.iter().zip(&*spans) {
            chronicle.launch(step.step, operation, *span, self.to);
        }
        for copy in &copies {
            chronicle.copy(step.step, copy, self.to);
        }
        operations.clear();
        self.held.spare.push(operations);
        step.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Cargo;
    use crate::unit::Bytes;

    fn span(start: u64, end: u64) -> Span {
        Span { start: Nanos(start), end: Nanos(end) }
    }

    fn copy(direction: Direction, start: u64, end: u64) -> CopySpan {
        CopySpan { span: span(start, end), cargo: Cargo::Data, direction, bytes: Bytes(8) }
    }

    /// Where copies at 100–110, 110–115 and 190–197 of a step lie beside such operations.
    fn fitted(spans: &[Span], after: u64, followed: bool) -> Vec<(u64, u64)> {
        let step = Step { end: Nanos(200), ..Step::default() };
        let copies = vec![
            copy(Direction::ToDevice, 100, 110),
            copy(Direction::Within, 110, 115),
            copy(Direction::ToHost, 190, 197),
        ];
        let (rows, operations, first) = (Vec::new(), Vec::new(), Vec::new());
        let mut ended = Ended { step, followed, rows, operations, copies, first };
        ended.fit_copies(spans, Nanos(after));
        ended.copies.iter().map(|copy| (copy.span.start.0, copy.span.end.0)).collect()
    }

    #[test]
    fn copies_lie_around_operations_that_another_clock_timed() {
        let operations = [span(120, 130), span(130, 180)];
        // As long as they took, before the first and behind the last.
        assert_eq!(fitted(&operations, 0, true), [(105, 115), (115, 120), (180, 187)]);
        // The step before ended later than that.
        assert_eq!(fitted(&operations, 112, true), [(112, 115), (115, 120), (180, 187)]);
        assert_eq!(fitted(&operations, 119, true), [(119, 119), (119, 120), (180, 187)]);
        // The host has noticed its end.
        let late = [span(120, 198)];
        assert_eq!(fitted(&late, 0, false), [(105, 115), (115, 120), (198, 200)]);
        assert_eq!(fitted(&late, 0, true), [(105, 115), (115, 120), (198, 200)]);
    }

    #[test]
    fn of_a_step_without_times_no_copy_is_told() {
        assert_eq!(fitted(&[], 0, true), []);
    }
}
