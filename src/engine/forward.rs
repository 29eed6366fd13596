//! The operations of one step, in order, each with its budget.
//!
//! Neighbours: the engine launches what comes out of here on its `backend`; `cost` knows the
//! formulas. Nothing here touches a tensor.

use crate::backend::{Attending, Norm, Op, Projection};
use crate::cost::{Budget, Formulas, Kernel, StepLoad};

/// Everything that a layer may run, in order.
const LAYER: [Op; 30] = {
    use Attending::{Decode, Prefill};
    use Projection::{Down, GateUp, Output, Qkv};
    let layer = 0;
    [
        Op::Norm { layer, norm: Norm::Attention },
        Op::Dequantize { layer, projection: Qkv },
        Op::Quantize { layer, projection: Qkv },
        Op::Linear { layer, projection: Qkv },
        Op::BiasAdd { layer },
        Op::HeadNorm { layer },
        Op::Rope { layer },
        Op::KvAppend { layer },
        Op::RopeAppend { layer },
        Op::Scores { layer, rows: Decode },
        Op::Softmax { layer, rows: Decode },
        Op::Values { layer, rows: Decode },
        Op::AttentionDecode { layer },
        Op::Scores { layer, rows: Prefill },
        Op::Softmax { layer, rows: Prefill },
        Op::Values { layer, rows: Prefill },
        Op::AttentionPrefill { layer },
        Op::Dequantize { layer, projection: Output },
        Op::Quantize { layer, projection: Output },
        Op::Linear { layer, projection: Output },
        Op::ResidualAdd { layer, projection: Output },
        Op::Norm { layer, norm: Norm::Ffn },
        Op::Dequantize { layer, projection: GateUp },
        Op::Quantize { layer, projection: GateUp },
        Op::Linear { layer, projection: GateUp },
        Op::SiluMul { layer },
        Op::Dequantize { layer, projection: Down },
        Op::Quantize { layer, projection: Down },
        Op::Linear { layer, projection: Down },
        Op::ResidualAdd { layer, projection: Down },
    ]
};

/// Everything that may follow the layers, in order.
const ENDING: [Op; 7] = [
    Op::Norm { layer: 0, norm: Norm::Final },
    Op::Dequantize { layer: 0, projection: Projection::Head },
    Op::Linear { layer: 0, projection: Projection::Head },
    Op::SampleWeights,
    Op::SampleSort,
    Op::SamplePick,
    Op::Sample,
];

/// The operations that a step of this load takes on a model of `layers` layers, in the order
/// they must run.
///
/// Which there are follows from the load (attention only for the kinds of sequence there are;
/// final norm, head and sampling only if a row asks for logits), from the model's parts and from
/// the techniques that the backend uses.
pub fn operations(
    layers: u32,
    formulas: &Formulas,
    load: &StepLoad,
) -> impl Iterator<Item = Op> + use<> {
    let (formulas, load) = (*formulas, *load);
    let of_layers = (0..layers).flat_map(|layer| LAYER.map(|op| op.in_layer(layer)));
    std::iter::once(Op::Embed)
        .chain(of_layers)
        .chain(ENDING)
        .filter(move |op| formulas.runs(op.kernel(), &load))
}

/// Budgets of one step, computed once for each kernel and shared by the layers.
#[derive(Clone, Copy, Debug)]
pub struct Budgets([Budget; Kernel::ALL.len()]);

impl Budgets {
    /// The budgets of a step of this load.
    #[must_use]
    pub fn of(formulas: &Formulas, load: &StepLoad) -> Self {
        Self(Kernel::ALL.map(|kernel| formulas.budget(kernel, load)))
    }

    /// The budget of one run of `kernel`.
    #[must_use]
    pub const fn get(&self, kernel: Kernel) -> &Budget {
        // The catalogue lists the kernels in the order of the enum.
        &self.0[kernel as usize]
    }
}

