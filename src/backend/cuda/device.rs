//! The device: what it holds, and the trait's duties.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use crate::backend::{
    Backend, CopySpan, Description, DeviceError, LateSpans, Limits, Op, Sampled, Span, StepInputs,
    TimedBy,
};
use crate::cost::{Storage, Techniques};
use crate::event::{Ceilings, Clock};
use crate::model::{Encoding, Model, Shape};
use crate::unit::Bytes;

use super::copies::Copies;
use super::dense::narrow;
use super::driver::{Address, Card, Dense, Driver};
use super::flights::{Flights, shelf_bytes};
use super::graphs::Graphs;
use super::image::Program;
use super::launches::{Kernels, TILE_ROWS};
use super::plan::{Narrow, Plan};
use super::rooms::{Room, Rooms};
use super::step::Step;
use super::timing::{Timing, Way};
use super::weights::{Upload, Weights, allocate};

/// How a model is put on a card.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How weights are held: bf16, f16, q8_0, q4_0, e4m3, i8, i4 or nf4. Activations are f16 for
    /// f16 weights, else bf16.
    pub precision: Encoding,
    /// How keys and values are held: f16, bf16, e4m3 or i8.
    pub kv_precision: Encoding,
    /// How large steps and the KV pool are.
    pub limits: Limits,
    /// Which techniques are used.
    pub techniques: Techniques,
}

/// A card.
pub struct Cuda {
    pub(super) kernels: Kernels,
    pub(super) shape: Shape,
    pub(super) plan: Plan,
    storage: Storage,
    pub(super) description: Description,
    pub(super) clock: Arc<dyn Clock + Send>,
    pub(super) weights: Weights,
    /// Keys and values of each layer, and their scales where they have any.
    pub(super) cache: Vec<[Address; 4]>,
    pub(super) rooms: Rooms,
    pub(super) step: Step,
    /// The operations of the step that is being handed over, so far.
    pub(super) ops: Vec<Op>,
    /// Whether there is one.
    open: bool,
    pub(super) graphs: Graphs,
    pub(super) flights: Flights,
    copies: Copies,
    pub(super) timing: Timing,
    logits: OnceCell<Vec<f32>>,
    // Last, so that it is dropped after everything that it allocated.
    pub(super) driver: Box<dyn Driver>,
}

/// Operations of a step: of each layer, and around the layers; and with stand-ins of fused ones.
const LAYER_OPS: usize = 11;
const OTHER_OPS: usize = 4;
const UNFUSED_LAYER_OPS: usize = 30;
const UNFUSED_OTHER_OPS: usize = 8;

impl Cuda {
    /// The card it is on.
    #[must_use]
    pub fn card(&self) -> &Card {
        self.driver.card()
    }

    /// Puts `model` on the card of `driver` and makes room for steps and the KV pool.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if the card cannot hold it, [`DeviceError::Unsupported`] if the
    /// options or the shape have no kernels, [`DeviceError::Model`] if a tensor cannot be read,
    /// [`DeviceError::Lost`] if the device fails.
    pub fn load(
        driver: Box<dyn Driver>,
        model: &Model,
        options: Options,
        clock: Arc<dyn Clock + Send>,
    ) -> Result<Self, DeviceError> {
        let shape = model.shape().clone();
        let mut plan = Plan::new(&shape, options)?;
        plan.dense = plan.suits_library() && driver.multiplies()?;
        plan.narrow = narrow(&*driver, &shape, &plan)?;
        check_room(&*driver, &shape, &plan, options.precision)?;
        let Plan { activation, techniques, narrow, .. } = plan;
        let parts = [plan.splits_swiglu(), narrow == Some(Narrow::I8)];
        driver.load(&Program::all(activation, shape.head_dim, techniques, parts))?;
        let kernels = Kernels::of(&*driver, &plan, &shape)?;
        let formats = (plan.format, plan.activation);
        let weights = Upload::new(&*driver, model, options.precision, formats).weights()?;
        let mut room = Room::new(&*driver);
        let rooms = room.all(&shape, &plan, &weights)?;
        let step = Step::new(&*driver, &plan, shape.vocab)?;
        let workspace = room.taken + Step::bytes(&plan, shape.vocab);
        let (pool, scales) = (plan.pool_bytes(&shape), plan.pool_scale_bytes(&shape));
        let take = |bytes| match bytes {
            0 => Ok(Address::NULL),
            bytes => allocate(&*driver, "the KV pool", bytes),
        };
        let cache = (0..shape.layers)
            .map(|_| Ok([take(pool - scales)?, take(pool - scales)?, take(scales)?, take(scales)?]))
            .collect::<Result<Vec<_>, DeviceError>>()?;
        let (of_layer, others) = match plan.techniques.fused() {
            true => (LAYER_OPS, OTHER_OPS),
            false => (UNFUSED_LAYER_OPS, UNFUSED_OTHER_OPS),
        };
        let ops = of_layer * shape.layers as usize + others;
        let inputs = Step::bytes(&plan, shape.vocab);
        let asked = plan.limits.logits_rows as usize;
        let flights = Flights::new(&*driver, plan.steps_in_flight(), [ops, asked], inputs)?;
        let copies = Copies::new(&*driver, plan.steps_in_flight(), shelf_bytes(asked) as u64)?;
        driver.wait()?;
        let card = driver.card();
        let description = Description {
            kind: "cuda",
            name: card.name.clone(),
            memory: Bytes(card.memory),
            weights: Bytes(weights.bytes),
            workspace: Bytes(workspace),
            kv_pool: Bytes(2 * pool * u64::from(shape.layers)),
        };
        Ok(Self {
            kernels,
            storage: plan.storage(),
            description,
            clock,
            weights,
            cache,
            rooms,
            step,
            ops: Vec::with_capacity(ops),
            open: false,
            graphs: Graphs::default(),
            flights,
            copies,
            timing: Timing::new(&*driver),
            logits: OnceCell::new(),
            shape,
            plan,
            driver,
        })
    }
}

