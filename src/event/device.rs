//! What a device can do at best, as the product itself measured it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Driver, Dtype};
use crate::unit::Nanos;

/// The measured roofs of a device. Every floor of a launch is computed from these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes per second that reading a working set of the model's size reaches.
    pub read_bytes_per_s: u64,
    /// Bytes per second that copying such a working set reaches, reads and writes together.
    pub copy_bytes_per_s: u64,
    /// Bytes per second that reading a working set of an activation's size reaches.
    pub cache_bytes_per_s: u64,
    /// Operations per second of the fastest kernel for each number format.
    pub ops_per_s: BTreeMap<Dtype, u64>,
    /// The least time between two operations.
    pub launch_floor_ns: Nanos,
}

/// The measured time of a kernel at several amounts of what its cost grows with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calibration {
    /// The kernel's name.
    pub kernel: String,
    /// What the amounts count.
    pub driver: Driver,
    /// Amount and nanoseconds, both ascending.
    pub points: Vec<(u64, u64)>,
}
