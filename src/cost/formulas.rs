//! Bytes and operations of each kernel, in fused form; `unfused` has those that stand in for them.
//!
//! Symbols: `T` rows, `R` rows that ask for logits, `d` hidden, `F` feed-forward width, `V`
//! vocabulary, `Hq`/`Hkv` heads, `D` elements of a head, `S` context of a decode row with
//! itself, `a` bytes of an activation, `w(n)` bytes of `n` weights, `k(n)` bytes of `n` cache
//! elements, both with their scales: in 8 bits `w(KN) = KN + 4N` and `k(n) = n + 4n/D`, in groups
//! of `g` 4-bit weights `w(KN) = KN/2 + 2N⌈K/g⌉`.
//!
//! | kernel | weight bytes | KV bytes | activation bytes | operations |
//! |---|---|---|---|---|
//! | embed | `w(Td)` | | `Tda` | 0 |
//! | norms | `da` | | `2Tda` | `4Td` |
//! | qkv, `N = (Hq+2Hkv)D` | `w(dN)`, biases `Na` | | `T(d+N)a` | `2TdN`, biases `TN` |
//! | rope, append | norms `2Da` | `k(2THkvD)` | `T(2Hq+2Hkv)Da` | `3T(Hq+Hkv)D`, norms `4T(Hq+Hkv)D` |
//! | attention, decode | | `k(2HkvD ΣS)` | `2THqDa + 4·blocks` | `4HqD ΣS` |
//! | attention, prefill | | `k(2HkvD Σ(p+T))` | `2THqDa + 4·blocks` | `4HqD Σ(Tp+T(T+1)/2)` |
//! | output, down `K→d` | `w(Kd)` | | `T(K+2d)a` | `2TKd + Td` |
//! | gate, up | `w(2dF)` | | `T(d+F)a` | `4TdF` |
//! | head | `w(Vd)` | | `R(da+4V)` | `2RVd` |
//! | sample | | | `4RV` | `6RV` |
//!
//! Rows that are multiplied in 8 bits take `K + 4` bytes each in the place of `Ka` where a product
//! reads them and where a norm writes them, which then does `6Td` operations.
//!
//! Excess is what a form without that round trip would not move: the partial results of decode
//! rows whose context is cut into pieces, activations written out again in 8 bits before a
//! product of quantized weights, and `4TFa` of gates and ups where SwiGLU follows their product.

use crate::event::{Driver, Dtype};
use crate::model::{Encoding, Precision, Shape};
use crate::unit::{Bytes, Ops};

use super::load::Cut;
use super::{Kernel, StepLoad, Technique, Techniques};

/// How a backend stores what a step moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The weights of matrices.
    pub weights: Encoding,
    /// The KV cache.
    pub kv: Encoding,
    /// Bytes of an activation.
    pub activation_bytes: u64,
    /// What everything but matrix products computes with.
    pub activation_dtype: Dtype,
    /// Tokens in a KV block.
    pub block_tokens: u32,
    /// Tokens in a piece of a decode row's context, if contexts are cut.
    pub piece_tokens: Option<u32>,
    /// Whether rows are written out in blocks of 8-bit integers before they are multiplied.
    pub quantized_rows: bool,
    /// The most rows for which SwiGLU is applied as gates and ups leave their product; none if it
    /// always is. Those of more rows are written out and read again.
    pub swiglu_rows: Option<u32>,
    /// The most rows that products of a layer take as activations; none if they always do. More
    /// are multiplied in the weights' own 8 bits, each with a scale of 4 bytes.
    pub wide_rows: Option<u32>,
    /// Which techniques it uses; the others' kernels stand in their place.
    pub techniques: Techniques,
}

impl Storage {
    /// Bytes that the keys and values of a token take, over all layers.
    #[must_use]
    pub fn kv_bytes_per_token(&self, shape: &Shape) -> u64 {
        let heads = 2 * u64::from(shape.kv_heads) * u64::from(shape.layers);
        self.kv.kv_bytes(heads, u64::from(shape.head_dim))
    }
}

/// The least an operation must move and compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Which kernel.
    pub kernel: Kernel,
    /// Weight bytes it must read.
    pub weight_bytes: Bytes,
    /// KV-cache bytes it must read and write.
    pub kv_bytes: Bytes,
    /// Activation bytes it must read and write.
    pub activation_bytes: Bytes,
    /// Bytes it moves beyond these that a fused form would not.
    pub excess_bytes: Bytes,
    /// Operations it must do; a fused multiply-add counts as two.
    pub ops: Ops,
    /// The format it computes with.
    pub dtype: Dtype,
    /// What its cost grows with.
    pub driver: Driver,
}

