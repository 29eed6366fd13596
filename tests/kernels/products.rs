//! Products with weights of every format: gemv, gemm, dequantization, embedding.

use gemba::model::Precision;

use crate::numbers::{ACTS, Act, Acts, F32_ROUNDOFF, Random, close};
use crate::shim::{Arguments, Buffer, Shim, shim};
use crate::weights::{FORMATS, Format, Matrix};

/// What a product is asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    rows: usize,
    n: usize,
    k: usize,
    swiglu: bool,
    bias: bool,
    residual: bool,
    wide: bool,
    splits: usize,
}

impl Asked {
    const fn plain(rows: usize, n: usize, k: usize) -> Self {
        let (swiglu, bias, residual, wide) = (false, false, false, false);
        Self { rows, n, k, swiglu, bias, residual, wide, splits: 1 }
    }
}

/// The operands of a product on the shim.
struct Operands<'a> {
    matrix: Matrix<'a>,
    x: Acts,
    bias: Acts,
    residual: Acts,
}

impl<'a> Operands<'a> {
    fn random(shim: &'a Shim, format: Format, asked: Asked, random: &mut Random) -> Self {
        let matrix_rows = if asked.swiglu { 2 * asked.n } else { asked.n };
        Self {
            matrix: Matrix::random(shim, format, [matrix_rows, asked.k], random),
            x: random.acts(shim.act, asked.rows * asked.k),
            bias: random.acts(shim.act, asked.n),
            residual: random.acts(shim.act, asked.rows * asked.n),
        }
    }

    /// Results and bounds.
    fn exact(&self, act: Act, asked: Asked) -> Vec<(f64, f64)> {
        let Asked { rows, n, k, .. } = asked;
        // A sum over k, and how far one in f32 may be from it.
        let sum = |row: usize, output: usize| {
            let x = &self.x.values[row * k..(row + 1) * k];
            let terms = x.iter().zip(self.matrix.row(output)).map(|(x, w)| x * w);
            let (sum, sizes) =
                terms.fold((0.0, 0.0), |(sum, sizes), term: f64| (sum + term, sizes + term.abs()));
            // Additions one after another: an mma per 16 inputs, slices, scales, the epilogue.
            (sum, (k as f64 / 16.0 + 40.0) * F32_ROUNDOFF * sizes)
        };
        let results = (0..rows * n).map(|at| {
            let (row, output) = (at / n, at % n);
            let (mut y, mut bound) = sum(row, output);
            if asked.swiglu {
                let (up, up_bound) = sum(row, n + output);
                let gate = y / (1.0 + (-y).exp());
                // The slope of x · sigmoid(x) is nowhere above 1.1.
                bound = 1.1 * bound * up.abs()
                    + up_bound * gate.abs()
                    + 8.0 * F32_ROUNDOFF * (gate * up).abs();
                y = gate * up;
            }
            if asked.bias {
                y += self.bias.values[output];
            }
            if asked.residual {
                y += self.residual.values[at];
            }
            let rounding = if asked.wide { 0.0 } else { act.rounding(y.abs() + bound) };
            (y, bound + rounding)
        });
        results.collect()
    }
}

