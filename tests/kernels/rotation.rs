//! Biases, head norms, rotation and what goes into the cache: in one and one by one.

use crate::cache::{Geometry, KVS, Kv, Pool};
use crate::numbers::{ACTS, Act, Acts, F32_ROUNDOFF, Random, close};
use crate::shim::{Arguments, shim};

/// Large, so that a norm without it would be seen.
const EPSILON: f32 = 0.05;
const POSITIONS: usize = 40;

/// The layout of a row of queries, keys and values.
#[derive(Clone, Copy, Debug)]
struct Row {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Row {
    const fn all(&self) -> usize {
        self.heads + 2 * self.kv_heads
    }

    const fn width(&self) -> usize {
        self.all() * self.head_dim
    }
}

/// Cosines and sines, as the CPU backend's table has them.
fn turns(head_dim: usize) -> Vec<f32> {
    let half = head_dim / 2;
    let mut table = Vec::new();
    for position in 0..POSITIONS {
        let angle = |i: usize| position as f64 * 10_000_f64.powf(-(i as f64) / half as f64);
        table.extend((0..half).map(|i| angle(i).cos() as f32));
        table.extend((0..half).map(|i| angle(i).sin() as f32));
    }
    table
}

/// A head as it leaves: biased, normed, turned.
fn turned(
    head: &[f64],
    bias: Option<&[f64]>,
    norm: Option<&[f64]>,
    turns: Option<&[f32]>,
) -> Vec<f64> {
    let mut head = head.to_vec();
    if let Some(bias) = bias {
        head.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
    if let Some(norm) = norm {
        let mean = head.iter().map(|x| x * x).sum::<f64>() / head.len() as f64;
        let factor = 1.0 / (mean + f64::from(EPSILON)).sqrt();
        head.iter_mut().zip(norm).for_each(|(x, w)| *x *= factor * w);
    }
    if let Some(turns) = turns {
        let half = head.len() / 2;
        for i in 0..half {
            let (cosine, sine) = (f64::from(turns[i]), f64::from(turns[half + i]));
            let (x, y) = (head[i], head[half + i]);
            head[i] = x * cosine - y * sine;
            head[half + i] = y * cosine + x * sine;
        }
    }
    head
}

/// Wants a stored head within what its format, and f32 before it, allow.
fn prove_stored(
    what: &str,
    geometry: &Geometry,
    pool: &Pool<'_>,
    at: (usize, usize),
    exact: &[f64],
) {
    let (slot, head) = at;
    let found = pool.head(geometry, slot, head);
    let largest = exact.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    if let Some(range) = geometry.kv.largest() {
        // All of the format's range is used: with a scale too large small elements would drown
        // long before a bound of the large ones told.
        let scale = pool.scale(geometry, slot, head);
        close(what, &[scale], [(largest / range, 64.0 * F32_ROUNDOFF * largest / range)]);
        let code = found.iter().fold(0.0_f64, |most, x| most.max(x.abs())) / scale;
        assert!((code - range).abs() < 1e-3, "{what}: the largest code is {code}, not {range}");
    }
    let bound = |x: f64| {
        let of_format = match geometry.kv {
            Kv::F16 => x.abs() / 2048.0 + 1e-7,
            Kv::Bf16 => x.abs() / 256.0,
            Kv::I8 => 0.501 * largest / 127.0,
            Kv::E4m3 => 1.001 * (x.abs() / 16.0).max(largest / 448.0 / 1024.0),
        };
        of_format + 64.0 * F32_ROUNDOFF * largest
    };
    close(what, &found, exact.iter().map(|x| (*x, bound(*x))));
}

fn prove(act: Act, kv: Kv, row: Row, rows: usize, biased: bool, normed: bool) {
    let shim = shim(act);
    let Row { heads, kv_heads, head_dim } = row;
    let mut random = Random::new((head_dim + rows) as u64);
    let block_bits = 4 + rows % 2;
    let geometry = Geometry { kv, kv_heads, head_dim, block_bits };
    let qkv = random.acts(act, rows * row.width());
    let bias = random.acts(act, row.width());
    let norms = [random.acts(act, head_dim), random.acts(act, head_dim)];
    let table = turns(head_dim);
    let positions: Vec<i32> = (0..rows).map(|i| ((i * 7 + 3) % POSITIONS) as i32).collect();
    // No two rows share a slot, and every fourth has none.
    let slots: Vec<i32> = (0..rows)
        .map(|i| if i % 4 == 3 { -1 } else { ((i * 5) % 64 + i / 64 * 64) as i32 })
        .collect();
    let blocks = (64 + rows) >> block_bits;
    let [bias_there, q_norm, k_norm] =
        [&bias, &norms[0], &norms[1]].map(|acts| shim.buffer(&acts.bits));
    let table_there = shim.buffer(&table);
    let (positions_there, slots_there) = (shim.buffer(&positions), shim.buffer(&slots));
    let there = shim.buffer(&qkv.bits);
    let (keys, values) =
        (Pool::empty(shim, &geometry, blocks), Pool::empty(shim, &geometry, blocks));
    let some = |wanted: bool, buffer| if wanted { Some(buffer) } else { None };
    let arguments = Arguments::new()
        .buffer(&there)
        .maybe(some(biased, &bias_there))
        .maybe(some(normed, &q_norm))
        .maybe(some(normed, &k_norm))
        .buffers([&table_there, &positions_there])
        .buffers([&keys.bytes, &values.bytes, &keys.scales, &values.scales, &slots_there])
        .ints([rows, heads, kv_heads, head_dim, block_bits])
        .float(EPSILON);
    let grid = [(rows * row.all()).div_ceil(4) as u32, 1, 1];
    let name = format!("rope_append_{}", kv.name());
    shim.run(&name, grid, &arguments);

    let what = format!("{name} {row:?} {rows} rows");
    let exact_head = |r: usize, head: usize| {
        let from = (r * row.all() + head) * head_dim;
        let bias = biased.then(|| &bias.values[head * head_dim..(head + 1) * head_dim]);
        let is_value = head >= heads + kv_heads;
        let norm = (normed && !is_value).then(|| &norms[usize::from(head >= heads)].values[..]);
        let position = positions[r] as usize;
        let turns = (!is_value).then(|| &table[position * head_dim..(position + 1) * head_dim]);
        turned(&qkv.values[from..from + head_dim], bias, norm, turns)
    };
    let found = there.read_act();
    let bits = there.read::<u16>();
    for (r, slot) in slots.iter().enumerate() {
        for head in 0..row.all() {
            let exact = exact_head(r, head);
            let from = (r * row.all() + head) * head_dim;
            if head < heads {
                let sizes = exact.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
                let bound = |x: f64| act.roundoff() * x.abs() + 64.0 * F32_ROUNDOFF * (sizes + 1.0);
                let exact = exact.iter().map(|x| (*x, bound(*x)));
                close(&what, &found[from..from + head_dim], exact);
                continue;
            }
            // Keys and values stay as they were among the rows.
            assert_eq!(bits[from..from + head_dim], qkv.bits[from..from + head_dim]);
            let (pool, kv_head) = if head < heads + kv_heads {
                (&keys, head - heads)
            } else {
                (&values, head - heads - kv_heads)
            };
            if let Ok(slot) = usize::try_from(*slot) {
                prove_stored(&what, &geometry, pool, (slot, kv_head), &exact);
            }
        }
    }
    // Slots that no row has stay as they were.
    let untouched =
        (0..blocks << block_bits).find(|slot| !slots.contains(&(*slot as i32))).unwrap();
    let place = geometry.place(untouched, 0) * head_dim * kv.bytes();
    assert!(keys.bytes.bytes()[place..place + head_dim * kv.bytes()].iter().all(|b| *b == 0xff));

    one_by_one(act, &geometry, row, rows, &exact_head, biased, normed);
}

/// The same by separate kernels: each rounds to activations in between.
fn one_by_one(
    act: Act,
    geometry: &Geometry,
    row: Row,
    rows: usize,
    exact_head: &dyn Fn(usize, usize) -> Vec<f64>,
    biased: bool,
    normed: bool,
) {
    let shim = shim(act);
    let Row { heads, kv_heads, head_dim } = row;
    let mut random = Random::new((head_dim + rows) as u64);
    let qkv = random.acts(act, rows * row.width());
    let bias = random.acts(act, row.width());
    let norms = [random.acts(act, head_dim), random.acts(act, head_dim)];
    let there = shim.buffer(&qkv.bits);
    let [bias, q_norm, k_norm] = [&bias, &norms[0], &norms[1]].map(|acts| shim.buffer(&acts.bits));
    let table = shim.buffer(&turns(head_dim));
    let positions: Vec<i32> = (0..rows).map(|i| ((i * 7 + 3) % POSITIONS) as i32).collect();
    let positions = shim.buffer(&positions);
    if biased {
        let blocks = (rows * row.width()).div_ceil(2048) as u32;
        let arguments = Arguments::new().buffers([&there, &bias]).ints([rows, row.width()]);
        shim.run("bias_add", [blocks, 1, 1], &arguments);
    }
    let grid = [(rows * (heads + kv_heads)).div_ceil(4) as u32, 1, 1];
    if normed {
        let arguments = Arguments::new()
            .buffers([&there, &q_norm, &k_norm])
            .ints([rows, heads, kv_heads, head_dim])
            .float(EPSILON);
        shim.run("head_norm", grid, &arguments);
    }
    let arguments = Arguments::new()
        .buffers([&there, &table, &positions])
        .ints([rows, heads, kv_heads, head_dim]);
    shim.run("rope", grid, &arguments);
    let found = there.read_act();
    for r in 0..rows {
        for head in 0..row.all() {
            let exact = exact_head(r, head);
            let largest = exact.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
            // Three roundings; two of them of both elements that a turn brings together.
            let bound = 6.0 * act.roundoff() * largest + 1e-5;
            let from = (r * row.all() + head) * head_dim;
            let exact = exact.iter().map(|x| (*x, bound));
            close("one by one", &found[from..from + head_dim], exact);
        }
    }
    // What is appended is what stands in the rows now.
    let slots: Vec<i32> = (0..rows).map(|i| if i == 1 { -1 } else { i as i32 * 3 }).collect();
    let blocks = ((rows * 3) >> geometry.block_bits) + 1;
    let (keys, values) = (Pool::empty(shim, geometry, blocks), Pool::empty(shim, geometry, blocks));
    let slots_there = shim.buffer(&slots);
    let arguments = Arguments::new()
        .buffer(&there)
        .buffers([&keys.bytes, &values.bytes, &keys.scales, &values.scales, &slots_there])
        .ints([rows, heads, kv_heads, head_dim, geometry.block_bits]);
    let name = format!("kv_append_{}", geometry.kv.name());
    shim.run(&name, [(rows * 2 * kv_heads).div_ceil(4) as u32, 1, 1], &arguments);
    for (r, slot) in slots.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
        for head in 0..2 * kv_heads {
            let from = (r * row.all() + heads + head) * head_dim;
            let pool = if head < kv_heads { &keys } else { &values };
            let at = (*slot as usize, head % kv_heads);
            prove_stored(&name, geometry, pool, at, &found[from..from + head_dim]);
        }
    }
}

#[test]
fn rotation_into_every_cache() {
    for act in ACTS {
        for kv in KVS {
            let row = |heads, kv_heads, head_dim| Row { heads, kv_heads, head_dim };
            prove(act, kv, row(4, 1, 64), 1, true, true);
            prove(act, kv, row(7, 1, 80), 5, true, false);
            prove(act, kv, row(2, 2, 96), 17, false, true);
            prove(act, kv, row(8, 1, 128), 3, false, false);
            prove(act, kv, row(3, 1, 256), 2, true, true);
            prove(act, kv, row(4, 2, 16), 33, false, true);
        }
        shim(act).all_ran("rope_kv.cu", |_| true);
    }
}

/// What is too large for f16 is stored as its largest number.
#[test]
fn halves_saturate() {
    let shim = shim(Act::Bf16);
    let geometry = Geometry { kv: Kv::F16, kv_heads: 1, head_dim: 16, block_bits: 4 };
    let qkv = Acts::of(Act::Bf16, (0..48).map(|i| if i % 2 == 0 { 1e6 } else { -1e6 }));
    let there = shim.buffer(&qkv.bits);
    let (keys, values) = (Pool::empty(shim, &geometry, 1), Pool::empty(shim, &geometry, 1));
    let slots = shim.buffer(&[2]);
    let arguments = Arguments::new()
        .buffer(&there)
        .buffers([&keys.bytes, &values.bytes, &keys.scales, &values.scales, &slots])
        .ints([1, 1, 1, 16, 4]);
    shim.run("kv_append_f16", [1, 1, 1], &arguments);
    let exact = (0..16).map(|i| (if i % 2 == 0 { 65_504.0 } else { -65_504.0 }, 0.0));
    close("saturated", &keys.head(&geometry, 2, 0), exact);
}
