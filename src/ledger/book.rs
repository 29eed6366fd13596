//! One commodity's book.

use std::collections::BTreeMap;
use std::fmt;

/// The accounts of one commodity.
///
/// Balances are unsigned and only grow, except by [`Book::reclassify`], which moves an amount
/// that is already booked and therefore nets to zero.
#[derive(Clone, Debug)]
pub struct Book<K> {
    capacity: u128,
    accounts: BTreeMap<K, u128>,
}

/// More was to be moved out of an account than it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reclassify {wanted}: the account holds {held}")]
pub struct Imbalance {
    /// What was to be moved.
    pub wanted: u128,
    /// What the account holds.
    pub held: u128,
}

/// What was there, what was booked, and the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrialBalance {
    /// The commodity there was to spend.
    pub capacity: u128,
    /// The sum of all accounts.
    pub posted: u128,
}

impl TrialBalance {
    /// Capacity less postings; the book closes when it is zero.
    #[must_use]
    pub const fn residual(&self) -> i128 {
        self.capacity.wrapping_sub(self.posted) as i128
    }

    /// Whether the book closes.
    #[must_use]
    pub const fn balanced(&self) -> bool {
        self.capacity == self.posted
    }
}

impl fmt::Display for TrialBalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} − {} = {}", self.capacity, self.posted, self.residual())
    }
}

impl<K> Default for Book<K> {
    fn default() -> Self {
        Self { capacity: 0, accounts: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Book<K> {
    /// A book with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Credits `amount` to capacity: so much more is to be accounted for.
    pub const fn offer(&mut self, amount: u128) {
        self.capacity += amount;
    }

    /// Debits `amount` to the account `key`. Nothing is booked for nothing.
    pub fn post(&mut self, key: K, amount: u128) {
        if amount > 0 {
            *self.accounts.entry(key).or_default() += amount;
        }
    }

    /// Debits many amounts, in any order: where nothing is booked yet, many times faster than one
    /// by one.
    pub fn post_all(&mut self, postings: impl IntoIterator<Item = (K, u128)>) {
        let mut postings: Vec<(K, u128)> = postings.into_iter().filter(|p| p.1 > 0).collect();
        postings.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        postings.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0 };
            same
        });
        if self.accounts.is_empty() {
            self.accounts = postings.into_iter().collect();
        } else {
            postings.into_iter().for_each(|(key, amount)| self.post(key, amount));
        }
    }

    /// Moves `amount` from one account to another.
    ///
    /// # Errors
    /// [`Imbalance`] if `from` holds less; nothing is moved then.
    pub fn reclassify(&mut self, from: &K, to: K, amount: u128) -> Result<(), Imbalance> {
        let held = self.accounts.get(from).copied().unwrap_or(0);
        if held < amount {
            return Err(Imbalance { wanted: amount, held });
        }
        if held == amount {
            self.accounts.remove(from);
        } else {
            self.accounts.insert(from.clone(), held - amount);
        }
        self.post(to, amount);
        Ok(())
    }

    /// The accounts and their balances, in the order of their keys.
    pub fn accounts(&self) -> impl Iterator<Item = (&K, u128)> {
        self.accounts.iter().map(|(key, amount)| (key, *amount))
    }

    /// The number of accounts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether nothing has been booked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Sums the accounts against the capacity.
    #[must_use]
    pub fn trial_balance(&self) -> TrialBalance {
        TrialBalance { capacity: self.capacity, posted: self.accounts.values().sum() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_postings_at_once_are_the_same_as_one_by_one() {
        let postings = [("b", 3), ("a", 1), ("b", 4), ("c", 0), ("a", 5)];
        let (mut at_once, mut singly, mut onto) = (Book::new(), Book::new(), Book::new());
        at_once.post_all(postings);
        postings.into_iter().for_each(|(key, amount)| singly.post(key, amount));
        onto.post("b", 7);
        onto.post_all([("b", 0), ("a", 6)]);
        for book in [&at_once, &singly, &onto] {
            assert_eq!(book.accounts().collect::<Vec<_>>(), [(&"a", 6), (&"b", 7)]);
        }
    }

    #[test]
    fn a_book_closes_when_all_is_booked() {
        let mut book = Book::new();
        book.offer(100);
        book.post("value", 60);
        assert_eq!(book.trial_balance().residual(), 40);
        book.post("waiting", 40);
        assert!(book.trial_balance().balanced());
        book.post("waiting", 1);
        assert_eq!(book.trial_balance().to_string(), "100 − 101 = -1");
    }

    #[test]
    fn reclassifying_nets_to_zero() {
        let mut book = Book::new();
        book.offer(10);
        book.post("wip", 10);
        assert_eq!(book.reclassify(&"wip", "value", 4), Ok(()));
        assert_eq!(book.reclassify(&"wip", "value", 7), Err(Imbalance { wanted: 7, held: 6 }));
        assert_eq!(book.accounts().collect::<Vec<_>>(), [(&"value", 4), (&"wip", 6)]);
        assert!(book.trial_balance().balanced());
    }
}
