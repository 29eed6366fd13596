//! The operations of one step, in order, each with its budget.
//!
//! Neighbours: the engine launches what comes out of here on its `backend`; `cost` knows the
//! formulas. Nothing here touches a tensor.

use crate::backend::{Norm, Op, Projection};
use crate::cost::{Budget, Formulas, Kernel, StepLoad};

/// The operations that a step of this load takes on a model of `layers` layers, in the order
/// they must run.
///
/// Attention is launched only for the kinds of sequence there are; final norm, head and
/// sampling only if a row asks for logits.
pub fn operations(layers: u32, load: &StepLoad) -> impl Iterator<Item = Op> + use<> {
    let (decode, prefill) = (load.decode_rows > 0, load.prefill_rows > 0);
    let logits = load.logits_rows > 0;
    let layer_operations = (0..layers).flat_map(move |layer| {
        [
            Some(Op::Norm { layer, norm: Norm::Attention }),
            Some(Op::Linear { layer, projection: Projection::Qkv }),
            Some(Op::RopeAppend { layer }),
            decode.then_some(Op::AttentionDecode { layer }),
            prefill.then_some(Op::AttentionPrefill { layer }),
            Some(Op::Linear { layer, projection: Projection::Output }),
            Some(Op::Norm { layer, norm: Norm::Ffn }),
            Some(Op::Linear { layer, projection: Projection::GateUp }),
            Some(Op::Linear { layer, projection: Projection::Down }),
        ]
    });
    let ending = [
        Op::Norm { layer: 0, norm: Norm::Final },
        Op::Linear { layer: 0, projection: Projection::Head },
        Op::Sample,
    ];
    let last = if logits { ending.len() } else { 0 };
    std::iter::once(Some(Op::Embed))
        .chain(layer_operations)
        .chain(ending.into_iter().take(last).map(Some))
        .flatten()
        .filter(move |_| decode || prefill)
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
    operations(layers, load).map(move |op| (op, *budgets.get(op.kernel())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Storage;
    use crate::event::Dtype;
    use crate::model::{Family, Precision, Rope, Shape};

    fn formulas() -> Formulas {
        let shape = Shape {
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
        };
        let storage = Storage {
            weights: Precision::F32,
            kv: Precision::F16,
            activation_bytes: 4,
            activation_dtype: Dtype::F32,
            block_tokens: 16,
            piece_tokens: None,
            quantized_rows: false,
        };
        Formulas::new(&shape, storage)
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
