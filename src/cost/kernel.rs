//! The catalogue of kernels: one stable name, one sentence, one driver each.

use crate::event::Driver;

/// The kernels: variant, stable name, sentence.
macro_rules! catalogue {
    ($($variant:ident $name:literal $sentence:literal;)*) => {
        /// A kernel: a kind of operation, whatever layer it runs for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kernel {
            $(#[doc = $sentence] $variant,)*
        }

        impl Kernel {
            /// Every kernel, in the order a step runs them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            const fn entry(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$variant => ($name, $sentence),)*
                }
            }
        }
    };
}

catalogue! {
    Embed "embed" "Copies the embedding of each token into its row.";
    AttentionNorm "attention_norm" "Norms each row by its root mean square before attention.";
    DequantizeQkv "dequantize_qkv" "Writes the weights of queries, keys and values out in 16 bits.";
    QuantizeQkv "quantize_qkv" "Writes normed rows out in 8 bits for queries, keys and values.";
    Qkv "qkv" "Projects each row to its queries, keys and values in one.";
    BiasAdd "bias_add" "Adds the biases of queries, keys and values.";
    HeadNorm "head_norm" "Norms each query and key by its root mean square.";
    Rope "rope" "Turns queries and keys by their position.";
    KvAppend "kv_append" "Stores keys and values.";
    RopeAppend "rope_append" "Turns queries and keys by their position and stores keys and values.";
    DecodeScores "decode_scores" "Multiplies single rows with the keys of their context.";
    DecodeSoftmax "decode_softmax" "Turns scores of single rows into probabilities.";
    DecodeValues "decode_values" "Weighs the values of the contexts of single rows.";
    AttentionDecode "attention_decode" "Attends from one row per sequence to all of its context.";
    PrefillScores "prefill_scores" "Multiplies chunks of rows with the keys of their context.";
    PrefillSoftmax "prefill_softmax" "Turns scores of chunks of rows into probabilities.";
    PrefillValues "prefill_values" "Weighs the values of the contexts of chunks of rows.";
    AttentionPrefill "attention_prefill"
        "Attends from a chunk of rows to what precedes each of them.";
    DequantizeOutput "dequantize_output"
        "Writes the weights of the output projection out in 16 bits.";
    QuantizeOutput "quantize_output" "Writes the attended rows out in 8 bits.";
    Output "output" "Projects the attended rows back and adds them.";
    OutputAdd "output_add" "Adds the attended rows, projected back.";
    FfnNorm "ffn_norm" "Norms each row by its root mean square before the feed-forward layer.";
    DequantizeGateUp "dequantize_gate_up" "Writes the weights of gates and ups out in 16 bits.";
    QuantizeGateUp "quantize_gate_up" "Writes normed rows out in 8 bits for gates and ups.";
    GateUp "gate_up" "Projects each row to gate and up and multiplies them.";
    SiluMul "silu_mul" "Multiplies each row's gate, through SiLU, with its up.";
    DequantizeDown "dequantize_down" "Writes the weights of the down projection out in 16 bits.";
    QuantizeDown "quantize_down" "Writes feed-forward activations out in 8 bits.";
    Down "down" "Projects the feed-forward layer back and adds it.";
    DownAdd "down_add" "Adds the feed-forward layer, projected back.";
    FinalNorm "final_norm" "Norms the rows that ask for logits.";
    DequantizeHead "dequantize_head" "Writes the weights of the head out in 16 bits.";
    Head "head" "Projects the rows that ask for logits to the vocabulary.";
    SampleWeights "sample_weights" "Turns the logits of each row that asks into weights of tokens.";
    SampleSort "sample_sort" "Sorts the tokens of each row that asks by their weights.";
    SamplePick "sample_pick" "Chooses a token from the sorted ones of each row that asks.";
    Sample "sample" "Chooses a token from the logits of each row that asks.";
}

impl Kernel {
    /// The stable name that stands in the tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.entry().0
    }

    /// What it does, in one sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        self.entry().1
    }

    /// The kernel of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kernel| kernel.name() == name)
    }

    /// What its cost grows with.
    #[must_use]
    pub const fn driver(self) -> Driver {
        match self {
            Self::AttentionDecode
            | Self::DecodeScores
            | Self::DecodeSoftmax
            | Self::DecodeValues => Driver::KvTokens,
            Self::AttentionPrefill
            | Self::PrefillScores
            | Self::PrefillSoftmax
            | Self::PrefillValues => Driver::QueryContext,
            Self::FinalNorm
            | Self::DequantizeHead
            | Self::Head
            | Self::SampleWeights
            | Self::SampleSort
            | Self::SamplePick
            | Self::Sample => Driver::Logits,
            _ => Driver::Rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_kernel() {
        for kernel in Kernel::ALL {
            assert_eq!(Kernel::named(kernel.name()), Some(kernel));
            assert!(kernel.sentence().ends_with('.'));
        }
        assert_eq!(Kernel::named("nothing"), None);
    }

    #[test]
    fn names_are_distinct_words() {
        let mut names: Vec<_> = Kernel::ALL.iter().map(|kernel| kernel.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kernel::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }
}
