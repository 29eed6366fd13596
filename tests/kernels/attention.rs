//! Attention over pages: decode, prefill, and the three naive kernels.

use crate::cache::{Cache, Geometry, KVS, Kv};
use crate::numbers::{Act, Acts, Random, close};
use crate::shim::{Arguments, Shim, shim};

/// Heads of this many elements, in which image.
const HEADS: [(usize, Act); 7] = [
    (64, Act::Bf16),
    (80, Act::Bf16),
    (96, Act::Bf16),
    (128, Act::Bf16),
    (16, Act::F16),
    (32, Act::Bf16),
    (48, Act::Bf16),
];

/// Heads and how they share keys and values.
#[derive(Clone, Copy, Debug)]
struct Shape {
    kv: Kv,
    head_dim: usize,
    kv_heads: usize,
    /// Query heads of a KV head.
    group: usize,
    block_bits: usize,
    window: usize,
}

impl Shape {
    const fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    const fn geometry(&self) -> Geometry {
        let Self { kv, kv_heads, head_dim, block_bits, .. } = *self;
        Geometry { kv, kv_heads, head_dim, block_bits }
    }

    /// The first position that a row of `position` looks back to.
    const fn start(&self, position: usize) -> usize {
        if self.window > 0 { (position + 1).saturating_sub(self.window) } else { 0 }
    }

    /// What each row sees: results and bounds. Rows are (sequence, position).
    fn exact(
        &self,
        act: Act,
        cache: &Cache<'_>,
        q: &[f64],
        q_stride: usize,
        rows: &[(usize, usize)],
    ) -> Vec<(f64, f64)> {
        let mut results = Vec::new();
        for (row, (sequence, position)) in rows.iter().enumerate() {
            for head in 0..self.heads() {
                let query = &q[row * q_stride + head * self.head_dim..][..self.head_dim];
                let place = (*sequence, *position, self.window);
                let scale = f64::from(self.scale());
                let kv_head = head / self.group;
                results.extend(cache.attend(query, place, kv_head, scale, act.roundoff()));
            }
        }
        results
    }
}

/// Queries with keys and values behind them, as rows of a qkv product have.
fn queries(act: Act, rows: usize, q_stride: usize, random: &mut Random) -> Acts {
    let acts = random.acts(act, rows * q_stride);
    Acts::of(act, acts.values.iter().map(|x| x.clamp(-3.0, 3.0)))
}

/// Decodes sequences of these lengths; a length of 0 pads a graph's batch.
fn decode(shim: &Shim, shape: Shape, lengths: &[usize], piece: usize, random: &mut Random) {
    let Shape { kv, head_dim, window, .. } = shape;
    let spans: Vec<(usize, usize)> =
        lengths.iter().map(|length| (shape.start(length.max(&1) - 1), *length)).collect();
    let cache = Cache::random(shim, shape.geometry(), &spans, random);
    let (heads, seqs) = (shape.heads(), lengths.len());
    let q_stride = (heads + 2 * shape.kv_heads) * head_dim;
    let q = queries(shim.act, seqs, q_stride, random);
    let q_there = shim.buffer(&q.bits);
    let pieces = lengths.iter().max().unwrap().div_ceil(piece).max(1);
    let out = shim.poisoned(2 * seqs * heads * head_dim);
    let partial = shim.poisoned(4 * seqs * pieces * heads * (head_dim + 2));
    let kv_len = shim.buffer(&lengths.iter().map(|length| *length as i32).collect::<Vec<_>>());
    let arguments = Arguments::new().buffers([&out, &q_there]).int(q_stride);
    let arguments = cache
        .arguments(arguments)
        .buffers([&kv_len, &partial])
        .ints([heads, shape.kv_heads, shape.block_bits, piece, window])
        .float(shape.scale());
    let name = format!("attn_decode_d{head_dim}_{}", kv.name());
    shim.run(&name, [pieces as u32, shape.kv_heads as u32, seqs as u32], &arguments);
    let arguments = Arguments::new()
        .buffers([&out, &partial, &kv_len])
        .ints([pieces, heads, head_dim, piece, window]);
    shim.run("attn_combine", [heads.div_ceil(4) as u32, seqs as u32, 1], &arguments);
    let found = out.read_act();
    for (sequence, length) in lengths.iter().enumerate() {
        let found = &found[sequence * heads * head_dim..(sequence + 1) * heads * head_dim];
        if *length == 0 {
            assert!(found.iter().all(|x| *x == 0.0), "{name}: a padding row is not zero");
            continue;
        }
        let q = &q.values[sequence * q_stride..(sequence + 1) * q_stride];
        let exact = shape.exact(shim.act, &cache, q, q_stride, &[(sequence, length - 1)]);
        close(&format!("{name} of {length} in pieces of {piece}, {shape:?}"), found, exact);
    }
}

