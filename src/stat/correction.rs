//! Many questions at once.

/// Holm's correction: the probability, for each of `p_values`, that any true "no difference"
/// among them is denied when everything at most as improbable as it is called a difference. It
/// holds whatever the values have to do with each other.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut corrected = vec![1.0; p_values.len()];
    let mut least = 0.0_f64;
    for (rank, place) in order.into_iter().enumerate() {
        let questions = (p_values.len() - rank) as f64;
        // A less probable neighbour can never come out as the more probable one.
        least = least.max((p_values[place] * questions).min(1.0));
        corrected[place] = least;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_textbook_example() {
        let corrected = holm(&[0.01, 0.04, 0.03, 0.005]);
        let expected = [0.03, 0.06, 0.06, 0.02];
        for (found, expected) in corrected.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{corrected:?}");
        }
        assert!(holm(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn correction_keeps_order_and_lies_between_one_question_and_all(
            p_values in prop::collection::vec(0.0..=1.0, 1..20)
        ) {
            let corrected = holm(&p_values);
            let all = p_values.len() as f64;
            for (i, p) in p_values.iter().enumerate() {
                let most = (p * all).min(1.0).max(*p) + 1e-12;
                prop_assert!(corrected[i] >= *p && corrected[i] <= most);
                for (j, other) in p_values.iter().enumerate() {
                    prop_assert!(p > other || corrected[i] <= corrected[j]);
                }
            }
        }
    }
}
