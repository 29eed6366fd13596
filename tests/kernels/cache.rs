//! Pools of keys and values in the formats of kernels/kv.cuh, with the values they stand for.

use half::{bf16, f16};

use crate::numbers::{Random, e4m3_bits, e4m3_value};
use crate::shim::{Arguments, Buffer, Shim};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kv {
    F16,
    Bf16,
    I8,
    E4m3,
}

pub const KVS: [Kv; 4] = [Kv::F16, Kv::Bf16, Kv::I8, Kv::E4m3];

impl Kv {
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
            Self::E4m3 => "e4m3",
        }
    }

    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::I8 | Self::E4m3 => 1,
        }
    }

    /// The largest code, where there are scales.
    pub const fn largest(self) -> Option<f64> {
        match self {
            Self::F16 | Self::Bf16 => None,
            Self::I8 => Some(127.0),
            Self::E4m3 => Some(448.0),
        }
    }

    /// The element at `at` of a pool, its scale left out.
    pub fn value(self, pool: &[u8], at: usize) -> f64 {
        match self {
            Self::F16 => f16::from_le_bytes([pool[2 * at], pool[2 * at + 1]]).to_f64(),
            Self::Bf16 => bf16::from_le_bytes([pool[2 * at], pool[2 * at + 1]]).to_f64(),
            Self::I8 => f64::from(pool[at].cast_signed()),
            Self::E4m3 => e4m3_value(pool[at]),
        }
    }

    fn put(self, pool: &mut [u8], at: usize, value: f64) {
        match self {
            Self::F16 => {
                pool[2 * at..2 * at + 2].copy_from_slice(&f16::from_f64(value).to_le_bytes())
            }
            Self::Bf16 => {
                pool[2 * at..2 * at + 2].copy_from_slice(&bf16::from_f64(value).to_le_bytes())
            }
            Self::I8 => pool[at] = (value * 127.0).clamp(-127.0, 127.0).round() as i8 as u8,
            Self::E4m3 => pool[at] = e4m3_bits(value * 40.0),
        }
    }

    /// The farthest that rounding moves an operand or a probability of the products, beside its
    /// size: products of a bf16 cache are taken in bf16, all others in f16.
    pub const fn product_roundoff(self) -> f64 {
        match self {
            Self::Bf16 => 1.0 / 256.0,
            _ => 1.0 / 2048.0,
        }
    }
}

/// The shape of a cache.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub kv: Kv,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub block_bits: usize,
}

impl Geometry {
    /// Where a token's head is, counted in heads.
    pub const fn place(&self, slot: usize, head: usize) -> usize {
        let (block, token) = (slot >> self.block_bits, slot % (1 << self.block_bits));
        ((block * self.kv_heads + head) << self.block_bits) + token
    }

    pub const fn heads_of_block(&self) -> usize {
        self.kv_heads << self.block_bits
    }
}

/// Keys or values of a layer.
pub struct Pool<'a> {
    pub bytes: Buffer<'a>,
    pub scales: Buffer<'a>,
}

impl<'a> Pool<'a> {
    /// A pool that nobody has written to.
    pub fn empty(shim: &'a Shim, geometry: &Geometry, blocks: usize) -> Self {
        let heads = blocks * geometry.heads_of_block();
        Self {
            bytes: shim.poisoned(heads * geometry.head_dim * geometry.kv.bytes()),
            scales: shim.poisoned(if geometry.kv.largest().is_some() { 4 * heads } else { 4 }),
        }
    }

    /// A pool with random elements in `slots`, and no numbers elsewhere.
    pub fn random(
        shim: &'a Shim,
        geometry: &Geometry,
        blocks: usize,
        slots: &[usize],
        random: &mut Random,
    ) -> Self {
        let pool = Self::empty(shim, geometry, blocks);
        let (mut bytes, mut scales) = (pool.bytes.bytes().to_vec(), pool.scales.read::<f32>());
        for slot in slots {
            for head in 0..geometry.kv_heads {
                let place = geometry.place(*slot, head);
                if geometry.kv.largest().is_some() {
                    scales[place] = ((random.share() + 0.5) / 60.0) as f32;
                }
                for i in 0..geometry.head_dim {
                    geometry.kv.put(&mut bytes, place * geometry.head_dim + i, random.number());
                }
            }
        }
        pool.bytes.write(&bytes);
        pool.scales.write(&scales.iter().flat_map(|scale| scale.to_le_bytes()).collect::<Vec<_>>());
        pool
    }