fn prove_decode(head_dim: usize, act: Act) {
    let shim = shim(act);
    let mut random = Random::new(head_dim as u64);
    for (i, kv) in KVS.into_iter().enumerate() {
        let block_bits = 4 + i % 2;
        let shape = Shape { kv, head_dim, kv_heads: 2, group: 4, block_bits, window: 0 };
        // Contexts of 0, 1, 15, 16, 17 and 300 tokens, with the row's own.
        decode(shim, shape, &[1, 2, 16, 17, 18, 301, 0], 64, &mut random);
        for group in [1, 7, 8, 16] {
            decode(shim, Shape { group, kv_heads: 1, ..shape }, &[40], 256, &mut random);
        }
        // A window that begins inside a block, a tile and a piece; the blocks before are gone.
        decode(shim, Shape { window: 21, ..shape }, &[5, 21, 22, 100], 32, &mut random);
    }
    shim.all_ran("attn_decode.cu", |kernel| kernel.contains(&format!("_d{head_dim}_")));
    shim.all_ran("attn_decode.cu", |kernel| kernel == "attn_combine");
}

/// Attends from the last `rows` rows of sequences of (cached, rows) tokens; what was written.
fn prefill(
    shim: &Shim,
    shape: Shape,
    cache: &Cache<'_>,
    q: &Acts,
    q_stride: usize,
    tiles: &[[i32; 4]],
) -> Vec<u16> {
    let rows = q.bits.len() / q_stride;
    let out = shim.poisoned(2 * rows * shape.heads() * shape.head_dim);
    let q_there = shim.buffer(&q.bits);
    let tiles_there = shim.buffer(&tiles.concat());
    let arguments = Arguments::new().buffers([&out, &q_there]).int(q_stride);
    let arguments = cache
        .arguments(arguments)
        .buffer(&tiles_there)
        .ints([shape.heads(), shape.kv_heads, shape.block_bits, shape.window])
        .float(shape.scale());
    let name = format!("attn_prefill_d{}_{}", shape.head_dim, shape.kv.name());
    shim.run(&name, [tiles.len() as u32, shape.heads() as u32, 1], &arguments);
    out.read()
}

/// Tiles of up to `most` rows over sequences of (cached, rows) tokens.
fn tiles_of(sequences: &[(usize, usize)], most: usize) -> Vec<[i32; 4]> {
    let mut tiles = Vec::new();
    let mut row = 0;
    for (sequence, (cached, rows)) in sequences.iter().enumerate() {
        for from in (0..*rows).step_by(most) {
            let tile = [row + from, most.min(rows - from), cached + from, sequence];
            tiles.push(tile.map(|x| x as i32));
        }
        row += rows;
    }
    tiles
}

