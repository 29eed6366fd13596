//! What is known of a device's facts while they come: the recent ones, numbered in order of time.

use std::collections::{HashMap, VecDeque};

use crate::event::{Fate, MemoryCopy, Outcome, Power, Row, StateChange, Step, StepId};
use crate::trace::{copy_order, resolve};
use crate::waste::clock::{ClockChange, Clocks};
use crate::waste::timeline::{Places, Plan, Stretch};

/// Steps that stay known although time has passed them: operations of a step may be said late.
const STEPS_KEPT: usize = 64;

/// Things numbered from the first one on, of which the oldest are forgotten.
#[derive(Debug)]
struct Shelf<T> {
    forgotten: usize,
    items: VecDeque<T>,
}

impl<T> Shelf<T> {
    const fn new() -> Self {
        Self { forgotten: 0, items: VecDeque::new() }
    }

    fn push(&mut self, item: T) -> usize {
        self.items.push_back(item);
        self.forgotten + self.items.len() - 1
    }

    fn get(&self, place: usize) -> Option<&T> {
        self.items.get(place.checked_sub(self.forgotten)?)
    }

    fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.items.get_mut(place.checked_sub(self.forgotten)?)
    }

    /// Puts an item where `order` has it among those that are kept.
    fn insert<K: Ord>(&mut self, item: T, order: impl Fn(&T) -> K) {
        let key = order(&item);
        let behind = self.items.iter().rev().take_while(|other| order(other) > key).count();
        self.items.insert(self.items.len() - behind, item);
    }

    /// Forgets everything before `place`.
    fn forget_before(&mut self, place: usize, mut each: impl FnMut(T)) {
        while self.forgotten < place
            && let Some(item) = self.items.pop_front()
        {
            self.forgotten += 1;
            each(item);
        }
    }
}

#[derive(Debug)]
struct KnownStep {
    step: Step,
    rows: Vec<Row>,
}

/// The facts of one device that are known.
#[derive(Debug)]
pub(super) struct Known {
    states: Shelf<StateChange>,
    clock: Clocks,
    clocks: Shelf<ClockChange>,
    copies: Shelf<MemoryCopy>,
    stretches: Shelf<Stretch>,
    steps: Shelf<KnownStep>,
    places: HashMap<StepId, usize>,
    last_end: u64,
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            states: Shelf::new(),
            clock: Clocks::default(),
            clocks: Shelf::new(),
            copies: Shelf::new(),
            stretches: Shelf::new(),
            steps: Shelf::new(),
            places: HashMap::new(),
            last_end: 0,
        }
    }

    pub(super) fn push_state(&mut self, change: StateChange) {
        self.states.push(change);
    }

    pub(super) fn push_reading(&mut self, reading: &Power) {
        if let Some(change) = self.clock.take(reading) {
            self.clocks.push(change);
        }
    }

    /// A copy that begins behind all that the walker has reached.
    pub(super) fn push_copy(&mut self, copy: MemoryCopy) {
        self.copies.insert(copy, copy_order);
    }

    /// Bytes of the copies that the walker has not reached.
    pub(super) fn copied_ahead(&self) -> u128 {
        self.copies.items.iter().map(|copy| u128::from(copy.moved())).sum()
    }

    pub(super) fn push_step(&mut self, step: Step) {
        let place = self.steps.push(KnownStep { step, rows: Vec::new() });
        let stretch = Stretch::after(self.last_end, &step, place);
        self.last_end = stretch.end;
        self.stretches.push(stretch);
        self.places.insert(step.step, place);
    }

    /// Rows of a known step, kept in the order in which a run that has been read holds them.
    pub(super) fn push_row(&mut self, row: Row) {
        let place = self.places.get(&row.step).copied();
        let Some(known) = place.and_then(|place| self.steps.get_mut(place)) else { return };
        insert(&mut known.rows, row);
    }

    /// The state that was entered last.
    pub(super) fn last_state(&self) -> Option<StateChange> {
        self.states.items.back().copied()
    }

    /// A request has left: what its rows became is known from now on.
    pub(super) fn resolve(&mut self, request: u64, outcome: Outcome) {
        for known in &mut self.steps.items {
            resolve_rows(&mut known.rows, request, outcome);
        }
    }

    /// Forgets what the walker, which is at these places, will not ask for again.
    pub(super) fn forget(&mut self, places: Places) {
        let Places { state, clock, stretch, copy } = places;
        self.states.forget_before(state.saturating_sub(1), |_| ());
        self.clocks.forget_before(clock, |_| ());
        self.copies.forget_before(copy, |_| ());
        self.stretches.forget_before(stretch, |_| ());
        let places = &mut self.places;
        self.steps.forget_before(stretch.saturating_sub(STEPS_KEPT), |known| {
            places.remove(&known.step.step);
        });
    }
}

/// The order of a step's rows.
fn order(row: &Row) -> impl Ord + use<> {
    (row.request, row.phase, row.context_tokens, row.fate, row.rows)
}

/// Puts a row in its place among a step's rows.
pub(super) fn insert(rows: &mut Vec<Row>, row: Row) {
    let at = rows.partition_point(|other| order(other) <= order(&row));
    rows.insert(at, row);
}

/// Gives the open rows of a request their fate. `true` if there were any.
pub(super) fn resolve_rows(rows: &mut [Row], request: u64, outcome: Outcome) -> bool {
    let mut found = false;
    for row in rows.iter_mut() {
        if row.fate == Fate::Open && row.request.is_some_and(|id| id.0 == request) {
            row.fate = resolve(Some(outcome));
            found = true;
        }
    }
    if found {
        rows.sort_by_key(order);
    }
    found
}

impl Plan for Known {
    fn state(&self, place: usize) -> Option<StateChange> {
        self.states.get(place).copied()
    }

    fn clock(&self, place: usize) -> Option<ClockChange> {
        self.clocks.get(place).copied()
    }

    fn copy(&self, place: usize) -> Option<MemoryCopy> {
        self.copies.get(place).copied()
    }

    fn stretch(&self, place: usize) -> Option<Stretch> {
        self.stretches.get(place).copied()
    }

    fn place(&self, step: StepId) -> Option<usize> {
        self.places.get(&step).copied()
    }

    fn step(&self, place: usize) -> Option<(Step, &[Row])> {
        self.steps.get(place).map(|known| (known.step, known.rows.as_slice()))
    }
}
