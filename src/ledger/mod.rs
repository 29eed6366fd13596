//! Double entry over several commodities, and the trial balance.
//!
//! A [`Book`] holds one commodity. What there was to spend is credited once, to capacity, from
//! an identity that knows nothing of the postings; every posting debits one account. The book
//! closes when the difference is exactly zero. Accounts are keyed by whatever the caller books
//! by: this module knows no device, no token and no name of a waste.

mod apportion;
mod book;

pub use apportion::{Splitter, apportion};
pub use book::{Book, Imbalance, TrialBalance};