    /// The scale of a token's head.
    pub fn scale(&self, geometry: &Geometry, slot: usize, head: usize) -> f64 {
        let place = geometry.place(slot, head);
        match geometry.kv.largest() {
            Some(_) => {
                let bytes = &self.scales.bytes()[4 * place..4 * place + 4];
                f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            None => 1.0,
        }
    }

    /// A token's head.
    pub fn head(&self, geometry: &Geometry, slot: usize, head: usize) -> Vec<f64> {
        let place = geometry.place(slot, head);
        let scale = self.scale(geometry, slot, head);
        let element = |i| geometry.kv.value(self.bytes.bytes(), place * geometry.head_dim + i);
        (0..geometry.head_dim).map(|i| element(i) * scale).collect()
    }
}

/// Contexts of some sequences in one pool, their blocks strewn over it.
pub struct Cache<'a> {
    pub geometry: Geometry,
    pub keys: Pool<'a>,
    pub values: Pool<'a>,
    pub tables: Buffer<'a>,
    pub table_stride: usize,
    /// The slots of each sequence's tokens.
    pub slots: Vec<Vec<usize>>,
}

impl<'a> Cache<'a> {
    /// Tokens `from..to` of each sequence are written; where there is nothing to read, the tables
    /// point outside the pool.
    pub fn random(
        shim: &'a Shim,
        geometry: Geometry,
        spans: &[(usize, usize)],
        random: &mut Random,
    ) -> Self {
        let tokens = 1 << geometry.block_bits;
        let needed = |(from, to): (usize, usize)| from / tokens..to.div_ceil(tokens);
        let blocks: usize = spans.iter().map(|span| needed(*span).len()).sum::<usize>() + 1;
        let mut free: Vec<usize> = (0..blocks).collect();
        let table_stride =
            spans.iter().map(|span| span.1.div_ceil(tokens)).max().unwrap().max(1) + 1;
        let mut tables = vec![i32::MAX >> 8; spans.len() * table_stride];
        let mut slots = Vec::new();
        for (sequence, span) in spans.iter().enumerate() {
            let mut of_sequence = vec![usize::MAX; span.1];
            for block in needed(*span) {
                let chosen = free.swap_remove(random.below(free.len()));
                tables[sequence * table_stride + block] = chosen as i32;
                let of_block = block * tokens..span.1.min((block + 1) * tokens);
                for (token, slot) in of_block.clone().zip(&mut of_sequence[of_block]) {
                    if token >= span.0 {
                        *slot = chosen * tokens + token % tokens;
                    }
                }
            }
            slots.push(of_sequence);
        }
        let written: Vec<usize> =
            slots.iter().flatten().copied().filter(|slot| *slot != usize::MAX).collect();
        Self {
            geometry,
            keys: Pool::random(shim, &geometry, blocks, &written, random),
            values: Pool::random(shim, &geometry, blocks, &written, random),
            tables: shim.buffer(&tables),
            table_stride,
            slots,
        }
    }

    /// Keys, values, their scales, the tables and their stride.
    pub fn arguments(&'a self, arguments: Arguments<'a>) -> Arguments<'a> {
        arguments
            .buffers([&self.keys.bytes, &self.values.bytes, &self.keys.scales, &self.values.scales])
            .buffer(&self.tables)
            .int(self.table_stride)
    }

    /// What a query of `head` sees at `position` of a sequence: results and bounds.
    pub fn attend(
        &self,
        query: &[f64],
        (sequence, position, window): (usize, usize, usize),
        kv_head: usize,
        scale: f64,
        roundoff: f64,
    ) -> Vec<(f64, f64)> {
        let geometry = &self.geometry;
        let start = if window > 0 { (position + 1).saturating_sub(window) } else { 0 };
        let slots = &self.slots[sequence][start..=position];
        let u = geometry.kv.product_roundoff();
        let mut worst: f64 = 0.0;
        let scores: Vec<f64> = slots
            .iter()
            .map(|slot| {
                let key = self.keys.head(geometry, *slot, kv_head);
                let sizes: f64 = query.iter().zip(&key).map(|(q, k)| (q * k).abs()).sum();
                // Keys of 8 bits are rounded with their scale; sums are f32.
                let of_key = if geometry.kv.largest().is_some() { u } else { 0.0 };
                worst = worst.max(scale * sizes * (of_key + 2e-6));
                query.iter().zip(&key).map(|(q, k)| q * k).sum::<f64>() * scale
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let (mut out, mut sizes) = (vec![0.0; geometry.head_dim], vec![0.0; geometry.head_dim]);
        for (slot, weight) in slots.iter().zip(&weights) {
            let value = self.values.head(geometry, *slot, kv_head);
            for i in 0..geometry.head_dim {
                out[i] += weight / total * value[i];
                sizes[i] += weight / total * value[i].abs();
            }
        }
        // Each probability is off by twice what its score is, and rounded; so are 8-bit values.
        let relative = 2.0 * u + 2.0 * worst + 1e-5;
        out.into_iter()
            .zip(sizes)
            .map(|(out, sizes)| (out, roundoff * out.abs() + relative * sizes + 1e-7))
            .collect()
    }
}