/// Runs one product; what it wrote.
fn run(shim: &Shim, name: &str, asked: Asked, operands: &Operands<'_>) -> Vec<f64> {
    let Asked { rows, n, k, swiglu, .. } = asked;
    let gemv = name.starts_with("gemv");
    let splits = asked.splits as u32;
    let tile = match (gemv, swiglu) {
        (true, false) => 16,
        (true, true) => 8,
        (false, false) => 128,
        (false, true) => 64,
    };
    let tiles = n.div_ceil(tile) as u32;
    let row_tiles = rows.div_ceil(64) as u32;
    let grid = if gemv { [tiles, splits, 1] } else { [tiles, row_tiles, splits] };
    let x = shim.buffer(&operands.x.bits);
    let bias = asked.bias.then(|| shim.buffer(&operands.bias.bits));
    let residual = asked.residual.then(|| shim.buffer(&operands.residual.bits));
    let out = shim.poisoned(rows * n * if asked.wide { 4 } else { 2 });
    let (workspace, counts) = if splits > 1 {
        let floats = match (gemv, name.ends_with("r8")) {
            (true, true) => tiles * 8 * splits * 128,
            (true, false) => tiles * 8 * splits * 256,
            (false, _) => tiles * row_tiles * splits * 8192,
        };
        let tiles = if gemv { tiles } else { tiles * row_tiles };
        (Some(shim.poisoned(4 * floats as usize)), Some(shim.buffer(&vec![0_u32; tiles as usize])))
    } else {
        (None, None)
    };
    let matrix = &operands.matrix;
    let arguments = Arguments::new()
        .buffers([&out, &x, &matrix.bytes])
        .maybe(matrix.scales.as_ref())
        .maybe(bias.as_ref())
        .maybe(residual.as_ref())
        .maybe(workspace.as_ref())
        .maybe(counts.as_ref())
        .ints([rows, n, k, usize::from(asked.wide)]);
    shim.run(name, grid, &arguments);
    if let Some(counts) = counts {
        assert!(counts.read::<u32>().iter().all(|count| *count == 0), "{name}: counts left");
    }
    written(&out, asked.wide)
}

fn written(out: &Buffer<'_>, wide: bool) -> Vec<f64> {
    if wide { out.read::<f32>().into_iter().map(f64::from).collect() } else { out.read_act() }
}

/// Runs and compares.
fn prove(shim: &Shim, name: &str, format: Format, asked: Asked, random: &mut Random) {
    let operands = Operands::random(shim, format, asked, random);
    let found = run(shim, name, asked, &operands);
    close(&format!("{name} {asked:?}"), &found, operands.exact(shim.act, asked));
}

/// A number of inputs that is odd in units of the format's grain, and close to `about`.
fn odd(format: Format, about: usize) -> usize {
    let grain = format.inputs_grain();
    ((about / grain) | 1) * grain
}

fn prove_gemv(format: Format) {
    for act in ACTS {
        let shim = shim(act);
        let name = |kind: &str| format!("gemv_{}{kind}", format.name());
        let mut random = Random::new(format as u64 + 1);
        let plain = Asked::plain;
        // Every number of rows, outputs that end inside a tile, inputs that end inside a chunk.
        for rows in 1..=16 {
            let size = if rows <= 8 { "_r8" } else { "_r16" };
            let (n, k) = (1 + rows * 7 % 40, odd(format, 32 + rows * 37));
            let asked = Asked { bias: rows % 2 == 0, residual: rows % 3 == 0, ..plain(rows, n, k) };
            prove(shim, &name(size), format, asked, &mut random);
            let asked = Asked { swiglu: true, n: n.div_ceil(2), ..plain(rows, n, k) };
            prove(shim, &name(&format!("_swiglu{size}")), format, asked, &mut random);
        }
        // Several units per warp, more chunks than a lane has in flight, and parts of the inputs.
        let long = odd(format, 128 * 8 * 5 + 64);
        prove(shim, &name("_r8"), format, plain(1, 17, long), &mut random);
        let wide = Asked { wide: true, splits: 3, ..plain(3, 33, long) };
        prove(shim, &name("_r8"), format, wide, &mut random);
        let split = Asked { residual: true, splits: 2, ..plain(11, 20, odd(format, 700)) };
        prove(shim, &name("_r16"), format, split, &mut random);
        let split = Asked { swiglu: true, splits: 2, ..plain(5, 9, odd(format, 300)) };
        prove(shim, &name("_swiglu_r8"), format, split, &mut random);
        prove(shim, &name("_swiglu_r16"), format, split, &mut random);
        shim.all_ran("gemv.cu", |kernel| kernel.starts_with(&format!("gemv_{}_", format.name())));
    }
}

