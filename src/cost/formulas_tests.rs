use super::*;
use crate::model::{Family, Rope};

/// A model whose numbers are easy to multiply by hand.
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

fn storage(weights: impl Into<Encoding>) -> Storage {
    Storage {
        weights: weights.into(),
        kv: Precision::F16.into(),
        activation_bytes: 4,
        activation_dtype: Dtype::F32,
        block_tokens: 16,
        piece_tokens: Some(256),
        quantized_rows: false,
        swiglu_rows: None,
        wide_rows: None,
        techniques: Techniques::ALL,
    }
}

fn formulas() -> Formulas {
    Formulas::new(&shape(), storage(Precision::Q8_0))
}

/// Weight, KV, activation and excess bytes, and operations.
fn numbers(budget: Budget) -> [u64; 5] {
    let Budget { weight_bytes, kv_bytes, activation_bytes, excess_bytes, ops, .. } = budget;
    [weight_bytes.0, kv_bytes.0, activation_bytes.0, excess_bytes.0, ops.0]
}

#[test]
fn budgets_are_those_computed_by_hand() {
    let formulas = formulas();
    // Two decode rows behind 31 and 99 tokens, a chunk of 3 rows behind 10; 3 rows ask.
    let load = formulas.load([(31, 1), (99, 1), (10, 3)], 3);
    assert_eq!(load.rows, 5);
    for (kernel, expected) in [
        // 5 rows of 64 weights are 2 blocks of 34 bytes each; 5·64·4 written.
        (Kernel::Embed, [5 * 68, 0, 1280, 0, 0]),
        // 64·4 of weights; 2·5·64·4; 4·5·64.
        (Kernel::AttentionNorm, [256, 0, 2560, 0, 1280]),
        (Kernel::FfnNorm, [256, 0, 2560, 0, 1280]),
        (Kernel::FinalNorm, [256, 0, 1536, 0, 768]),
        // 64·128 weights are 256 blocks; 5·(64+128)·4; 2·5·64·128.
        (Kernel::Qkv, [8704, 0, 3840, 0, 81_920]),
        // 2·5·32 elements of 2 bytes; 5·(2·64+2·32)·4; 3·5·96.
        (Kernel::RopeAppend, [0, 640, 3840, 0, 1440]),
        // 132 tokens: 2·132·32·2; 2·2·64·4 and 2+7 blocks; 4·64·132.
        (Kernel::AttentionDecode, [0, 16_896, 1024 + 36, 0, 33_792]),
        // 13 tokens, 11+12+13 = 36: 2·13·32·2; 2·3·64·4 and 1 block; 4·64·36.
        (Kernel::AttentionPrefill, [0, 1664, 1536 + 4, 0, 9216]),
        // 64·64 weights are 128 blocks; 5·(64+128)·4; 2·5·64·64 + 5·64.
        (Kernel::Output, [4352, 0, 3840, 0, 41_280]),
        // 64·320 weights are 640 blocks; 5·(64+160)·4; 4·5·64·160.
        (Kernel::GateUp, [21_760, 0, 4480, 0, 204_800]),
        // 160·64 weights are 320 blocks; 5·(160+128)·4; 2·5·160·64 + 5·64.
        (Kernel::Down, [10_880, 0, 5760, 0, 102_720]),
        // 320·64 weights are 640 blocks; 3·(64·4+320·4); 2·3·320·64.
        (Kernel::Head, [21_760, 0, 4608, 0, 122_880]),
        (Kernel::Sample, [0, 0, 3840, 0, 5760]),
    ] {
        let budget = formulas.budget(kernel, &load);
        assert_eq!(numbers(budget), expected, "{}", kernel.name());
        assert_eq!(budget.kernel, kernel);
        assert_eq!(budget.driver, kernel.driver());
    }
}

#[test]
fn biases_and_head_norms_are_counted() {
    let load = formulas().load([(0, 2)], 0);
    let biased = Formulas::new(&Shape { qkv_bias: true, ..shape() }, storage(Precision::F32));
    let qkv = biased.budget(Kernel::Qkv, &load);
    assert_eq!(qkv.weight_bytes, Bytes(64 * 128 * 4 + 128 * 4));
    assert_eq!(qkv.ops, Ops(2 * 2 * 64 * 128 + 2 * 128));
    let normed = Formulas::new(&Shape { qk_norm: true, ..shape() }, storage(Precision::F32));
    let rope = normed.budget(Kernel::RopeAppend, &load);
    assert_eq!(rope.weight_bytes, Bytes(2 * 16 * 4));
    assert_eq!(rope.ops, Ops(7 * 2 * 96));
}

