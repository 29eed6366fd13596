//! Splitting an integer so that nothing is lost: largest remainder, ties to the lower index.

/// Splits `total` in proportion to `weights`; the parts sum to `total` exactly.
///
/// Largest-remainder method: every part gets the floor of its exact share, and the units left
/// over go one each to the largest remainders, ties to the lower index. Where all weights are
/// zero the split is even. Without weights nothing can be split, and the result is empty.
#[must_use]
pub fn apportion(total: u128, weights: &[u128]) -> Vec<u128> {
    let mut parts = vec![0; weights.len()];
    let mut splitter = Splitter::default();
    splitter.weigh(weights.iter().copied());
    splitter.split(total, |i, part| parts[i] = part);
    parts
}

/// Splits many amounts over the same weights, without allocating for each.
#[derive(Clone, Debug, Default)]
pub struct Splitter {
    weights: Vec<u128>,
    sum: u128,
    /// Where weights that are not zero stand, if they are all the same.
    alike: Vec<usize>,
    parts: Vec<Part>,
}

/// A part before the units left over are dealt out.
#[derive(Clone, Copy, Debug)]
struct Part {
    remainder: u128,
    index: usize,
    floor: u128,
}

impl Splitter {
    /// Takes the weights of the splits to come.
    pub fn weigh(&mut self, weights: impl IntoIterator<Item = u128>) {
        self.weights.clear();
        self.weights.extend(weights);
        // Weights are brought below 2^50 and whole multiples of their sum are dealt out first,
        // so that no product leaves 128 bits. Coarser weights cost precision of a share, never
        // a unit.
        let largest = self.weights.iter().copied().max().unwrap_or(0);
        let shift = (128 - largest.leading_zeros()).saturating_sub(50);
        for weight in &mut self.weights {
            *weight = if largest == 0 { 1 } else { *weight >> shift };
        }
        self.sum = self.weights.iter().sum();
        let heaviest = self.weights.iter().copied().max().unwrap_or(0);
        self.alike.clear();
        if self.weights.iter().all(|weight| *weight == 0 || *weight == heaviest) {
            let heavy = self.weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
            self.alike.extend(heavy.map(|(index, _)| index));
        }
    }

    /// How many parts a split has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.weights.len()
    }

    /// Whether a split has no parts.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Gives each part of `total` with its index, parts of nothing left out.
    pub fn split(&mut self, total: u128, mut each: impl FnMut(usize, u128)) {
        if total == 0 || self.weights.is_empty() {
            return;
        }
        if self.weights.len() == 1 {
            return each(0, total);
        }
        if !self.alike.is_empty() {
            // Remainders are all the same, so that the units left over go to the front: what
            // follows below, without its divisions.
            let (floor, left) = divide(total, self.alike.len() as u128);
            for (place, index) in self.alike.iter().enumerate() {
                let amount = floor + u128::from((place as u128) < left);
                if amount > 0 {
                    each(*index, amount);
                }
            }
            return;
        }
        let (rounds, rest) = divide(total, self.sum);
        let mut left = rest;
        self.parts.clear();
        for (index, weight) in self.weights.iter().enumerate() {
            let (floor, remainder) = divide(rest * weight, self.sum);
            left -= floor;
            self.parts.push(Part { remainder, index, floor: rounds * weight + floor });
        }
        let order = |a: &Part, b: &Part| b.remainder.cmp(&a.remainder).then(a.index.cmp(&b.index));
        // `left` is smaller than the number of weights.
        let take = left as usize;
        if take > 0 {
            self.parts.select_nth_unstable_by(take - 1, order);
        }
        for (place, part) in self.parts.iter().enumerate() {
            let amount = part.floor + u128::from(place < take);
            if amount > 0 {
                each(part.index, amount);
            }
        }
    }
}

/// Quotient and remainder; 64-bit where it fits, which it nearly always does.
fn divide(a: u128, b: u128) -> (u128, u128) {
    match (u64::try_from(a), u64::try_from(b)) {
        (Ok(a), Ok(b)) => (u128::from(a / b), u128::from(a % b)),
        _ => (a / b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn largest_remainders_come_first_and_ties_go_to_the_front() {
        for (total, weights, parts) in [
            (10, vec![1, 1, 1], vec![4, 3, 3]),
            (11, vec![1, 1, 1], vec![4, 4, 3]),
            (7, vec![5, 2], vec![5, 2]),
            (1, vec![1, 2], vec![0, 1]),
            (3, vec![0, 0], vec![2, 1]),
            (0, vec![3, 4], vec![0, 0]),
            (9, vec![42], vec![9]),
        ] {
            assert_eq!(apportion(total, &weights), parts, "{total} over {weights:?}");
        }
        assert!(apportion(5, &[]).is_empty());
    }

    /// The rule as it is written: floors, then a unit each to the largest remainders.
    fn by_the_rule(total: u64, weights: &[u32]) -> Vec<u128> {
        let all_zero = weights.iter().all(|weight| *weight == 0);
        let weight = |w: &u32| if all_zero { 1 } else { u128::from(*w) };
        let sum: u128 = weights.iter().map(weight).sum();
        let exact: Vec<u128> = weights.iter().map(|w| u128::from(total) * weight(w)).collect();
        let mut parts: Vec<u128> = exact.iter().map(|product| product / sum).collect();
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(exact[*i] % sum), *i));
        let left = u128::from(total) - parts.iter().sum::<u128>();
        order.iter().take(left as usize).for_each(|i| parts[*i] += 1);
        parts
    }

    proptest! {
        #[test]
        fn every_way_of_dividing_follows_the_rule(
            total in any::<u64>(),
            weights in prop_oneof![
                prop::collection::vec(any::<u32>(), 1..20),
                prop::collection::vec(0u32..2, 1..20),
                (any::<u32>(), prop::collection::vec(any::<bool>(), 1..20))
                    .prop_map(|(w, on)| on.into_iter().map(|on| if on { w } else { 0 }).collect()),
            ],
        ) {
            let wide: Vec<u128> = weights.iter().map(|w| u128::from(*w)).collect();
            prop_assert_eq!(apportion(total.into(), &wide), by_the_rule(total, &weights));
        }

        #[test]
        fn nothing_is_lost(
            total in 0..u128::MAX >> 20,
            weights in prop::collection::vec(0..u128::MAX >> 8, 1..40),
        ) {
            let parts = apportion(total, &weights);
            prop_assert_eq!(parts.iter().sum::<u128>(), total);
        }

        #[test]
        fn a_larger_weight_never_gets_less(
            total in any::<u64>(),
            weights in prop::collection::vec(any::<u32>(), 2..20),
        ) {
            let weights: Vec<u128> = weights.into_iter().map(u128::from).collect();
            let parts = apportion(total.into(), &weights);
            for (i, a) in weights.iter().enumerate() {
                for (j, b) in weights.iter().enumerate() {
                    prop_assert!(a <= b || parts[i] >= parts[j]);
                }
            }
        }
    }
}
