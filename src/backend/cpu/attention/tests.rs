use half::f16;

use super::*;
use crate::backend::cpu::kv::{Cached, Element, append};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::simd::{Isa, LANES, dispatch};

dispatch! {
    fn append_token<E: Element>(
        group: &mut [E], lane: usize, key: &[f32], value: &[f32]
    ) = append
}

/// One sequence with its keys and values, some of them cached.
struct Scene {
    geometry: Geometry,
    sharing: usize,
    window: usize,
    tables: Vec<u32>,
    /// `[tokens][kv_heads][sharing + 2][head_dim]`, queries before key and value of a head.
    tokens: Vec<f32>,
    len: usize,
}

fn noise(i: usize) -> f32 {
    let mut x = (i as u32).wrapping_mul(2_654_435_761) ^ 0x9E37_79B9;
    x ^= x >> 15;
    x = x.wrapping_mul(0x85EB_CA6B);
    x ^= x >> 13;
    (x % 2001) as f32 / 1000.0 - 1.0
}

impl Scene {
    fn new(geometry: Geometry, sharing: usize, window: usize, len: usize) -> Self {
        let blocks = len.div_ceil(geometry.block_tokens);
        // Every other block, backwards.
        let tables = (0..blocks).map(|i| (2 * (blocks - 1 - i)) as u32).collect();
        let per_token = geometry.kv_heads * (sharing + 2) * geometry.head_dim;
        let tokens = (0..len * per_token).map(noise).collect();
        Self { geometry, sharing, window, tables, tokens, len }
    }

    fn part(&self, token: usize, kv_head: usize, part: usize) -> &[f32] {
        let dim = self.geometry.head_dim;
        let head = token * self.geometry.kv_heads + kv_head;
        &self.tokens[(head * (self.sharing + 2) + part) * dim..][..dim]
    }

    fn cache<E: Element>(&self, isa: Isa) -> Vec<E> {
        let mut pool = vec![E::ZERO; 2 * self.tables.len() * self.geometry.block_len()];
        for run in self.geometry.runs(0, self.len, 0, &self.tables) {
            for token in run.row..run.row + run.rows {
                for head in 0..self.geometry.kv_heads {
                    let group = &mut pool[self.geometry.run_group(&run, head)];
                    let lane = token % self.geometry.block_tokens % LANES;
                    let key = self.part(token, head, self.sharing);
                    let value = self.part(token, head, self.sharing + 1);
                    append_token(isa, group, lane, key, value);
                }
            }
        }
        pool
    }

    /// Rows of scaled queries, with room for keys and values behind them.
    fn qkv(&self) -> (Vec<f32>, usize) {
        let Geometry { kv_heads, head_dim, .. } = self.geometry;
        let row_len = (self.sharing + 2) * kv_heads * head_dim;
        let mut qkv = vec![0.0; self.len * row_len];
        for token in 0..self.len {
            for head in 0..kv_heads * self.sharing {
                let query = self.part(token, head / self.sharing, head % self.sharing);
                let at = token * row_len + head * head_dim;
                for (out, query) in qkv[at..at + head_dim].iter_mut().zip(query) {
                    *out = query / (head_dim as f32).sqrt();
                }
            }
        }
        (qkv, row_len)
    }

    /// Attention of a token's head in double precision, keys and values as the cache rounds
    /// them.
    fn exact(&self, token: usize, head: usize, round: impl Fn(f32) -> f64) -> Vec<f64> {
        let (kv_head, dim) = (head / self.sharing, self.geometry.head_dim);
        let query = self.part(token, kv_head, head % self.sharing);
        let span = (token + 1).saturating_sub(self.window)..token + 1;
        let scores: Vec<f64> = span
            .clone()
            .map(|t| {
                let key = self.part(t, kv_head, self.sharing);
                let dot: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * round(*k)).sum();
                (dot / (dim as f64).sqrt()).exp()
            })
            .collect();
        let sum: f64 = scores.iter().sum();
        (0..dim)
            .map(|i| {
                let values =
                    span.clone().map(|t| round(self.part(t, kv_head, self.sharing + 1)[i]));
                values.zip(&scores).map(|(value, score)| value * score).sum::<f64>() / sum
            })
            .collect()
    }

    /// Attention of all tokens, the sequence cut into chunks that end at `cuts`.
    fn run<E: Element>(&self, isa: Isa, threads: usize, cuts: &[usize]) -> Vec<f32> {
        let pool = Pool::new(threads).unwrap();
        let cache = self.cache::<E>(isa);
        let (qkv, row_len) = self.qkv();
        let geometry = self.geometry;
        let heads = geometry.kv_heads * self.sharing;
        let queries = Queries {
            geometry,
            qkv: &qkv,
            row_len,
            sharing: self.sharing,
            window: self.window,
            tables: &self.tables,
        };
        let pieces = self.len.div_ceil(geometry.piece_tokens());
        let mut decode = DecodeScratch::new(1, pieces, heads, geometry.value_len());
        let mut prefill =
            PrefillScratch::new(pool.workers(), 1, self.sharing, geometry.value_len());
        let mut out = vec![f32::NAN; self.len * heads * geometry.head_dim];
        let mut context = 0;
        for &cut in cuts {
            let attended = [Attended {
                row: context,
                rows: cut - context,
                context,
                blocks: 0..self.tables.len(),
            }];
            if cut - context == 1 {
                attend_decode(&pool, isa, queries, &cache, &attended, &mut decode, &mut out);
            } else {
                attend_prefill(&pool, isa, queries, &cache, &attended, &mut prefill, &mut out);
            }
            context = cut;
        }
        out
    }
}

