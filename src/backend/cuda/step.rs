//! A step's inputs, packed for one copy to the device.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::backend::bounds::Bounds;
use crate::backend::{DeviceError, Mask, SequenceRows, StepInputs};
use crate::cost::Technique;

use super::driver::{Address, Driver, Event, Shelf};
use super::graphs::Form;
use super::plan::{Plan, TILE};
use super::weights::allocate;

/// Where the inputs of the running step lie, and how many there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Placed {
    /// Rows.
    pub rows: u32,
    /// Sequences of one row, which come first.
    pub decodes: u32,
    /// Rows that ask for logits.
    pub asked: u32,
    /// Tiles of rows of the sequences with several.
    pub tile_count: u32,
    /// Pieces of the longest context of a decoded row.
    pub pieces: u32,
    /// What it has in common with others that launch the same, if it is of decoded rows alone.
    pub form: Option<Form>,
    /// Entries from one sequence's block table to the next one's.
    pub table_stride: u32,
    pub tokens: Address,
    pub positions: Address,
    pub slots: Address,
    pub tables: Address,
    pub contexts: Address,
    /// Which block table a row has; none where no kernel asks for it.
    pub row_tables: Address,
    /// The longest context of a decoded row, with itself, and of the other sequences.
    pub longest: [u32; 2],
    pub tiles: Address,
    pub logits_rows: Address,
    pub temperatures: Address,
    pub top_k: Address,
    pub top_p: Address,
    pub uniforms: Address,
    pub masks: Address,
    /// Which mask a row has; none if no row of the step has one.
    pub mask_of: Address,
    /// Rows whose tokens the step before chooses, how many, and which choice each is.
    pub awaited: u32,
    pub awaited_rows: Address,
    pub awaited_choices: Address,
}

/// The inputs of steps.
pub(super) struct Step {
    bounds: Bounds,
    /// The room for them on the device.
    room: Address,
    /// What is copied there.
    bytes: Vec<u8>,
    most: usize,
    plan: Plan,
    vocab: u32,
    pub placed: Placed,
}

impl Step {
    /// Bytes of the largest step's inputs.
    pub fn bytes(plan: &Plan, vocab: u32) -> u64 {
        let (rows, asked) = (u64::from(plan.limits.rows), u64::from(plan.limits.logits_rows));
        // Tokens, positions, slots, contexts, tables of rows, awaited rows and their choices; block
        // tables; a tile per row at most.
        let of_rows = rows * (7 * 4 + 4 * u64::from(plan.blocks()) + 16);
        let of_logits = asked * (5 * 4 + 8 + 4 * Mask::words(vocab) as u64);
        // Each of sixteen parts begins at a multiple of 16.
        of_rows + of_logits + 16 * 16
    }

    /// Room for steps of a model with so many tokens.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or [`DeviceError::Lost`] if the device failed.
    pub fn new(driver: &dyn Driver, plan: &Plan, vocab: u32) -> Result<Self, DeviceError> {
        let most = Self::bytes(plan, vocab);
        let room = allocate(driver, "the inputs of a step", most)?;
        Ok(Self {
            bounds: Bounds::new(plan.limits, vocab, plan.positions as usize),
            room,
            bytes: Vec::with_capacity(most as usize),
            most: most as usize,
            plan: plan.clone(),
            vocab,
            placed: Placed::default(),
        })
    }

    /// Takes the inputs of the next step, behind one in flight that chooses so many tokens, and
    /// enqueues their copy by a shelf of [`Step::bytes`], between two events if there are any.
    /// Gives their bytes.
    ///
    /// # Errors
    /// [`DeviceError::Limits`] if they do not fit or do not make sense, [`DeviceError::Lost`] if
    /// the device failed.
    pub fn take(
        &mut self,
        driver: &dyn Driver,
        inputs: &StepInputs<'_>,
        choices: usize,
        (shelf, events): (Shelf, Option<[Event; 2]>),
    ) -> Result<u64, DeviceError> {
        let decodes = self.bounds.check(inputs, choices)?;
        self.bytes.clear();
        let mut placed = Placed {
            rows: inputs.tokens.len() as u32,
            decodes: decodes as u32,
            asked: inputs.logits_rows.len() as u32,
            ..Placed::default()
        };
        placed.form = self.form(inputs, &placed);
        placed.tokens = self.put(inputs.tokens.iter().copied());
        self.place_sequences(inputs, &mut placed);
        placed.logits_rows = self.put(inputs.logits_rows.iter().copied());
        self.place_sampling(inputs, &mut placed);
        // Behind everything that has its place in the steps of a form.
        placed.awaited = inputs.awaited.len() as u32;
        placed.awaited_rows = self.put(inputs.awaited.iter().map(|token| token.row));
        placed.awaited_choices = self.put(inputs.awaited.iter().map(|token| token.chosen));
        if self.bytes.len() > self.most {
            let (found, most) = (self.bytes.len(), self.most);
            return Err(DeviceError::Limits(format!("inputs of {found} bytes, at most {most}")));
        }
        if let Some([before, _]) = events {
            driver.record(before)?;
        }
        driver.send(&self.bytes, shelf, self.room)?;
        if let Some([_, behind]) = events {
            driver.record(behind)?;
        }
        self.placed = placed;
        Ok(self.bytes.len() as u64)
    }

