//! Every kernel against f64, and the law of the module.

use proptest::prelude::*;

use crate::backend::cpu::pool::Pool;
use crate::model::Precision;

use super::reference::{dot, prepared_values, stored_values};
use super::*;

/// Values between -1 and 1, different for each seed.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

fn pack(pool: &Pool, isa: Isa, shape: PackedShape, weights: &[f32]) -> PackedMatrix {
    let fill = |row: usize, out: &mut [f32]| {
        out.copy_from_slice(&weights[row * shape.inputs..(row + 1) * shape.inputs]);
    };
    PackedMatrix::pack(pool, &Arena::new(), isa, shape, Source::F32(&fill)).unwrap()
}

fn plain(precision: Precision, outputs: usize, inputs: usize) -> PackedShape {
    PackedShape { precision, outputs, inputs, arrangement: Arrangement::Plain }
}

fn product(pool: &Pool, matrix: &PackedMatrix, inputs: &[f32]) -> Vec<f32> {
    let shape = matrix.shape();
    let rows = inputs.len() / shape.inputs;
    let mut activations =
        Activations::new(matrix.isa(), shape.precision, rows, shape.inputs).unwrap();
    activations.prepare(pool, inputs, shape.inputs);
    let mut output = vec![f32::NAN; rows * shape.outputs];
    multiply(pool, matrix, &activations, Epilogue::Store { output: &mut output });
    output
}

/// What a sum in f32 of this length may err, as a share of the sum of magnitudes. Sums of
/// `inputs` terms in f32 err at most `inputs · 2^-24` of it, in practice far less; the bfloat16
/// dot product of the processor flushes what is subnormal and rounds once per pair.
fn tolerance(inputs: usize) -> f64 {
    let terms = inputs as f64;
    (terms.sqrt() * 4.0 + 4.0) / f64::from(1 << 24)
}

#[test]
fn every_kernel_agrees_with_f64() {
    let pool = Pool::new(2).unwrap();
    for isa in isas() {
        for precision in Precision::ALL {
            let in_blocks = matches!(precision, Precision::Q8_0 | Precision::Q4_0);
            let widths: &[usize] =
                if in_blocks { &[32, 96, 1056] } else { &[1, 2, 31, 33, 96, 1001] };
            for &inputs in widths {
                for outputs in [1, 7, 16, 33, 130] {
                    for rows in [1, 2, 3, 5, 8, 13, 17] {
                        check(&pool, isa, plain(precision, outputs, inputs), rows);
                    }
                }
            }
        }
    }
}

