//! Operations that pass over rows once: norms, activations, 8-bit rows, copies, roofs.

use crate::numbers::{ACTS, Act, Acts, F32_ROUNDOFF, Random, close, e4m3_bits, e4m3_value};
use crate::shim::{Arguments, shim};

const EPSILON: f32 = 1e-5;

/// A row's norm, and how far one in f32 and rounded to `act` may be from it.
fn norm(act: Act, x: &[f64], weight: &[f64]) -> Vec<(f64, f64)> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(EPSILON)).sqrt();
    // Eight squares per thread after another, then trees: 100 additions are more than there are.
    let bound = |y: f64| act.rounding(y) + 100.0 * F32_ROUNDOFF * y.abs();
    x.iter().zip(weight).map(|(x, w)| x * factor * w).map(|y| (y, bound(y))).collect()
}

const WIDTHS: [usize; 5] = [8, 64, 2048, 2056, 5000];

#[test]
fn norms_alone_and_behind_an_addition() {
    for act in ACTS {
        let shim = shim(act);
        let mut random = Random::new(11);
        for (width, rows) in WIDTHS.into_iter().zip([1, 17, 3, 2, 1]).chain([(16_384, 1)]) {
            let (mut x, weight) = (random.acts(act, rows * width), random.acts(act, width));
            if width == 64 {
                // So small that epsilon counts.
                x = Acts::of(act, x.values.iter().map(|x| x / 256.0));
            }
            let residual = random.acts(act, rows * width);
            let [x_there, weight_there] = [&x, &weight].map(|acts| shim.buffer(&acts.bits));
            let out = shim.poisoned(2 * rows * width);
            let grid = [rows as u32, 1, 1];
            let arguments = Arguments::new()
                .buffers([&out, &x_there, &weight_there])
                .long(0)
                .int(width)
                .float(EPSILON);
            shim.run("rms_norm", grid, &arguments);
            let exact = x.values.chunks(width).flat_map(|row| norm(act, row, &weight.values));
            close(&format!("rms_norm {width}"), &out.read_act(), exact);

            // Rows picked among those there are.
            let picked: Vec<i32> = (0..rows as i32).rev().step_by(2).collect();
            let some = shim.poisoned(2 * picked.len() * width);
            let picked_there = shim.buffer(&picked);
            let arguments = Arguments::new()
                .buffers([&some, &x_there, &weight_there, &picked_there])
                .int(width)
                .float(EPSILON);
            shim.run("rms_norm", [picked.len() as u32, 1, 1], &arguments);
            let all = out.read::<u16>();
            let expected: Vec<u16> = picked
                .iter()
                .flat_map(|row| all[*row as usize * width..(*row as usize + 1) * width].to_vec())
                .collect();
            assert_eq!(some.read::<u16>(), expected);

            // The addition, then the norm.
            let sum = shim.buffer(&residual.bits);
            let arguments = Arguments::new().buffers([&sum, &x_there]).int(rows * width);
            let blocks = (rows * width).div_ceil(2048) as u32;
            shim.run("residual_add", [blocks, 1, 1], &arguments);
            let exact = residual.values.iter().zip(&x.values).map(|(a, b)| a + b);
            close("residual_add", &sum.read_act(), exact.map(|y| (y, act.rounding(y))));
            let arguments = Arguments::new()
                .buffers([&out, &sum, &weight_there])
                .long(0)
                .int(width)
                .float(EPSILON);
            shim.run("rms_norm", grid, &arguments);
            // Both in one give the same bits.
            let (fused, stream) = (shim.poisoned(2 * rows * width), shim.buffer(&residual.bits));
            let arguments = Arguments::new()
                .buffers([&fused, &stream, &x_there, &weight_there])
                .int(width)
                .float(EPSILON);
            shim.run("add_rms_norm", grid, &arguments);
            assert!(stream.bytes() == sum.bytes(), "add_rms_norm: residual of {width}");
            assert!(fused.bytes() == out.bytes(), "add_rms_norm: rows of {width}");
        }
    }
}

/// Wants codes and scales to be those of the rows, give or take a code where f32 decides otherwise.
fn prove_codes(what: &str, e4m3: bool, rows: &[Vec<(f64, f64)>], codes: &[u8], scales: &[f32]) {
    let most = if e4m3 { 448.0 } else { 127.0 };
    for ((row, codes), scale) in rows.iter().zip(codes.chunks(rows[0].len())).zip(scales) {
        let largest = row.iter().fold(0.0_f64, |largest, (x, _)| largest.max(x.abs()));
        let scale = f64::from(*scale);
        assert!((scale * most - largest).abs() <= 1e-4 * largest, "{what}: scale {scale}");
        for (at, ((x, bound), code)) in row.iter().zip(codes).enumerate() {
            let (value, step) = if e4m3 {
                // Three bits of mantissa, and steps of 2⁻⁹ near zero.
                (e4m3_value(*code), (x.abs() / scale / 16.0).max(1.0 / 1024.0))
            } else {
                (f64::from(code.cast_signed()), 0.5)
            };
            let error = (value * scale - x).abs();
            let allowed = 1.001 * step * scale + bound;
            assert!(error <= allowed, "{what}: element {at}: {value} · {scale} for {x}");
        }
    }
}

