//! What a model and its limits make of a device: whether they suit, and how large everything is.

use crate::backend::{DeviceError, Limits};
use crate::cost::{Storage, Technique, Techniques};
use crate::event::Dtype;
use crate::model::{Encoding, Precision, Shape};

use super::device::Options;
use super::image::Activation;
use super::launches::TILE_ROWS;
use super::layout::Format;

/// Elements of a head for which there are attention kernels.
const HEADS: [u32; 7] = [16, 32, 48, 64, 80, 96, 128];
/// Query heads that may share a key head.
const SHARING: u32 = 16;
/// The widest row that a norm takes.
const NORM_WIDTH: u32 = 16_384;
/// The most blocks of a grid in any but its first direction.
const GRID: u32 = 65_535;
/// The shortest pieces that contexts of decoded rows are cut into.
const PIECE: u32 = 256;
/// The most pieces of a context: partial results of every row have room on the device.
const PIECES: u32 = 16;
/// Rows of a tile of prefill attention.
pub(super) const TILE: u32 = 64;

/// The 8 bits of rows and weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Narrow {
    /// Multiplied by a library.
    E4m3,
    /// Multiplied by a kernel.
    I8,
}

impl Narrow {
    /// As it ends the names of kernels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::E4m3 => "e4m3",
            Self::I8 => "i8",
        }
    }
}

/// Sizes of everything.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub limits: Limits,
    pub format: Format,
    pub activation: Activation,
    precision: Encoding,
    kv_precision: Encoding,
    /// Positions there are: the model's context, or the pool where it is smaller.
    pub positions: u32,
    pub piece_tokens: u32,
    /// How far a row looks back, itself included; 0 for all.
    pub window: u32,
    pub techniques: Techniques,
    /// Whether a library computes the products of many rows ([`Plan::suits_library`]).
    pub dense: bool,
    /// In which 8 bits the products of a layer take many rows, if they do ([`Plan::narrow_as`]).
    pub narrow: Option<Narrow>,
}

impl Plan {
    /// Sizes for a model of this shape.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if there is no kernel for it.
    pub fn new(shape: &Shape, options: Options) -> Result<Self, DeviceError> {
        let Options { precision, kv_precision, limits, techniques } = options;
        shape.validate().map_err(DeviceError::Unsupported)?;
        let unsupported = |what: String| Err(DeviceError::Unsupported(what));
        let Some((format, activation)) = Format::of(precision) else {
            let found = precision.code();
            return unsupported(format!(
                "weights on cuda: expected bf16, f16, q8_0, q4_0, e4m3, i8, i4 or nf4, found \
                 {found}"
            ));
        };
        let caches = [Encoding::Stored(Precision::F16), Encoding::Stored(Precision::Bf16)];
        if !caches.contains(&kv_precision) && !is_scaled(kv_precision) {
            let found = kv_precision.code();
            return unsupported(format!(
                "KV cache on cuda: expected f16, bf16, e4m3 or i8, found {found}"
            ));
        }
        if !HEADS.contains(&shape.head_dim) {
            let found = shape.head_dim;
            return unsupported(format!(
                "head_dim on cuda: expected one of {HEADS:?}, found {found}"
            ));
        }
        let sharing = shape.heads / shape.kv_heads;
        let most = [
            ("query heads of a key head", sharing, SHARING),
            ("hidden", shape.hidden, NORM_WIDTH),
            ("limit of rows", limits.rows, GRID),
            ("limit of rows that ask for logits", limits.logits_rows, GRID),
        ];
        for (name, found, most) in most {
            if !(1..=most).contains(&found) {
                return unsupported(format!("{name} on cuda: expected 1 to {most}, found {found}"));
            }
        }
        let inputs =
            [("hidden", shape.hidden), ("query width", shape.q_width()), ("ffn", shape.ffn)];
        for (name, found) in inputs {
            let grain = format.grain();
            if !found.is_multiple_of(grain) {
                let code = precision.code();
                return unsupported(format!(
                    "{name} on cuda: expected a multiple of {grain} for {code}, found {found}"
                ));
            }
        }
        let block_tokens = limits.block_tokens;
        if !block_tokens.is_power_of_two() || block_tokens < 16 {
            return unsupported(format!(
                "block tokens on cuda: expected a power of two from 16 on, found {block_tokens}"
            ));
        }
        let pool_tokens = u64::from(limits.kv_blocks) * u64::from(block_tokens);
        // A slot is an int.
        if !(1..=1 << 31).contains(&pool_tokens) {
            return unsupported(format!("KV pool on cuda: {pool_tokens} tokens, at most 2³¹"));
        }
        let positions = u64::from(shape.context).min(pool_tokens) as u32;
        let pieces = if techniques.has(Technique::SplitKv) { PIECES } else { 1 };
        let piece_tokens = positions.div_ceil(pieces).next_multiple_of(PIECE);
        let window = shape.sliding_window.unwrap_or(0);
        Ok(Self {
            limits,
            format,
            activation,
            precision,
            kv_precision,
            positions,
            piece_tokens,
            window,
            techniques,
            dense: false,
            narrow: None,
        })
    }

