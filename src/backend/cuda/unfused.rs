//! What is launched in the place of a fused kernel.

use crate::backend::{Attending, Op, Projection};

use super::device::Cuda;
use super::driver::{Address, Arguments, DriverError, Function};

/// Elements that a block of the kernels that pass over rows takes.
const PASSED: u32 = 2048;
/// The most rows of a grid.
const GRID: u32 = 65_535;

/// The kernels that stand in for fused ones.
pub(super) struct Unfused {
    dequantize: Function,
    residual_add: Function,
    pub silu_mul: Function,
    bias_add: Function,
    head_norm: Function,
    rope: Function,
    kv_append: Function,
    scores: Function,
    softmax: Function,
    values: Function,
    sample_weights: Function,
    sample_sort: Function,
    sample_pick: Function,
}

impl Unfused {
    /// Those for weights of `format` and a cache of `kv`, as `find` gives them.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if one is not in the loaded programs.
    pub fn of(
        find: &dyn Fn(String) -> Result<Function, DriverError>,
        format: &str,
        kv: &str,
    ) -> Result<Self, DriverError> {
        let named = |name: &str| find(name.to_owned());
        Ok(Self {
            dequantize: find(format!("dequantize_{format}"))?,
            residual_add: named("residual_add")?,
            silu_mul: named("silu_mul")?,
            bias_add: named("bias_add")?,
            head_norm: named("head_norm")?,
            rope: named("rope")?,
            kv_append: find(format!("kv_append_{kv}"))?,
            scores: find(format!("attn_scores_{kv}"))?,
            softmax: named("attn_softmax")?,
            values: find(format!("attn_values_{kv}"))?,
            sample_weights: named("sample_weights")?,
            sample_sort: named("sample_sort")?,
            sample_pick: named("sample_pick")?,
        })
    }
}

/// The rows of a step that attend by one form of attention.
#[derive(Clone, Copy)]
struct Attended {
    first: u32,
    rows: u32,
    /// Scores of a row and head.
    tokens: u32,
}

impl Cuda {
    /// Launches an operation that stands in for a fused one.
    pub(super) fn run_unfused(&self, op: Op) -> Result<(), DriverError> {
        let Some(kernels) = &self.kernels.unfused else {
            let what = format!("{op:?}, though every technique is used");
            return Err(DriverError::Failed { call: "launch".to_owned(), what });
        };
        let placed = &self.step.placed;
        match op {
            _ if placed.rows == 0 => Ok(()),
            Op::Dequantize { layer, projection } => {
                self.dequantize(kernels, layer as usize, projection)
            }
            Op::ResidualAdd { .. } => self.residual_add(kernels),
            Op::SiluMul { .. } => self.silu_mul(kernels.silu_mul),
            Op::BiasAdd { layer } => self.bias_add(kernels, layer as usize),
            Op::HeadNorm { layer } => self.head_norm(kernels, layer as usize),
            Op::Rope { .. } => self.rope(kernels),
            Op::KvAppend { layer } => self.kv_append(kernels, layer as usize),
            Op::Scores { layer, rows } => self.scores(kernels, layer as usize, self.attended(rows)),
            Op::Softmax { rows, .. } => self.softmax(kernels, self.attended(rows)),
            Op::Values { layer, rows } => self.values(kernels, layer as usize, self.attended(rows)),
            Op::SampleWeights if placed.asked > 0 => self.sample_weights(kernels),
            Op::SampleSort if placed.asked > 0 => self.sample_sort(kernels),
            Op::SamplePick if placed.asked > 0 => self.sample_pick(kernels),
            _ => Ok(()),
        }
    }

    fn dequantize(
        &self,
        kernels: &Unfused,
        layer: usize,
        projection: Projection,
    ) -> Result<(), DriverError> {
        let matrix = self.matrix(layer, projection);
        let (format, inputs) = (self.plan.format, matrix.inputs as usize);
        let chunks = matrix.inputs.div_ceil(format.chunk() as u32);
        let steps = [2 * inputs, format.row_bytes(inputs), format.scale_bytes(inputs)];
        for first in (0..matrix.rows).step_by(GRID as usize) {
            let at = |from: Address, step: usize| from.plus(u64::from(first) * step as u64);
            let arguments = Arguments::new()
                .address(at(self.rooms.between.decoded, steps[0]))
                .address(at(matrix.weights, steps[1]))
                .address(at(matrix.scales, steps[2]))
                .int(matrix.inputs);
            let grid = [(4 * chunks).div_ceil(256), GRID.min(matrix.rows - first), 1];
            self.driver.launch(kernels.dequantize, grid, 256, &arguments)?;
        }
        Ok(())
    }

