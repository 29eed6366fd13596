//! Bytes and operations of the kernels that stand in a fused form's place.
//!
//! What a model takes is the same however it is computed: the weight, KV and activation bytes and
//! the operations of a fused form are split among the kernels in its place. What they move beyond
//! that, because one writes what the next reads, is excess. Symbols as in `formulas`, `n(S)` the
//! scores of attention, one per row, head and token of the longest context.
//!
//! | kernels | in the place of | excess bytes |
//! |---|---|---|
//! | residual add | the end of output, down | `2Tda`, of these half in the product |
//! | add and norm | the end of output | `Tda`, in the product |
//! | silu mul | the end of gate, up | `4TFa`, of these half in the product |
//! | bias add, head norm | the end of qkv, rope append | `2TNa`; `2T(Hq+Hkv)Da` |
//! | rope, kv append | rope append | `THkvDa` each |
//! | scores, softmax, values | attention | `4n(S)`, `8n(S)`, `4n(S) + 4·blocks` |
//! | quantize of normed rows | the end of a norm | `2Tda`, of these half in the norm |
//! | quantize of other rows | nothing that there is | `T(K(a + 1) + 4)` |
//! | dequantize | the beginning of a product | `KNa`, and as much in the product |
//! | sample weights, sort, pick | sample | `4RV`; `4RV + 8RV' + 16RV'·l(l+1)/2`; `8RV' + 4RV` |
//!
//! `V'` is the vocabulary filled up to a power of two, `l` its logarithm: the sort takes `l(l+1)/2`
//! passes.

use crate::unit::{Bytes, Ops};

use super::{Budget, Formulas, Kernel, StepLoad, Technique};

/// Rows that attend by one form of attention.
struct Attended {
    rows: u64,
    kv_tokens: u64,
    blocks: u64,
    longest: u64,
    query_context: u64,
}

impl Formulas {
    /// Whether `technique` is used.
    pub(super) const fn uses(&self, technique: Technique) -> bool {
        self.storage.techniques.has(technique)
    }

    /// Whether weights are written out as activations before they are multiplied.
    pub(super) const fn dequantizes(&self) -> bool {
        !self.storage.weights.is_plain() && !self.uses(Technique::FusedDequantize)
    }

    /// Whether the norm behind attention adds what the output projection gave.
    pub(super) const fn adds_in_norm(&self) -> bool {
        self.storage.techniques.add_in_norm()
    }

    /// Whether the products of a layer take so many rows in 8 bits.
    pub(super) fn narrows(&self, rows: u64) -> bool {
        self.storage.wide_rows.is_some_and(|most| rows > most.into())
    }

    /// Whether a step of this load runs `kernel`.
    #[must_use]
    pub fn runs(&self, kernel: Kernel, load: &StepLoad) -> bool {
        let (decode, prefill) = (load.decode_rows > 0, load.prefill_rows > 0);
        let rows = decode || prefill;
        let logits = rows && load.logits_rows > 0;
        let rope = self.uses(Technique::FusedRope);
        let attention = self.uses(Technique::FusedAttention);
        let sampling = self.uses(Technique::FusedSampling);
        match kernel {
            Kernel::Embed
            | Kernel::AttentionNorm
            | Kernel::Qkv
            | Kernel::Output
            | Kernel::FfnNorm
            | Kernel::GateUp
            | Kernel::Down => rows,
            Kernel::FinalNorm | Kernel::Head => logits,
            Kernel::RopeAppend => rows && rope,
            Kernel::BiasAdd => rows && !rope && self.qkv_bias,
            Kernel::HeadNorm => rows && !rope && self.qk_norm,
            Kernel::Rope | Kernel::KvAppend => rows && !rope,
            Kernel::AttentionDecode => decode && attention,
            Kernel::DecodeScores | Kernel::DecodeSoftmax | Kernel::DecodeValues => {
                decode && !attention
            }
            Kernel::AttentionPrefill => prefill && attention,
            Kernel::PrefillScores | Kernel::PrefillSoftmax | Kernel::PrefillValues => {
                prefill && !attention
            }
            Kernel::OutputAdd | Kernel::DownAdd => {
                let added = kernel == Kernel::OutputAdd && self.adds_in_norm();
                rows && !self.uses(Technique::FusedResidual) && !added
            }
            Kernel::SiluMul => rows && !self.uses(Technique::FusedSwiglu),
            Kernel::DequantizeQkv
            | Kernel::DequantizeOutput
            | Kernel::DequantizeGateUp
            | Kernel::DequantizeDown => rows && self.dequantizes(),
            Kernel::DequantizeHead => logits && self.dequantizes(),
            Kernel::QuantizeQkv | Kernel::QuantizeGateUp => {
                self.narrows(load.rows) && !self.uses(Technique::FusedQuantize)
            }
            // No form of attention or SwiGLU writes 8 bits.
            Kernel::QuantizeOutput | Kernel::QuantizeDown => self.narrows(load.rows),
            Kernel::Sample => logits && sampling,
            Kernel::SampleWeights | Kernel::SampleSort | Kernel::SamplePick => logits && !sampling,
        }
    }

    pub(super) fn dequantize(&self, kernel: Kernel, inputs: u64, outputs: u64) -> Budget {
        Budget {
            weight_bytes: Bytes(self.storage.weights.matrix_bytes(outputs, inputs)),
            excess_bytes: self.activations(inputs * outputs),
            ..self.blank(kernel)
        }
    }