/// Refuses what the card cannot hold before anything is put on it.
fn check_room(
    driver: &dyn Driver,
    shape: &Shape,
    plan: &Plan,
    precision: Encoding,
) -> Result<(), DeviceError> {
    let pool = 2 * plan.pool_bytes(shape) * u64::from(shape.layers);
    let workspace = if plan.has_library() { Dense::WORKSPACE } else { 0 };
    let needed = shape.weight_bytes(precision) + pool + workspace;
    let available = driver.free_memory()?;
    if needed > available {
        let what = "the model with its KV pool".to_owned();
        return Err(DeviceError::OutOfMemory { what, needed, available });
    }
    Ok(())
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Cuda")
            .field("card", self.driver.card())
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

impl Backend for Cuda {
    fn description(&self) -> &Description {
        &self.description
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn limits(&self) -> Limits {
        self.plan.limits
    }

    fn ceilings(&self, folder: Option<&Path>) -> Result<Ceilings, DeviceError> {
        self.roofs(folder)
    }

    fn storage(&self) -> &Storage {
        &self.storage
    }

    fn steps_in_flight(&self) -> u32 {
        match self.timing.traces() && self.timing.late.is_due() {
            // Records are asked for when nothing runs.
            true => 1,
            false => self.plan.steps_in_flight(),
        }
    }

    fn begin_step(&mut self, inputs: &StepInputs<'_>) -> Result<(), DeviceError> {
        self.flights.check(self.plan.steps_in_flight())?;
        self.ops.clear();
        self.logits.take();
        let (choices, shelf) = (self.flights.choices(), self.flights.inputs());
        let timed = self.timing.way() != Way::Nothing;
        let events = timed.then(|| self.copies.around_inputs());
        let handed = self.clock.now();
        let bytes = self.step.take(&*self.driver, inputs, choices, (shelf, events))?;
        self.copies.sent(bytes, handed, self.flights.copied(), timed);
        let most = self.step.placed.rows.max(self.step.placed.asked);
        self.timing.begin_step(self.plan.has_library() && most > TILE_ROWS);
        self.open = true;
        Ok(())
    }

    fn launch(&mut self, op: Op) -> Result<(), DeviceError> {
        if op.layer().is_some_and(|layer| layer >= self.shape.layers) {
            let what = format!("{op:?} of a model of {} layers", self.shape.layers);
            return Err(DeviceError::Limits(what));
        }
        let (at, set) = (self.ops.len(), self.flights.set());
        let most = self.flights.operations(set).len();
        if at == most {
            return Err(DeviceError::Limits(format!("more than {most} operations in a step")));
        }
        self.ops.push(op);
        if self.step.placed.form.is_some() {
            // They are asked for as a whole when all are known.
            return Ok(());
        }
        if at == 0 {
            self.begin(0)?;
        }
        self.flights.add_operation();
        Ok(self.run_at(at, set)?)
    }

    fn submit(&mut self) -> Result<(), DeviceError> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        match self.step.placed.form {
            Some(form) if !self.ops.is_empty() => self.run_form(form)?,
            _ if self.ops.is_empty() => self.begin(0)?,
            _ => {}
        }
        if let Some(event) = self.copies.before_choices() {
            self.driver.record(event)?;
        }
        self.flights.finish(&*self.driver, self.rooms.chosen[0])?;
        self.hand_over();
        Ok(())
    }

    fn end_step(
        &mut self,
        spans: &mut Vec<Span>,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), DeviceError> {
        self.submit()?;
        let flight = self.flights.land(&*self.driver, sampled)?;
        let (now, told) = (self.clock.now(), spans.len());
        self.copies.land(&*self.driver, now)?;
        self.spans(&flight, now, spans)?;
        self.copies.ran(&spans[told..]);
        Ok(())
    }

    fn copies(&self) -> &[CopySpan] {
        self.copies.told()
    }

    fn late_steps(&self) -> usize {
        self.timing.late.waiting()
    }

    fn late_spans(&mut self, spans: &mut Vec<Span>) -> Result<LateSpans, DeviceError> {
        self.next_late(spans)
    }

    fn time_operations(&mut self, each: bool) -> bool {
        self.time_each(each);
        each
    }

    fn timed_by(&self) -> TimedBy {
        self.timing.timed_by(self.plan.has_library())
    }

    /// Not numbers if the device fails while they are read.
    fn logits(&self) -> &[f32] {
        self.logits.get_or_init(|| {
            let floats = self.step.placed.asked as usize * self.shape.vocab as usize;
            let mut bytes = vec![0; 4 * floats];
            match self.driver.read(self.rooms.logits, &mut bytes) {
                Ok(()) => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                Err(_) => vec![f32::NAN; floats],
            }
        })
    }
}