    fn residual_add(&self, kernels: &Unfused) -> Result<(), DriverError> {
        let elements = self.step.placed.rows * self.shape.hidden;
        let arguments = Arguments::new()
            .addresses([self.rooms.residual, self.rooms.between.projected])
            .int(elements);
        let grid = [elements.div_ceil(PASSED), 1, 1];
        self.driver.launch(kernels.residual_add, grid, 256, &arguments)
    }

    /// Gates and ups, as a product left them, to feed-forward activations.
    pub(super) fn silu_mul(&self, kernel: Function) -> Result<(), DriverError> {
        let (rows, width) = (self.step.placed.rows, self.shape.ffn);
        let arguments = Arguments::new()
            .addresses([self.rooms.ffn, self.rooms.between.gate_up])
            .ints([rows, width]);
        let elements = u64::from(rows) * u64::from(width);
        let grid = [elements.div_ceil(PASSED.into()) as u32, 1, 1];
        self.driver.launch(kernel, grid, 256, &arguments)
    }

    fn bias_add(&self, kernels: &Unfused, layer: usize) -> Result<(), DriverError> {
        let (rows, width) = (self.step.placed.rows, self.qkv_width());
        let arguments = Arguments::new()
            .addresses([self.rooms.qkv, self.weights.layers[layer].qkv_bias])
            .ints([rows, width]);
        let grid = [(rows * width).div_ceil(PASSED), 1, 1];
        self.driver.launch(kernels.bias_add, grid, 256, &arguments)
    }

    fn qkv_width(&self) -> u32 {
        self.shape.q_width() + 2 * self.shape.kv_width()
    }

    /// Blocks of four warps with a head each.
    fn heads_grid(&self, heads: u32) -> [u32; 3] {
        [(self.step.placed.rows * heads).div_ceil(4), 1, 1]
    }

    fn head_norm(&self, kernels: &Unfused, layer: usize) -> Result<(), DriverError> {
        let (shape, rows) = (&self.shape, self.step.placed.rows);
        let arguments = Arguments::new()
            .address(self.rooms.qkv)
            .addresses(self.weights.layers[layer].head_norms)
            .ints([rows, shape.heads, shape.kv_heads, shape.head_dim])
            .float(shape.norm_eps);
        let grid = self.heads_grid(shape.heads + shape.kv_heads);
        self.driver.launch(kernels.head_norm, grid, 128, &arguments)
    }

    fn rope(&self, kernels: &Unfused) -> Result<(), DriverError> {
        let (shape, placed) = (&self.shape, &self.step.placed);
        let arguments = Arguments::new()
            .addresses([self.rooms.qkv, self.rooms.turns, placed.positions])
            .ints([placed.rows, shape.heads, shape.kv_heads, shape.head_dim]);
        let grid = self.heads_grid(shape.heads + shape.kv_heads);
        self.driver.launch(kernels.rope, grid, 128, &arguments)
    }

    fn kv_append(&self, kernels: &Unfused, layer: usize) -> Result<(), DriverError> {
        let (shape, placed) = (&self.shape, &self.step.placed);
        let arguments = Arguments::new()
            .address(self.rooms.qkv)
            .addresses(self.cache[layer])
            .address(placed.slots)
            .ints([placed.rows, shape.heads, shape.kv_heads, shape.head_dim])
            .int(self.plan.block_bits());
        let grid = self.heads_grid(2 * shape.kv_heads);
        self.driver.launch(kernels.kv_append, grid, 128, &arguments)
    }

    /// Which rows of the step attend; those of sequences with one row come first.
    fn attended(&self, rows: Attending) -> Attended {
        let placed = &self.step.placed;
        match rows {
            Attending::Decode => {
                Attended { first: 0, rows: placed.decodes, tokens: placed.longest[0] }
            }
            Attending::Prefill => Attended {
                first: placed.decodes,
                rows: placed.rows - placed.decodes,
                tokens: placed.longest[1],
            },
        }
    }