#[test]
fn gates_and_ups_of_many_rows_may_be_written_out() {
    let storage = Storage { swiglu_rows: Some(64), ..storage(Precision::Bf16) };
    let excess = |storage, rows| {
        let formulas = Formulas::new(&shape(), storage);
        formulas.budget(Kernel::GateUp, &formulas.load([(0, rows)], 1)).excess_bytes
    };
    assert_eq!((excess(storage, 64), excess(storage, 65)), (Bytes(0), Bytes(4 * 65 * 160 * 4)));
    assert_eq!(excess(Storage { swiglu_rows: None, ..storage }, 65), Bytes(0));
    // They are anyway where SwiGLU is an operation of its own.
    let techniques = Techniques::ALL.without(Technique::FusedSwiglu);
    assert_eq!(excess(Storage { techniques, ..storage }, 65), Bytes(2 * 65 * 160 * 4));
}

#[test]
fn a_cut_context_pays_for_its_partial_results() {
    let formulas = formulas();
    let load = formulas.load([(599, 1)], 1);
    // 600 tokens are 3 pieces; each of 4 heads writes and reads 16 + 2 floats per piece.
    let budget = formulas.budget(Kernel::AttentionDecode, &load);
    assert_eq!(budget.excess_bytes, Bytes(3 * 4 * 18 * 8));
}

#[test]
fn rows_written_out_again_are_excess() {
    let storage = Storage { quantized_rows: true, ..storage(Precision::Q4_0) };
    let formulas = Formulas::new(&shape(), storage);
    let load = formulas.load([(0, 3)], 1);
    // 3 rows of 160 are 5 blocks of 34 bytes each, written and read.
    let budget = formulas.budget(Kernel::Down, &load);
    assert_eq!(budget.excess_bytes, Bytes(2 * 3 * 5 * 34));
    assert_eq!(budget.weight_bytes, Bytes(160 * 64 / 32 * 18));
    assert_eq!(budget.dtype, Dtype::Q4_0);
}

#[test]
fn formats_of_matrices_and_of_the_rest() {
    let formulas = Formulas::new(&shape(), storage(Precision::Bf16));
    let load = formulas.load([(0, 1)], 1);
    assert_eq!(formulas.budget(Kernel::Head, &load).dtype, Dtype::Bf16);
    assert_eq!(formulas.budget(Kernel::AttentionDecode, &load).dtype, Dtype::F32);
}

/// Weight, KV, activation and excess bytes and operations of all kernels of a layer and of the end
/// of a step, together.
fn step_of(formulas: &Formulas, load: &StepLoad) -> [u64; 5] {
    let run = Kernel::ALL.into_iter().filter(|kernel| formulas.runs(*kernel, load));
    run.fold([0; 5], |sums, kernel| {
        let found = numbers(formulas.budget(kernel, load));
        std::array::from_fn(|i| sums[i] + found[i])
    })
}

#[test]
fn what_is_switched_off_takes_the_same_and_moves_more() {
    let shape = Shape { qkv_bias: true, qk_norm: true, ..shape() };
    for (weights, wide_rows) in [
        (Precision::Bf16.into(), None),
        (Precision::Q8_0.into(), None),
        (Precision::Q4_0.into(), None),
        (Encoding::I8, Some(9)),
        (Encoding::E4m3, Some(1)),
    ] {
        let storage = Storage { activation_bytes: 2, wide_rows, ..storage(weights) };
        let with = |techniques| Formulas::new(&shape, Storage { techniques, ..storage });
        let all = with(Techniques::ALL);
        for sequences in [&[(5, 1), (600, 1), (10, 3)][..], &[(7, 1)], &[(0, 9), (3, 2)]] {
            let load = all.load(sequences.iter().copied(), 2);
            let fused = step_of(&all, &load);
            let narrow = wide_rows.is_some_and(|most| load.rows > u64::from(most));
            for technique in Technique::ALL {
                if narrow && technique == Technique::FusedDequantize {
                    // Rows in 8 bits multiply no weights that were written out in 16.
                    continue;
                }
                let one = with(Techniques::ALL.without(technique));
                let load = one.load(sequences.iter().copied(), 2);
                let found = step_of(&one, &load);
                let what = format!("{technique:?}, {weights:?}, {sequences:?}");
                assert_eq!(
                    [found[0], found[1], found[2], found[4]],
                    [fused[0], fused[1], fused[2], fused[4]],
                    "{what}"
                );
                // Attention that is not cut leaves no partial results; all others write more.
                let decodes = sequences.iter().any(|(_, rows)| *rows == 1);
                match technique {
                    Technique::SplitKv => assert!(found[3] <= fused[3], "{what}"),
                    Technique::Graphs
                    | Technique::AsyncScheduling
                    // A product adds as it leaves.
                    | Technique::FusedAddNorm
                    // Whether rows are in 8 bits is what the storage says.
                    | Technique::QuantizedRows => assert_eq!(found[3], fused[3], "{what}"),
                    Technique::FusedQuantize if !narrow => {
                        assert_eq!(found[3], fused[3], "{what}");
                    }
                    Technique::FusedDequantize if weights == Precision::Bf16.into() => {
                        assert_eq!(found[3], fused[3], "{what}");
                    }
                    Technique::FusedAttention if decodes => {
                        let partial = all.budget(Kernel::AttentionDecode, &load).excess_bytes.0;
                        assert!(found[3] > fused[3] - partial, "{what}");
                    }
                    _ => assert!(found[3] > fused[3], "{what}"),
                }
            }
        }
    }
}