/// The operations of a step, each with its budget.
pub fn step(
    formulas: &Formulas,
    layers: u32,
    load: &StepLoad,
) -> impl Iterator<Item = (Op, Budget)> + use<> {
    let budgets = Budgets::of(formulas, load);
    operations(layers, formulas, load).map(move |op| (op, *budgets.get(op.kernel())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{Storage, Technique, Techniques};
    use crate::event::Dtype;
    use crate::model::{Family, Precision, Rope, Shape};

    fn shape() -> Shape {
        Shape {
            family: Family::Llama,
            layers: 2,
            hidden: 64,
            ffn: 160,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocab: 320,
            context: 4096,
            rope: Rope { theta: 10_000.0, scaling: None },
            norm_eps: 1e-5,
            qkv_bias: false,
            qk_norm: false,
            tied_embeddings: false,
            sliding_window: None,
        }
    }

    fn formulas() -> Formulas {
        let storage = Storage {
            weights: Precision::F32.into(),
            kv: Precision::F16.into(),
            activation_bytes: 4,
            activation_dtype: Dtype::F32,
            block_tokens: 16,
            piece_tokens: None,
            quantized_rows: false,
            swiglu_rows: None,
            wide_rows: None,
            techniques: Techniques::ALL,
        };
        Formulas::new(&shape(), storage)
    }

    fn names(sequences: &[(u32, u32)], logits_rows: u32) -> Vec<&'static str> {
        let formulas = formulas();
        let load = formulas.load(sequences.iter().copied(), logits_rows);
        step(&formulas, 2, &load)
            .map(|(op, budget)| {
                assert_eq!(op.kernel(), budget.kernel);
                budget.kernel.name()
            })
            .collect()
    }

    #[test]
    fn a_decode_step_runs_each_layer_and_the_head() {
        let layer = [
            "attention_norm",
            "qkv",
            "rope_append",
            "attention_decode",
            "output",
            "ffn_norm",
            "gate_up",
            "down",
        ];
        let expected: Vec<_> =
            [&["embed"][..], &layer, &layer, &["final_norm", "head", "sample"]].concat();
        assert_eq!(names(&[(5, 1), (9, 1)], 2), expected);
    }

    #[test]
    fn a_silent_chunk_runs_no_head() {
        let names = names(&[(0, 7)], 0);
        assert!(names.contains(&"attention_prefill"));
        assert!(!names.contains(&"attention_decode"));
        assert_eq!(names.last(), Some(&"down"));
    }

    #[test]
    fn a_mixed_step_runs_both_attentions_of_each_layer() {
        let names = names(&[(5, 1), (0, 7)], 1);
        let count = |name| names.iter().filter(|other| **other == name).count();
        assert_eq!(count("attention_decode"), 2);
        assert_eq!(count("attention_prefill"), 2);
    }

    /// Names of a layer and of the end, on a model that has every part.
    fn without(techniques: Techniques) -> Vec<&'static str> {
        let shape = Shape { qkv_bias: true, qk_norm: true, ..shape() };
        let storage =
            Storage { weights: Precision::Q8_0.into(), techniques, ..*formulas().storage() };
        let formulas = Formulas::new(&shape, storage);
        let load = formulas.load([(5, 1), (0, 7)], 1);
        operations(1, &formulas, &load).map(|op| op.kernel().name()).collect()
    }

    #[test]
    fn what_is_switched_off_runs_one_by_one() {
        let all = without(Techniques::ALL);
        assert_eq!(all.len(), 13);
        for (technique, gone, instead) in [
            // The norm behind attention adds what attention gave.
            (Technique::FusedResidual, &[][..], &["down_add"][..]),
            (Technique::FusedAddNorm, &[], &[]),
            (Technique::FusedSwiglu, &[], &["silu_mul"]),
            (
                Technique::FusedRope,
                &["rope_append"],
                &["bias_add", "head_norm", "rope", "kv_append"],
            ),
            (
                Technique::FusedAttention,
                &["attention_decode", "attention_prefill"],
                &[
                    "decode_scores",
                    "decode_softmax",
                    "decode_values",
                    "prefill_scores",
                    "prefill_softmax",
                    "prefill_values",
                ],
            ),
            (Technique::SplitKv, &[], &[]),
            (
                Technique::FusedDequantize,
                &[],
                &[
                    "dequantize_qkv",
                    "dequantize_output",
                    "dequantize_gate_up",
                    "dequantize_down",
                    "dequantize_head",
                ],
            ),
            (
                Technique::FusedSampling,
                &["sample"],
                &["sample_weights", "sample_sort", "sample_pick"],
            ),
        ] {
            let found = without(Techniques::ALL.without(technique));
            let kept: Vec<_> = found.iter().filter(|name| all.contains(name)).collect();
            assert_eq!(kept.len() + gone.len(), all.len(), "{technique:?}: {found:?}");
            let new: Vec<_> = found.iter().filter(|name| !all.contains(name)).copied().collect();
            assert_eq!(new, instead, "{technique:?}");
        }
        let naive = without(Techniques::NONE);
        assert_eq!(naive.len(), 13 - 4 + 2 + 1 + 4 + 6 + 5 + 3);
        let at = |name| naive.iter().position(|found| *found == name);
        assert!(at("dequantize_down") < at("down") && at("down") < at("down_add"));
        assert!(at("qkv") < at("bias_add") && at("kv_append") < at("decode_scores"));
    }

    #[test]
    fn a_step_of_no_rows_runs_nothing() {
        assert!(names(&[], 0).is_empty());
    }

    #[test]
    fn kernels_index_their_own_budget() {
        let formulas = formulas();
        let load = formulas.load([(3, 1), (0, 4)], 2);
        let budgets = Budgets::of(&formulas, &load);
        for kernel in Kernel::ALL {
            assert_eq!(*budgets.get(kernel), formulas.budget(kernel, &load));
        }
    }
}
