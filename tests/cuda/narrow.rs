//! Products of many rows in 8 bits: what is launched for them, and that they give what the
//! quantized weights do.
//!
//! A row in i8 is off by up to half of 1/127 of its largest magnitude, a little more than q8_0 is
//! off by in the CPU's products. In e4m3 an element is off by up to 1/16 of itself, sixteen times
//! as much as bf16 rounds, but only before the products of a layer and not on the residual stream.
//! Bounds are 2 and 5 times that of 16-bit activations; what reads another row, another factor or
//! another matrix is farther off by far.

use gemba::backend::cuda::{Address, Arguments, Dense};
use gemba::backend::{Backend, DeviceError, Limits, Sampling};
use gemba::cost::{Technique, Techniques};
use gemba::event::Dtype;
use gemba::model::{Encoding, Model, Precision};

use crate::dense::{decoded, names, on_host, prompt, recorded};
use crate::encodings::{farthest, written_out};
use crate::recorded::Asked;
use crate::shim::card;
use crate::stepper::{LIMITS, Plain, Sequence, on_cpu, small, step, tokens, whole};

const BOTH: [(Encoding, &str, Dtype, f32); 2] =
    [(Encoding::E4m3, "e4m3", Dtype::E4m3, 5.0), (Encoding::I8, "i8", Dtype::I8, 2.0)];

/// The arguments of every launch of a kernel.
fn arguments(asked: &[Asked], name: &str) -> Vec<Arguments> {
    let of = |asked: &Asked| match asked {
        Asked::Launch { kernel, arguments, .. } if kernel == name => Some(*arguments),
        _ => None,
    };
    asked.iter().filter_map(of).collect()
}

#[test]
fn the_library_multiplies_many_rows_of_e4m3() {
    let model = small(|shape| (shape.layers, shape.qkv_bias) = (1, true));
    let (mut cuda, tape) =
        recorded(&model, (Encoding::E4m3, LIMITS, Techniques::ALL), (true, false));
    let few = names(&prompt(&mut cuda, &tape, 64));
    assert_eq!(few.iter().filter(|name| name.starts_with("gemm_e4m3")).count(), 5, "{few:?}");
    let asked = prompt(&mut cuda, &tape, 65);
    let expected = [
        "embed_e4m3",
        "rms_norm_e4m3",
        "65x96x256 scaled biased",
        "rope_append_f16",
        "attn_prefill_d64_f16",
        "quantize_e4m3",
        "65x128x96 scaled added",
        "rms_norm_e4m3",
        "65x96x320 scaled",
        "silu_mul",
        "quantize_e4m3",
        "65x160x96 scaled added",
        // The head takes its rows in 16 bits.
        "rms_norm",
        "gemm_e4m3",
        "sample_scan",
        "sample_choose",
    ];
    assert_eq!(names(&asked), expected);
    // Every product takes the rows and the factors that the launch before it left.
    let multiplied = asked.iter().filter_map(|asked| match asked {
        Asked::Multiply(product) => Some(*product),
        _ => None,
    });
    let products: Vec<Dense> = multiplied.collect();
    let left = |arguments: &Arguments| [arguments.values()[0], arguments.values()[1]];
    let norms: Vec<_> = arguments(&asked, "rms_norm_e4m3").iter().map(left).collect();
    let others: Vec<_> = arguments(&asked, "quantize_e4m3").iter().map(left).collect();
    let taken: Vec<_> = products.iter().map(|p| [p.x.0, p.scales.unwrap().rows.0]).collect();
    assert_eq!(taken, [norms[0], others[0], norms[1], others[1]]);
    let factors: Vec<Address> = products.iter().map(|p| p.scales.unwrap().outputs).collect();
    assert!(factors.iter().all(|factor| *factor != Address::NULL));
    // 128 · 65 queries are attended, 160 · 65 activations of SwiGLU are read.
    let widths =
        arguments(&asked, "quantize_e4m3").iter().map(|a| a.values()[3]).collect::<Vec<_>>();
    assert_eq!(widths, [128, 160]);
}

