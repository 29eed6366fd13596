//! The dimensions of a decoder-only transformer of the Llama family.

use serde::{Deserialize, Serialize};

use super::Encoding;

/// Which member of the family; decides names in files and which options are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Llama 2 and 3, and what shares their architecture.
    Llama,
    /// Mistral: Llama with an optional sliding window.
    Mistral,
    /// Qwen 2 and 2.5: biases on query, key and value.
    Qwen2,
    /// Qwen 3: a norm on each query and key head.
    Qwen3,
}

impl Family {
    /// The word in `run.json` and reports.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// How weights are stored and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit float.
    F16,
    /// Blocks of 32: an f16 scale and 32 signed bytes (34 bytes), as in GGUF.
    Q8_0,
    /// Blocks of 32: an f16 scale and 32 nibbles (18 bytes), as in GGUF.
    Q4_0,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Self; 5] = [Self::F32, Self::Bf16, Self::F16, Self::Q8_0, Self::Q4_0];

    /// The word on the command line and in `run.json`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// Bytes that `elements` weights take, scales included. `elements` is a multiple of 32 for
    /// the block formats.
    #[must_use]
    pub const fn bytes(self, elements: u64) -> u64 {
        match self {
            Self::F32 => elements * 4,
            Self::Bf16 | Self::F16 => elements * 2,
            Self::Q8_0 => elements / 32 * 34,
            Self::Q4_0 => elements / 32 * 18,
        }
    }
}

/// Rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f32,
    /// How long contexts are stretched, if they are.
    pub scaling: Option<RopeScaling>,
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// All positions divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// The factor.
        factor: f32,
        /// Wavelengths longer than `original_context / low` are divided.
        low: f32,
        /// Wavelengths shorter than `original_context / high` are kept.
        high: f32,
        /// The context the model was first trained with.
        original_context: u32,
    },
}

/// The dimensions of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// The member of the family.
    pub family: Family,
    /// Decoder layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of the feed-forward layer.
    pub ffn: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Tokens of the vocabulary.
    pub vocab: u32,
    /// The longest context, in tokens.
    pub context: u32,
    /// Rotary embedding.
    pub rope: Rope,
    /// The epsilon of every RMSNorm.
    pub norm_eps: f32,
    /// Whether query, key and value have biases.
    pub qkv_bias: bool,
    /// Whether each query and key head is normed before rotation.
    pub qk_norm: bool,
    /// Whether the head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Attention looks back at most this far, if limited.
    pub sliding_window: Option<u32>,
}