/// The number format that weights of a precision are multiplied in.
#[must_use]
pub const fn dtype(precision: Precision) -> Dtype {
    match precision {
        Precision::F32 => Dtype::F32,
        Precision::Bf16 => Dtype::Bf16,
        Precision::F16 => Dtype::F16,
        Precision::Q8_0 => Dtype::Q8_0,
        Precision::Q4_0 => Dtype::Q4_0,
    }
}

/// The formulas for one model on one backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Formulas {
    pub(super) storage: Storage,
    window: u64,
    pub(super) hidden: u64,
    pub(super) ffn: u64,
    pub(super) vocab: u64,
    pub(super) q_width: u64,
    pub(super) kv_width: u64,
    pub(super) head_dim: u64,
    pub(super) heads: u64,
    pub(super) qkv_bias: bool,
    pub(super) qk_norm: bool,
}

impl Formulas {
    /// For a model of this shape, stored like this.
    #[must_use]
    pub fn new(shape: &Shape, storage: Storage) -> Self {
        Self {
            storage,
            window: shape.sliding_window.map_or(u64::MAX, u64::from).max(1),
            hidden: shape.hidden.into(),
            ffn: shape.ffn.into(),
            vocab: shape.vocab.into(),
            q_width: shape.q_width().into(),
            kv_width: shape.kv_width().into(),
            head_dim: shape.head_dim.into(),
            heads: shape.heads.into(),
            qkv_bias: shape.qkv_bias,
            qk_norm: shape.qk_norm,
        }
    }

    /// How the backend stores what a step moves.
    #[must_use]
    pub const fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The load of a step over `sequences` of (cached tokens, rows).
    pub fn load(
        &self,
        sequences: impl IntoIterator<Item = (u32, u32)>,
        logits_rows: u32,
    ) -> StepLoad {
        let cut = Cut {
            window: self.window,
            block_tokens: u64::from(self.storage.block_tokens).max(1),
            piece_tokens: self.storage.piece_tokens.map_or(u64::MAX, u64::from).max(1),
        };
        let mut load = StepLoad { logits_rows: logits_rows.into(), ..StepLoad::default() };
        for (context, rows) in sequences {
            load.add(cut, context.into(), rows.into());
        }
        load
    }

    /// What one run of `kernel` must take in a step of this load.
    #[must_use]
    pub fn budget(&self, kernel: Kernel, load: &StepLoad) -> Budget {
        let qkv = self.q_width + 2 * self.kv_width;
        match kernel {
            Kernel::Embed => self.embed(load),
            Kernel::AttentionNorm | Kernel::FfnNorm => self.layer_norm(kernel, load.rows),
            Kernel::FinalNorm => self.norm(kernel, load.logits_rows),
            Kernel::QuantizeQkv | Kernel::QuantizeGateUp => self.quantize_normed(kernel, load.rows),
            Kernel::QuantizeOutput => self.quantize(kernel, load.rows, self.q_width),
            Kernel::QuantizeDown => self.quantize(kernel, load.rows, self.ffn),
            Kernel::DequantizeQkv => self.dequantize(kernel, self.hidden, qkv),
            Kernel::Qkv => self.qkv(load.rows),
            Kernel::BiasAdd => self.bias_add(load.rows),
            Kernel::HeadNorm => self.head_norm(load.rows),
            Kernel::Rope => self.rope(load.rows),
            Kernel::KvAppend => self.kv_append(load.rows),
            Kernel::RopeAppend => self.rope_append(load.rows),
            Kernel::AttentionDecode => self.attention_decode(load),
            Kernel::AttentionPrefill => self.attention_prefill(load),
            Kernel::DecodeScores
            | Kernel::DecodeSoftmax
            | Kernel::DecodeValues
            | Kernel::PrefillScores
            | Kernel::PrefillSoftmax
            | Kernel::PrefillValues => self.naive_attention(kernel, load),
            Kernel::DequantizeOutput => self.dequantize(kernel, self.q_width, self.hidden),
            Kernel::Output => self.residual_product(kernel, self.q_width, load.rows),
            Kernel::OutputAdd | Kernel::DownAdd => self.residual_add(kernel, load.rows),
            Kernel::DequantizeGateUp => self.dequantize(kernel, self.hidden, 2 * self.ffn),
            Kernel::GateUp => self.gate_up(load.rows),
            Kernel::SiluMul => self.silu_mul(load.rows),
            Kernel::DequantizeDown => self.dequantize(kernel, self.ffn, self.hidden),
            Kernel::Down => self.residual_product(kernel, self.ffn, load.rows),
            Kernel::DequantizeHead => self.dequantize(kernel, self.hidden, self.vocab),
            Kernel::Head => self.head(load.logits_rows),
            Kernel::Sample => self.sample(load.logits_rows),
            Kernel::SampleWeights | Kernel::SampleSort | Kernel::SamplePick => {
                self.naive_sampling(kernel, load.logits_rows)
            }
        }
    }