#[test]
fn rows_in_8_bits_take_a_byte_and_a_factor() {
    let storage = Storage { activation_bytes: 2, wide_rows: Some(4), ..storage(Encoding::E4m3) };
    let formulas = Formulas::new(&shape(), storage);
    let load = formulas.load([(10, 5)], 5);
    for (kernel, expected) in [
        // 5·64 of 2 bytes in, 5·(64+4) out; 6·5·64.
        (Kernel::AttentionNorm, [128, 0, 640 + 340, 0, 1920]),
        // The rows that ask for logits stay activations.
        (Kernel::FinalNorm, [128, 0, 1280, 0, 1280]),
        // 128 rows of 64 weights and a factor; 5·68 in, 5·128·2 out.
        (Kernel::Qkv, [128 * 68, 0, 340 + 1280, 0, 81_920]),
        // 5·64·2 in, 5·68 out, which attention could have written.
        (Kernel::QuantizeOutput, [0, 0, 0, 640 + 340, 640]),
        (Kernel::Output, [64 * 68, 0, 340 + 1280, 0, 40_960 + 320]),
        (Kernel::GateUp, [320 * 68, 0, 340 + 1600, 0, 204_800]),
        (Kernel::QuantizeDown, [0, 0, 0, 1600 + 820, 1600]),
        (Kernel::Down, [64 * 164, 0, 820 + 1280, 0, 102_400 + 320]),
        (Kernel::Head, [320 * 68, 0, 640 + 6400, 0, 204_800]),
    ] {
        let budget = formulas.budget(kernel, &load);
        assert_eq!(numbers(budget), expected, "{}", kernel.name());
        let narrow = matches!(kernel, Kernel::Qkv | Kernel::Output | Kernel::GateUp | Kernel::Down);
        let dtype = if narrow { Dtype::E4m3 } else { Dtype::F32 };
        assert_eq!(budget.dtype, dtype, "{}", kernel.name());
    }
    let runs = |formulas: &Formulas, load: &StepLoad| {
        Kernel::ALL
            .into_iter()
            .filter(|kernel| kernel.name().starts_with("quantize") && formulas.runs(*kernel, load))
            .map(Kernel::name)
            .collect::<Vec<_>>()
    };
    assert_eq!(runs(&formulas, &load), ["quantize_output", "quantize_down"]);
    assert!(runs(&formulas, &formulas.load([(10, 4)], 4)).is_empty());
    // Apart, the norm writes activations and they are read again.
    let techniques = Techniques::ALL.without(Technique::FusedQuantize);
    let apart = Formulas::new(&shape(), Storage { techniques, ..storage });
    assert_eq!(runs(&apart, &load).len(), 4);
    let norm = apart.budget(Kernel::FfnNorm, &load);
    assert_eq!(numbers(norm), [128, 0, 640, 640, 1280]);
    let quantize = apart.budget(Kernel::QuantizeGateUp, &load);
    assert_eq!(numbers(quantize), [0, 0, 340, 640, 640]);
}

#[test]
fn a_norm_that_adds_takes_what_both_take_and_moves_less() {
    for wide_rows in [None, Some(4)] {
        let storage = Storage { activation_bytes: 2, wide_rows, ..storage(Encoding::I8) };
        let with = |techniques| Formulas::new(&shape(), Storage { techniques, ..storage });
        let unfused = Techniques::ALL.without(Technique::FusedResidual);
        let (added, apart) = (with(unfused), with(unfused.without(Technique::FusedAddNorm)));
        let load = added.load([(10, 5)], 1);
        assert!(!added.runs(Kernel::OutputAdd, &load) && apart.runs(Kernel::OutputAdd, &load));
        assert!(added.runs(Kernel::DownAdd, &load) && apart.runs(Kernel::DownAdd, &load));
        let mut expected = step_of(&apart, &load);
        // 5 rows of 64 that are not read once more.
        expected[3] -= 640;
        assert_eq!(step_of(&added, &load), expected);
        // Two rows in and two out in 16 bits, or one of them in 8.
        let bytes = if wide_rows.is_some() { 3 * 640 + 340 } else { 4 * 640 };
        assert_eq!(added.budget(Kernel::FfnNorm, &load).activation_bytes, Bytes(bytes));
    }
}

