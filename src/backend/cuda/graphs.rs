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
use super::launches::TILE_ROWS;

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
    graph: Graph,
}

impl Cuda {
    /// Enqueues the operations of a step of this form, which were handed over before.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if there is no room for a graph, [`DeviceError::Lost`] if the
    /// device fails.
    pub(super) fn run_form(&mut self, form: Form) -> Result<(), DeviceError> {
        let kept = &self.graphs.kept;
        let graph = match kept.get(&form) {
            Some(kept) if kept.ops == self.ops => Some(kept.graph),
            None if kept.len() >= MOST => None,
            _ => Some(self.capture(form)?),
        };
        self.begin()?;
        let ran = match graph {
            Some(graph) => self.driver.replay(graph),
            None => self.run_ops(),
        };
        Ok(ran?)
    }

    fn capture(&mut self, form: Form) -> Result<Graph, DriverError> {
        if self.plan.dense && form.rows > TILE_ROWS {
            // What a library looks for and loads when it first meets a product cannot be written
            // down. A step that runs twice leaves what it leaves once.
            self.run_ops()?;
        }
        self.driver.begin_capture()?;
        self.run_ops()?;
        let graph = self.driver.end_capture()?;
        let kept = Kept { ops: self.ops.clone(), graph };
        if let Some(before) = self.graphs.kept.insert(form, kept) {
            self.driver.forget(before.graph)?;
        }
        Ok(graph)
    }

    fn run_ops(&self) -> Result<(), DriverError> {
        let mut ops = self.ops.iter().zip(&self.events);
        ops.try_for_each(|(op, events)| self.run_between(*op, *events))
    }
}
