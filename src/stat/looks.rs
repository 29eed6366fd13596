//! Looking at a sample more than once while it grows.

/// When a growing sample is looked at, fixed before the first value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    first: usize,
    most: usize,
}

/// One look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Which one, from 1.
    pub number: usize,
    /// How many values there are by then.
    pub count: usize,
    /// The share of the error that may be spent at this look.
    pub share: f64,
    /// Whether it is the last.
    pub last: bool,
}

impl Looks {
    /// Looks at `first` values, then whenever there are twice as many, and a last time at `most`.
    /// Looks that lie closer would leave each of them less of the error to spend.
    #[must_use]
    pub const fn new(first: usize, most: usize) -> Self {
        let first = if first > most { most } else { first };
        Self { first, most }
    }

    /// A single look at `count` values.
    #[must_use]
    pub const fn once(count: usize) -> Self {
        Self::new(count, count)
    }

    /// The looks in order. Each may spend as much of the error as values have come since the
    /// look before: linear spending. The shares add up to one, so by Boole's inequality the
    /// chance that any look errs is at most the whole error, whatever the looks have to do with
    /// each other. The exact joint boundary would be a few per cent narrower, and would hold
    /// only for normal values of known spread.
    pub fn iter(self) -> impl Iterator<Item = Look> {
        let twice = |count: &usize| count.checked_mul(2).filter(|count| *count > 0);
        let later = std::iter::successors(Some(self.first), twice);
        let later = later.take_while(move |count| *count < self.most);
        let mut spent = 0.0;
        later.chain([self.most]).enumerate().map(move |(index, count)| {
            let by_now = count as f64 / self.most as f64;
            let share = by_now - spent;
            spent = by_now;
            Look { number: index + 1, count, share, last: count == self.most }
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.iter().count()
    }

    /// Whether there are none; there is always one.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn looks_are_where_they_were_planned() {
        let counts = |looks: Looks| looks.iter().map(|look| look.count).collect::<Vec<_>>();
        assert_eq!(counts(Looks::new(6, 40)), [6, 12, 24, 40]);
        assert_eq!(counts(Looks::new(6, 48)), [6, 12, 24, 48]);
        assert_eq!(counts(Looks::new(6, 6)), [6]);
        assert_eq!(counts(Looks::once(9)), [9]);
        assert_eq!(
            Looks::once(9).iter().next().map(|look| (look.share, look.last)),
            Some((1.0, true))
        );
    }

    proptest! {
        #[test]
        fn the_whole_error_is_spent_and_no_more(
            first in 1_usize..40, more in 0_usize..200
        ) {
            let looks = Looks::new(first, first + more);
            let shares: f64 = looks.iter().map(|look| look.share).sum();
            prop_assert!((shares - 1.0).abs() < 1e-9);
            prop_assert!(looks.iter().all(|look| look.share > 0.0));
            prop_assert_eq!(looks.iter().filter(|look| look.last).count(), 1);
        }
    }
}
