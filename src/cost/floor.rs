//! The least time a budget can take on a machine.

use crate::event::{Ceilings, Dtype};
use crate::unit::{Bytes, Nanos, Ops};

use super::Budget;

/// The least time of an operation, and what it is made of.
///
/// Each part is rounded down to whole nanoseconds, so that rounding never lifts a floor above
/// the truth. A ceiling of zero was not measured and bounds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Its operations at the ceiling of its number format.
    pub compute: Nanos,
    /// Its weight bytes at read bandwidth.
    pub weights: Nanos,
    /// Its KV bytes at read bandwidth.
    pub kv: Nanos,
    /// Its activation bytes at cache bandwidth.
    pub activations: Nanos,
    /// Its excess bytes at cache bandwidth.
    pub excess: Nanos,
}

impl Floor {
    /// The floor of `budget` on a machine with these ceilings.
    #[must_use]
    pub fn of(budget: &Budget, ceilings: &Ceilings) -> Self {
        let Budget { weight_bytes, kv_bytes, activation_bytes, excess_bytes, ops, dtype, .. } =
            *budget;
        let bytes = [weight_bytes, kv_bytes, activation_bytes, excess_bytes];
        Roofs::of(ceilings).floor(bytes, ops, dtype)
    }

    /// The least time that memory allows: weights and KV stream from memory one after another,
    /// while activations move through the caches beside them.
    #[must_use]
    pub fn memory(&self) -> Nanos {
        (self.weights + self.kv).max(self.activations)
    }

    /// The least time: memory and arithmetic overlap, the longer decides.
    #[must_use]
    pub fn least(&self) -> Nanos {
        self.memory().max(self.compute)
    }
}

/// A machine's ceilings, laid out so that millions of floors can be computed from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roofs {
    read: u64,
    cache: u64,
    ops: [u64; Dtype::ALL.len()],
}

impl Roofs {
    /// The roofs of a machine with these ceilings.
    #[must_use]
    pub fn of(ceilings: &Ceilings) -> Self {
        let mut ops = [0; Dtype::ALL.len()];
        for (&dtype, &per_second) in &ceilings.ops_per_s {
            ops[dtype as usize] = per_second;
        }
        Self { read: ceilings.read_bytes_per_s, cache: ceilings.cache_bytes_per_s, ops }
    }

    /// The floor of moving weight, KV, activation and excess bytes, in this order, and of doing
    /// `ops` operations.
    #[must_use]
    pub fn floor(&self, bytes: [Bytes; 4], ops: Ops, dtype: Dtype) -> Floor {
        let [weights, kv, activations, excess] = bytes;
        Floor {
            compute: time(ops.0, self.ops[dtype as usize]),
            weights: time(weights.0, self.read),
            kv: time(kv.0, self.read),
            activations: time(activations.0, self.cache),
            excess: time(excess.0, self.cache),
        }
    }
}

/// `amount` at `per_second`, rounded down.
fn time(amount: u64, per_second: u64) -> Nanos {
    // Most operations move nothing of some class.
    if amount == 0 || per_second == 0 {
        return Nanos::ZERO;
    }
    // Nearly every amount fits, and 64-bit division is several times cheaper.
    if let Some(scaled) = amount.checked_mul(1_000_000_000) {
        return Nanos(scaled / per_second);
    }
    let nanos = u128::from(amount) * 1_000_000_000 / u128::from(per_second);
    Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Kernel;
    use crate::event::Driver;

    fn budget(weight: u64, kv: u64, activation: u64, ops: u64) -> Budget {
        Budget {
            kernel: Kernel::Down,
            weight_bytes: Bytes(weight),
            kv_bytes: Bytes(kv),
            activation_bytes: Bytes(activation),
            excess_bytes: Bytes(600),
            ops: Ops(ops),
            dtype: Dtype::Q8_0,
            driver: Driver::Rows,
        }
    }

    fn ceilings() -> Ceilings {
        Ceilings {
            read_bytes_per_s: 30_000_000_000,
            cache_bytes_per_s: 300_000_000_000,
            ops_per_s: [(Dtype::Q8_0, 400_000_000_000)].into(),
            ..Ceilings::default()
        }
    }

    #[test]
    fn the_longer_of_memory_and_arithmetic_decides() {
        let streaming = Floor::of(&budget(3_000_000, 30_000, 3_000, 4_000_000), &ceilings());
        assert_eq!(streaming.weights, Nanos(100_000));
        assert_eq!(streaming.kv, Nanos(1_000));
        assert_eq!(streaming.activations, Nanos(10));
        assert_eq!(streaming.excess, Nanos(2));
        assert_eq!(streaming.compute, Nanos(10_000));
        assert_eq!(streaming.least(), Nanos(101_000));
        let computing = Floor::of(&budget(3_000_000, 0, 3_000, 400_000_000), &ceilings());
        assert_eq!(computing.least(), Nanos(1_000_000));
    }

    #[test]
    fn rounding_goes_down_and_nothing_overflows() {
        assert_eq!(time(299, 100_000_000_000), Nanos(2));
        assert_eq!(time(u64::MAX, 1), Nanos(u64::MAX));
        assert_eq!(time(5, 0), Nanos::ZERO);
    }

    #[test]
    fn a_format_without_a_ceiling_has_no_compute_floor() {
        let floor = Floor::of(&budget(0, 0, 0, 1_000), &Ceilings::default());
        assert_eq!(floor, Floor::default());
    }
}
