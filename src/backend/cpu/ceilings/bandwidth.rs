//! Bytes per second through the workers of a pool.

use std::time::{Duration, Instant};

use crate::backend::DeviceError;
use crate::backend::cpu::parallel::Disjoint;
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::room::{Array, available};
use crate::backend::cpu::simd::{Isa, LANES, Simd, dispatch};

use super::{rate, shortest};

/// Working sets: within the caches, across them, and far beyond any of them.
const SIZES: [usize; 6] = [1 << 20, 4 << 20, 16 << 20, 32 << 20, 64 << 20, 256 << 20];

/// Bytes a worker reads before it turns to the next part: what it finds in one place while it
/// multiplies with a panel of weights.
const PART: usize = 64 << 10;

/// A curve: working set in bytes, bytes per second.
type Curve = Vec<(u64, u64)>;

/// Reading and copying at each size that fits the machine.
pub(super) fn curves(pool: &Pool, look: Duration) -> Result<(Curve, Curve), DeviceError> {
    let isa = Isa::best();
    // A quarter of what is free leaves room for everyone else.
    let fits = |size: &&usize| **size as u64 <= available() / 4;
    let largest = SIZES.iter().rfind(fits).copied().unwrap_or(SIZES[0]);
    let mut floats = Array::<f32>::zeroed("bandwidth probe", largest / 4)?.touch();
    let (mut read, mut copy) = (Curve::new(), Curve::new());
    for size in SIZES.iter().copied().take_while(|size| *size <= largest) {
        let set = &mut floats[..size / 4];
        let whole = shortest(look, || read_halves(pool, isa, set));
        let parts = shortest(look, || read_parts(pool, isa, set));
        read.push((size as u64, rate(size as u64, whole.min(parts))));
        let copied = shortest(look, || copy_half(pool, set));
        copy.push((size as u64, rate(size as u64, copied)));
    }
    Ok((read, copy))
}

/// Memory far beyond any cache, to be read beside other work.
pub struct ReadProbe {
    floats: Array<f32>,
    isa: Isa,
}

impl ReadProbe {
    pub(super) fn new() -> Result<Self, DeviceError> {
        let len = SIZES[SIZES.len() - 1] / 4;
        Ok(Self { floats: Array::<f32>::zeroed("bandwidth probe", len)?.touch(), isa: Isa::best() })
    }

    /// Reads for about as long as `look`: bytes, and the time they took. Of the two ways to share
    /// the reading among the workers the faster one counts.
    pub(super) fn read(&self, pool: &Pool, look: Duration) -> (u64, Duration) {
        let bytes = 4 * self.floats.len() as u64;
        let timed = |read: &dyn Fn()| {
            let began = Instant::now();
            let mut passes = 0;
            while passes == 0 || began.elapsed() < look / 2 {
                read();
                passes += 1;
            }
            (passes * bytes, began.elapsed())
        };
        let halves = timed(&|| read_halves(pool, self.isa, &self.floats));
        let parts = timed(&|| read_parts(pool, self.isa, &self.floats));
        if rate(halves.0, halves.1) > rate(parts.0, parts.1) { halves } else { parts }
    }
}

/// Reading what lies in the caches next to the cores, whichever of them is fastest.
pub(super) fn cache(pool: &Pool, look: Duration) -> Result<u64, DeviceError> {
    const PASSES: usize = 32;
    let isa = Isa::best();
    let mut best = 0;
    for total in [16 << 10, 256 << 10] {
        let each = total / 4 / pool.workers();
        let floats = Array::<f32>::zeroed("cache probe", each * pool.workers())?.touch();
        let time = shortest(look, || {
            pool.run(&|worker, _| {
                for _ in 0..PASSES {
                    std::hint::black_box(read(isa, &floats[worker * each..(worker + 1) * each]));
                }
            });
        });
        best = best.max(rate((PASSES * each * pool.workers() * 4) as u64, time));
    }
    Ok(best)
}

/// Each worker one run of its own.
fn read_halves(pool: &Pool, isa: Isa, floats: &[f32]) {
    pool.run(&|worker, workers| {
        let each = floats.len() / workers;
        std::hint::black_box(read(isa, &floats[worker * each..(worker + 1) * each]));
    });
}

/// Parts, dealt out in turn.
fn read_parts(pool: &Pool, isa: Isa, floats: &[f32]) {
    pool.run(&|worker, workers| {
        for part in floats.chunks(PART / 4).skip(worker).step_by(workers) {
            std::hint::black_box(read(isa, part));
        }
    });
}

/// The first half to the second.
fn copy_half(pool: &Pool, floats: &mut [f32]) {
    let (from, to) = floats.split_at_mut(floats.len() / 2);
    let to = Disjoint::new(to);
    pool.run(&|worker, workers| {
        let each = from.len() / workers;
        let range = worker * each..(worker + 1) * each;
        // SAFETY: each worker has its own range.
        unsafe { to.part(range.clone()) }.copy_from_slice(&from[range]);
    });
}

dispatch! {
    fn read(floats: &[f32]) -> f32 = add_up
}

/// How far ahead lines are asked for; the kernels of matrix products do the same.
const AHEAD: usize = 4096;

#[inline(always)]
fn add_up<S: Simd>(s: S, floats: &[f32]) -> f32 {
    let (vectors, _) = floats.as_chunks::<LANES>();
    let (groups, _) = vectors.as_chunks::<8>();
    let mut sums = [s.splat(0.0); 8];
    for group in groups {
        prefetch(group);
        for i in 0..8 {
            sums[i] = s.add(sums[i], s.load(&group[i]));
        }
    }
    let halves = [0, 1, 2, 3].map(|i| s.add(sums[i], sums[i + 4]));
    s.sum(s.add(s.add(halves[0], halves[1]), s.add(halves[2], halves[3])))
}

#[inline(always)]
fn prefetch(group: &[[f32; LANES]; 8]) {
    #[cfg(target_arch = "x86_64")]
    for line in group {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let ahead = line.as_ptr().wrapping_byte_add(AHEAD);
        // SAFETY: every x86-64 has the instruction; it touches nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (group, AHEAD);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_reads_everything() {
        let floats: Vec<f32> = (0..4096).map(|i| (i % 7) as f32).collect();
        let sum: f32 = floats.iter().sum();
        for isa in Isa::available() {
            assert_eq!(read(isa, &floats), sum);
        }
    }

    #[test]
    fn copying_copies() {
        let pool = Pool::new(2).unwrap();
        let mut floats: Vec<f32> = (0..2000).map(|i| i as f32).collect();
        copy_half(&pool, &mut floats);
        assert_eq!(floats[..1000], floats[1000..]);
    }

    #[test]
    fn caches_have_a_rate() {
        let pool = Pool::new(2).unwrap();
        assert!(cache(&pool, Duration::from_millis(1)).unwrap() > 1_000_000);
    }
}