fn prefill_sequences(shim: &Shim, shape: Shape, sequences: &[(usize, usize)], random: &mut Random) {
    let spans: Vec<(usize, usize)> =
        sequences.iter().map(|(cached, rows)| (shape.start(*cached), cached + rows)).collect();
    let cache = Cache::random(shim, shape.geometry(), &spans, random);
    let rows: Vec<(usize, usize)> = sequences
        .iter()
        .enumerate()
        .flat_map(|(sequence, (cached, rows))| (0..*rows).map(move |i| (sequence, cached + i)))
        .collect();
    let q_stride = (shape.heads() + 2 * shape.kv_heads) * shape.head_dim;
    let q = queries(shim.act, rows.len(), q_stride, random);
    let bits = prefill(shim, shape, &cache, &q, q_stride, &tiles_of(sequences, 64));
    let found: Vec<f64> = bits.iter().map(|bits| shim.act.value(*bits)).collect();
    let exact = shape.exact(shim.act, &cache, &q.values, q_stride, &rows);
    close(&format!("prefill {shape:?} {sequences:?}"), &found, exact);
    // However the rows are cut into tiles, each gives the same bits.
    let cut = prefill(shim, shape, &cache, &q, q_stride, &tiles_of(sequences, 13));
    assert!(cut == bits, "prefill {shape:?}: rows depend on their tile");
    naive(shim, shape, &cache, &q, q_stride, &rows);
}

/// The same by three kernels with the scores in memory.
fn naive(
    shim: &Shim,
    shape: Shape,
    cache: &Cache<'_>,
    q: &Acts,
    q_stride: usize,
    rows: &[(usize, usize)],
) {
    let Shape { kv, head_dim, kv_heads, block_bits, window, .. } = shape;
    let heads = shape.heads();
    // The naive kernels read every token up to the row's position, also behind a window.
    if window > 0 && rows.iter().any(|(_, position)| position + 1 > window) {
        return;
    }
    let tokens = rows.iter().map(|(_, position)| position + 1).max().unwrap() + 3;
    let q_there = shim.buffer(&q.bits);
    let scores = shim.poisoned(4 * rows.len() * heads * tokens);
    let out = shim.poisoned(2 * rows.len() * heads * head_dim);
    let as_ints = |numbers: Vec<usize>| {
        shim.buffer(&numbers.into_iter().map(|x| x as i32).collect::<Vec<_>>())
    };
    let positions = as_ints(rows.iter().map(|row| row.1).collect());
    let sequences = as_ints(rows.iter().map(|row| row.0).collect());
    let arguments = Arguments::new()
        .buffers([&scores, &q_there])
        .int(q_stride)
        .buffers([&cache.keys.bytes, &cache.keys.scales, &cache.tables])
        .int(cache.table_stride)
        .buffers([&positions, &sequences])
        .ints([tokens, heads, kv_heads, head_dim, block_bits])
        .float(shape.scale());
    let grid = [tokens.div_ceil(128) as u32, heads as u32, rows.len() as u32];
    shim.run(&format!("attn_scores_{}", kv.name()), grid, &arguments);
    let arguments =
        Arguments::new().buffers([&scores, &positions]).ints([rows.len(), heads, tokens, window]);
    let blocks = (rows.len() * heads).div_ceil(4) as u32;
    shim.run("attn_softmax", [blocks, 1, 1], &arguments);
    for (at, probabilities) in scores.read::<f32>().chunks(tokens).enumerate() {
        let position = rows[at / heads].1;
        let sum: f32 = probabilities.iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "attn_softmax: a row of {sum}");
        assert!(probabilities[position + 1..].iter().all(|p| *p == 0.0), "attn_softmax: ahead");
    }
    let arguments = Arguments::new()
        .buffers([&out, &scores, &cache.values.bytes, &cache.values.scales, &cache.tables])
        .int(cache.table_stride)
        .buffers([&positions, &sequences])
        .ints([tokens, heads, kv_heads, head_dim, block_bits]);
    let grid = [heads as u32, rows.len() as u32, 1];
    shim.run(&format!("attn_values_{}", kv.name()), grid, &arguments);
    let exact = shape.exact(shim.act, cache, &q.values, q_stride, rows);
    close(&format!("naive {shape:?}"), &out.read_act(), exact);
}

