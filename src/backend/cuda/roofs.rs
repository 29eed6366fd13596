//! The roofs of a card, measured by the product itself with kernels that do nothing else.
//!
//! A floor above an observed time is a broken ceiling, so of many launches the best counts, not the
//! mean. What is kept of a card is looked at again for a moment by each later run, and the better
//! figure stays: a card that was hot or shared at first must not keep ceilings that are too low.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::backend::DeviceError;
use crate::backend::kept::kept;
use crate::event::{Ceilings, Dtype};
use crate::unit::Nanos;

use super::device::Cuda;
use super::driver::{Address, Arguments, Dense, Event, Function, Scales};
use super::image::Activation;
use super::plan::Narrow;
use super::weights::allocate;

/// How long each roof is looked for, the first time and again.
const LOOK: Duration = Duration::from_millis(60);
const GLANCE: Duration = Duration::from_millis(10);
/// The largest working set.
const LARGEST: u64 = 2 << 30;
/// The smallest, and that of activations.
const SMALLEST: u64 = 1 << 20;
/// Launches that are timed together.
const TOGETHER: u32 = 4;
/// Launches of nothing that are timed together.
const NOTHINGS: u32 = 64;
/// Rounds of a thread of the arithmetic kernels, and operations of a round.
const ROUNDS: u32 = 512;
const THREAD_OPS: u64 = 2 * 8;
const WARP_OPS: u64 = 4096 * 8;
/// Blocks on each multiprocessor, of 256 threads.
const BLOCKS: u32 = 2;
/// What the side of a large product is divisible by, and the most it has.
const TILE: u32 = 128;
const MOST_SIDE: u32 = 8192;

/// Memory of a card that is read beside other work.
#[derive(Debug)]
pub struct ReadProbe {
    data: Address,
    bytes: u64,
    sums: Address,
}

/// What is launched again and again.
struct Work {
    what: Launched,
    together: u32,
}

/// One of these.
enum Launched {
    Kernel { kernel: Function, blocks: u32, threads: u32, arguments: Arguments },
    Product(Dense),
}

impl Cuda {
    /// The roofs of this card for this model: from `folder` if they are kept there, and looked at
    /// again for a moment; else measured in under a second. What is best is kept.
    ///
    /// # Errors
    /// [`DeviceError`] if there is no room to measure in, or the device fails.
    pub(super) fn roofs(&self, folder: Option<&Path>) -> Result<Ceilings, DeviceError> {
        let bytes = self.working_set()?;
        let card = self.driver.card();
        let key = format!(
            "cuda-ceilings|{}|{}|{}|{:?}|{:?}|{}",
            env!("CARGO_PKG_VERSION"),
            card.name,
            card.memory,
            self.plan.activation,
            self.plan.narrow,
            bytes,
        );
        kept(folder, "ceilings", &key, |before: Option<Ceilings>| {
            let look = if before.is_some() { GLANCE } else { LOOK };
            let now = self.untraced(|| self.measure(bytes, look))?;
            Ok(match before {
                Some(before) => best(before, now),
                None => now,
            })
        })
    }

    /// Bytes of a working set of the model's size, rounded so that much the same models share
    /// what is kept.
    fn working_set(&self) -> Result<u64, DeviceError> {
        let most = (self.driver.free_memory()? / 4).min(LARGEST);
        let weights = self.description.weights.0.next_power_of_two();
        Ok(weights.clamp(SMALLEST.min(most), most.max(1)) / 32 * 32)
    }

    /// Memory to read from beside other work.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if there is no room for it.
    pub fn read_probe(&self) -> Result<ReadProbe, DeviceError> {
        self.probe(self.working_set()?)
    }

    /// Reads from `probe` for about as long as `look`: bytes and the time they took.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] if the device fails.
    pub fn read(&self, probe: &ReadProbe, look: Duration) -> Result<(u64, Nanos), DeviceError> {
        let work = self.reading(probe)?;
        let events = [self.driver.event()?, self.driver.event()?];
        let began = Instant::now();
        let (mut bytes, mut time) = (0, Nanos::ZERO);
        self.untraced(|| {
            while bytes == 0 || began.elapsed() < look {
                time += self.timed(&work, events)?;
                bytes += u64::from(work.together) * probe.bytes;
            }
            Ok((bytes, time))
        })
    }

    fn probe(&self, bytes: u64) -> Result<ReadProbe, DeviceError> {
        let data = allocate(&*self.driver, "bandwidth probe", bytes)?;
        let sums = allocate(&*self.driver, "bandwidth probe", 4 * u64::from(self.roof_blocks()))?;
        Ok(ReadProbe { data, bytes, sums })
    }

