//! Zeroed arrays on large pages, and how much memory the machine can still give.

use std::marker::PhantomData;

use half::f16;

use crate::backend::DeviceError;

use super::linear::Memory;

/// A number whose bytes may be anything.
///
/// # Safety
/// Every pattern of bits is a value, zero bits are zero, and the alignment is at most 64.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: any bits are a float.
unsafe impl Plain for f32 {}
// SAFETY: any bits are a float.
unsafe impl Plain for f16 {}

/// A fixed number of elements, zero at first.
pub(super) struct Array<T> {
    memory: Memory,
    elements: PhantomData<T>,
}

impl<T: Plain> Array<T> {
    /// Zeros.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], naming `what`, if the system gives no memory.
    pub fn zeroed(what: &str, len: usize) -> Result<Self, DeviceError> {
        let needed = len.checked_mul(size_of::<T>());
        let memory = needed.and_then(|bytes| Memory::zeroed(bytes).ok());
        let memory = memory.ok_or_else(|| DeviceError::OutOfMemory {
            what: what.to_owned(),
            needed: needed.map_or(u64::MAX, |bytes| bytes as u64),
            available: available(),
        })?;
        Ok(Self { memory, elements: PhantomData })
    }

    /// Touches every page, so that none is brought in while a step runs.
    pub fn touch(mut self) -> Self {
        for page in self.memory.as_mut_slice().chunks_mut(4096) {
            // The optimizer must believe that something may look at it.
            page[0] = std::hint::black_box(0);
        }
        self
    }
}

impl<T: Plain> std::ops::Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let bytes = self.memory.as_slice();
        // SAFETY: memory is aligned to a cache line at least; any bits are a `T`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }
}

impl<T: Plain> std::ops::DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = self.memory.as_mut_slice();
        let len = bytes.len() / size_of::<T>();
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) }
    }
}

/// Bytes of memory the machine has; `u64::MAX` where it does not say.
pub(super) fn total() -> u64 {
    meminfo("MemTotal:").map_or(u64::MAX, |total| total.min(cgroup_limit()))
}

/// Bytes of memory that are free or can be freed; `u64::MAX` where the machine does not say.
pub(super) fn available() -> u64 {
    meminfo("MemAvailable:").map_or(u64::MAX, |available| available.min(cgroup_limit()))
}

/// A line of Linux's `/proc/meminfo`, in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    field(&text, name)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

/// What the container may use.
fn cgroup_limit() -> u64 {
    let text = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    text.trim().parse().unwrap_or(u64::MAX)
}

/// Refuses what the machine cannot hold, before any of it is asked for.
///
/// # Errors
/// [`DeviceError::OutOfMemory`].
pub(super) fn check(what: &str, needed: u64) -> Result<(), DeviceError> {
    let available = available();
    if needed > available {
        return Err(DeviceError::OutOfMemory { what: what.to_owned(), needed, available });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_zero_and_as_long_as_asked() {
        for len in [0, 1, 5, 3000, 2_000_000] {
            let mut array = Array::<f32>::zeroed("numbers", len).unwrap().touch();
            assert_eq!(array.len(), len);
            assert!(array.iter().all(|x| *x == 0.0));
            array.fill(2.0);
        }
    }

    #[test]
    fn what_no_machine_has_is_refused() {
        let error = check("KV pool", u64::MAX - 1);
        if available() < u64::MAX {
            let message = error.unwrap_err().to_string();
            assert!(message.starts_with("out of device memory: KV pool needs"), "{message}");
        }
        assert!(Array::<f32>::zeroed("numbers", usize::MAX).is_err());
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        let text = "MemTotal:       24676896 kB\nMemFree:  17 kB\nMemAvailable: x kB\n";
        assert_eq!(field(text, "MemTotal:"), Some(24_676_896 * 1024));
        assert_eq!(field(text, "MemAvailable:"), None);
    }
}
