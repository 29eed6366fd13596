//! What is launched for each operation of a step.

use crate::backend::{DeviceError, Norm, Op, Projection};
use crate::cost::Technique;
use crate::model::Shape;

use super::dense::InNarrow;
use super::device::Cuda;
use super::driver::{Address, Arguments, Driver, DriverError, Function};
use super::layout::Format;
use super::plan::Plan;
use super::rooms::Split;
use super::unfused::Unfused;
use super::weights::Matrix;

/// Rows for which weights are streamed past once, and those of the smaller kernel of the two.
const FEW_ROWS: u32 = 16;
const FEWER_ROWS: u32 = 8;
/// Rows of a tile of the other products.
pub(super) const TILE_ROWS: u32 = 64;
/// Logits that a block looks at.
pub(super) const SCANNED: u32 = 4096;

/// The kernels of a model's formats.
pub(super) struct Kernels {
    embed: Function,
    /// Of the stream, and of the stream with rows added to it.
    norms: [Function; 2],
    /// Of up to 8 rows, of up to 16, of more; then the same with SwiGLU behind. Of 16-bit weights
    /// where weights are dequantized before.
    products: [[Function; 3]; 2],
    /// Those that stand in for fused ones; none where every technique is used.
    pub unfused: Option<Unfused>,
    /// What follows a product of many rows that leaves gates and ups; none where none does.
    pub silu_mul: Option<Function>,
    /// Norms, other rows and products in 8 bits; none where no product takes them.
    pub narrow: Option<InNarrow>,
    rope_append: Function,
    decode: Function,
    combine: Function,
    prefill: Function,
    scan: Function,
    choose: Function,
    take_chosen: Function,
}

impl Kernels {
    /// Those for weights and cache of `plan`.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if one is not in the loaded programs.
    pub fn of(driver: &dyn Driver, plan: &Plan, shape: &Shape) -> Result<Self, DriverError> {
        let (format, kv, heads) = (plan.format.name(), plan.kv_name(), shape.head_dim);
        let find = |name: String| driver.function(&name);
        let multiplied = if plan.dequantizes() { Format::W16.name() } else { format };
        let products = |form: &str| -> Result<[Function; 3], DriverError> {
            Ok([
                find(format!("gemv_{multiplied}{form}_r8"))?,
                find(format!("gemv_{multiplied}{form}_r16"))?,
                find(format!("gemm_{multiplied}{form}"))?,
            ])
        };
        let unfused = match plan.techniques.fused() {
            true => None,
            false => Some(Unfused::of(&find, format, kv)?),
        };
        Ok(Self {
            embed: find(format!("embed_{format}"))?,
            norms: [find("rms_norm".to_owned())?, find("add_rms_norm".to_owned())?],
            products: [products("")?, products("_swiglu")?],
            unfused,
            silu_mul: plan.splits_swiglu().then(|| find("silu_mul".to_owned())).transpose()?,
            narrow: plan.narrow.map(|narrow| InNarrow::of(&find, narrow)).transpose()?,
            rope_append: find(format!("rope_append_{kv}"))?,
            decode: find(format!("attn_decode_d{heads}_{kv}"))?,
            combine: find("attn_combine".to_owned())?,
            prefill: find(format!("attn_prefill_d{heads}_{kv}"))?,
            scan: find("sample_scan".to_owned())?,
            choose: find("sample_choose".to_owned())?,
            take_chosen: find("take_chosen".to_owned())?,
        })
    }
}

/// A product: rows `x` times a matrix.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub matrix: Matrix,
    pub out: Address,
    pub x: Address,
    pub bias: Address,
    /// Whether it is added to what the output holds.
    pub adds: bool,
    pub rows: u32,
    pub swiglu: bool,
    /// Whether the output is f32.
    pub wide: bool,
    /// Whether `x` is in 8 bits, as the weights are.
    pub narrow: bool,
}