#[test]
fn rows_in_eight_bits() {
    for act in ACTS {
        let shim = shim(act);
        let mut random = Random::new(12);
        for (width, rows) in [(8, 3), (2056, 2), (264, 17)] {
            let (mut x, weight) = (random.acts(act, rows * width), random.acts(act, width));
            // A row of zeros has no largest magnitude to divide by.
            x = Acts::of(
                act,
                x.values.iter().enumerate().map(|(at, x)| if at / width == 1 { 0.0 } else { *x }),
            );
            let residual = random.acts(act, rows * width);
            let [x_there, weight_there] = [&x, &weight].map(|acts| shim.buffer(&acts.bits));
            let sum = Acts::of(act, x.values.iter().zip(&residual.values).map(|(a, b)| a + b));
            let grid = [rows as u32, 1, 1];
            for (suffix, e4m3) in [("i8", false), ("e4m3", true)] {
                let (out, scale) = (shim.poisoned(rows * width), shim.poisoned(4 * rows));
                // Values are quantized as f32, not rounded to `act` before.
                let normed = |rows: &Acts| -> Vec<Vec<(f64, f64)>> {
                    let row = |row: &[f64]| norm(Act::F16, row, &weight.values);
                    rows.values.chunks(width).map(row).collect()
                };
                let there = Arguments::new().buffers([&out, &scale]);
                let arguments = there.buffers([&x_there, &weight_there]).int(width).float(EPSILON);
                shim.run(&format!("rms_norm_{suffix}"), grid, &arguments);
                let what = format!("rms_norm_{suffix} {width}");
                prove_codes(&what, e4m3, &normed(&x), out.bytes(), &scale.read());

                let stream = shim.buffer(&residual.bits);
                let arguments = Arguments::new()
                    .buffers([&out, &scale, &stream, &x_there, &weight_there])
                    .int(width)
                    .float(EPSILON);
                shim.run(&format!("add_rms_norm_{suffix}"), grid, &arguments);
                assert_eq!(stream.read::<u16>(), sum.bits, "add_rms_norm_{suffix}: residual");
                let what = format!("add_rms_norm_{suffix} {width}");
                prove_codes(&what, e4m3, &normed(&sum), out.bytes(), &scale.read());

                let arguments = Arguments::new().buffers([&out, &scale, &x_there]).int(width);
                shim.run(&format!("quantize_{suffix}"), grid, &arguments);
                let as_they_are: Vec<Vec<(f64, f64)>> = x
                    .values
                    .chunks(width)
                    .map(|row| row.iter().map(|x| (*x, 1e-6 * x.abs())).collect())
                    .collect();
                let what = format!("quantize_{suffix} {width}");
                prove_codes(&what, e4m3, &as_they_are, out.bytes(), &scale.read());
                if e4m3 {
                    prove_nearest(
                        &x.values[..width],
                        out.bytes(),
                        f64::from(scale.read::<f32>()[0]),
                    );
                }
            }
        }
        shim.all_ran("norm.cu", |_| true);
        // Wider than any row that a norm takes.
        let (width, rows) = (29_568, 2);
        let x = random.acts(act, rows * width);
        let (x_there, scale) = (shim.buffer(&x.bits), shim.poisoned(4 * rows));
        let as_it_is = |row: &[f64]| row.iter().map(|x| (*x, 1e-6 * x.abs())).collect();
        let expected: Vec<Vec<(f64, f64)>> = x.values.chunks(width).map(as_it_is).collect();
        for (suffix, e4m3) in [("i8", false), ("e4m3", true)] {
            let out = shim.poisoned(rows * width);
            let arguments = Arguments::new().buffers([&out, &scale, &x_there]).int(width);
            shim.run(&format!("quantize_{suffix}"), [rows as u32, 1, 1], &arguments);
            let what = format!("quantize_{suffix} {width}");
            prove_codes(&what, e4m3, &expected, out.bytes(), &scale.read());
        }
    }
}

/// Nearly every e4m3 is the nearest one: only a value within f32's rounding of a tie may differ.
fn prove_nearest(row: &[f64], codes: &[u8], scale: f64) {
    let same = row.iter().zip(codes).filter(|(x, code)| e4m3_bits(**x / scale) == **code).count();
    assert!(same * 100 >= row.len() * 97, "{same} of {} codes are the nearest", row.len());
}