    /// Whether `technique` is used.
    pub const fn uses(&self, technique: Technique) -> bool {
        self.techniques.has(technique)
    }

    /// How many steps may be in flight.
    pub const fn steps_in_flight(&self) -> u32 {
        if self.uses(Technique::AsyncScheduling) { 2 } else { 1 }
    }

    /// Whether weights are written out as activations before they are multiplied.
    pub fn dequantizes(&self) -> bool {
        self.format != Format::W16 && !self.uses(Technique::FusedDequantize)
    }

    /// Whether there are products that a library of dense ones could compute: of weights in 16
    /// bits, and of more rows than stream the weights past once.
    pub fn suits_library(&self) -> bool {
        let plain = self.format == Format::W16 || self.dequantizes();
        plain && self.limits.rows > TILE_ROWS
    }

    /// In which 8 bits the products of a layer could take many rows.
    pub fn narrow_as(&self) -> Option<Narrow> {
        let on = self.uses(Technique::QuantizedRows) && !self.dequantizes();
        match self.format {
            _ if !on || self.limits.rows <= TILE_ROWS => None,
            Format::E4m3 => Some(Narrow::E4m3),
            Format::I8 => Some(Narrow::I8),
            _ => None,
        }
    }

    /// In which 8 bits they take so many rows.
    pub fn narrow(&self, rows: u32) -> Option<Narrow> {
        self.narrow.filter(|_| rows > TILE_ROWS)
    }

    /// Whether a library computes any product.
    pub fn has_library(&self) -> bool {
        self.dense || self.narrow == Some(Narrow::E4m3)
    }

    /// Whether gates and ups of many rows are written out before SwiGLU.
    pub fn splits_swiglu(&self) -> bool {
        self.dense || self.narrow.is_some()
    }

    /// How it stores what a step moves.
    pub fn storage(&self) -> Storage {
        Storage {
            weights: self.precision,
            kv: self.kv_precision,
            activation_bytes: 2,
            activation_dtype: match self.activation {
                Activation::Bf16 => Dtype::Bf16,
                Activation::F16 => Dtype::F16,
            },
            block_tokens: self.limits.block_tokens,
            piece_tokens: self.uses(Technique::SplitKv).then_some(self.piece_tokens),
            quantized_rows: false,
            swiglu_rows: self.splits_swiglu().then_some(TILE_ROWS),
            wide_rows: self.narrow.map(|_| TILE_ROWS),
            techniques: self.techniques,
        }
    }

    /// The cache's format by its name in the names of kernels.
    pub fn kv_name(&self) -> &'static str {
        self.kv_precision.code()
    }

    /// Pieces that decoded rows are cut into if the longest has `tokens` of context, itself
    /// included.
    pub fn pieces(&self, tokens: u32) -> u32 {
        let all = tokens.div_ceil(self.piece_tokens).max(1);
        match self.window {
            0 => all,
            window => all.min(window.div_ceil(self.piece_tokens) + 1),
        }
    }

    /// Heads of the keys, or of the values, of one layer.
    fn pool_heads(&self, shape: &Shape) -> u64 {
        let slots = u64::from(self.limits.kv_blocks) * u64::from(self.limits.block_tokens);
        slots * u64::from(shape.kv_heads)
    }

    /// Bytes of the keys, or of the values, of one layer, their scales included.
    pub fn pool_bytes(&self, shape: &Shape) -> u64 {
        self.kv_precision.kv_bytes(self.pool_heads(shape), u64::from(shape.head_dim))
    }

    /// Of these, bytes of scales.
    pub fn pool_scale_bytes(&self, shape: &Shape) -> u64 {
        if is_scaled(self.kv_precision) { 4 * self.pool_heads(shape) } else { 0 }
    }

    /// The logarithm of the tokens of a block.
    pub const fn block_bits(&self) -> u32 {
        self.limits.block_tokens.trailing_zeros()
    }

    /// The most blocks of a sequence.
    pub const fn blocks(&self) -> u32 {
        self.positions.div_ceil(self.limits.block_tokens)
    }
}