    pub(super) fn blank(&self, kernel: Kernel) -> Budget {
        Budget {
            kernel,
            weight_bytes: Bytes::ZERO,
            kv_bytes: Bytes::ZERO,
            activation_bytes: Bytes::ZERO,
            excess_bytes: Bytes::ZERO,
            ops: Ops::ZERO,
            dtype: self.storage.activation_dtype,
            driver: kernel.driver(),
        }
    }

    /// The bytes of rows as a product of a layer reads them.
    pub(super) fn inputs(&self, rows: u64, inputs: u64) -> Bytes {
        match self.narrows(rows) {
            true => Bytes(rows * (inputs + 4)),
            false => self.activations(rows * inputs),
        }
    }

    /// The format that a product of a layer computes with.
    fn layer_dtype(&self, rows: u64) -> Dtype {
        match (self.narrows(rows), self.storage.weights) {
            (true, Encoding::E4m3) => Dtype::E4m3,
            (true, Encoding::I8) => Dtype::I8,
            (_, weights) => weights.stored().map_or(self.storage.activation_dtype, dtype),
        }
    }

    /// A product of `rows` rows of `inputs` with weights of `outputs` rows.
    fn product(&self, kernel: Kernel, rows: u64, inputs: u64, outputs: u64) -> Budget {
        let quantized =
            if self.storage.quantized_rows { 2 * rows * Precision::Q8_0.bytes(inputs) } else { 0 };
        let ops = Ops(2 * rows * inputs * outputs);
        if self.dequantizes() {
            // The weights were read before, and written out as activations.
            let excess_bytes = self.activations(inputs * outputs);
            return Budget { excess_bytes, ops, ..self.blank(kernel) };
        }
        Budget {
            weight_bytes: Bytes(self.storage.weights.matrix_bytes(outputs, inputs)),
            excess_bytes: Bytes(quantized),
            ops,
            dtype: self.layer_dtype(if kernel == Kernel::Head { 0 } else { rows }),
            ..self.blank(kernel)
        }
    }

    /// Bytes of so many elements of the cache, whole heads.
    pub(super) fn kv_bytes(&self, elements: u64) -> Bytes {
        Bytes(self.storage.kv.kv_bytes(elements / self.head_dim.max(1), self.head_dim))
    }

    pub(super) fn activations(&self, elements: u64) -> Bytes {
        Bytes(elements * self.storage.activation_bytes)
    }

    fn embed(&self, load: &StepLoad) -> Budget {
        Budget {
            weight_bytes: Bytes(load.rows * self.storage.weights.matrix_bytes(1, self.hidden)),
            activation_bytes: self.activations(load.rows * self.hidden),
            ..self.blank(Kernel::Embed)
        }
    }

    fn norm(&self, kernel: Kernel, rows: u64) -> Budget {
        Budget {
            weight_bytes: self.activations(self.hidden),
            activation_bytes: self.activations(2 * rows * self.hidden),
            ops: Ops(4 * rows * self.hidden),
            ..self.blank(kernel)
        }
    }

    /// A norm whose rows a product of a layer reads.
    fn layer_norm(&self, kernel: Kernel, rows: u64) -> Budget {
        let mut norm = self.norm(kernel, rows);
        if kernel == Kernel::FfnNorm && self.adds_in_norm() {
            // The stream is read and written, and what is added is read in its place.
            norm.activation_bytes += self.activations(2 * rows * self.hidden);
            norm.ops += Ops(rows * self.hidden);
        }
        if !self.narrows(rows) {
            return norm;
        }
        // What it writes, in 16 bits.
        let written = self.activations(rows * self.hidden);
        norm.activation_bytes = norm.activation_bytes - written;
        if self.uses(Technique::FusedQuantize) {
            norm.activation_bytes += self.inputs(rows, self.hidden);
            norm.ops += Ops(2 * rows * self.hidden);
        } else {
            // It is read to be written once more.
            norm.excess_bytes = written;
        }
        norm
    }

