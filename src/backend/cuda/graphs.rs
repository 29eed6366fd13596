//! Steps that are written down once and asked for as a whole.
//!
//! A step of decoded rows alone launches the same kernels on the same grids with the same
//! arguments as the last one of its form: only what lies at the addresses differs, and the copy of
//! the step's inputs has put it there. So the host asks for one graph instead of some hundred
//! launches. A form is met first with a capture, which takes about as long as a few steps; the
//! scheduler fills decode steps up to few numbers of rows, so that there are few forms.

use std::collections::HashMap;

use crate::backend::{DeviceError, Op};

use super::device::Cuda;
use super::driver::{DriverError, Graph};

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

/// The graphs of a device.
#[derive(Default)]
pub(super) struct Graphs {
    kept: HashMap<Form, Kept>,
}

struct Kept {
    /// The operations that were captured: a step may be a part of another one of its form.
    ops: Vec<Op>,
    /// One for each set of events that a step may write.
    graphs: Vec<Graph>,
}

impl Cuda {
    /// Enqueues the operations of a step of this form, which were handed over before.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if there is no room for a graph, [`DeviceError::Lost`] if the
    /// device fails.
    pub(super) fn run_form(&mut self, form: Form) -> Result<(), DeviceError> {
        let (kept, set) = (&self.graphs.kept, self.flights.set());
        let graph = match kept.get(&form) {
            Some(kept) if kept.ops == self.ops => Some(kept.graphs[set]),
            None if kept.len() >= MOST => None,
            _ => Some(self.capture(form)?[set]),
        };
        self.begin(self.ops.len())?;
        let ran = match graph {
            Some(graph) => self.driver.replay(graph),
            None => self.run_ops(set),
        };
        Ok(ran?)
    }

    fn capture(&mut self, form: Form) -> Result<&[Graph], DriverError> {
        let mut graphs = Vec::with_capacity(self.flights.most());
        for set in 0..self.flights.most() {
            self.driver.begin_capture()?;
            self.run_ops(set)?;
            graphs.push(self.driver.end_capture()?);
        }
        if let Some(before) = self.graphs.kept.remove(&form) {
            before.graphs.into_iter().try_for_each(|graph| self.driver.forget(graph))?;
        }
        let kept = Kept { ops: self.ops.clone(), graphs };
        Ok(&self.graphs.kept.entry(form).or_insert(kept).graphs)
    }

    /// Launches the operations one by one, with the events of a set.
    fn run_ops(&self, set: usize) -> Result<(), DriverError> {
        let mut ops = self.ops.iter().zip(self.flights.operations(set));
        ops.try_for_each(|(op, events)| self.run_between(*op, *events))
    }
}
