//! Room on a device for the activations of a step.

use crate::backend::DeviceError;
use crate::backend::cpu::rope::Turns;
use crate::cost::Technique;
use crate::model::Shape;

use super::driver::{Address, Dense, Driver};
use super::flights::shelf_bytes;
use super::plan::{Plan, parts};
use super::weights::{Weights, allocate};

/// The activations of a step, and room for what kernels leave for each other.
pub(super) struct Rooms {
    /// The residual stream, `[rows, hidden]`.
    pub residual: Address,
    /// Normed rows, `[rows, hidden]`.
    pub normed: Address,
    /// Queries, keys and values, `[rows, q_width + 2 kv_width]`.
    pub qkv: Address,
    /// Attention output, `[rows, q_width]`.
    pub attended: Address,
    /// Feed-forward activations, `[rows, ffn]`.
    pub ffn: Address,
    /// Logits, `[logits_rows, vocab]`, f32.
    pub logits: Address,
    /// Results of pieces of contexts.
    pub partial: Address,
    /// Sums of products whose inputs are divided.
    pub sums: Address,
    /// How many parts of each tile of such a product are done; zero between launches.
    pub counts: Address,
    /// Results of parts of the vocabulary.
    pub scanned: Address,
    /// Tokens, their log-probabilities and the entropies of their rows, one behind another.
    pub chosen: [Address; 3],
    /// Cosines and sines of every position.
    pub turns: Address,
    /// What kernels that stand in for fused ones leave for each other.
    pub between: Between,
    /// What a library of dense products works in; none where there is none.
    pub dense: Address,
    /// The rows of a product in 8 bits, `[rows, its inputs]`, and their factors, `[rows]` f32; none
    /// where no product takes them so.
    pub narrow: [Address; 2],
}

/// Room that only the stand-ins of fused kernels need; none where their technique is used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Between {
    /// Rows before they are added to the residual stream, `[rows, hidden]`.
    pub projected: Address,
    /// Gates and ups, `[rows, 2 ffn]`. There too where a product leaves them without SwiGLU.
    pub gate_up: Address,
    /// Scores and probabilities, `[rows, heads, longest context]`, f32.
    pub scores: Address,
    /// The largest matrix, as activations.
    pub decoded: Address,
    /// Weights of tokens, `[logits_rows, vocab]`, and four figures of each row.
    pub token_weights: Address,
    pub figures: Address,
    /// Tokens by weight, `[logits_rows, vocab filled up to a power of two]`, 8 bytes each.
    pub sorted: Address,
}

/// Allocates activations and counts them.
pub(super) struct Room<'a> {
    driver: &'a dyn Driver,
    /// Bytes so far.
    pub taken: u64,
}

impl<'a> Room<'a> {
    pub fn new(driver: &'a dyn Driver) -> Self {
        Self { driver, taken: 0 }
    }

    fn take(&mut self, what: &str, bytes: u64) -> Result<Address, DeviceError> {
        self.taken += bytes;
        allocate(self.driver, what, bytes)
    }

    /// Room for the largest step of `plan`.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], or [`DeviceError::Lost`] if the device failed.
    pub fn all(
        &mut self,
        shape: &Shape,
        plan: &Plan,
        weights: &Weights,
    ) -> Result<Rooms, DeviceError> {
        let (rows, asked) = (u64::from(plan.limits.rows), u64::from(plan.limits.logits_rows));
        let mut act = |what, width: u32| self.take(what, 2 * rows * u64::from(width));
        let residual = act("the residual stream", shape.hidden)?;
        let normed = act("normed rows", shape.hidden)?;
        let qkv = act("queries, keys and values", shape.q_width() + 2 * shape.kv_width())?;
        let attended = act("attention output", shape.q_width())?;
        let ffn = act("feed-forward activations", shape.ffn)?;
        let logits = self.take("logits", 4 * asked * u64::from(shape.vocab))?;
        let of_piece = u64::from(shape.heads) * (u64::from(shape.head_dim) + 2);
        let pieces = u64::from(plan.pieces(plan.positions));
        let partial = self.take("pieces of attention", 4 * rows * pieces * of_piece)?;
        let wanted = self.driver.card().multiprocessors;
        let (mut floats, mut tiles) = (1, 1);
        for (matrix, swiglu) in weights.products() {
            let swiglu = swiglu && plan.uses(Technique::FusedSwiglu);
            let split = Split::of(matrix.rows, matrix.inputs, swiglu, wanted);
            floats = floats.max(split.floats());
            tiles = tiles.max(split.few_blocks.max(split.blocks));
        }
        let sums = self.take("sums of divided products", 4 * floats)?;
        let counts = self.take("counts of divided products", 4 * u64::from(tiles))?;
        self.driver.write(counts, &vec![0; 4 * tiles as usize])?;
        let parts = u64::from(shape.vocab.div_ceil(super::launches::SCANNED));
        let scanned = self.take("parts of the vocabulary", 4 * asked * parts * 6)?;
        // The first two are fetched together.
        let words = shelf_bytes(plan.limits.logits_rows as usize) as u64 / 2;
        let tokens = self.take("chosen tokens", 3 * words)?;
        let chosen = [tokens, tokens.plus(words), tokens.plus(2 * words)];
        let table = Turns::new(&shape.rope, shape.head_dim as usize, plan.positions as usize);
        let bytes: Vec<u8> = table.table().iter().flat_map(|turn| turn.to_le_bytes()).collect();
        let turns = self.take("turns of every position", bytes.len() as u64)?;
        self.driver.write(turns, &bytes)?;
        let between = self.between(shape, plan, weights)?;
        let dense = match plan.has_library() {
            true => self.take("the workspace of dense products", Dense::WORKSPACE)?,
            false => Address::NULL,
        };
        let widest = shape.hidden.max(shape.q_width()).max(shape.ffn);
        let narrow = match plan.narrow {
            Some(_) => [
                self.take("rows in 8 bits", rows * u64::from(widest))?,
                self.take("factors of rows in 8 bits", 4 * rows)?,
            ],
            None => [Address::NULL; 2],
        };
        Ok(Rooms {
            residual,
            normed,
            qkv,
            attended,
            ffn,
            logits,
            partial,
            sums,
            counts,
            scanned,
            chosen,
            turns,
            between,
            dense,
            narrow,
        })
    }

