//! Splitting an integer so that nothing is lost: largest remainder, ties to the lower index.

/// Splits `total` in proportion to `weights`; the parts sum to `total` exactly.
///
/// Largest-remainder method: every part gets the floor of its exact share, and the units left
/// over go one each to the largest remainders, ties to the lower index. Where all weights are
/// zero the split is even. Without weights nothing can be split, and the result is empty.
#[must_use]
pub fn apportion(total: u128, weights: &[u128]) -> Vec<u128> {
    let mut parts = vec![0; weights.len()];
    apportion_into(total, weights, &mut parts);
    parts
}

/// [`apportion`] into a slice as long as `weights`.
pub fn apportion_into(total: u128, weights: &[u128], parts: &mut [u128]) {
    debug_assert_eq!(weights.len(), parts.len());
    match weights {
        [] => {}
        [_] => parts[0] = total,
        _ => split(total, weights, parts),
    }
}

fn split(total: u128, weights: &[u128], parts: &mut [u128]) {
    // Weights are brought below 2^50 and the total's high part is dealt out in rounds, so that
    // no product leaves 128 bits. Coarser weights cost precision of a share, never a unit.
    let largest = weights.iter().copied().max().unwrap_or(0);
    let shift = (128 - largest.leading_zeros()).saturating_sub(50);
    let even = largest == 0;
    let weight = |i: usize| if even { 1 } else { weights[i] >> shift };
    let sum: u128 = (0..weights.len()).map(weight).sum();
    // Whole multiples of the sum split without remainder.
    let (rounds, rest) = (total / sum, total % sum);
    let mut left = rest;
    let mut remainders = Vec::with_capacity(weights.len());
    for (i, part) in parts.iter_mut().enumerate() {
        let product = rest * weight(i);
        *part = rounds * weight(i) + product / sum;
        left -= product / sum;
        remainders.push((product % sum, i));
    }
    let take = usize::try_from(left).unwrap_or(usize::MAX).min(remainders.len());
    if take == 0 {
        return;
    }
    let order = |a: &(u128, usize), b: &(u128, usize)| b.0.cmp(&a.0).then(a.1.cmp(&b.1));
    if take < remainders.len() {
        remainders.select_nth_unstable_by(take - 1, order);
    }
    for &(_, i) in &remainders[..take] {
        parts[i] += 1;
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

    proptest! {
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