impl Cuda {
    /// Launches `op` on the step's rows. Its layer, if it has one, is a layer of the model.
    pub(super) fn run(&self, op: Op) -> Result<(), DriverError> {
        let placed = &self.step.placed;
        // A grid without blocks is refused by the driver.
        match op {
            Op::Embed if placed.rows > 0 => self.embed(),
            Op::Norm { layer, norm } => self.norm(layer as usize, norm),
            Op::Linear { layer, projection } => self.linear(layer as usize, projection),
            Op::Quantize { projection, .. } => self.quantize(projection),
            Op::RopeAppend { layer } if placed.rows > 0 => self.rope_append(layer as usize),
            Op::AttentionDecode { layer } if placed.decodes > 0 => self.decode(layer as usize),
            Op::AttentionPrefill { layer } if placed.tile_count > 0 => self.prefill(layer as usize),
            Op::Sample if placed.asked > 0 => self.sample(),
            Op::Embed
            | Op::RopeAppend { .. }
            | Op::AttentionDecode { .. }
            | Op::AttentionPrefill { .. }
            | Op::Sample => Ok(()),
            other => self.run_unfused(other),
        }
    }

    /// Puts the tokens that the step before chose among the step's tokens.
    pub(super) fn take_awaited(&mut self) -> Result<(), DriverError> {
        // Once: the step itself chooses others.
        let awaited = std::mem::take(&mut self.step.placed.awaited);
        if awaited == 0 {
            return Ok(());
        }
        let placed = &self.step.placed;
        let arguments = Arguments::new()
            .addresses([placed.tokens, self.rooms.chosen[0]])
            .addresses([placed.awaited_rows, placed.awaited_choices])
            .int(awaited);
        let grid = [awaited.div_ceil(256), 1, 1];
        self.driver.launch(self.kernels.take_chosen, grid, 256, &arguments)
    }

    fn embed(&self) -> Result<(), DriverError> {
        let (placed, matrix) = (&self.step.placed, &self.weights.embedding);
        let chunks = matrix.inputs.div_ceil(self.plan.format.chunk() as u32);
        let arguments = Arguments::new()
            .addresses([self.rooms.residual, matrix.weights, matrix.scales, placed.tokens])
            .int(matrix.inputs);
        let grid = [(4 * chunks).div_ceil(256), placed.rows, 1];
        self.driver.launch(self.kernels.embed, grid, 256, &arguments)
    }

    fn norm(&self, layer: usize, norm: Norm) -> Result<(), DriverError> {
        let placed = &self.step.placed;
        let (weight, picked, rows) = match norm {
            Norm::Attention => {
                (self.weights.layers[layer].attention_norm, Address::NULL, placed.rows)
            }
            Norm::Ffn => (self.weights.layers[layer].ffn_norm, Address::NULL, placed.rows),
            Norm::Final => (self.weights.final_norm, placed.logits_rows, placed.asked),
        };
        if rows == 0 {
            return Ok(());
        }
        let (rooms, kernels) = (&self.rooms, &self.kernels);
        let fused = norm != Norm::Final && self.plan.uses(Technique::FusedQuantize);
        let narrow = self.in_narrow().filter(|_| fused);
        let adds = norm == Norm::Ffn && self.plan.techniques.add_in_norm();
        let out = Arguments::new();
        let out = match narrow {
            Some(_) => out.addresses(rooms.narrow),
            None => out.address(rooms.normed),
        };
        let out = out.address(rooms.residual);
        let arguments = match (adds, narrow) {
            (true, _) => out.addresses([rooms.between.projected, weight]),
            (false, Some(_)) => out.address(weight),
            (false, None) => out.addresses([weight, picked]),
        };
        let norms = narrow.map_or(kernels.norms, |narrow| narrow.norms);
        let kernel = norms[usize::from(adds)];
        let arguments = arguments.int(self.shape.hidden).float(self.shape.norm_eps);
        self.driver.launch(kernel, [rows, 1, 1], 256, &arguments)
    }

