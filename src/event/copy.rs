//! Copies of memory: what a device moves without computing.

use serde::{Deserialize, Serialize};

use super::StepId;
use super::fact::codes;
use crate::unit::{Bytes, Nanos};

/// What a copy carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cargo {
    /// What a step needs or leaves: its inputs, the tokens that it chose.
    Data,
    /// KV blocks of requests.
    KvBlocks,
}

/// Where a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the host's memory to the device's.
    ToDevice,
    /// From the device's memory to the host's.
    ToHost,
    /// From one place in the device's memory to another.
    Within,
}

/// A device copied memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryCopy {
    /// The device.
    pub device: u16,
    /// The stream on it.
    pub stream: u16,
    /// The step it belongs to; `None` for copies outside any step.
    pub step: Option<StepId>,
    /// When it began.
    pub start: Nanos,
    /// When it ended (half-open).
    pub end: Nanos,
    /// What it carried.
    pub cargo: Cargo,
    /// Where to.
    pub direction: Direction,
    /// Bytes copied.
    pub bytes: Bytes,
}

impl MemoryCopy {
    /// Bytes that it moved: those copied, once over the link between host and device; within the
    /// device they are read and written.
    #[must_use]
    pub const fn moved(&self) -> u64 {
        match self.direction {
            Direction::ToDevice | Direction::ToHost => self.bytes.0,
            Direction::Within => 2 * self.bytes.0,
        }
    }
}

codes!(Cargo { Data = "data", KvBlocks = "kv_blocks" });
codes!(Direction { ToDevice = "to_device", ToHost = "to_host", Within = "within" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_within_the_device_reads_and_writes() {
        let copy = |direction| MemoryCopy {
            device: 0,
            stream: 0,
            step: None,
            start: Nanos(0),
            end: Nanos(1),
            cargo: Cargo::KvBlocks,
            direction,
            bytes: Bytes(7),
        };
        let moved = Direction::ALL.iter().map(|direction| copy(*direction).moved());
        assert_eq!(moved.collect::<Vec<_>>(), [7, 7, 14]);
    }
}
