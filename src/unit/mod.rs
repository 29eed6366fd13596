//! Quantities as integers, and their one way of being printed.
//!
//! Ground floor: knows nothing of the crate. Every amount that enters a book is one of these
//! newtypes; ratios exist only as [`Share`], an exact quotient that becomes a float when printed.

mod print;
mod quantity;
mod unix;

pub use print::{
    Scale, grouped, make_printable, printable, si_bytes, si_count, si_nanos, si_whole,
};
pub use quantity::{Bytes, Nanos, Ops, Share, Tokens};
pub use unix::UnixNanos;