    fn between(
        &mut self,
        shape: &Shape,
        plan: &Plan,
        weights: &Weights,
    ) -> Result<Between, DeviceError> {
        let (rows, asked) = (u64::from(plan.limits.rows), u64::from(plan.limits.logits_rows));
        let largest = weights.products().map(|(matrix, _)| matrix.elements()).max().unwrap_or(0);
        let vocab = u64::from(shape.vocab);
        let scores = rows * u64::from(shape.heads) * u64::from(plan.positions);
        let mut take = |unused: bool, what, bytes| match unused {
            true => self.take(what, bytes),
            false => Ok(Address::NULL),
        };
        let off = |technique| !plan.uses(technique);
        let sampling = off(Technique::FusedSampling);
        Ok(Between {
            projected: take(
                off(Technique::FusedResidual),
                "rows before they are added",
                2 * rows * u64::from(shape.hidden),
            )?,
            gate_up: take(
                off(Technique::FusedSwiglu) || plan.splits_swiglu(),
                "gates and ups",
                4 * rows * u64::from(shape.ffn),
            )?,
            scores: take(off(Technique::FusedAttention), "scores of attention", 4 * scores)?,
            decoded: take(plan.dequantizes(), "a dequantized matrix", 2 * largest)?,
            token_weights: take(sampling, "weights of tokens", 4 * asked * vocab)?,
            figures: take(sampling, "figures of rows", 16 * asked)?,
            sorted: take(sampling, "sorted tokens", 8 * asked * vocab.next_power_of_two())?,
        })
    }
}

/// How the products with a matrix are launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Blocks of outputs and parts of the inputs for up to 16 rows.
    pub few_blocks: u32,
    pub few_parts: u32,
    /// The same for 17 to 64; beyond, the inputs are not divided.
    pub blocks: u32,
    pub parts: u32,
}

impl Split {
    /// For a matrix of `rows` rows, gates and ups together where SwiGLU follows.
    pub fn of(rows: u32, inputs: u32, swiglu: bool, multiprocessors: u32) -> Self {
        let per_block = |outputs: u32| rows.div_ceil(outputs);
        let (few_blocks, blocks) = match swiglu {
            true => ((rows / 2).div_ceil(8), (rows / 2).div_ceil(64)),
            false => (per_block(16), per_block(128)),
        };
        Self {
            few_blocks,
            // Two blocks fit on a multiprocessor, each of eight warps with inputs of its own.
            few_parts: parts(few_blocks, 2 * multiprocessors, inputs, 8),
            blocks,
            parts: parts(blocks, multiprocessors, inputs, 4),
        }
    }

    /// Floats that divided sums need.
    fn floats(&self) -> u64 {
        let few = match self.few_parts {
            1 => 0,
            parts => u64::from(self.few_blocks) * 8 * u64::from(parts) * 256,
        };
        let more = match self.parts {
            1 => 0,
            parts => u64::from(self.blocks) * u64::from(parts) * 8192,
        };
        few.max(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_of_divided_products_have_room() {
        // 256 blocks of 16 outputs need no help on 132 multiprocessors, 32 of 128 do.
        let split = Split::of(4096, 4096, false, 132);
        let expected = Split { few_blocks: 256, few_parts: 2, blocks: 32, parts: 5 };
        assert_eq!(split, expected);
        // More than the 256 · 8 · 2 · 256 of few rows.
        assert_eq!(split.floats(), 32 * 5 * 8192);
        let split = Split::of(2 * 14_336, 4096, true, 132);
        assert_eq!((split.few_blocks, split.few_parts), (1792, 1));
        assert_eq!((split.blocks, split.parts, split.floats()), (224, 1, 0));
    }
}