    /// Normed rows in 8 bits, behind a norm that wrote them as activations.
    pub(super) fn quantize_normed(&self, kernel: Kernel, rows: u64) -> Budget {
        Budget {
            activation_bytes: self.inputs(rows, self.hidden),
            excess_bytes: self.activations(rows * self.hidden),
            ops: Ops(2 * rows * self.hidden),
            ..self.blank(kernel)
        }
    }

    /// Other rows in 8 bits: what wrote them could have written these.
    pub(super) fn quantize(&self, kernel: Kernel, rows: u64, width: u64) -> Budget {
        Budget {
            excess_bytes: self.activations(rows * width) + self.inputs(rows, width),
            ops: Ops(2 * rows * width),
            ..self.blank(kernel)
        }
    }

    pub(super) fn residual_add(&self, kernel: Kernel, rows: u64) -> Budget {
        Budget {
            activation_bytes: self.activations(2 * rows * self.hidden),
            excess_bytes: self.activations(rows * self.hidden),
            ops: Ops(rows * self.hidden),
            ..self.blank(kernel)
        }
    }

    pub(super) fn silu_mul(&self, rows: u64) -> Budget {
        Budget {
            activation_bytes: self.activations(rows * self.ffn),
            excess_bytes: self.activations(2 * rows * self.ffn),
            ..self.blank(Kernel::SiluMul)
        }
    }

    pub(super) fn bias_add(&self, rows: u64) -> Budget {
        let width = self.q_width + 2 * self.kv_width;
        Budget {
            weight_bytes: self.activations(width),
            excess_bytes: self.activations(2 * rows * width),
            ops: Ops(rows * width),
            ..self.blank(Kernel::BiasAdd)
        }
    }

    pub(super) fn head_norm(&self, rows: u64) -> Budget {
        let turned = self.q_width + self.kv_width;
        Budget {
            weight_bytes: self.activations(2 * self.head_dim),
            excess_bytes: self.activations(2 * rows * turned),
            ops: Ops(4 * rows * turned),
            ..self.blank(Kernel::HeadNorm)
        }
    }

    pub(super) fn rope(&self, rows: u64) -> Budget {
        Budget {
            activation_bytes: self.activations(rows * (2 * self.q_width + self.kv_width)),
            excess_bytes: self.activations(rows * self.kv_width),
            ops: Ops(3 * rows * (self.q_width + self.kv_width)),
            ..self.blank(Kernel::Rope)
        }
    }

    pub(super) fn kv_append(&self, rows: u64) -> Budget {
        Budget {
            kv_bytes: self.kv_bytes(2 * rows * self.kv_width),
            activation_bytes: self.activations(rows * self.kv_width),
            excess_bytes: self.activations(rows * self.kv_width),
            ..self.blank(Kernel::KvAppend)
        }
    }

    /// One of the three kernels of attention by scores in memory.
    pub(super) fn naive_attention(&self, kernel: Kernel, load: &StepLoad) -> Budget {
        let decode =
            matches!(kernel, Kernel::DecodeScores | Kernel::DecodeSoftmax | Kernel::DecodeValues);
        let attended = if decode {
            Attended {
                rows: load.decode_rows,
                kv_tokens: load.decode_kv_tokens,
                blocks: load.decode_blocks,
                longest: load.decode_longest,
                query_context: load.decode_kv_tokens,
            }
        } else {
            Attended {
                rows: load.prefill_rows,
                kv_tokens: load.prefill_kv_tokens,
                blocks: load.prefill_blocks,
                longest: load.prefill_longest,
                query_context: load.prefill_query_context,
            }
        };
        let scores = Bytes(4 * self.heads * attended.rows * attended.longest);
        let tables = Bytes(4 * attended.blocks);
        if matches!(kernel, Kernel::DecodeSoftmax | Kernel::PrefillSoftmax) {
            return Budget { excess_bytes: Bytes(2 * scores.0), ..self.blank(kernel) };
        }
        let reads = matches!(kernel, Kernel::DecodeScores | Kernel::PrefillScores);
        let rows = self.activations(attended.rows * self.q_width);
        Budget {
            kv_bytes: self.kv_bytes(attended.kv_tokens * self.kv_width),
            activation_bytes: if reads { rows + tables } else { rows },
            excess_bytes: if reads { scores } else { scores + tables },
            ops: Ops(2 * self.q_width * attended.query_context),
            ..self.blank(kernel)
        }
    }

    /// One of the three kernels of sampling by a sort.
    pub(super) fn naive_sampling(&self, kernel: Kernel, rows: u64) -> Budget {
        let logits = 4 * rows * self.vocab;
        let filled = self.vocab.next_power_of_two();
        let levels = u64::from(filled.trailing_zeros());
        let passes = levels * (levels + 1) / 2;
        match kernel {
            Kernel::SampleWeights => Budget {
                activation_bytes: Bytes(logits),
                excess_bytes: Bytes(logits),
                ops: Ops(6 * rows * self.vocab),
                ..self.blank(kernel)
            },
            Kernel::SampleSort => {
                // Filled from the weights, then read and written by each pass, 8 bytes a place.
                let bytes = logits + 8 * rows * filled + 16 * rows * filled * passes;
                Budget { excess_bytes: Bytes(bytes), ..self.blank(kernel) }
            }
            _ => Budget { excess_bytes: Bytes(8 * rows * filled + logits), ..self.blank(kernel) },
        }
    }
}
