//! The operations that a step is made of.

use crate::cost::Kernel;

/// A matrix product of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    /// Query, key and value in one, biases added.
    Qkv,
    /// Attention output, added to the residual stream.
    Output,
    /// Gate and up in one, SwiGLU applied.
    GateUp,
    /// Down, added to the residual stream.
    Down,
    /// The head, for the rows that ask for logits.
    Head,
}

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Norm {
    /// Before attention.
    Attention,
    /// Before the feed-forward layer.
    Ffn,
    /// Before the head; only the rows that ask for logits.
    Final,
}

/// Which rows attend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attending {
    /// Those of the sequences with one row each.
    Decode,
    /// Those of the sequences with several.
    Prefill,
}

/// One operation of a step. Activations live in the backend's own buffers: the residual stream,
/// the normed rows, query/key/value, attention output, feed-forward activations and logits.
///
/// The first seven are the fused forms. The others stand in for them, or for parts of them, where
/// a [`Technique`](crate::cost::Technique) is switched off; [`Op::Quantize`] also stands where no
/// fused form writes a product's rows in 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Token ids to rows of the residual stream.
    Embed,
    /// Residual rows to normed rows. `layer` is ignored for [`Norm::Final`].
    Norm {
        /// The layer.
        layer: u32,
        /// Which norm.
        norm: Norm,
    },
    /// A matrix product. `layer` is ignored for [`Projection::Head`].
    Linear {
        /// The layer.
        layer: u32,
        /// Which product.
        projection: Projection,
    },
    /// Query and key norms where the model has them, rotation, and keys and values into the
    /// cache.
    RopeAppend {
        /// The layer.
        layer: u32,
    },
    /// Attention of the sequences with one query row each.
    AttentionDecode {
        /// The layer.
        layer: u32,
    },
    /// Causal attention of the sequences with several query rows, over prefix and themselves.
    AttentionPrefill {
        /// The layer.
        layer: u32,
    },
    /// Logits to tokens.
    Sample,
    /// The weights of a product written out as activations, which the product then multiplies.
    /// `layer` is ignored for [`Projection::Head`].
    Dequantize {
        /// The layer.
        layer: u32,
        /// Whose weights.
        projection: Projection,
    },
    /// The rows that a product takes, written out in 8 bits. Never of [`Projection::Head`].
    Quantize {
        /// The layer.
        layer: u32,
        /// Whose rows.
        projection: Projection,
    },
    /// What [`Projection::Output`] or [`Projection::Down`] gave, added to the residual stream.
    ResidualAdd {
        /// The layer.
        layer: u32,
        /// Which of the two.
        projection: Projection,
    },
    /// SwiGLU of what [`Projection::GateUp`] gave.
    SiluMul {
        /// The layer.
        layer: u32,
    },
    /// Biases of queries, keys and values.
    BiasAdd {
        /// The layer.
        layer: u32,
    },
    /// Query and key norms.
    HeadNorm {
        /// The layer.
        layer: u32,
    },
    /// Rotation of queries and keys.
    Rope {
        /// The layer.
        layer: u32,
    },
    /// Keys and values into the cache.
    KvAppend {
        /// The layer.
        layer: u32,
    },
    /// Queries times keys, into memory.
    Scores {
        /// The layer.
        layer: u32,
        /// Of which rows.
        rows: Attending,
    },
    /// Scores to probabilities.
    Softmax {
        /// The layer.
        layer: u32,
        /// Of which rows.
        rows: Attending,
    },
    /// Probabilities times values.
    Values {
        /// The layer.
        layer: u32,
        /// Of which rows.
        rows: Attending,
    },
    /// Logits to the weights of tokens.
    SampleWeights,
    /// Weights of tokens in order, the heaviest first.
    SampleSort,
    /// A token from the sorted ones.
    SamplePick,
}