#[test]
fn the_activation_and_biases() {
    for act in ACTS {
        let shim = shim(act);
        let mut random = Random::new(13);
        for (rows, width) in [(1, 8), (3, 1000), (17, 72), (64, 40)] {
            let gate_up = Acts::of(act, random.numbers(2 * rows * width).iter().map(|x| 8.0 * x));
            let (out, there) = (shim.poisoned(2 * rows * width), shim.buffer(&gate_up.bits));
            let grid = [(rows * width).div_ceil(2048) as u32, 1, 1];
            shim.run(
                "silu_mul",
                grid,
                &Arguments::new().buffers([&out, &there]).ints([rows, width]),
            );
            let exact = (0..rows * width).map(|at| {
                let gate = gate_up.values[at / width * 2 * width + at % width];
                let up = gate_up.values[at / width * 2 * width + width + at % width];
                let y = gate / (1.0 + (-gate).exp()) * up;
                (y, act.rounding(y) + 16.0 * F32_ROUNDOFF * y.abs())
            });
            close("silu_mul", &out.read_act(), exact);

            let (y, bias) = (random.acts(act, rows * width), random.acts(act, width));
            let (y_there, bias_there) = (shim.buffer(&y.bits), shim.buffer(&bias.bits));
            let arguments = Arguments::new().buffers([&y_there, &bias_there]).ints([rows, width]);
            shim.run("bias_add", grid, &arguments);
            let exact = y.values.iter().enumerate().map(|(at, y)| y + bias.values[at % width]);
            let exact = exact.map(|y| (y, act.rounding(y)));
            close("bias_add", &y_there.read_act(), exact);
        }
        shim.all_ran("activation.cu", |_| true);
    }
}

#[test]
fn blocks_move() {
    let shim = shim(Act::Bf16);
    for block_bytes in [16, 4112, 16_400] {
        let bytes: Vec<u8> = (0..5 * block_bytes).map(|i| (i * 7 + i / 251) as u8).collect();
        let (from, to) = (shim.buffer(&bytes), shim.poisoned(4 * block_bytes));
        let pairs = shim.buffer(&[4, 0, 1, 3, 0, 1]);
        let arguments = Arguments::new().buffers([&to, &from, &pairs]).long(block_bytes as u64);
        shim.run("copy_blocks", [block_bytes.div_ceil(16_384) as u32, 3, 1], &arguments);
        let found = to.bytes();
        for (source, target) in [(4, 0), (1, 3), (0, 1)] {
            let block = |at: usize| at * block_bytes..(at + 1) * block_bytes;
            assert_eq!(found[block(target)], bytes[block(source)]);
        }
        assert!(found[2 * block_bytes..3 * block_bytes].iter().all(|byte| *byte == 0xff));
    }
    shim.all_ran("kv_cache.cu", |_| true);
}

#[test]
fn roofs_do_what_they_count() {
    for act in ACTS {
        let shim = shim(act);
        for (bytes, blocks) in [(16, 1), (4096 * 21 + 48, 2), (70_000, 5)] {
            let words: Vec<u32> =
                (0..bytes as u32 / 4).map(|i| i.wrapping_mul(2_654_435_761)).collect();
            let from = shim.buffer(&words);
            let sums = shim.poisoned(4 * blocks as usize);
            let arguments = Arguments::new().buffers([&sums, &from]).long(bytes);
            shim.run("roof_read", [blocks, 1, 1], &arguments);
            let sum = sums.read::<u32>().into_iter().fold(0, u32::wrapping_add);
            assert_eq!(sum, words.iter().copied().fold(0, u32::wrapping_add));
            let to = shim.poisoned(bytes as usize);
            shim.run(
                "roof_copy",
                [blocks, 1, 1],
                &Arguments::new().buffers([&to, &from]).long(bytes),
            );
            assert!(to.bytes() == from.bytes());
        }
        let out = shim.poisoned(4 * 512);
        let arguments = Arguments::new().buffer(&out).float(0.5).float(1.0).int(3);
        shim.run("roof_fma", [2, 1, 1], &arguments);
        // x ↦ x / 2 + 1 three times, eight chains from thread to thread + 7.
        let exact = (0..512).map(|at| {
            let thread = f64::from(at % 256);
            (
                (0..8).map(|i| (thread + f64::from(i)) / 8.0 + 1.75).sum::<f64>(),
                1e-5 * (thread + 8.0),
            )
        });
        close("roof_fma", &out.read::<f32>().into_iter().map(f64::from).collect::<Vec<_>>(), exact);
        let pair = u64::from(act.bits(0.5)) * 0x1_0001;
        let arguments = Arguments::new().buffer(&out).long(pair).int(2);
        shim.run("roof_mma", [2, 1, 1], &arguments);
        // 16 products of a quarter, two rounds, four elements of eight tiles.
        assert!(out.read::<f32>().iter().all(|x| *x == 4.0 * 2.0 * 32.0));
        let arguments = Arguments::new().buffer(&out).long(0x0202_0202).int(3);
        shim.run("roof_mma_i8", [2, 1, 1], &arguments);
        // 32 products of four, three rounds, four elements of eight tiles.
        assert!(out.read::<f32>().iter().all(|x| *x == 128.0 * 3.0 * 32.0));
        shim.run("roof_nothing", [3, 1, 1], &Arguments::new());
        shim.all_ran("roof.cu", |_| true);
    }
}
