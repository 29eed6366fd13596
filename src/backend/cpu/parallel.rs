//! Items of work shared among the workers of a pool, and slices they write together.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pool::Pool;

/// Runs `work` on every range of an exhaustive cut of `0..items` into ranges of `grain` items,
/// each once, in no order. What fits one range runs on the caller alone.
pub(super) fn for_ranges(
    pool: &Pool,
    items: usize,
    grain: usize,
    work: impl Fn(usize, Range<usize>) + Sync,
) {
    let grain = grain.max(1);
    if items <= grain || pool.workers() == 1 {
        if items > 0 {
            work(0, 0..items);
        }
        return;
    }
    let next = AtomicUsize::new(0);
    pool.run(&|worker, _| {
        loop {
            let start = next.fetch_add(grain, Ordering::Relaxed);
            if start >= items {
                return;
            }
            work(worker, start..(start + grain).min(items));
        }
    });
}

/// A slice that several workers write, each its own parts.
pub(super) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts of a slice whose elements may be sent to other threads; that no two
// parts overlap is the promise of each caller of `part`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The part `range`.
    ///
    /// # Safety
    /// No other part that overlaps it may be alive.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts do not overlap")]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part outside its slice");
        // SAFETY: inside the slice, which outlives `self`; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once() {
        for (threads, items, grain) in [(1, 10, 3), (2, 0, 1), (2, 7, 1), (3, 100, 7), (3, 5, 9)] {
            let pool = Pool::new(threads).unwrap();
            let mut counts = vec![0; items];
            let shared = Disjoint::new(&mut counts);
            for_ranges(&pool, items, grain, |_, range| {
                // SAFETY: ranges do not overlap.
                for count in unsafe { shared.part(range) } {
                    *count += 1;
                }
            });
            assert!(counts.iter().all(|count| *count == 1));
        }
    }
}
