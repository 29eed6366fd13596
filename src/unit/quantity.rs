//! The newtypes: one type per quantity, so that a byte cannot be added to a nanosecond.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

use serde::{Deserialize, Serialize};

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone,
            Copy,
            Debug,
            Default,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// The difference, or zero where `other` is larger.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// The smaller of the two.
            #[must_use]
            pub const fn min(self, other: Self) -> Self {
                if self.0 < other.0 { self } else { other }
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }

        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                iter.fold(Self::ZERO, Add::add)
            }
        }
    };
}

quantity!(
    /// A point in time since the window's start, or a length of time, in nanoseconds.
    Nanos
);
quantity!(
    /// Bytes of memory held or moved.
    Bytes
);
quantity!(
    /// Arithmetic operations; a fused multiply-add counts as two.
    Ops
);
quantity!(
    /// Tokens of the model's own tokenizer, which are also rows of a step.
    Tokens
);

impl Nanos {
    /// From whole and fractional seconds, rounded to the nearest nanosecond; negative and
    /// not-a-number give zero.
    #[must_use]
    pub fn from_secs_f64(seconds: f64) -> Self {
        // Float-to-integer casts saturate, and NaN becomes zero.
        Self((seconds * 1e9).round() as u64)
    }

    /// In seconds, for printing and statistics.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// In milliseconds, for printing and statistics.
    #[must_use]
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl From<std::time::Duration> for Nanos {
    fn from(duration: std::time::Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// An exact quotient of two sums of a book; a float only when it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The part.
    pub part: i128,
    /// The whole. Zero makes the share undefined.
    pub whole: i128,
}

impl Share {
    /// `part` of `whole`.
    #[must_use]
    pub const fn new(part: i128, whole: i128) -> Self {
        Self { part, whole }
    }

    /// As a fraction; `None` where the whole is zero.
    #[must_use]
    pub fn fraction(self) -> Option<f64> {
        (self.whole != 0).then(|| self.part as f64 / self.whole as f64)
    }
}

impl fmt::Display for Share {
    /// In percent with one decimal; `–` where undefined; never `0.0 %` for something.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fraction() {
            None => f.pad("–"),
            Some(x) if x != 0.0 && x.abs() < 0.0005 => f.pad("<0.1 %"),
            Some(x) => f.pad(&format!("{:.1} %", x * 100.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_says_what_it_cannot_know() {
        assert_eq!(Share::new(1, 0).to_string(), "–");
        assert_eq!(Share::new(0, 5).to_string(), "0.0 %");
        assert_eq!(Share::new(1, 100_000).to_string(), "<0.1 %");
        assert_eq!(Share::new(1, 3).to_string(), "33.3 %");
    }

    #[test]
    fn seconds_become_nanoseconds() {
        assert_eq!(Nanos::from_secs_f64(1.5), Nanos(1_500_000_000));
        assert_eq!(Nanos::from_secs_f64(-1.0), Nanos::ZERO);
        assert_eq!(Nanos::from_secs_f64(f64::NAN), Nanos::ZERO);
    }
}