    fn linear(&self, layer: usize, projection: Projection) -> Result<(), DriverError> {
        let (rooms, placed) = (&self.rooms, &self.step.placed);
        let product = |matrix: Matrix, x, out| Product {
            matrix,
            out,
            x,
            bias: Address::NULL,
            adds: false,
            rows: placed.rows,
            swiglu: false,
            wide: false,
            narrow: false,
        };
        let layers = &self.weights.layers;
        let mut matrix = self.matrix(layer, projection);
        if self.plan.dequantizes() {
            (matrix.weights, matrix.scales) = (rooms.between.decoded, Address::NULL);
        }
        let added = |product: Product| match self.plan.uses(Technique::FusedResidual) {
            true => Product { adds: true, ..product },
            false => Product { out: rooms.between.projected, ..product },
        };
        let product = match projection {
            Projection::Qkv => {
                // Else they are added by themselves.
                let bias = match self.plan.uses(Technique::FusedRope) {
                    true => layers[layer].qkv_bias,
                    false => Address::NULL,
                };
                Product { bias, ..product(matrix, rooms.normed, rooms.qkv) }
            }
            Projection::Output => added(product(matrix, rooms.attended, rooms.residual)),
            Projection::GateUp if self.plan.uses(Technique::FusedSwiglu) => {
                Product { swiglu: true, ..product(matrix, rooms.normed, rooms.ffn) }
            }
            Projection::GateUp => product(matrix, rooms.normed, rooms.between.gate_up),
            Projection::Down => added(product(matrix, rooms.ffn, rooms.residual)),
            Projection::Head => Product {
                rows: placed.asked,
                wide: true,
                ..product(matrix, rooms.normed, rooms.logits)
            },
        };
        match self.in_narrow() {
            Some(_) if projection != Projection::Head => {
                self.multiply(&Product { x: rooms.narrow[0], narrow: true, ..product })
            }
            _ => self.multiply(&product),
        }
    }

    /// The matrix of a product.
    pub(super) fn matrix(&self, layer: usize, projection: Projection) -> Matrix {
        let layer = || &self.weights.layers[layer];
        match projection {
            Projection::Qkv => layer().qkv,
            Projection::Output => layer().output,
            Projection::GateUp => layer().gate_up,
            Projection::Down => layer().down,
            Projection::Head => self.weights.head,
        }
    }

    fn multiply(&self, product: &Product) -> Result<(), DriverError> {
        let Product { matrix, rows, swiglu, .. } = *product;
        if product.narrow {
            return self.multiply_narrow(product);
        }
        if rows == 0 || rows > TILE_ROWS && self.multiply_dense(product)? {
            return Ok(());
        }
        let multiprocessors = self.driver.card().multiprocessors;
        let split = Split::of(matrix.rows, matrix.inputs, swiglu, multiprocessors);
        let kernels = &self.kernels.products[usize::from(swiglu)];
        let few = [split.few_blocks, split.few_parts, 1];
        let (kernel, grid) = if rows <= FEWER_ROWS {
            (kernels[0], few)
        } else if rows <= FEW_ROWS {
            (kernels[1], few)
        } else if rows <= TILE_ROWS {
            (kernels[2], [split.blocks, 1, split.parts])
        } else {
            (kernels[2], [split.blocks, rows.div_ceil(TILE_ROWS), 1])
        };
        let outputs = if swiglu { matrix.rows / 2 } else { matrix.rows };
        let residual = if product.adds { product.out } else { Address::NULL };
        let arguments = Arguments::new()
            .addresses([product.out, product.x, matrix.weights, matrix.scales])
            .addresses([product.bias, residual, self.rooms.sums, self.rooms.counts])
            .ints([rows, outputs, matrix.inputs, u32::from(product.wide)]);
        self.driver.launch(kernel, grid, 256, &arguments)
    }