fn prove_gemm(format: Format) {
    for act in ACTS {
        let shim = shim(act);
        let mut random = Random::new(format as u64 + 100);
        let name = format!("gemm_{}", format.name());
        let plain = Asked::plain;
        for (rows, n, k) in [(17, 130, 96), (33, 7, 416), (64, 20, 160), (65, 40, 288), (1, 3, 64)]
        {
            let k = odd(format, k);
            let asked = Asked { bias: rows % 2 == 0, residual: n % 2 == 0, ..plain(rows, n, k) };
            prove(shim, &name, format, asked, &mut random);
        }
        let wide = Asked { wide: true, splits: 2, ..plain(20, 18, odd(format, 600)) };
        prove(shim, &name, format, wide, &mut random);
        // More parts than there are steps: some have nothing to add.
        let split = Asked { residual: true, splits: 5, ..plain(66, 11, odd(format, 290)) };
        prove(shim, &name, format, split, &mut random);
        let swiglu = Asked { swiglu: true, ..plain(19, 67, odd(format, 200)) };
        prove(shim, &format!("{name}_swiglu"), format, swiglu, &mut random);
        let split = Asked { splits: 2, ..swiglu };
        prove(shim, &format!("{name}_swiglu"), format, split, &mut random);
        shim.all_ran("gemm.cu", |kernel| kernel == name || kernel == format!("{name}_swiglu"));
    }
}

/// One test per format and family, so that they share the machine's cores.
macro_rules! of_each_format {
    ($($format:ident: $gemv:ident $gemm:ident,)*) => {
        $(
            #[test]
            fn $gemv() {
                prove_gemv(Format::$format);
            }
            #[test]
            fn $gemm() {
                prove_gemm(Format::$format);
            }
        )*
    };
}

of_each_format! {
    W16: gemv_w16 gemm_w16,
    E4m3: gemv_e4m3 gemm_e4m3,
    I8: gemv_i8 gemm_i8,
    Q8: gemv_q8_0 gemm_q8_0,
    Q4: gemv_q4_0 gemm_q4_0,
    I4: gemv_i4 gemm_i4,
    Nf4: gemv_nf4 gemm_nf4,
}

/// Rows `from..from + rows` of the same operands give the bits that they give together.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let shim = shim(Act::Bf16);
    for format in [Format::W16, Format::Q4, Format::E4m3] {
        let mut random = Random::new(7);
        let all = Asked { splits: 2, ..Asked::plain(16, 19, odd(format, 500)) };
        let operands = Operands::random(shim, format, all, &mut random);
        let together = run(shim, &format!("gemv_{}_r16", format.name()), all, &operands);
        let of_gemm = run(shim, &format!("gemm_{}", format.name()), all, &operands);
        for (from, rows) in [(0, 1), (15, 1), (3, 8), (4, 5)] {
            let asked = Asked { rows, ..all };
            let x = Acts {
                bits: operands.x.bits[from * all.k..(from + rows) * all.k].to_vec(),
                values: Vec::new(),
            };
            let scales = operands.matrix.scales.as_ref().map(|s| shim.buffer(s.bytes()));
            let matrix = Matrix {
                bytes: shim.buffer(operands.matrix.bytes.bytes()),
                scales,
                values: Vec::new(),
                k: all.k,
            };
            let (bias, residual) = (operands.bias.clone(), operands.residual.clone());
            let some = Operands { matrix, x, bias, residual };
            let expected = from * all.n..(from + rows) * all.n;
            let alone = run(shim, &format!("gemv_{}_r8", format.name()), asked, &some);
            assert_eq!(alone, together[expected.clone()], "gemv {format:?} {from}+{rows}");
            let alone = run(shim, &format!("gemm_{}", format.name()), asked, &some);
            assert_eq!(alone, of_gemm[expected], "gemm {format:?} {from}+{rows}");
        }
    }
}