    fn qkv(&self, rows: u64) -> Budget {
        let outputs = self.q_width + 2 * self.kv_width;
        let mut budget = self.product(Kernel::Qkv, rows, self.hidden, outputs);
        budget.activation_bytes = self.inputs(rows, self.hidden) + self.activations(rows * outputs);
        if self.qkv_bias && self.uses(Technique::FusedRope) {
            budget.weight_bytes += self.activations(outputs);
            budget.ops += Ops(rows * outputs);
        }
        budget
    }

    fn rope_append(&self, rows: u64) -> Budget {
        let turned = self.q_width + self.kv_width;
        let (norms, norm_ops) = if self.qk_norm { (2 * self.head_dim, 4) } else { (0, 0) };
        Budget {
            weight_bytes: self.activations(norms),
            kv_bytes: self.kv_bytes(2 * rows * self.kv_width),
            activation_bytes: self.activations(rows * (2 * self.q_width + 2 * self.kv_width)),
            ops: Ops((3 + norm_ops) * rows * turned),
            ..self.blank(Kernel::RopeAppend)
        }
    }

    fn attention_decode(&self, load: &StepLoad) -> Budget {
        let partials = load.decode_pieces * self.heads * (self.head_dim + 2);
        let ends = self.activations(2 * load.decode_rows * self.q_width);
        Budget {
            kv_bytes: self.kv_bytes(2 * load.decode_kv_tokens * self.kv_width),
            activation_bytes: ends + Bytes(4 * load.decode_blocks),
            // Partial results are f32 on every backend, written once and read once.
            excess_bytes: Bytes(2 * 4 * partials),
            ops: Ops(4 * self.q_width * load.decode_kv_tokens),
            ..self.blank(Kernel::AttentionDecode)
        }
    }

    fn attention_prefill(&self, load: &StepLoad) -> Budget {
        let ends = self.activations(2 * load.prefill_rows * self.q_width);
        Budget {
            kv_bytes: self.kv_bytes(2 * load.prefill_kv_tokens * self.kv_width),
            activation_bytes: ends + Bytes(4 * load.prefill_blocks),
            ops: Ops(4 * self.q_width * load.prefill_query_context),
            ..self.blank(Kernel::AttentionPrefill)
        }
    }

    /// A product back to the width of the residual stream, added to it.
    fn residual_product(&self, kernel: Kernel, inputs: u64, rows: u64) -> Budget {
        let mut budget = self.product(kernel, rows, inputs, self.hidden);
        if self.uses(Technique::FusedResidual) {
            budget.activation_bytes =
                self.inputs(rows, inputs) + self.activations(2 * rows * self.hidden);
            budget.ops += Ops(rows * self.hidden);
        } else {
            budget.activation_bytes = self.inputs(rows, inputs);
            budget.excess_bytes += self.activations(rows * self.hidden);
        }
        budget
    }

    fn gate_up(&self, rows: u64) -> Budget {
        let mut budget = self.product(Kernel::GateUp, rows, self.hidden, 2 * self.ffn);
        if self.uses(Technique::FusedSwiglu) {
            budget.activation_bytes =
                self.inputs(rows, self.hidden) + self.activations(rows * self.ffn);
            if self.storage.swiglu_rows.is_some_and(|most| rows > most.into()) {
                budget.excess_bytes += self.activations(4 * rows * self.ffn);
            }
        } else {
            budget.activation_bytes = self.inputs(rows, self.hidden);
            budget.excess_bytes += self.activations(2 * rows * self.ffn);
        }
        budget
    }

    fn head(&self, rows: u64) -> Budget {
        let mut budget = self.product(Kernel::Head, rows, self.hidden, self.vocab);
        // Logits are f32 on every backend.
        budget.activation_bytes =
            self.activations(rows * self.hidden) + Bytes(4 * rows * self.vocab);
        budget
    }

    fn sample(&self, rows: u64) -> Budget {
        Budget {
            activation_bytes: Bytes(4 * rows * self.vocab),
            ops: Ops(6 * rows * self.vocab),
            ..self.blank(Kernel::Sample)
        }
    }
}

#[cfg(test)]
#[path = "formulas_tests.rs"]
mod tests;