    fn rope_append(&self, layer: usize) -> Result<(), DriverError> {
        let (shape, placed) = (&self.shape, &self.step.placed);
        let [keys, values, key_scales, value_scales] = self.cache[layer];
        let [query_norm, key_norm] = self.weights.layers[layer].head_norms;
        // Biases were added by the product.
        let arguments = Arguments::new()
            .addresses([self.rooms.qkv, Address::NULL, query_norm, key_norm])
            .addresses([self.rooms.turns, placed.positions, keys, values])
            .addresses([key_scales, value_scales, placed.slots])
            .ints([placed.rows, shape.heads, shape.kv_heads, shape.head_dim])
            .int(self.plan.block_bits())
            .float(shape.norm_eps);
        let heads = placed.rows * (shape.heads + 2 * shape.kv_heads);
        let grid = [heads.div_ceil(4), 1, 1];
        self.driver.launch(self.kernels.rope_append, grid, 128, &arguments)
    }

    /// Out, queries and the cache: what both attentions begin with.
    fn attention(&self, layer: usize) -> Arguments {
        let (shape, placed) = (&self.shape, &self.step.placed);
        Arguments::new()
            .addresses([self.rooms.attended, self.rooms.qkv])
            .int(shape.q_width() + 2 * shape.kv_width())
            .addresses(self.cache[layer])
            .address(placed.tables)
            .int(placed.table_stride)
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    fn decode(&self, layer: usize) -> Result<(), DriverError> {
        let (shape, placed, plan) = (&self.shape, &self.step.placed, &self.plan);
        let arguments = self
            .attention(layer)
            .addresses([placed.contexts, self.rooms.partial])
            .ints([shape.heads, shape.kv_heads, plan.block_bits(), plan.piece_tokens, plan.window])
            .float(self.scale());
        let grid = [placed.pieces, shape.kv_heads, placed.decodes];
        self.driver.launch(self.kernels.decode, grid, 128, &arguments)?;
        if placed.pieces < 2 {
            return Ok(());
        }
        let arguments = Arguments::new()
            .addresses([self.rooms.attended, self.rooms.partial, placed.contexts])
            .ints([placed.pieces, shape.heads, shape.head_dim, plan.piece_tokens, plan.window]);
        let grid = [shape.heads.div_ceil(4), placed.decodes, 1];
        self.driver.launch(self.kernels.combine, grid, 128, &arguments)
    }

    fn prefill(&self, layer: usize) -> Result<(), DriverError> {
        let (shape, placed, plan) = (&self.shape, &self.step.placed, &self.plan);
        let arguments = self
            .attention(layer)
            .address(placed.tiles)
            .ints([shape.heads, shape.kv_heads, plan.block_bits(), plan.window])
            .float(self.scale());
        let grid = [placed.tile_count, shape.heads, 1];
        self.driver.launch(self.kernels.prefill, grid, 128, &arguments)
    }

    fn sample(&self) -> Result<(), DriverError> {
        let (rooms, placed, vocab) = (&self.rooms, &self.step.placed, self.shape.vocab);
        let parts = vocab.div_ceil(SCANNED);
        let arguments = Arguments::new()
            .addresses([rooms.scanned, rooms.logits, placed.masks, placed.mask_of])
            .int(vocab);
        self.driver.launch(self.kernels.scan, [parts, placed.asked, 1], 256, &arguments)?;
        let arguments = Arguments::new()
            .addresses(rooms.chosen)
            .addresses([rooms.scanned, rooms.logits])
            .addresses([placed.temperatures, placed.top_k, placed.top_p, placed.uniforms])
            .addresses([placed.masks, placed.mask_of])
            .ints([parts, vocab]);
        self.driver.launch(self.kernels.choose, [placed.asked, 1, 1], 512, &arguments)
    }
}

impl Cuda {
    /// A kernel that is not of the model.
    pub(super) fn kernel(&self, name: &str) -> Result<Function, DeviceError> {
        Ok(self.driver.function(name)?)
    }
}