impl Shape {
    /// Width of all query heads together.
    #[must_use]
    pub const fn q_width(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    #[must_use]
    pub const fn kv_width(&self) -> u32 {
        self.kv_heads * self.head_dim
    }

    /// Whether the dimensions go together and are small enough to count with.
    ///
    /// # Errors
    /// The first rule that is broken, with the values found: every dimension at least 1 and at
    /// most 2²⁴, `kv_heads` divides `heads`, `head_dim` is even, constants are finite and above 0.
    pub fn validate(&self) -> Result<(), String> {
        const MOST: u32 = 1 << 24;
        let dimensions = [
            ("layers", self.layers, 1 << 14),
            ("hidden", self.hidden, MOST),
            ("ffn", self.ffn, MOST),
            ("heads", self.heads, 1 << 16),
            ("kv_heads", self.kv_heads, 1 << 16),
            ("head_dim", self.head_dim, 1 << 14),
            ("vocab", self.vocab, MOST),
            ("context", self.context, 1 << 30),
            ("sliding_window", self.sliding_window.unwrap_or(1), u32::MAX),
        ];
        for (name, value, most) in dimensions {
            if !(1..=most).contains(&value) {
                return Err(format!("{name}: expected 1 to {most}, found {value}"));
            }
        }
        let width = u64::from(self.heads) * u64::from(self.head_dim);
        if width > u64::from(MOST) {
            return Err(format!("heads times head_dim: expected at most {MOST}, found {width}"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return Err(format!("kv_heads: expected a divisor of {heads} heads, found {kv_heads}"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim: expected an even number, found {}", self.head_dim));
        }
        for (name, value) in self.constants() {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("{name}: expected a finite number above 0, found {value}"));
            }
        }
        self.validate_ramp()
    }

    /// The real-valued constants, each of which must be finite and above 0.
    fn constants(&self) -> Vec<(&'static str, f32)> {
        let mut constants = vec![("norm_eps", self.norm_eps), ("rope theta", self.rope.theta)];
        match self.rope.scaling {
            None => {}
            Some(RopeScaling::Linear { factor }) => constants.push(("rope factor", factor)),
            Some(RopeScaling::Llama3 { factor, low, high, .. }) => constants.extend([
                ("rope factor", factor),
                ("rope low_freq_factor", low),
                ("rope high_freq_factor", high),
            ]),
        }
        constants
    }

    /// The ramp of Llama 3.1 must rise.
    fn validate_ramp(&self) -> Result<(), String> {
        match self.rope.scaling {
            Some(RopeScaling::Llama3 { low, high, .. }) if low >= high => Err(format!(
                "rope high_freq_factor: expected above low_freq_factor {low}, found {high}"
            )),
            Some(RopeScaling::Llama3 { original_context: 0, .. }) => {
                Err("rope original context: expected at least 1, found 0".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Rows and columns of tensor `id`, `[out, in]`; `[1, width]` for a norm or a bias. `None`
    /// if a model of this shape has no such tensor.
    #[must_use]
    pub fn dimensions(&self, id: TensorId) -> Option<[u32; 2]> {
        let (hidden, q, kv) = (self.hidden, self.q_width(), self.kv_width());
        let (layer, tensor) = match id {
            TensorId::Embedding | TensorId::Head => return Some([self.vocab, hidden]),
            TensorId::FinalNorm => return Some([1, hidden]),
            TensorId::Layer(layer, tensor) => (layer, tensor),
        };
        if layer >= self.layers {
            return None;
        }
        match tensor {
            LayerTensor::AttentionNorm | LayerTensor::FfnNorm => Some([1, hidden]),
            LayerTensor::Query => Some([q, hidden]),
            LayerTensor::Key | LayerTensor::Value => Some([kv, hidden]),
            LayerTensor::QueryBias => self.qkv_bias.then_some([1, q]),
            LayerTensor::KeyBias | LayerTensor::ValueBias => self.qkv_bias.then_some([1, kv]),
            LayerTensor::QueryNorm | LayerTensor::KeyNorm => {
                self.qk_norm.then_some([1, self.head_dim])
            }
            LayerTensor::Output => Some([hidden, q]),
            LayerTensor::Gate | LayerTensor::Up => Some([self.ffn, hidden]),
            LayerTensor::Down => Some([hidden, self.ffn]),
        }
    }

    /// Every tensor that a model of this shape stores; a tied head is not among them.
    pub fn tensors(&self) -> impl Iterator<Item = TensorId> + '_ {
        let ends = [TensorId::Embedding, TensorId::FinalNorm];
        let head = (!self.tied_embeddings).then_some(TensorId::Head);
        let layers = (0..self.layers)
            .flat_map(|layer| LayerTensor::ALL.map(|tensor| TensorId::Layer(layer, tensor)))
            .filter(|&id| self.dimensions(id).is_some());
        ends.into_iter().chain(head).chain(layers)
    }

    /// Whether every matrix can be kept in `precision`: the block formats need rows of whole
    /// blocks of 32.
    #[must_use]
    pub const fn suits(&self, precision: Precision) -> bool {
        match precision {
            Precision::F32 | Precision::Bf16 | Precision::F16 => true,
            Precision::Q8_0 | Precision::Q4_0 => {
                self.hidden.is_multiple_of(32)
                    && self.ffn.is_multiple_of(32)
                    && self.q_width().is_multiple_of(32)
            }
        }
    }

    /// Bytes of all weights with the matrices in `precision` and norms and biases in f32. A
    /// tied head counts once. The shape must suit the precision.
    #[must_use]
    pub fn weight_bytes(&self, precision: impl Into<Encoding>) -> u64 {
        let encoding = precision.into();
        self.tensors()
            .filter_map(|id| Some((id, self.dimensions(id)?)))
            .map(|(id, [rows, columns])| {
                let kept = if id.is_vector() { Precision::F32.into() } else { encoding };
                kept.matrix_bytes(u64::from(rows), u64::from(columns))
            })
            .sum()
    }

    /// Weights of the matrices, norms and biases together; a tied head counts once.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let (hidden, ffn) = (u64::from(self.hidden), u64::from(self.ffn));
        let (q, kv) = (u64::from(self.q_width()), u64::from(self.kv_width()));
        let attention = hidden * (q + 2 * kv) + q * hidden;
        let biases = if self.qkv_bias { q + 2 * kv } else { 0 };
        let qk_norms = if self.qk_norm { 2 * u64::from(self.head_dim) } else { 0 };
        let layer = attention + biases + qk_norms + 3 * hidden * ffn + 2 * hidden;
        let embedding = u64::from(self.vocab) * hidden;
        let head = if self.tied_embeddings { 0 } else { embedding };
        u64::from(self.layers) * layer + embedding + head + hidden
    }

    /// Bytes of KV cache per token over all layers, with `element_bytes` per element.
    #[must_use]
    pub fn kv_bytes_per_token(&self, element_bytes: u64) -> u64 {
        2 * u64::from(self.kv_width()) * u64::from(self.layers) * element_bytes
    }
}

/// A tensor of a layer. Matrices are `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerTensor {
    /// Norm before attention, `[hidden]`.
    AttentionNorm,
    /// Query projection, `[heads·head_dim, hidden]`.
    Query,
    /// Key projection, `[kv_heads·head_dim, hidden]`.
    Key,
    /// Value projection, `[kv_heads·head_dim, hidden]`.
    Value,
    /// Query bias, `[heads·head_dim]`.
    QueryBias,
    /// Key bias, `[kv_heads·head_dim]`.
    KeyBias,
    /// Value bias, `[kv_heads·head_dim]`.
    ValueBias,
    /// Norm of each query head, `[head_dim]`.
    QueryNorm,
    /// Norm of each key head, `[head_dim]`.
    KeyNorm,
    /// Output projection, `[hidden, heads·head_dim]`.
    Output,
    /// Norm before the feed-forward layer, `[hidden]`.
    FfnNorm,
    /// Gate projection, `[ffn, hidden]`.
    Gate,
    /// Up projection, `[ffn, hidden]`.
    Up,
    /// Down projection, `[hidden, ffn]`.
    Down,
}

impl LayerTensor {
    /// Every tensor that a layer may have.
    pub const ALL: [Self; 14] = [
        Self::AttentionNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::QueryBias,
        Self::KeyBias,
        Self::ValueBias,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::Output,
        Self::FfnNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// Whether it is a norm or a bias, kept as f32, and not a matrix.
    #[must_use]
    pub const fn is_vector(self) -> bool {
        !matches!(
            self,
            Self::Query
                | Self::Key
                | Self::Value
                | Self::Output
                | Self::Gate
                | Self::Up
                | Self::Down
        )
    }
}

/// A tensor of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorId {
    /// Token embedding, `[vocab, hidden]`.
    Embedding,
    /// The last norm, `[hidden]`.
    FinalNorm,
    /// The head, `[vocab, hidden]`; the embedding where they are tied.
    Head,
    /// A tensor of a layer.
    Layer(u32, LayerTensor),
}

impl TensorId {
    /// Whether it is a norm or a bias, kept as f32, and not a matrix.
    #[must_use]
    pub const fn is_vector(self) -> bool {
        match self {
            Self::Embedding | Self::Head => false,
            Self::FinalNorm => true,
            Self::Layer(_, tensor) => tensor.is_vector(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{open, shape_names};

    fn shape(name: &str) -> Shape {
        open(&format!("shape:{name}"), 0).unwrap().shape().clone()
    }

    #[test]
    fn the_tensors_together_are_the_parameters() {
        for name in shape_names() {
            let shape = shape(name);
            let sum: u64 = shape
                .tensors()
                .filter_map(|id| shape.dimensions(id))
                .map(|[rows, columns]| u64::from(rows) * u64::from(columns))
                .sum();
            assert_eq!(sum, shape.parameters(), "{name}");
            assert_eq!(shape.weight_bytes(Precision::F32), 4 * sum, "{name}");
        }
    }

    #[test]
    fn every_rule_of_validate_has_its_message() {
        let base = shape("llama-3.2-1b");
        let scaled = |scaling| Rope { scaling: Some(scaling), ..base.rope };
        let ramp = |low, high, original_context| {
            scaled(RopeScaling::Llama3 { factor: 8.0, low, high, original_context })
        };
        let table = [
            (Shape { layers: 0, ..base.clone() }, "layers: expected 1 to 16384, found 0"),
            (
                Shape { heads: 1 << 16, head_dim: 1 << 14, ..base.clone() },
                "heads times head_dim: expected at most 16777216, found 1073741824",
            ),
            (
                Shape { kv_heads: 5, ..base.clone() },
                "kv_heads: expected a divisor of 32 heads, found 5",
            ),
            (Shape { head_dim: 63, ..base.clone() }, "head_dim: expected an even number, found 63"),
            (
                Shape { norm_eps: f32::NAN, ..base.clone() },
                "norm_eps: expected a finite number above 0, found NaN",
            ),
            (
                Shape { rope: scaled(RopeScaling::Linear { factor: 0.0 }), ..base.clone() },
                "rope factor: expected a finite number above 0, found 0",
            ),
            (
                Shape { rope: ramp(4.0, 1.0, 8192), ..base.clone() },
                "rope high_freq_factor: expected above low_freq_factor 4, found 1",
            ),
            (
                Shape { rope: ramp(1.0, 4.0, 0), ..base.clone() },
                "rope original context: expected at least 1, found 0",
            ),
            (
                Shape { sliding_window: Some(0), ..base.clone() },
                "sliding_window: expected 1 to 4294967295, found 0",
            ),
        ];
        for (shape, message) in table {
            assert_eq!(shape.validate().unwrap_err(), message);
        }
    }
}
