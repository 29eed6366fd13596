//! Large zeroed allocations on pages as large as the system gives.
//!
//! Weights are read from end to end for every token, and a page walk every 4 KiB costs a good
//! part of the bandwidth, more so in a virtual machine.

use memmap2::MmapMut;

use super::LinearError;

/// The size of a huge page where it matters.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory of its own, aligned to a cache line at least; to a huge page if it fills one.
pub(in crate::backend::cpu) struct Memory {
    map: MmapMut,
    offset: usize,
    len: usize,
}

impl Memory {
    pub(in crate::backend::cpu) fn zeroed(len: usize) -> Result<Self, LinearError> {
        let slack = if len >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        // Pages of the slack are never touched, so they cost addresses, not memory.
        let map = MmapMut::map_anon(len.max(1) + slack)
            .map_err(|source| LinearError::OutOfMemory { bytes: len, source })?;
        let offset = if slack == 0 { 0 } else { map.as_ptr().align_offset(HUGE_PAGE).min(slack) };
        #[cfg(target_os = "linux")]
        if slack > 0 {
            // Only advice: a system without huge pages runs slower, not wrong.
            let _advised = map.advise_range(memmap2::Advice::HugePage, offset, len);
        }
        Ok(Self { map, offset, len })
    }

    pub(in crate::backend::cpu) fn as_slice(&self) -> &[u8] {
        &self.map[self.offset..self.offset + self.len]
    }

    pub(in crate::backend::cpu) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[self.offset..self.offset + self.len]
    }
}