fn scenes() -> Vec<Scene> {
    let geometry = |kv_heads, head_dim, block_tokens| Geometry { kv_heads, head_dim, block_tokens };
    vec![
        Scene::new(geometry(2, 64, 16), 4, usize::MAX, 70),
        Scene::new(geometry(1, 16, 4), 7, usize::MAX, 150),
        Scene::new(geometry(2, 20, 24), 1, 9, 60),
        Scene::new(geometry(1, 80, 16), 3, 270, 600),
        Scene::new(geometry(1, 128, 64), 8, usize::MAX, 300),
    ]
}

#[test]
fn attention_matches_double_precision() {
    for isa in Isa::available() {
        for scene in scenes() {
            let heads = scene.geometry.kv_heads * scene.sharing;
            let dim = scene.geometry.head_dim;
            let exact = scene.run::<f32>(isa, 1, &[scene.len]);
            let halves = scene.run::<f16>(isa, 1, &[scene.len]);
            for token in [0, 1, scene.len / 2, scene.len - 1] {
                for head in 0..heads {
                    let at = (token * heads + head) * dim;
                    let check = |found: &[f32], expected: Vec<f64>| {
                        for (found, expected) in found.iter().zip(expected) {
                            let error = (f64::from(*found) - expected).abs();
                            assert!(error < 3e-6, "{} {error} {token}", isa.name());
                        }
                    };
                    check(&exact[at..at + dim], scene.exact(token, head, f64::from));
                    let half = |x: f32| f64::from(f16::from_f32(x));
                    check(&halves[at..at + dim], scene.exact(token, head, half));
                }
            }
        }
    }
}

#[test]
fn rows_give_the_same_bits_however_they_are_cut() {
    for isa in Isa::available() {
        for scene in scenes() {
            let whole = scene.run::<f16>(isa, 1, &[scene.len]);
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let singles: Vec<usize> = (1..=scene.len).collect();
            let uneven: Vec<usize> = [3, 4, 17, 40, 41, 55, scene.len].into();
            for (threads, cuts) in [(1, &singles), (2, &singles), (1, &uneven), (3, &uneven)] {
                let cut = scene.run::<f16>(isa, threads, cuts);
                assert_eq!(bits(&cut), bits(&whole), "{} {threads}", isa.name());
            }
        }
    }
}

#[test]
fn many_sequences_take_turns_where_room_is_short() {
    let isa = Isa::best();
    let scene =
        Scene::new(Geometry { kv_heads: 2, head_dim: 32, block_tokens: 8 }, 2, usize::MAX, 300);
    let whole = scene.run::<f16>(isa, 1, &[scene.len]);
    let pool = Pool::new(2).unwrap();
    let cache = scene.cache::<f16>(isa);
    let (qkv, row_len) = scene.qkv();
    let queries = Queries {
        geometry: scene.geometry,
        qkv: &qkv,
        row_len,
        sharing: 2,
        window: usize::MAX,
        tables: &scene.tables,
    };
    let sequences: Vec<Attended> = (100..300)
        .step_by(20)
        .map(|row| Attended { row, rows: 1, context: row, blocks: 0..scene.tables.len() })
        .collect();
    let mut scratch = DecodeScratch::new(2, 3, 4, 32);
    let mut out = vec![0.0; whole.len()];
    attend_decode(&pool, isa, queries, &cache, &sequences, &mut scratch, &mut out);
    for sequence in sequences {
        let row = sequence.row * 128..(sequence.row + 1) * 128;
        assert_eq!(out[row.clone()], whole[row]);
    }
}

#[test]
fn groups_are_read_through_the_block_table() {
    let scene =
        Scene::new(Geometry { kv_heads: 1, head_dim: 8, block_tokens: 16 }, 1, usize::MAX, 33);
    let cache = scene.cache::<f32>(Isa::best());
    let cached = Cached { geometry: scene.geometry, pool: &cache, blocks: &scene.tables, head: 0 };
    let (keys, values) = cached.group(2);
    assert_eq!(keys[3][0], scene.part(32, 0, 1)[3]);
    assert_eq!(values[5], scene.part(32, 0, 2)[5]);
}