#[test]
fn excess_is_what_one_writes_and_the_next_reads() {
    let shape = Shape { qkv_bias: true, qk_norm: true, ..shape() };
    let storage =
        Storage { techniques: Techniques::NONE, activation_bytes: 2, ..storage(Precision::Q8_0) };
    let formulas = Formulas::new(&shape, storage);
    // Single rows behind 31 and 99 tokens, a chunk of 3 rows behind 10; 3 rows ask.
    let load = formulas.load([(31, 1), (99, 1), (10, 3)], 3);
    for (kernel, expected) in [
        // 64·128 weights are 256 blocks of 34 bytes, and 2 bytes each written.
        (Kernel::DequantizeQkv, [8704, 0, 0, 16_384, 0]),
        // The same read; 5·(64+128)·2; 2·5·64·128.
        (Kernel::Qkv, [0, 0, 1920, 16_384, 81_920]),
        (Kernel::BiasAdd, [256, 0, 0, 2560, 640]),
        // 5 rows of 96: queries and keys, there and back.
        (Kernel::HeadNorm, [64, 0, 0, 1920, 1920]),
        // Queries there and back and keys in, keys back.
        (Kernel::Rope, [0, 0, 1600, 320, 1440]),
        (Kernel::KvAppend, [0, 640, 320, 320, 0]),
        // 132 tokens of 32 elements; 2 rows of 64 and 9 blocks; 4 heads · 2 rows · 100 scores.
        (Kernel::DecodeScores, [0, 8448, 256 + 36, 3200, 16_896]),
        (Kernel::DecodeSoftmax, [0, 0, 0, 6400, 0]),
        (Kernel::DecodeValues, [0, 8448, 256, 3200 + 36, 16_896]),
        // 4 heads · 3 rows · 13 scores.
        (Kernel::PrefillScores, [0, 832, 384 + 4, 624, 4608]),
        (Kernel::PrefillSoftmax, [0, 0, 0, 1248, 0]),
        (Kernel::PrefillValues, [0, 832, 384, 624 + 4, 4608]),
        // 5·64·2 in; as much out and 64·64 weights in.
        (Kernel::Output, [0, 0, 640, 640 + 8192, 40_960]),
        (Kernel::OutputAdd, [0, 0, 1280, 640, 320]),
        // 5·2·160 gates and ups, there and back.
        (Kernel::GateUp, [0, 0, 640, 3200 + 40_960, 204_800]),
        (Kernel::SiluMul, [0, 0, 1600, 3200, 0]),
        (Kernel::Down, [0, 0, 1600, 640 + 20_480, 102_400]),
        (Kernel::DequantizeHead, [21_760, 0, 0, 40_960, 0]),
        // 3·320 logits of 4 bytes in, as many weights out; 512 places in 45 passes.
        (Kernel::SampleWeights, [0, 0, 3840, 3840, 5760]),
        (Kernel::SampleSort, [0, 0, 0, 3840 + 3 * 512 * (8 + 16 * 45), 0]),
        (Kernel::SamplePick, [0, 0, 0, 3 * 512 * 8 + 3840, 0]),
    ] {
        assert_eq!(numbers(formulas.budget(kernel, &load)), expected, "{}", kernel.name());
    }
}

#[test]
fn scales_of_what_no_file_has_are_counted() {
    for (weights, output) in [
        // 64 rows of 64: a byte and a scale of 4 bytes a row, or half a byte and one of 2.
        (Encoding::E4m3, 64 * (64 + 4)),
        (Encoding::I8, 64 * (64 + 4)),
        (Encoding::I4, 64 * (32 + 2)),
        (Encoding::Nf4, 64 * (32 + 2)),
    ] {
        let storage = Storage { kv: Encoding::I8, ..storage(weights) };
        let formulas = Formulas::new(&shape(), storage);
        let load = formulas.load([(9, 1)], 1);
        let budget = formulas.budget(Kernel::Output, &load);
        assert_eq!((budget.weight_bytes, budget.dtype), (Bytes(output), Dtype::F32));
        // Two heads of 16 bytes and a scale, keys and values.
        let append = formulas.budget(Kernel::RopeAppend, &load);
        assert_eq!(append.kv_bytes, Bytes(2 * 2 * (16 + 4)));
        let attention = formulas.budget(Kernel::AttentionDecode, &load);
        assert_eq!(attention.kv_bytes, Bytes(10 * 2 * 2 * (16 + 4)));
    }
}