fn prove_prefill(head_dim: usize, act: Act) {
    let shim = shim(act);
    let mut random = Random::new(1000 + head_dim as u64);
    for (i, kv) in KVS.into_iter().enumerate() {
        let (kv_heads, group) = [(2, 1), (1, 4), (1, 7), (1, 1)][i];
        let block_bits = 5 - i % 2;
        let shape = Shape { kv, head_dim, kv_heads, group, block_bits, window: 0 };
        let sequences: &[(usize, usize)] =
            if group > 4 { &[(0, 2), (17, 9)] } else { &[(0, 17), (15, 2), (16, 5), (1, 3)] };
        prefill_sequences(shim, shape, sequences, &mut random);
        let alone = Shape { kv_heads: 1, group: 1, ..shape };
        // A tile of 64 rows and one row more, and a long prefix.
        prefill_sequences(shim, alone, &[(3, 65)], &mut random);
        prefill_sequences(shim, alone, &[(300, 4)], &mut random);
        prefill_sequences(shim, Shape { window: 9, ..alone }, &[(70, 33), (0, 12)], &mut random);
        prefill_sequences(shim, Shape { window: 40, ..alone }, &[(0, 7)], &mut random);
    }
    shim.all_ran("attn_prefill.cu", |kernel| kernel.contains(&format!("_d{head_dim}_")));
    shim.all_ran("attn_naive.cu", |_| true);
}

macro_rules! of_each_head {
    ($($decode:ident $prefill:ident $at:literal,)*) => {
        $(
            #[test]
            fn $decode() {
                prove_decode(HEADS[$at].0, HEADS[$at].1);
            }
            #[test]
            fn $prefill() {
                prove_prefill(HEADS[$at].0, HEADS[$at].1);
            }
        )*
    };
}

of_each_head! {
    decode_d64 prefill_d64 0,
    decode_d80 prefill_d80 1,
    decode_d96 prefill_d96 2,
    decode_d128 prefill_d128 3,
    decode_d16_f16 prefill_d16_f16 4,
    decode_d32 prefill_d32 5,
    decode_d48 prefill_d48 6,
}

/// A row of a batch, and the same alone.
#[test]
fn a_decoded_row_does_not_depend_on_its_neighbours() {
    let shim = shim(Act::Bf16);
    let shape =
        Shape { kv: Kv::F16, head_dim: 64, kv_heads: 1, group: 2, block_bits: 4, window: 0 };
    let mut random = Random::new(5);
    let lengths = [70, 33, 130];
    let spans = lengths.map(|length| (0, length));
    let cache = Cache::random(shim, shape.geometry(), &spans, &mut random);
    let (heads, width) = (shape.heads(), shape.heads() * shape.head_dim);
    let q = queries(shim.act, lengths.len(), width, &mut random);
    let attend = |sequences: &[usize], pieces: usize| {
        let bits: Vec<u16> =
            sequences.iter().flat_map(|s| q.bits[s * width..(s + 1) * width].to_vec()).collect();
        let tables = cache.tables.read::<i32>();
        let stride = cache.table_stride;
        let tables: Vec<i32> =
            sequences.iter().flat_map(|s| tables[s * stride..(s + 1) * stride].to_vec()).collect();
        let lengths: Vec<i32> = sequences.iter().map(|s| lengths[*s] as i32).collect();
        let seqs = sequences.len();
        let [q, tables] = [shim.buffer(&bits), shim.buffer(&tables)];
        let kv_len = shim.buffer(&lengths);
        let out = shim.poisoned(2 * seqs * width);
        let partial = shim.poisoned(4 * seqs * pieces * heads * (shape.head_dim + 2));
        let arguments = Arguments::new()
            .buffers([&out, &q])
            .int(width)
            .buffers([
                &cache.keys.bytes,
                &cache.values.bytes,
                &cache.keys.scales,
                &cache.values.scales,
            ])
            .buffer(&tables)
            .int(stride)
            .buffers([&kv_len, &partial])
            .ints([heads, 1, 4, 64, 0])
            .float(shape.scale());
        shim.run("attn_decode_d64_f16", [pieces as u32, 1, seqs as u32], &arguments);
        let arguments =
            Arguments::new().buffers([&out, &partial, &kv_len]).ints([pieces, heads, 64, 64, 0]);
        shim.run("attn_combine", [1, seqs as u32, 1], &arguments);
        out.read::<u16>()
    };
    let together = attend(&[0, 1, 2], 3);
    for sequence in 0..3 {
        let expected = &together[sequence * width..(sequence + 1) * width];
        assert_eq!(attend(&[sequence], 5), expected, "sequence {sequence}");
    }
}