/// Whether keys and values of this encoding have scales.
const fn is_scaled(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::E4m3 | Encoding::I8)
}

/// Into how many parts the inputs of a product are divided where `blocks` of outputs would not fill
/// a device: by the matrix and the device alone, since it decides the order of sums. A part has at
/// least `least` runs of 128 inputs.
pub(super) fn parts(blocks: u32, wanted: u32, inputs: u32, least: u32) -> u32 {
    let runs = inputs.div_ceil(128);
    wanted.div_ceil(blocks.max(1)).min(runs / least).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::modelled::small_shape;

    fn options() -> Options {
        let limits = Limits { rows: 64, logits_rows: 8, kv_blocks: 512, block_tokens: 16 };
        Options {
            precision: Precision::Bf16.into(),
            kv_precision: Precision::F16.into(),
            limits,
            techniques: Techniques::ALL,
        }
    }

    fn refused(shape: &Shape, options: Options) -> String {
        Plan::new(shape, options).unwrap_err().to_string()
    }

    #[test]
    fn what_has_no_kernel_is_refused_by_name() {
        let (shape, plain) = (small_shape(), options());
        assert!(Plan::new(&shape, plain).is_ok());
        for (changed, expected) in [
            (
                Options { precision: Precision::F32.into(), ..plain },
                "expected bf16, f16, q8_0, q4_0, e4m3",
            ),
            (
                Options { kv_precision: Precision::F32.into(), ..plain },
                "expected f16, bf16, e4m3 or i8, found f32",
            ),
            (
                Options { limits: Limits { block_tokens: 8, ..plain.limits }, ..plain },
                "expected a power of two from 16 on, found 8",
            ),
            (
                Options { limits: Limits { rows: 70_000, ..plain.limits }, ..plain },
                "limit of rows on cuda: expected 1 to 65535, found 70000",
            ),
        ] {
            let said = refused(&shape, changed);
            assert!(said.contains(expected), "{said}");
        }
        let q8 = Options { precision: Precision::Q8_0.into(), ..plain };
        for (shape, expected) in [
            (Shape { head_dim: 112, ..shape.clone() }, "found 112"),
            (Shape { heads: 32, ..shape.clone() }, "expected 1 to 16, found 32"),
            (
                Shape { ffn: 40, ..shape },
                "ffn on cuda: expected a multiple of 32 for q8_0, found 40",
            ),
        ] {
            let said = refused(&shape, q8);
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn long_contexts_have_longer_pieces_and_windows_fewer() {
        let plan = |context, sliding_window| {
            let shape = Shape { context, sliding_window, ..small_shape() };
            Plan::new(&shape, options()).unwrap()
        };
        let short = plan(4096, None);
        assert_eq!((short.piece_tokens, short.pieces(256), short.pieces(257)), (256, 1, 2));
        let long = plan(8192, None);
        assert_eq!((long.piece_tokens, long.pieces(8192)), (512, 16));
        let window = plan(4096, Some(300));
        assert_eq!((window.pieces(100), window.pieces(4096)), (1, 3));
        let whole =
            Options { techniques: Techniques::ALL.without(Technique::SplitKv), ..options() };
        let whole = Plan::new(&Shape { context: 8192, ..small_shape() }, whole).unwrap();
        assert_eq!((whole.pieces(8192), whole.storage().piece_tokens), (1, None));
    }

    #[test]
    fn products_are_divided_until_the_device_is_full() {
        assert_eq!(parts(256, 264, 4096, 8), 2);
        assert_eq!(parts(1000, 264, 4096, 8), 1);
        assert_eq!(parts(10, 264, 4096, 8), 4);
        assert_eq!(parts(10, 264, 64, 8), 1);
    }
}