    fn scores(
        &self,
        kernels: &Unfused,
        layer: usize,
        attended: Attended,
    ) -> Result<(), DriverError> {
        let Attended { first, rows, tokens } = attended;
        if rows == 0 {
            return Ok(());
        }
        let (shape, placed) = (&self.shape, &self.step.placed);
        let from = u64::from(first);
        let queries = self.rooms.qkv.plus(2 * from * u64::from(self.qkv_width()));
        let arguments = Arguments::new()
            .addresses([self.rooms.between.scores, queries])
            .int(self.qkv_width())
            .addresses([self.cache[layer][0], self.cache[layer][2], placed.tables])
            .int(placed.table_stride)
            .addresses([placed.positions.plus(4 * from), placed.row_tables.plus(4 * from)])
            .ints([tokens, shape.heads, shape.kv_heads, shape.head_dim, self.plan.block_bits()])
            .float(self.scale());
        let grid = [tokens.div_ceil(128), shape.heads, rows];
        self.driver.launch(kernels.scores, grid, 128, &arguments)
    }

    fn softmax(&self, kernels: &Unfused, attended: Attended) -> Result<(), DriverError> {
        let Attended { first, rows, tokens } = attended;
        if rows == 0 {
            return Ok(());
        }
        let positions = self.step.placed.positions.plus(4 * u64::from(first));
        let arguments = Arguments::new().addresses([self.rooms.between.scores, positions]).ints([
            rows,
            self.shape.heads,
            tokens,
            self.plan.window,
        ]);
        let grid = [(rows * self.shape.heads).div_ceil(4), 1, 1];
        self.driver.launch(kernels.softmax, grid, 128, &arguments)
    }

    fn values(
        &self,
        kernels: &Unfused,
        layer: usize,
        attended: Attended,
    ) -> Result<(), DriverError> {
        let Attended { first, rows, tokens } = attended;
        if rows == 0 {
            return Ok(());
        }
        let (shape, placed) = (&self.shape, &self.step.placed);
        let from = u64::from(first);
        let out = self.rooms.attended.plus(2 * from * u64::from(shape.q_width()));
        let arguments = Arguments::new()
            .addresses([out, self.rooms.between.scores])
            .addresses([self.cache[layer][1], self.cache[layer][3], placed.tables])
            .int(placed.table_stride)
            .addresses([placed.positions.plus(4 * from), placed.row_tables.plus(4 * from)])
            .ints([tokens, shape.heads, shape.kv_heads, shape.head_dim, self.plan.block_bits()]);
        let grid = [shape.heads, rows, 1];
        self.driver.launch(kernels.values, grid, 256, &arguments)
    }

    fn sample_weights(&self, kernels: &Unfused) -> Result<(), DriverError> {
        let (rooms, placed) = (&self.rooms, &self.step.placed);
        let arguments = Arguments::new()
            .addresses([rooms.between.token_weights, rooms.between.figures, rooms.logits])
            .addresses([placed.temperatures, placed.masks, placed.mask_of])
            .int(self.shape.vocab);
        self.driver.launch(kernels.sample_weights, [placed.asked, 1, 1], 512, &arguments)
    }

    fn sample_sort(&self, kernels: &Unfused) -> Result<(), DriverError> {
        let vocab = self.shape.vocab;
        let arguments = Arguments::new()
            .addresses([self.rooms.between.sorted, self.rooms.between.token_weights])
            .ints([vocab, vocab.next_power_of_two()]);
        let grid = [self.step.placed.asked, 1, 1];
        self.driver.launch(kernels.sample_sort, grid, 512, &arguments)
    }

    fn sample_pick(&self, kernels: &Unfused) -> Result<(), DriverError> {
        let (rooms, placed, vocab) = (&self.rooms, &self.step.placed, self.shape.vocab);
        let between = &rooms.between;
        let arguments = Arguments::new()
            .addresses(rooms.chosen)
            .addresses([between.sorted, between.token_weights, between.figures, rooms.logits])
            .addresses([placed.temperatures, placed.top_k, placed.top_p, placed.uniforms])
            .ints([vocab, vocab.next_power_of_two()]);
        self.driver.launch(kernels.sample_pick, [placed.asked, 1, 1], 512, &arguments)
    }
}
