//! The dimensions of a decoder-only transformer of the Llama family.

use serde::{Deserialize, Serialize};

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