    /// The form of a step of decoded rows that all ask for logits and choose freely.
    fn form(&self, inputs: &StepInputs<'_>, placed: &Placed) -> Option<Form> {
        let rows = placed.rows;
        let decoded = placed.decodes == rows && placed.asked == rows && inputs.masks.is_empty();
        let longest = inputs.sequences.iter().map(|sequence| sequence.context + 1).max()?;
        let pieces = longest.div_ceil(self.plan.piece_tokens);
        (self.plan.techniques.graphs() && decoded).then_some(Form { rows, pieces })
    }

    fn place_sequences(&mut self, inputs: &StepInputs<'_>, placed: &mut Placed) {
        let (tokens, bits) = (self.plan.limits.block_tokens, self.plan.block_bits());
        let positions = || {
            inputs.sequences.iter().flat_map(|sequence| {
                let count = sequence.rows.len() as u32;
                (sequence.context..sequence.context + count).map(move |at| (sequence, at))
            })
        };
        placed.positions = self.put(positions().map(|(_, position)| position));
        placed.slots = self.put(positions().map(|(sequence, position)| {
            (sequence.blocks[(position / tokens) as usize] << bits) | (position % tokens)
        }));
        // What lies behind a sequence's own end is not read.
        let needed = |context: u32, rows: usize| (context + rows as u32).div_ceil(tokens) as usize;
        let stride = match placed.form {
            // Everything lies at the same place in every step of a form.
            Some(form) => {
                let longest = form.pieces.saturating_mul(self.plan.piece_tokens);
                longest.div_ceil(tokens).min(self.plan.blocks()) as usize
            }
            None => {
                let blocks = inputs.sequences.iter().map(|s| needed(s.context, s.rows.len()));
                blocks.max().unwrap_or(0)
            }
        };
        placed.table_stride = stride as u32;
        placed.tables = self.put(inputs.sequences.iter().flat_map(|sequence| {
            let blocks = &sequence.blocks[..needed(sequence.context, sequence.rows.len())];
            let padding = std::iter::repeat_n(0, stride - blocks.len());
            blocks.iter().copied().chain(padding)
        }));
        let (decoded, read) = inputs.sequences.split_at(placed.decodes as usize);
        placed.contexts = self.put(decoded.iter().map(|sequence| sequence.context + 1));
        let end = |sequence: &SequenceRows<'_>| sequence.context + sequence.rows.len() as u32;
        placed.longest =
            [decoded, read].map(|sequences| sequences.iter().map(end).max().unwrap_or(0));
        placed.pieces = self.plan.pieces(placed.longest[0]);
        placed.row_tables =
            if self.plan.uses(Technique::FusedAttention) {
                Address::NULL
            } else {
                self.put(
                    inputs.sequences.iter().zip(0..).flat_map(|(sequence, table)| {
                        std::iter::repeat_n(table, sequence.rows.len())
                    }),
                )
            };
        let tiles = read.iter().zip(placed.decodes..).flat_map(|(sequence, table)| {
            let rows = &sequence.rows;
            rows.clone().step_by(TILE as usize).flat_map(move |first| {
                let count = TILE.min(rows.end - first);
                [first, count, sequence.context + first - rows.start, table]
            })
        });
        let before = self.bytes.len().next_multiple_of(16);
        placed.tiles = self.put(tiles);
        placed.tile_count = ((self.bytes.len() - before) / 16) as u32;
    }

    fn place_sampling(&mut self, inputs: &StepInputs<'_>, placed: &mut Placed) {
        let each = || inputs.sampling.iter();
        placed.temperatures = self.put(each().map(|sampling| sampling.temperature.to_bits()));
        // An int on the device.
        let vocab = self.vocab;
        placed.top_k = self.put(each().map(|sampling| sampling.top_k.min(vocab)));
        placed.top_p = self.put(each().map(|sampling| sampling.top_p.to_bits()));
        placed.uniforms = self.put(each().flat_map(|sampling| halves(uniform(sampling.seed))));
        placed.masks = self.put(inputs.masks.iter().flat_map(|mask| mask.allowed.iter().copied()));
        placed.mask_of = if inputs.masks.is_empty() {
            Address::NULL
        } else {
            let mut masks = inputs.masks.iter().zip(0_u32..).peekable();
            self.put((0..placed.asked).map(|row| {
                let found = masks.next_if(|(mask, _)| mask.row == row);
                found.map_or(u32::MAX, |(_, at)| at)
            }))
        };
    }

    /// Appends words at the next multiple of 16; where they will lie on the device.
    fn put(&mut self, words: impl Iterator<Item = u32>) -> Address {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let address = self.room.plus(self.bytes.len() as u64);
        for word in words {
            self.bytes.extend(word.to_le_bytes());
        }
        address
    }
}

/// The number of a draw, from 0 to just below 1: 53 random bits, the same as the CPU's.
fn uniform(seed: u64) -> f64 {
    (ChaCha8Rng::seed_from_u64(seed).next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

fn halves(number: f64) -> [u32; 2] {
    let bits = number.to_bits();
    [bits as u32, (bits >> 32) as u32]
}