    fn roof_blocks(&self) -> u32 {
        BLOCKS * self.driver.card().multiprocessors
    }

    fn reading(&self, probe: &ReadProbe) -> Result<Work, DeviceError> {
        let arguments = Arguments::new().addresses([probe.sums, probe.data]).long(probe.bytes);
        self.work("roof_read", arguments)
    }

    fn work(&self, name: &str, arguments: Arguments) -> Result<Work, DeviceError> {
        let (kernel, blocks) = (self.kernel(name)?, self.roof_blocks());
        let what = Launched::Kernel { kernel, blocks, threads: 256, arguments };
        Ok(Work { what, together: TOGETHER })
    }

    /// How long all launches of `work` together took.
    fn timed(&self, work: &Work, [start, end]: [Event; 2]) -> Result<Nanos, DeviceError> {
        let driver = &self.driver;
        driver.record(start)?;
        for _ in 0..work.together {
            match &work.what {
                Launched::Kernel { kernel, blocks, threads, arguments } => {
                    driver.launch(*kernel, [*blocks, 1, 1], *threads, arguments)?;
                }
                Launched::Product(product) => {
                    driver.multiply(product)?;
                }
            }
        }
        driver.record(end)?;
        driver.wait()?;
        Ok(driver.elapsed(start, end)?)
    }

    /// `amount` of each launch per second, of the best of as many tries as `look` gives time for,
    /// at least two: the first wakes the card.
    fn rate(&self, work: &Work, amount: u64, look: Duration) -> Result<u64, DeviceError> {
        let time = self.shortest(work, look)?;
        let all = u128::from(amount) * u128::from(work.together) * 1_000_000_000;
        // Rounded up, so that a floor computed from it is never too high.
        Ok(u64::try_from(all.div_ceil(u128::from(time.0))).unwrap_or(u64::MAX))
    }

    fn shortest(&self, work: &Work, look: Duration) -> Result<Nanos, DeviceError> {
        let events = [self.driver.event()?, self.driver.event()?];
        let began = Instant::now();
        let (mut shortest, mut tries) = (Nanos(u64::MAX), 0);
        while tries < 2 || began.elapsed() < look {
            shortest = shortest.min(self.timed(work, events)?);
            tries += 1;
        }
        Ok(shortest.max(Nanos(1)))
    }

    fn measure(&self, bytes: u64, look: Duration) -> Result<Ceilings, DeviceError> {
        let probe = self.probe(bytes)?;
        let measured = self.measure_in(&probe, look);
        self.driver.free(probe.data)?;
        self.driver.free(probe.sums)?;
        measured
    }

    fn measure_in(&self, probe: &ReadProbe, look: Duration) -> Result<Ceilings, DeviceError> {
        let read = self.rate(&self.reading(probe)?, probe.bytes, look)?;
        let half = probe.bytes / 2;
        let halves = Arguments::new().addresses([probe.data.plus(half), probe.data]).long(half);
        let copy = self.rate(&self.work("roof_copy", halves)?, 2 * half, look)?;
        // What the second-level cache holds with room to spare.
        let near = (self.driver.card().cache / 4).clamp(32, probe.bytes) / 32 * 32;
        let near = ReadProbe { data: probe.data, bytes: near, sums: probe.sums };
        let cache = self.rate(&self.reading(&near)?, near.bytes, look)?;
        let threads = 256 * u64::from(self.roof_blocks());
        let out = allocate(&*self.driver, "arithmetic probe", 4 * threads)?;
        let fma = Arguments::new().address(out).float(0.999).float(0.5).int(ROUNDS);
        let per_thread = THREAD_OPS * u64::from(ROUNDS);
        let fma = self.rate(&self.work("roof_fma", fma)?, threads * per_thread, look)?;
        let (one, dtype) = match self.plan.activation {
            Activation::Bf16 => (0x3f80_3f80, Dtype::Bf16),
            Activation::F16 => (0x3c00_3c00, Dtype::F16),
        };
        let mma = Arguments::new().address(out).int(one).int(ROUNDS);
        let per_warp = WARP_OPS * u64::from(ROUNDS);
        let mma = self.rate(&self.work("roof_mma", mma)?, threads / 32 * per_warp, look)?;
        let mma = mma.max(self.measure_product(probe, false, look)?);
        let narrow = match self.plan.narrow {
            Some(Narrow::E4m3) => Some((Dtype::E4m3, self.measure_product(probe, true, look)?)),
            Some(Narrow::I8) => {
                let mma = Arguments::new().address(out).int(0x0101_0101).int(ROUNDS);
                // Twice as deep as those of 16 bits.
                let ops = threads / 32 * 2 * per_warp;
                Some((Dtype::I8, self.rate(&self.work("roof_mma_i8", mma)?, ops, look)?))
            }
            None => None,
        };
        self.driver.free(out)?;
        let (kernel, arguments) = (self.kernel("roof_nothing")?, Arguments::new());
        let what = Launched::Kernel { kernel, blocks: 1, threads: 32, arguments };
        let nothing = Work { what, together: NOTHINGS };
        let launches = self.shortest(&nothing, look)?;
        // Weights of blocks are multiplied as activations, so they share their roof.
        let matrix = [dtype, Dtype::Q8_0, Dtype::Q4_0].map(|dtype| (dtype, mma));
        Ok(Ceilings {
            read_bytes_per_s: read,
            copy_bytes_per_s: copy,
            cache_bytes_per_s: cache.max(read),
            ops_per_s: matrix
                .into_iter()
                .chain([(Dtype::F32, fma)])
                .chain(narrow)
                .collect::<BTreeMap<_, _>>(),
            launch_floor_ns: Nanos(launches.0 / u64::from(NOTHINGS)),
        })
    }
}