#[test]
fn a_kernel_multiplies_many_rows_of_i8() {
    let model = small(|shape| (shape.layers, shape.qkv_bias) = (1, true));
    for library in [false, true] {
        let how = (Encoding::I8, LIMITS, Techniques::ALL);
        let (mut cuda, tape) = recorded(&model, how, (library, false));
        assert!(tape.asked.borrow().contains(&Asked::Load("gemm_i8.cu")));
        let asked = prompt(&mut cuda, &tape, 130);
        let expected = [
            "embed_i8",
            "rms_norm_i8",
            "gemm_i8_i8",
            "rope_append_f16",
            "attn_prefill_d64_f16",
            "quantize_i8",
            "gemm_i8_i8",
            "rms_norm_i8",
            "gemm_i8_i8",
            "silu_mul",
            "quantize_i8",
            "gemm_i8_i8",
            "rms_norm",
            "gemm_i8",
            "sample_scan",
            "sample_choose",
        ];
        assert_eq!(names(&asked), expected);
        let grids: Vec<_> = asked
            .iter()
            .filter_map(|asked| match asked {
                Asked::Launch { kernel, grid, .. } if kernel == "gemm_i8_i8" => Some(*grid),
                _ => None,
            })
            .collect();
        // Outputs and rows by 64: 256, 96, 320, 96.
        assert_eq!(grids, [[4, 3, 1], [2, 3, 1], [5, 3, 1], [2, 3, 1]]);
        let products = arguments(&asked, "gemm_i8_i8");
        // Bias of the first; what the second and last are added to.
        let set = |at: usize| products.iter().map(|a| a.values()[at] != 0).collect::<Vec<_>>();
        assert_eq!(set(5), [true, false, false, false]);
        assert_eq!(set(6), [false, true, false, true]);
    }
}

#[test]
fn a_norm_and_the_rows_in_8_bits_are_two_passes_where_they_are_not_fused() {
    let model = small(|shape| shape.layers = 1);
    let techniques = Techniques::ALL.without(Technique::FusedQuantize);
    let (mut cuda, tape) = recorded(&model, (Encoding::I8, LIMITS, techniques), (false, false));
    let asked = names(&prompt(&mut cuda, &tape, 65));
    let count = |name: &str| asked.iter().filter(|found| *found == name).count();
    assert_eq!((count("rms_norm"), count("rms_norm_i8"), count("quantize_i8")), (3, 0, 4));
    assert_eq!(asked[1..4], ["rms_norm", "quantize_i8", "gemm_i8_i8"]);
}

#[test]
fn a_norm_adds_what_attention_gave_where_a_product_does_not() {
    let model = small(|shape| shape.layers = 1);
    let residual = Techniques::ALL.without(Technique::FusedResidual);
    for (encoding, rows, expected) in [
        (Encoding::E4m3, 65, "add_rms_norm_e4m3"),
        (Encoding::I8, 65, "add_rms_norm_i8"),
        (Encoding::I8, 64, "add_rms_norm"),
        (Precision::Bf16.into(), 64, "add_rms_norm"),
    ] {
        let launched = |techniques| {
            let how = (encoding, LIMITS, techniques);
            let (mut cuda, tape) = recorded(&model, how, (true, false));
            names(&prompt(&mut cuda, &tape, rows))
        };
        let count = |asked: &[String], name: &str| asked.iter().filter(|a| *a == name).count();
        let asked = launched(residual);
        // What the second product of a layer gives is added by itself.
        assert_eq!((count(&asked, expected), count(&asked, "residual_add")), (1, 1), "{asked:?}");
        let asked = launched(residual.without(Technique::FusedAddNorm));
        assert_eq!((count(&asked, expected), count(&asked, "residual_add")), (0, 2), "{asked:?}");
        assert_eq!(count(&launched(Techniques::ALL), expected), 0);
    }
}

