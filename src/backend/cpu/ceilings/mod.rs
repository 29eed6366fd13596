//! The roofs of this machine, measured by the product itself with its own kernels.
//!
//! A floor above an observed time is a broken ceiling, so of many short repeats the best counts,
//! not the mean. The result is kept per machine in the user's cache folder; a file that cannot be
//! read is measured again. A machine that was busy when it was first measured would keep ceilings
//! that are too low, so every later run looks again for a moment and keeps what is better.

mod bandwidth;

pub use bandwidth::ReadProbe;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::backend::kept::kept;
use crate::backend::{Backend, DeviceError};
use crate::cost::dtype;
use crate::event::{Ceilings, Dtype};
use crate::model::Precision;
use crate::unit::Nanos;

use super::Cpu;
use super::linear::{
    Activations, Arena, Arrangement, Epilogue, Isa, LinearError, PackedMatrix, PackedShape, Source,
    multiply,
};
use super::pool::Pool;

/// What was measured on a machine, whatever model runs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    /// Bytes of a working set, and bytes per second that reading it reaches; ascending.
    read: Vec<(u64, u64)>,
    /// The same for copying it, reads and writes together.
    copy: Vec<(u64, u64)>,
    /// Bytes per second from the caches next to the cores.
    cache_bytes_per_s: u64,
    /// Operations per second of the matrix kernels.
    ops_per_s: BTreeMap<Dtype, u64>,
    /// A fork and join of no work.
    launch_floor_ns: Nanos,
}

impl Cpu {
    /// The roofs of this machine for this model: from `folder` if they are kept there, and
    /// looked at again for a fraction of a second; else measured in about two seconds. What is
    /// best is kept.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if there is no room to measure in.
    pub(super) fn roofs(&self, folder: Option<&Path>) -> Result<Ceilings, DeviceError> {
        let key = format!(
            "ceilings|{}|{}|{}|{}",
            env!("CARGO_PKG_VERSION"),
            self.description().name,
            Isa::detect().code(),
            self.threads(),
        );
        let machine = kept(folder, "ceilings", &key, |before: Option<Machine>| {
            let look = if before.is_some() { GLANCE } else { LOOK };
            let now = Machine::measure(&self.pool, look)?;
            Ok::<_, DeviceError>(match before {
                Some(before) => before.best(&now),
                None => now,
            })
        })?;
        Ok(machine.ceilings(self.description().weights.0))
    }
}

impl Cpu {
    /// Memory to read from beside other work.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if there is no room for it.
    pub fn read_probe(&self) -> Result<ReadProbe, DeviceError> {
        ReadProbe::new()
    }

    /// Reads from `probe` with all workers for about as long as `look`: bytes and nanoseconds.
    #[must_use]
    pub fn read(&self, probe: &ReadProbe, look: Duration) -> (u64, Nanos) {
        let (bytes, time) = probe.read(&self.pool, look);
        (bytes, time.into())
    }
}

impl Machine {
    /// Looks for each rate for about as long as `look`.
    fn measure(pool: &Pool, look: Duration) -> Result<Self, DeviceError> {
        let mut ops_per_s = BTreeMap::new();
        for precision in Precision::ALL {
            ops_per_s.insert(dtype(precision), product_rate(pool, precision, look)?);
        }
        let (read, copy) = bandwidth::curves(pool, look)?;
        Ok(Self {
            read,
            copy,
            cache_bytes_per_s: bandwidth::cache(pool, look)?,
            ops_per_s,
            launch_floor_ns: launch_floor(pool, look),
        })
    }

    /// The better of two measurements of one machine, each figure by itself.
    fn best(&self, other: &Self) -> Self {
        let curve = |mine: &[(u64, u64)], theirs: &[(u64, u64)]| {
            let mut rates: BTreeMap<u64, u64> = mine.iter().copied().collect();
            for (size, rate) in theirs {
                let best = rates.entry(*size).or_default();
                *best = (*best).max(*rate);
            }
            rates.into_iter().collect()
        };
        let mut ops_per_s = self.ops_per_s.clone();
        for (dtype, rate) in &other.ops_per_s {
            let best = ops_per_s.entry(*dtype).or_default();
            *best = (*best).max(*rate);
        }
        Self {
            read: curve(&self.read, &other.read),
            copy: curve(&self.copy, &other.copy),
            cache_bytes_per_s: self.cache_bytes_per_s.max(other.cache_bytes_per_s),
            ops_per_s,
            launch_floor_ns: self.launch_floor_ns.min(other.launch_floor_ns),
        }
    }

    /// For a working set of `resident` bytes.
    fn ceilings(&self, resident: u64) -> Ceilings {
        Ceilings {
            read_bytes_per_s: at_size(&self.read, resident),
            copy_bytes_per_s: at_size(&self.copy, resident),
            cache_bytes_per_s: self.cache_bytes_per_s,
            ops_per_s: self.ops_per_s.clone(),
            launch_floor_ns: self.launch_floor_ns,
        }
    }
}

/// The best rate of any working set as large as `size`, or of the largest there is. A smaller
/// set lives closer to the cores, so the next smaller measured size bounds from above.
fn at_size(curve: &[(u64, u64)], size: u64) -> u64 {
    let next_smaller = curve.partition_point(|(measured, _)| *measured <= size).saturating_sub(1);
    curve[next_smaller.min(curve.len())..].iter().map(|(_, rate)| *rate).max().unwrap_or(0)
}