#[test]
fn integers_with_integers() {
    for act in ACTS {
        let shim = shim(act);
        let mut random = Random::new(31);
        for (rows, n, k, wide) in
            [(1, 5, 16, false), (17, 70, 272, true), (64, 64, 256, false), (67, 33, 528, false)]
        {
            let mut codes = |length: usize| -> Vec<i8> {
                (0..length).map(|_| (random.below(255) as i16 - 127) as i8).collect()
            };
            let (x, weights) = (codes(rows * k), codes(n * k));
            let scales = |length: usize, random: &mut Random| -> Vec<f32> {
                (0..length).map(|_| ((random.share() + 0.5) / 100.0) as f32).collect()
            };
            let (x_scale, scale) = (scales(rows, &mut random), scales(n, &mut random));
            let (bias, residual) = (random.acts(act, n), random.acts(act, rows * n));
            let out = shim.poisoned(rows * n * if wide { 4 } else { 2 });
            let buffers = [
                &shim.buffer(&x),
                &shim.buffer(&x_scale),
                &shim.buffer(&weights),
                &shim.buffer(&scale),
                &shim.buffer(&bias.bits),
                &shim.buffer(&residual.bits),
            ];
            let arguments = Arguments::new().buffer(&out).buffers(buffers).ints([
                rows,
                n,
                k,
                usize::from(wide),
            ]);
            let grid = [n.div_ceil(64) as u32, rows.div_ceil(64) as u32, 1];
            shim.run("gemm_i8_i8", grid, &arguments);
            let exact = (0..rows * n).map(|at| {
                let (row, output) = (at / n, at % n);
                let sum: i64 = (0..k)
                    .map(|i| i64::from(x[row * k + i]) * i64::from(weights[output * k + i]))
                    .sum();
                let product = sum as f64 * f64::from(x_scale[row]) * f64::from(scale[output]);
                let y = product + bias.values[output] + residual.values[at];
                let sizes = product.abs() + bias.values[output].abs() + residual.values[at].abs();
                let rounding = if wide { 0.0 } else { act.rounding(y) };
                (y, rounding + 8.0 * F32_ROUNDOFF * sizes)
            });
            close(&format!("gemm_i8_i8 {rows} {n} {k}"), &written(&out, wide), exact);
        }
        shim.all_ran("gemm_i8.cu", |_| true);
    }
}

#[test]
fn rows_of_a_matrix_come_back() {
    for act in ACTS {
        let shim = shim(act);
        let mut random = Random::new(5);
        for format in FORMATS {
            // Longer than one block of the grid for the widest load: 256 threads of 32 weights.
            for k in [format.inputs_grain(), odd(format, 300), odd(format, 8300)] {
                let n = 5;
                let matrix = Matrix::random(shim, format, [n, k], &mut random);
                // A scale's product is rounded once more.
                let bound = |y: f64| act.rounding(y) + 2.0 * F32_ROUNDOFF * y.abs();
                let grid = |rows: usize| {
                    [(k.div_ceil(format.chunk()) * 4).div_ceil(256) as u32, rows as u32, 1]
                };
                let out = shim.poisoned(2 * n * k);
                let arguments = Arguments::new()
                    .buffers([&out, &matrix.bytes])
                    .maybe(matrix.scales.as_ref())
                    .int(k);
                shim.run(&format!("dequantize_{}", format.name()), grid(n), &arguments);
                let exact = matrix.values.iter().map(|value| (*value, bound(*value)));
                close(&format!("dequantize {format:?} {k}"), &out.read_act(), exact);

                let tokens = [3, 0, -1, 4, 3, 1];
                let out = shim.poisoned(2 * tokens.len() * k);
                let token_buffer = shim.buffer(&tokens);
                let arguments = Arguments::new()
                    .buffers([&out, &matrix.bytes])
                    .maybe(matrix.scales.as_ref())
                    .buffer(&token_buffer)
                    .int(k);
                shim.run(&format!("embed_{}", format.name()), grid(tokens.len()), &arguments);
                let exact = tokens.iter().flat_map(|token| {
                    (0..k).map(|i| usize::try_from(*token).map_or(0.0, |row| matrix.row(row)[i]))
                });
                let exact = exact.map(|value| (value, bound(value)));
                close(&format!("embed {format:?} {k}"), &out.read_act(), exact);
            }
        }
        shim.all_ran("embed.cu", |_| true);
    }
}