impl Cuda {
    /// Operations per second of a large product by the library of dense products, which has
    /// instructions that `roof_mma` has not, of activations or in e4m3; 0 where it computes none.
    fn measure_product(
        &self,
        probe: &ReadProbe,
        narrow: bool,
        look: Duration,
    ) -> Result<u64, DeviceError> {
        let side = product_side(probe.bytes);
        if side == 0 || !narrow && !self.plan.dense {
            return Ok(0);
        }
        let matrix = 2 * u64::from(side).pow(2);
        let weights = probe.data.plus(2 * matrix);
        // Two bytes of each place hold one and a factor's share: there is room behind it.
        let factors = weights.plus(matrix / 2);
        let product = Dense {
            out: probe.data,
            x: probe.data.plus(matrix),
            weights,
            scales: narrow.then_some(Scales { rows: factors, outputs: factors }),
            bias: Address::NULL,
            workspace: self.rooms.dense,
            rows: side,
            outputs: side,
            inputs: side,
            activation: self.plan.activation,
            adds: false,
            wide: false,
        };
        if !self.driver.multiply(&product)? {
            return Ok(0);
        }
        let work = Work { what: Launched::Product(product), together: TOGETHER };
        self.rate(&work, 2 * u64::from(side).pow(3), look)
    }
}

/// Rows and columns of the largest product whose three square matrices fit in so many bytes.
fn product_side(bytes: u64) -> u32 {
    ((bytes / 6).isqrt() as u32 / TILE * TILE).min(MOST_SIDE)
}

/// The better of two measurements of one card, each figure by itself.
fn best(before: Ceilings, now: Ceilings) -> Ceilings {
    let mut ops_per_s = before.ops_per_s;
    for (dtype, rate) in now.ops_per_s {
        let best = ops_per_s.entry(dtype).or_default();
        *best = (*best).max(rate);
    }
    Ceilings {
        read_bytes_per_s: before.read_bytes_per_s.max(now.read_bytes_per_s),
        copy_bytes_per_s: before.copy_bytes_per_s.max(now.copy_bytes_per_s),
        cache_bytes_per_s: before.cache_bytes_per_s.max(now.cache_bytes_per_s),
        ops_per_s,
        launch_floor_ns: before.launch_floor_ns.min(now.launch_floor_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_product_fits_in_what_is_there() {
        assert_eq!(product_side(90_000), 0);
        assert_eq!(product_side(1 << 20), 384);
        assert_eq!(product_side(2 << 30), 8192);
        for bytes in [100_000, 5_000_000, 123_456_789] {
            let side = u64::from(product_side(bytes));
            assert!(6 * side * side <= bytes && 6 * (side + 128).pow(2) > bytes);
        }
    }

    #[test]
    fn of_two_measurements_each_better_figure_stays() {
        let ceilings = |read, copy, f32, floor| Ceilings {
            read_bytes_per_s: read,
            copy_bytes_per_s: copy,
            cache_bytes_per_s: read,
            ops_per_s: BTreeMap::from([(Dtype::F32, f32)]),
            launch_floor_ns: Nanos(floor),
        };
        let found = best(ceilings(5, 9, 1, 20), ceilings(7, 8, 3, 30));
        assert_eq!(found, Ceilings { cache_bytes_per_s: 7, ..ceilings(7, 9, 3, 20) });
    }
}