fn check(pool: &Pool, isa: Isa, shape: PackedShape, rows: usize) {
    let PackedShape { precision, outputs, inputs, .. } = shape;
    let weights = values(outputs * inputs, 1 + inputs as u64);
    let activations = values(rows * inputs, 1000 + rows as u64);
    let matrix = pack(pool, isa, shape, &weights);
    let found = product(pool, &matrix, &activations);
    for row in 0..rows {
        let activations = &activations[row * inputs..(row + 1) * inputs];
        let activations = prepared_values(isa, precision, activations);
        for output in 0..outputs {
            let weights = &weights[output * inputs..(output + 1) * inputs];
            let (expected, size) = dot(&stored_values(precision, weights), &activations);
            let found = f64::from(found[row * outputs + output]);
            assert!(
                (found - expected).abs() <= size * tolerance(inputs),
                "{isa:?} {shape:?} rows {rows}, at {row} {output}: {found}, expected {expected}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The law of the module.
    #[test]
    fn an_element_depends_on_its_two_rows_alone(
        seed in any::<u64>(),
        precision in prop::sample::select(Precision::ALL.to_vec()),
        blocks in 1usize..12,
        outputs in 1usize..200,
        rows in 2usize..40,
        threads in 1usize..4,
    ) {
        let inputs = blocks * BLOCK;
        let pool = Pool::new(threads).unwrap();
        let alone = Pool::new(1).unwrap();
        let weights = values(outputs * inputs, seed);
        let activations = values(rows * inputs, !seed);
        for isa in isas() {
            let matrix = pack(&pool, isa, plain(precision, outputs, inputs), &weights);
            let together = product(&pool, &matrix, &activations);
            for (row, found) in together.chunks(outputs).enumerate() {
                let activations = &activations[row * inputs..(row + 1) * inputs];
                let expected = product(&alone, &matrix, activations);
                prop_assert_eq!(found, &expected[..], "{:?} row {}", isa, row);
            }
            let from = outputs / 2;
            let tail = plain(precision, outputs - from, inputs);
            let matrix = pack(&pool, isa, tail, &weights[from * inputs..]);
            let expected = product(&alone, &matrix, &activations);
            for (found, expected) in together.chunks(outputs).zip(expected.chunks(outputs - from)) {
                prop_assert_eq!(&found[from..], expected, "{:?} output from {}", isa, from);
            }
        }
    }

    /// Stored rows are packed without change of value, and come back.
    #[test]
    fn packing_keeps_every_value(
        seed in any::<u64>(),
        precision in prop::sample::select(Precision::ALL.to_vec()),
        blocks in 1usize..6,
        outputs in 1usize..70,
        gate_up in any::<bool>(),
    ) {
        let inputs = blocks * BLOCK;
        let outputs = if gate_up { outputs * 2 } else { outputs };
        let arrangement = if gate_up { Arrangement::GateUp } else { Arrangement::Plain };
        let shape = PackedShape { precision, outputs, inputs, arrangement };
        let pool = Pool::new(2).unwrap();
        let bytes = quantize::row_bytes(precision, inputs);
        let weights = values(outputs * inputs, seed);
        let mut stored = vec![0; outputs * bytes];
        for (row, stored) in weights.chunks(inputs).zip(stored.chunks_mut(bytes)) {
            quantize::encode(precision, row, stored);
        }
        for isa in isas() {
            let give = |row: usize| &stored[row * bytes..(row + 1) * bytes];
            let source = Source::Stored(&give);
            let matrix = PackedMatrix::pack(&pool, &Arena::new(), isa, shape, source).unwrap();
            let mut row = vec![0.0; inputs];
            for (index, weights) in weights.chunks(inputs).enumerate() {
                matrix.read_row(index, &mut row);
                prop_assert_eq!(&row, &stored_values(precision, weights));
            }
        }
    }
}

#[test]
fn epilogues_finish_what_a_store_gives() {
    let pool = Pool::new(2).unwrap();
    for isa in isas() {
        for precision in [Precision::Q8_0, Precision::Bf16, Precision::Q4_0] {
            for (half, rows) in [(5, 1), (40, 3), (64, 18)] {
                let (outputs, inputs) = (2 * half, 64);
                let weights = values(outputs * inputs, 3);
                let inputs_row = values(rows * inputs, 4);
                let matrix = pack(&pool, isa, plain(precision, outputs, inputs), &weights);
                let sums = product(&pool, &matrix, &inputs_row);
                let mut activations = Activations::new(isa, precision, rows, inputs).unwrap();
                activations.prepare(&pool, &inputs_row, inputs);

                let bias = values(outputs, 5);
                let mut output = vec![f32::NAN; rows * outputs];
                let epilogue = Epilogue::Bias { output: &mut output, bias: &bias };
                multiply(&pool, &matrix, &activations, epilogue);
                for (index, found) in output.iter().enumerate() {
                    assert_eq!(*found, sums[index] + bias[index % outputs]);
                }

                let before = values(rows * outputs, 6);
                let mut residual = before.clone();
                let epilogue = Epilogue::Add { residual: &mut residual };
                multiply(&pool, &matrix, &activations, epilogue);
                for (index, found) in residual.iter().enumerate() {
                    assert_eq!(*found, before[index] + sums[index]);
                }

                let arrangement = Arrangement::GateUp;
                let shape = PackedShape { precision, outputs, inputs, arrangement };
                let matrix = pack(&pool, isa, shape, &weights);
                let mut output = vec![f32::NAN; rows * half];
                let epilogue = Epilogue::SwiGlu { output: &mut output };
                multiply(&pool, &matrix, &activations, epilogue);
                for (index, &found) in output.iter().enumerate() {
                    let (row, column) = (index / half, index % half);
                    let gate = f64::from(sums[row * outputs + column]);
                    let up = f64::from(sums[row * outputs + half + column]);
                    let expected = gate / (1.0 + (-gate).exp()) * up;
                    let error = (f64::from(found) - expected).abs();
                    assert!(error <= 1e-6 * expected.abs(), "{found}, expected {expected}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    let pool = Pool::new(1).unwrap();
    for isa in isas() {
        for precision in Precision::ALL {
            let matrix = pack(&pool, isa, plain(precision, 20, 64), &values(20 * 64, 8));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut inputs = values(64, 9);
                inputs[37] = bad;
                let found = product(&pool, &matrix, &inputs);
                assert!(found.iter().all(|sum| !sum.is_finite()), "{isa:?} {precision:?}");
            }
        }
    }
}

#[test]
fn the_smallest_activations_count_as_little() {
    let pool = Pool::new(1).unwrap();
    for isa in isas() {
        for precision in Precision::ALL {
            let matrix = pack(&pool, isa, plain(precision, 20, 64), &values(20 * 64, 8));
            for small in [0.0, f32::from_bits(1), f32::MIN_POSITIVE, 1e-36] {
                let found = product(&pool, &matrix, &[small; 64]);
                assert!(found.iter().all(|sum| sum.abs() <= 64.0 * small), "{isa:?}");
            }
        }
    }
}

#[test]
fn shapes_that_cannot_be_packed_are_refused() {
    let pool = Pool::new(1).unwrap();
    let fill = |_: usize, out: &mut [f32]| out.fill(0.0);
    let refuse = |shape: PackedShape| {
        let packed =
            PackedMatrix::pack(&pool, &Arena::new(), Isa::Portable, shape, Source::F32(&fill));
        packed.unwrap_err().to_string()
    };
    assert_eq!(
        refuse(plain(Precision::Q4_0, 4, 48)),
        "pack rows of 48 inputs as q4_0: expected a multiple of 32"
    );
    assert_eq!(
        refuse(plain(Precision::F32, 0, 48)),
        "pack a matrix of 0 outputs and 48 inputs: both must be positive"
    );
    let arrangement = Arrangement::GateUp;
    assert_eq!(
        refuse(PackedShape { arrangement, ..plain(Precision::F32, 3, 32) }),
        "pack gate and up together: expected an even number of outputs, found 3"
    );
    let short = [0; 34];
    let give = |row: usize| if row == 2 { &short[1..] } else { &short[..] };
    let shape = plain(Precision::Q8_0, 4, 32);
    let packed =
        PackedMatrix::pack(&pool, &Arena::new(), Isa::Portable, shape, Source::Stored(&give));
    assert_eq!(packed.unwrap_err().to_string(), "pack row 2: expected 34 bytes, found 33");
}

#[test]
fn bytes_are_those_of_the_format_and_the_padding() {
    let pool = Pool::new(1).unwrap();
    for isa in isas() {
        for precision in Precision::ALL {
            let lanes = kernel::kernel(isa, precision).lanes;
            let whole = pack(&pool, isa, plain(precision, 64, 128), &values(64 * 128, 1));
            assert_eq!(whole.bytes() as u64, precision.bytes(64 * 128), "{isa:?} {precision:?}");
            let more = pack(&pool, isa, plain(precision, 65, 128), &values(65 * 128, 1));
            let padded = (65usize.div_ceil(lanes) * lanes * 128) as u64;
            assert_eq!(more.bytes() as u64, precision.bytes(padded));
        }
    }
}