impl Op {
    /// The kernel that runs it.
    #[must_use]
    pub const fn kernel(self) -> Kernel {
        match self {
            Self::Embed => Kernel::Embed,
            Self::Norm { norm: Norm::Attention, .. } => Kernel::AttentionNorm,
            Self::Norm { norm: Norm::Ffn, .. } => Kernel::FfnNorm,
            Self::Norm { norm: Norm::Final, .. } => Kernel::FinalNorm,
            Self::Linear { projection: Projection::Qkv, .. } => Kernel::Qkv,
            Self::Linear { projection: Projection::Output, .. } => Kernel::Output,
            Self::Linear { projection: Projection::GateUp, .. } => Kernel::GateUp,
            Self::Linear { projection: Projection::Down, .. } => Kernel::Down,
            Self::Linear { projection: Projection::Head, .. } => Kernel::Head,
            Self::RopeAppend { .. } => Kernel::RopeAppend,
            Self::AttentionDecode { .. } => Kernel::AttentionDecode,
            Self::AttentionPrefill { .. } => Kernel::AttentionPrefill,
            Self::Sample => Kernel::Sample,
            Self::Dequantize { projection: Projection::Qkv, .. } => Kernel::DequantizeQkv,
            Self::Dequantize { projection: Projection::Output, .. } => Kernel::DequantizeOutput,
            Self::Dequantize { projection: Projection::GateUp, .. } => Kernel::DequantizeGateUp,
            Self::Dequantize { projection: Projection::Down, .. } => Kernel::DequantizeDown,
            Self::Dequantize { projection: Projection::Head, .. } => Kernel::DequantizeHead,
            Self::Quantize { projection: Projection::Qkv, .. } => Kernel::QuantizeQkv,
            Self::Quantize { projection: Projection::Output, .. } => Kernel::QuantizeOutput,
            Self::Quantize { projection: Projection::GateUp, .. } => Kernel::QuantizeGateUp,
            Self::Quantize { .. } => Kernel::QuantizeDown,
            Self::ResidualAdd { projection: Projection::Output, .. } => Kernel::OutputAdd,
            Self::ResidualAdd { .. } => Kernel::DownAdd,
            Self::SiluMul { .. } => Kernel::SiluMul,
            Self::BiasAdd { .. } => Kernel::BiasAdd,
            Self::HeadNorm { .. } => Kernel::HeadNorm,
            Self::Rope { .. } => Kernel::Rope,
            Self::KvAppend { .. } => Kernel::KvAppend,
            Self::Scores { rows: Attending::Decode, .. } => Kernel::DecodeScores,
            Self::Scores { rows: Attending::Prefill, .. } => Kernel::PrefillScores,
            Self::Softmax { rows: Attending::Decode, .. } => Kernel::DecodeSoftmax,
            Self::Softmax { rows: Attending::Prefill, .. } => Kernel::PrefillSoftmax,
            Self::Values { rows: Attending::Decode, .. } => Kernel::DecodeValues,
            Self::Values { rows: Attending::Prefill, .. } => Kernel::PrefillValues,
            Self::SampleWeights => Kernel::SampleWeights,
            Self::SampleSort => Kernel::SampleSort,
            Self::SamplePick => Kernel::SamplePick,
        }
    }

    /// The layer it belongs to, if it belongs to one.
    #[must_use]
    pub const fn layer(self) -> Option<u32> {
        match self {
            Self::Embed
            | Self::Sample
            | Self::SampleWeights
            | Self::SampleSort
            | Self::SamplePick
            | Self::Norm { norm: Norm::Final, .. }
            | Self::Linear { projection: Projection::Head, .. }
            | Self::Dequantize { projection: Projection::Head, .. } => None,
            Self::Norm { layer, .. }
            | Self::Linear { layer, .. }
            | Self::RopeAppend { layer }
            | Self::AttentionDecode { layer }
            | Self::AttentionPrefill { layer }
            | Self::Dequantize { layer, .. }
            | Self::Quantize { layer, .. }
            | Self::ResidualAdd { layer, .. }
            | Self::SiluMul { layer }
            | Self::BiasAdd { layer }
            | Self::HeadNorm { layer }
            | Self::Rope { layer }
            | Self::KvAppend { layer }
            | Self::Scores { layer, .. }
            | Self::Softmax { layer, .. }
            | Self::Values { layer, .. } => Some(layer),
        }
    }

    /// The same of another layer; itself if it belongs to none.
    #[must_use]
    pub const fn in_layer(self, layer: u32) -> Self {
        if self.layer().is_none() {
            return self;
        }
        match self {
            Self::Norm { norm, .. } => Self::Norm { layer, norm },
            Self::Linear { projection, .. } => Self::Linear { layer, projection },
            Self::RopeAppend { .. } => Self::RopeAppend { layer },
            Self::AttentionDecode { .. } => Self::AttentionDecode { layer },
            Self::AttentionPrefill { .. } => Self::AttentionPrefill { layer },
            Self::Dequantize { projection, .. } => Self::Dequantize { layer, projection },
            Self::Quantize { projection, .. } => Self::Quantize { layer, projection },
            Self::ResidualAdd { projection, .. } => Self::ResidualAdd { layer, projection },
            Self::SiluMul { .. } => Self::SiluMul { layer },
            Self::BiasAdd { .. } => Self::BiasAdd { layer },
            Self::HeadNorm { .. } => Self::HeadNorm { layer },
            Self::Rope { .. } => Self::Rope { layer },
            Self::KvAppend { .. } => Self::KvAppend { layer },
            Self::Scores { rows, .. } => Self::Scores { layer, rows },
            Self::Softmax { rows, .. } => Self::Softmax { layer, rows },
            Self::Values { rows, .. } => Self::Values { layer, rows },
            Self::Embed
            | Self::Sample
            | Self::SampleWeights
            | Self::SampleSort
            | Self::SamplePick => self,
        }
    }
}