#[test]
fn rows_stay_activations_where_nothing_multiplies_them_in_8_bits() {
    let model = small(|shape| shape.layers = 1);
    let all = Techniques::ALL;
    let q8 = Encoding::Stored(Precision::Q8_0);
    let few = Limits { rows: 64, ..LIMITS };
    for (encoding, limits, techniques, library, expected) in [
        (Encoding::E4m3, LIMITS, all, (true, false), true),
        (Encoding::E4m3, LIMITS, all, (false, false), false),
        // There, and without a way for such products.
        (Encoding::E4m3, LIMITS, all, (true, true), false),
        (Encoding::E4m3, few, all, (true, false), false),
        (Encoding::I8, LIMITS, all, (false, false), true),
        (Encoding::I8, few, all, (false, false), false),
        (Encoding::I8, LIMITS, all.without(Technique::QuantizedRows), (true, false), false),
        (Encoding::I8, LIMITS, all.without(Technique::FusedDequantize), (true, false), false),
        (Encoding::I4, LIMITS, all, (true, false), false),
        (q8, LIMITS, all, (true, false), false),
    ] {
        let (mut cuda, tape) = recorded(&model, (encoding, limits, techniques), library);
        let what = format!("{encoding:?} {techniques:?} {library:?}");
        assert_eq!(cuda.storage().wide_rows.is_some(), expected, "{what}");
        let rows = limits.rows.min(90) as usize;
        let asked = names(&prompt(&mut cuda, &tape, rows));
        let narrow = asked.iter().any(|name| name.starts_with("quantize_"));
        assert_eq!(narrow, expected, "{what}: {asked:?}");
    }
}

#[test]
fn products_in_8_bits_are_near_those_of_the_quantized_weights() {
    let biased = |shape: &mut gemba::model::Shape| shape.layers = 1;
    let model = small(biased);
    let text = tokens(90, 11, 300);
    for (encoding, name, _, bound) in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let reference = written_out(&model, encoding, folder.path());
        let expected = whole(&mut on_cpu(&reference, Precision::F32, LIMITS), &text);
        let mut in_8_bits = false;
        let mut found = |techniques| {
            let kv = Precision::F16.into();
            let plain = Plain { precision: encoding, kv, limits: LIMITS, techniques };
            let mut cuda = on_host(&model, plain, true).0;
            in_8_bits = cuda.storage().wide_rows.is_some();
            let mut sequence = Sequence::new(&text, (0..6).rev());
            let mut logits = Vec::new();
            for count in [80, 10] {
                let said =
                    step(&mut cuda, &mut [(&mut sequence, count)], Sampling::GREEDY).unwrap();
                logits.extend(said.logits.into_iter().flatten());
            }
            logits
        };
        let all = found(Techniques::ALL);
        let distance = farthest(&expected, &all);
        assert!(distance < bound, "{name}: {distance} of the bound of 16 bits");
        let residual = Techniques::ALL.without(Technique::FusedResidual);
        for techniques in [
            Techniques::ALL.without(Technique::FusedQuantize),
            Techniques::ALL.without(Technique::FusedSwiglu),
            residual,
            residual.without(Technique::FusedAddNorm),
        ] {
            let distance = farthest(&expected, &found(techniques));
            assert!(distance < bound, "{name} {techniques:?}: {distance}");
        }
        let wide = found(Techniques::ALL.without(Technique::QuantizedRows));
        let apart = farthest(&expected, &wide);
        assert!(apart < 1.0, "{name} in 16 bits: {apart}");
        let all_again = found(Techniques::ALL);
        if card::asked().is_some() && !in_8_bits {
            eprintln!("skipped: nothing on this card multiplies rows in {name}");
            continue;
        }
        // Rows in 8 bits are farther off, and they are what the chunk of 80 rows was made of.
        assert!(in_8_bits && distance > apart, "{name}: {distance}, in 16 bits {apart}");
        assert_eq!(all_again, all, "{name}");
    }
}

