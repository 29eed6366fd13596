//! What `run.json` says of a device's meter and of its counters.

use serde::{Deserialize, Serialize};

use crate::event::Activity;
use crate::unit::{Bytes, Nanos};

/// The least and the most of several readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extremes {
    /// The least.
    pub least: u64,
    /// The most.
    pub most: u64,
}

impl Extremes {
    /// With one reading more.
    #[must_use]
    pub fn with(before: Option<Self>, reading: u64) -> Self {
        let Self { least, most } = before.unwrap_or(Self { least: reading, most: reading });
        Self { least: least.min(reading), most: most.max(reading) }
    }
}

/// Whether what a meter told holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// Whether nothing speaks against it.
    pub valid: bool,
    /// What speaks against it, one sentence each.
    pub reasons: Vec<String>,
}

/// What a device's meter told from its first to its last reading, and whether that holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterHeader {
    /// The device.
    pub device: u16,
    /// The first reading.
    pub start_ns: Nanos,
    /// The last.
    pub end_ns: Nanos,
    /// How many there were.
    pub readings: u64,
    /// By how much the energy counter rose, in microjoules.
    pub energy_uj: u64,
    /// At how many readings it had moved.
    pub moves: u64,
    /// Power over the same time, in microjoules; none where the meter tells no power of its own.
    pub integrated_uj: Option<u64>,
    /// How long the device was slow because of its power limit.
    pub power_throttled_ns: Nanos,
    /// How long because of its temperature limit.
    pub thermal_throttled_ns: Nanos,
    /// Its clock, in megahertz, where it was told.
    pub clock_mhz: Option<Extremes>,
    /// The clock of its memory.
    pub memory_clock_mhz: Option<Extremes>,
    /// Its temperature, in degrees Celsius.
    pub temperature_c: Option<Extremes>,
    /// What was taken of its memory, by whomever.
    pub memory_used_bytes: Option<Extremes>,
    /// Whether all that holds.
    pub validity: Validity,
}

/// What a device's own counters told of the time in which requests were played.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersHeader {
    /// The device.
    pub device: u16,
    /// What its memory could move at best, of which the counters tell a share.
    pub peak_bytes_per_s: Option<Bytes>,
    /// What they told.
    pub activity: Option<Activity>,
    /// Why they told nothing.
    pub why: Option<String>,
}