/// The product in one, and the naive way over a matrix of activations.
#[test]
fn a_fused_product_agrees_with_dequantize_then_multiply() {
    for act in ACTS {
        let shim = shim(act);
        let mut random = Random::new(77);
        for format in FORMATS {
            let asked = Asked::plain(4, 24, odd(format, 256));
            let operands = Operands::random(shim, format, asked, &mut random);
            let fused = run(shim, &format!("gemv_{}_r8", format.name()), asked, &operands);
            let (n, k) = (asked.n, asked.k);
            let matrix = &operands.matrix;
            let dense = shim.poisoned(2 * n * k);
            let arguments = Arguments::new()
                .buffers([&dense, &matrix.bytes])
                .maybe(matrix.scales.as_ref())
                .int(k);
            let blocks = (k.div_ceil(format.chunk()) * 4).div_ceil(256) as u32;
            let name = format!("dequantize_{}", format.name());
            shim.run(&name, [blocks, n as u32, 1], &arguments);
            let dense = Matrix { bytes: dense, scales: None, values: matrix.values.clone(), k };
            let (x, bias) = (operands.x.clone(), operands.bias.clone());
            let naive = Operands { matrix: dense, x, bias, residual: operands.residual.clone() };
            let naive = run(shim, "gemv_w16_r8", asked, &naive);
            // The naive way rounds each weight once more.
            let exact = fused.iter().enumerate().map(|(at, fused)| {
                let x = &operands.x.values[at / n * k..(at / n + 1) * k];
                let sizes: f64 =
                    x.iter().zip(operands.matrix.row(at % n)).map(|(x, w)| (x * w).abs()).sum();
                (*fused, act.roundoff() * (2.0 * fused.abs() + sizes) + 1e-6 * sizes)
            });
            close(&format!("dequantize then multiply {format:?}"), &naive, exact);
        }
    }
}

/// SwiGLU in the product's epilogue, and the product of both halves with the activation behind it.
#[test]
fn a_fused_activation_agrees_with_a_separate_one() {
    for act in ACTS {
        let shim = shim(act);
        let mut random = Random::new(78);
        let (rows, n) = (5, 24);
        let fused = Asked { swiglu: true, ..Asked::plain(rows, n, 352) };
        let operands = Operands::random(shim, Format::W16, fused, &mut random);
        let in_one = run(shim, "gemv_w16_swiglu_r8", fused, &operands);
        let both = Asked { swiglu: false, n: 2 * n, ..fused };
        let halves = run(shim, "gemv_w16_r8", both, &operands);
        let bits: Vec<u16> = halves.iter().map(|x| act.bits(*x)).collect();
        let (out, there) = (shim.poisoned(2 * rows * n), shim.buffer(&bits));
        let arguments = Arguments::new().buffers([&out, &there]).ints([rows, n]);
        shim.run("silu_mul", [1, 1, 1], &arguments);
        // Gate and up are rounded before: each moves the result by its own share, the gate by up to
        // 1.1 times its rounding, and the product is rounded in both forms.
        let exact = in_one.iter().enumerate().map(|(at, y)| {
            let (gate, up) = (halves[at / n * 2 * n + at % n], halves[at / n * 2 * n + n + at % n]);
            let moved = 1.1 * act.rounding(gate) * up.abs() + act.rounding(up) * gate.abs();
            (*y, moved + 2.0 * act.rounding(*y) + 1e-6 * (gate * up).abs())
        });
        close("silu_mul behind the product", &out.read_act(), exact);
    }
}

/// Bytes of a matrix are what the budget says where rows are whole chunks.
#[test]
fn matrices_take_the_bytes_of_their_budget() {
    let shim = shim(Act::Bf16);
    let mut random = Random::new(3);
    for format in FORMATS {
        let matrix = Matrix::random(shim, format, [6, 256], &mut random);
        let scales = matrix.scales.as_ref().map_or(0, |scales| scales.bytes().len());
        assert_eq!(matrix.bytes.bytes().len() + scales, format.bytes(6, 256), "{format:?}");
    }
    // The formats that the engine's own formulas know, in their words.
    for (format, precision) in [
        (Format::W16, Precision::Bf16),
        (Format::Q8, Precision::Q8_0),
        (Format::Q4, Precision::Q4_0),
    ] {
        assert_eq!(format.bytes(6, 256) as u64, precision.bytes(6 * 256), "{format:?}");
    }
}