/// Single tokens of many sequences, captured and replayed.
fn decoded_rows(model: &Model, encoding: Encoding, techniques: Techniques) -> Vec<Vec<f32>> {
    let limits = Limits { kv_blocks: 70, ..LIMITS };
    let kv = Precision::F16.into();
    let mut cuda = on_host(model, Plain { precision: encoding, kv, limits, techniques }, true).0;
    let mut sequences: Vec<Sequence> =
        (0..70).map(|i| Sequence::new(&tokens(9, i, 300), [i])).collect();
    let steps = (0..3).map(|_| decoded(&mut cuda, &mut sequences).logits);
    steps.flatten().flatten().collect()
}

#[test]
fn replayed_steps_of_many_rows_in_8_bits_are_those_that_were_launched() {
    let model = small(|shape| shape.layers = 1);
    for (encoding, ..) in BOTH {
        let replayed = decoded_rows(&model, encoding, Techniques::ALL);
        let launched = decoded_rows(&model, encoding, Techniques::ALL.without(Technique::Graphs));
        assert_eq!(replayed, launched, "{encoding:?}");
    }
}

#[test]
fn roofs_of_8_bits_are_measured_where_rows_have_them() {
    let model = small(|shape| shape.layers = 1);
    for (encoding, name, dtype, _) in BOTH {
        for (techniques, expected) in
            [(Techniques::ALL, true), (Techniques::ALL.without(Technique::QuantizedRows), false)]
        {
            let (cuda, tape) = recorded(&model, (encoding, LIMITS, techniques), (true, false));
            tape.asked.take();
            let rates = cuda.ceilings(None).unwrap().ops_per_s;
            assert_eq!(rates.get(&dtype).is_some_and(|rate| *rate > 0), expected, "{name}");
            let asked = names(&tape.asked.take());
            // A square product of 384 rows in e4m3, or a kernel that does nothing else.
            let probe = if dtype == Dtype::E4m3 { "384x384x384 scaled" } else { "roof_mma_i8" };
            assert_eq!(asked.iter().any(|asked| asked == probe), expected, "{name}: {asked:?}");
        }
    }
}

#[test]
fn a_library_that_has_no_way_after_all_loses_the_device_with_a_reason() {
    if card::asked().is_some() {
        return;
    }
    let model = small(|shape| shape.layers = 1);
    let how = (Encoding::E4m3, LIMITS, Techniques::ALL);
    let (mut cuda, tape) = recorded(&model, how, (true, false));
    tape.at_a_loss.set(true);
    let mut sequence = Sequence::new(&tokens(65, 1, 300), 0..5);
    let said = step(&mut cuda, &mut [(&mut sequence, 65)], Sampling::GREEDY).err().unwrap();
    let expected = "no algorithm for 65 rows, 96 inputs, 256 outputs";
    assert!(matches!(&said, DeviceError::Lost(what) if what.contains(expected)), "{said}");
}

#[test]
fn a_device_that_is_lost_among_products_in_8_bits_is_said() {
    let model = small(|shape| shape.layers = 1);
    for (encoding, ..) in BOTH {
        for lost_at in 0..16 {
            let how = (encoding, LIMITS, Techniques::ALL);
            let (mut cuda, tape) = recorded(&model, how, (true, false));
            tape.lost_at.set(Some(lost_at));
            let mut sequence = Sequence::new(&tokens(65, 1, 300), 0..5);
            match step(&mut cuda, &mut [(&mut sequence, 65)], Sampling::GREEDY) {
                Err(DeviceError::Lost(what)) => assert!(what.contains("ECC"), "{what}"),
                other => panic!("launch {lost_at}: {:?}", other.map(|said| said.spans)),
            }
        }
    }
}
