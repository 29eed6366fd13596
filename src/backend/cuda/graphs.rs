//! Steps that are written down once and asked for as a whole.
//!
//! A step of decoded rows alone launches the same kernels on the same grids with the same
//! arguments as the last one of its form: only what lies at the addresses differs, and the copy of
//! the step's inputs has put it there. So the host asks for one graph instead of some hundred
//! launches. A form is met first with a capture, which takes about as long as a few steps; the
//! scheduler fills decode steps up to few numbers of rows, so that there are few forms.

use std::collections::HashMap;
use std::rc::Rc;

use crate::backend::{DeviceError, Op};

use super::device::Cuda;
use super::driver::{Driver, DriverError, Graph};
use super::join::Template;
use super::launches::TILE_ROWS;
use super::timing::Way;

/// The most forms that are kept. Those beyond run launch by launch.
const MOST: usize = 512;

/// What decides the launches of a step of decoded rows that all ask for logits, beside its
/// operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    /// Its rows.
    pub rows: u32,
    /// Pieces of the longest context.
    pub pieces: u32,
}

/// The graphs of a device, each with what tells the times of its operations: events stand in a
/// graph between its kernels, records of them do not.
#[derive(Default)]
pub(super) struct Graphs {
    kept: HashMap<(Form, Way), Kept>,
}

struct Kept {
    /// The operations that were captured: a step may be a part of another one of its form.
    ops: Vec<Op>,
    /// One for each set of events that a step may write, or one for all where none stand in it.
    graphs: Vec<Graph>,
    /// Their kernels, where kernels are recorded.
    template: Rc<Template>,
}

impl Graphs {
    /// Ends the graphs whose times are told in this way.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the device is lost.
    pub fn forget(&mut self, driver: &dyn Driver, told: Way) -> Result<(), DriverError> {
        let mut ended = self.kept.extract_if(|(_, way), _| *way == told);
        ended.try_for_each(|(_, kept)| {
            kept.graphs.into_iter().try_for_each(|graph| driver.forget(graph))
        })
    }
}

impl Cuda {
    /// Enqueues the operations of a step of this form, which were handed over before.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if there is no room for a graph, [`DeviceError::Lost`] if the
    /// device fails.
    pub(super) fn run_form(&mut self, form: Form) -> Result<(), DeviceError> {
        let (kept, place) = (&self.graphs.kept, (form, self.timing.way()));
        let set = self.flights.set();
        let of_set = |kept: &Kept| (kept.graphs[set % kept.graphs.len()], kept.template.clone());
        let found = match kept.get(&place) {
            Some(kept) if kept.ops == self.ops => Some(of_set(kept)),
            None if kept.len() >= MOST => None,
            _ => Some(of_set(self.capture(place)?)),
        };
        self.begin(self.ops.len())?;
        let Some((graph, template)) = found else { return Ok(self.run_ops(set)?) };
        self.timing.replayed = Some(template);
        Ok(self.driver.replay(graph)?)
    }

    fn capture(&mut self, place: (Form, Way)) -> Result<&Kept, DriverError> {
        let sets = match place.1 {
            Way::Events => self.flights.sets(),
            Way::Records | Way::Nothing => 1,
        };
        if self.plan.has_library() && place.0.rows > TILE_ROWS {
            // What a library looks for and loads when it first meets a product cannot be written
            // down. A step that runs twice leaves what it leaves once, behind the same tokens; the
            // events are its own set's, whose last step has landed.
            self.take_awaited()?;
            self.run_ops(self.flights.set())?;
            self.driver.wait()?;
        }
        // That ran in front of the replay, and what follows is only written down.
        let ran = std::mem::take(&mut self.timing.launches);
        let mut graphs = Vec::with_capacity(sets);
        for set in 0..sets {
            self.timing.launches.clear();
            self.driver.begin_capture()?;
            self.run_ops(set)?;
            graphs.push(self.driver.end_capture()?);
        }
        if let Some(before) = self.graphs.kept.remove(&place) {
            before.graphs.into_iter().try_for_each(|graph| self.driver.forget(graph))?;
        }
        let launches = std::mem::replace(&mut self.timing.launches, ran);
        let template = Rc::new(Template { launches, ..Template::default() });
        let kept = Kept { ops: self.ops.clone(), graphs, template };
        Ok(self.graphs.kept.entry(place).or_insert(kept))
    }
}
