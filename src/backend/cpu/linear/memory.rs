//! Large zeroed memory on pages as large as the system gives.
//!
//! Weights are read from end to end for every token, and a page walk every 4 KiB costs a good
//! part of the bandwidth, more so in a virtual machine. Matrices that each had a mapping of
//! their own would end amid a huge page and leave the rest of it to small ones, so an [`Arena`]
//! lays them end to end.

use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapMut, MmapRaw};

use super::LinearError;

/// The size of a huge page where it matters.
const HUGE_PAGE: usize = 2 << 20;

/// What an arena maps at once. What is not touched costs addresses, not memory.
const REGION: usize = 64 << 20;

/// The beginning of every piece; a cache line.
const ALIGNMENT: usize = 64;

/// Gives zeroed memory, piece after piece without gaps. A piece lives as long as it is held.
#[derive(Debug, Default)]
pub struct Arena {
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    region: Arc<Region>,
    used: usize,
}

impl Arena {
    /// An arena that has given nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn take(&self, len: usize) -> Result<Memory, LinearError> {
        if len >= REGION {
            return Memory::zeroed(len);
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let current = match &mut *current {
            Some(current) if current.used + len <= REGION => current,
            current => {
                let region = Arc::new(Region::map(REGION)?);
                current.insert(Current { region, used: 0 })
            }
        };
        let offset = current.used;
        current.used += len.next_multiple_of(ALIGNMENT);
        Ok(Memory { region: Arc::clone(&current.region), offset, len })
    }
}

/// A mapping, aligned to a huge page if it fills one.
#[derive(Debug)]
struct Region {
    map: MmapRaw,
    offset: usize,
}

impl Region {
    fn map(len: usize) -> Result<Self, LinearError> {
        let slack = if len >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let failed = |source| LinearError::OutOfMemory { bytes: len, source };
        let padded = len.max(1).checked_next_multiple_of(slack.max(1));
        let padded = padded.and_then(|len| len.checked_add(slack));
        let padded = padded.ok_or_else(|| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        let map = MmapMut::map_anon(padded).map_err(failed)?;
        #[cfg(target_os = "linux")]
        if slack > 0 {
            // Only advice: a system without huge pages runs slower, not wrong.
            let _advised = map.advise(memmap2::Advice::HugePage);
        }
        let offset = if slack == 0 { 0 } else { map.as_ptr().align_offset(HUGE_PAGE).min(slack) };
        Ok(Self { map: map.into(), offset })
    }
}

/// Zeroed memory of its own, aligned to a cache line at least.
pub(in crate::backend::cpu) struct Memory {
    /// Other pieces of it belong to others.
    region: Arc<Region>,
    offset: usize,
    len: usize,
}

impl Memory {
    pub(in crate::backend::cpu) fn zeroed(len: usize) -> Result<Self, LinearError> {
        Ok(Self { region: Arc::new(Region::map(len)?), offset: 0, len })
    }

    fn start(&self) -> *mut u8 {
        self.region.map.as_mut_ptr().wrapping_add(self.region.offset + self.offset)
    }

    pub(in crate::backend::cpu) fn as_slice(&self) -> &[u8] {
        // SAFETY: the piece lies within its region, which lives as long as this, and belongs to
        // this alone.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }

    pub(in crate::backend::cpu) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zero_apart_and_outlive_their_arena() {
        let arena = Arena::new();
        let lens = [1, 64, 1000, REGION - 2048, 3 << 20, REGION + 1, 7];
        let mut pieces: Vec<Memory> = lens.iter().map(|len| arena.take(*len).unwrap()).collect();
        drop(arena);
        for (index, piece) in pieces.iter_mut().enumerate() {
            assert!(piece.as_slice().as_ptr().addr().is_multiple_of(ALIGNMENT));
            let bytes = piece.as_mut_slice();
            assert_eq!(bytes.len(), lens[index]);
            let len = bytes.len();
            assert_eq!((bytes[0], bytes[len - 1]), (0, 0));
            (bytes[0], bytes[len - 1]) = (index as u8 + 1, index as u8 + 1);
        }
        for (index, piece) in pieces.iter().enumerate() {
            let bytes = piece.as_slice();
            assert_eq!((bytes[0], bytes[bytes.len() - 1]), (index as u8 + 1, index as u8 + 1));
        }
    }

    #[test]
    fn what_no_machine_has_is_refused() {
        assert!(Memory::zeroed(usize::MAX).is_err());
        assert!(Memory::zeroed(usize::MAX / 2).is_err());
    }
}