/// How long a rate is looked for the first time.
const LOOK: Duration = Duration::from_millis(80);
/// How long a rate is looked for when one is known.
const GLANCE: Duration = Duration::from_millis(8);

/// The shortest of many runs of `work`, in about the time `look`.
fn shortest(look: Duration, mut work: impl FnMut()) -> Duration {
    let began = Instant::now();
    let mut shortest = Duration::MAX;
    // The first run warms the caches.
    for run in 0_u32.. {
        let start = Instant::now();
        work();
        let end = Instant::now();
        shortest = shortest.min(end - start);
        if run >= 3 && end - began > look {
            break;
        }
    }
    shortest.max(Duration::from_nanos(1))
}

/// `amount` per second, rounded up, so that a floor computed from it is never too high.
fn rate(amount: u64, time: Duration) -> u64 {
    let per_second = (u128::from(amount) * 1_000_000_000).div_ceil(time.as_nanos().max(1));
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

/// Operations per second of the product kernels of a precision, operands in the nearest caches.
///
/// Each worker multiplies matrices of its own and its own best time counts: kernels on different
/// cores do not hinder each other, and so no worker need wait for another one's core to be free.
fn product_rate(pool: &Pool, precision: Precision, look: Duration) -> Result<u64, LinearError> {
    let mut best = 0;
    for inputs in [256, 1024, 2048] {
        let probe = Probe::new(pool, precision, inputs)?;
        let total = AtomicU64::new(0);
        pool.run(&|_, _| {
            let mut output = vec![0.0; Probe::ROWS * Probe::OUTPUTS];
            // A fork within a fork runs alone.
            let time = shortest(look / 3, || probe.multiply(pool, &mut output));
            total.fetch_add(rate(probe.ops(), time), Ordering::Relaxed);
        });
        best = best.max(total.into_inner());
    }
    Ok(best)
}

/// A product small enough to stay in a core's caches.
struct Probe {
    matrix: PackedMatrix,
    activations: Activations,
}

impl Probe {
    const ROWS: usize = 48;
    const OUTPUTS: usize = 64;

    fn new(pool: &Pool, precision: Precision, inputs: usize) -> Result<Self, LinearError> {
        let isa = Isa::detect();
        let arrangement = Arrangement::Plain;
        let shape = PackedShape { precision, outputs: Self::OUTPUTS, inputs, arrangement };
        let weight = |row: usize, weights: &mut [f32]| {
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight = ((row * 31 + i * 7) % 17) as f32 / 8.0 - 1.0;
            }
        };
        let matrix = PackedMatrix::pack(pool, &Arena::new(), isa, shape, Source::F32(&weight))?;
        let mut activations = Activations::new(isa, precision, Self::ROWS, inputs)?;
        let rows: Vec<f32> =
            (0..Self::ROWS * inputs).map(|i| (i % 13) as f32 / 6.0 - 1.0).collect();
        activations.prepare(pool, &rows, inputs);
        Ok(Self { matrix, activations })
    }

    fn multiply(&self, pool: &Pool, output: &mut [f32]) {
        multiply(pool, &self.matrix, &self.activations, Epilogue::Store { output });
    }

    fn ops(&self) -> u64 {
        (2 * Self::ROWS * Self::OUTPUTS * self.matrix.shape().inputs) as u64
    }
}

/// The shortest fork and join.
fn launch_floor(pool: &Pool, look: Duration) -> Nanos {
    shortest(look, || pool.run(&|_, _| {})).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_set_is_bounded_by_the_next_smaller_one() {
        let curve = [(1 << 20, 90), (4 << 20, 60), (16 << 20, 70), (64 << 20, 30)];
        for (size, expected) in
            [(1 << 10, 90), (1 << 20, 90), (5 << 20, 70), (63 << 20, 70), (1 << 30, 30)]
        {
            assert_eq!(at_size(&curve, size), expected, "{size}");
        }
        assert_eq!(at_size(&[], 5), 0);
    }

    #[test]
    fn the_better_of_two_measurements_is_kept() {
        let machine = |rate: u64, floor| Machine {
            read: vec![(1, rate), (2, 100 - rate)],
            copy: vec![(1, rate)],
            cache_bytes_per_s: rate,
            ops_per_s: [(Dtype::F32, rate), (Dtype::Q8_0, 100 - rate)].into(),
            launch_floor_ns: Nanos(floor),
        };
        let best = machine(30, 7).best(&machine(60, 9));
        assert_eq!(best.read, [(1, 60), (2, 70)]);
        assert_eq!(best.copy, [(1, 60)]);
        assert_eq!(best.cache_bytes_per_s, 60);
        assert_eq!(best.ops_per_s, [(Dtype::F32, 60), (Dtype::Q8_0, 70)].into());
        assert_eq!(best.launch_floor_ns, Nanos(7));
    }

    #[test]
    fn rates_round_up() {
        assert_eq!(rate(10, Duration::from_secs(3)), 4);
        assert_eq!(rate(u64::MAX, Duration::from_nanos(1)), u64::MAX);
    }

    #[test]
    fn every_format_has_a_rate() {
        let pool = Pool::new(2).unwrap();
        for precision in Precision::ALL {
            assert!(product_rate(&pool, precision, GLANCE).unwrap() > 1_000_000);
        }
        assert!(launch_floor(&pool, GLANCE) > Nanos::ZERO);
    }
}
