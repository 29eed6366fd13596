//! What the scheduler of a device is doing when no step runs.

use serde::{Deserialize, Serialize};

use crate::unit::Nanos;

/// The scheduler's state. It holds from its change until the next one.
///
/// While a step is open the step's own facts speak, and the state is not looked at except for
/// `Load`, `WarmUp`, `Calibrate` and `Faulted`, which go before everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// No request is in the system.
    Empty,
    /// Every live request waits for something outside: a tool, retrieval, the client.
    External,
    /// Work waits and could run, but the scheduler holds the batch back.
    Holding,
    /// Work waits, and none of it can be admitted: no KV block, no slot.
    Blocked,
    /// Work is runnable and the host prepares it: scheduling, tokenizing, sampling.
    Host,
    /// Weights are loaded.
    Load,
    /// First launches, capture, compilation.
    WarmUp,
    /// The profiler measures itself or the machine.
    Calibrate,
    /// The device failed.
    Faulted,
}

impl DeviceState {
    /// The word that stands in the `states` table.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::External => "external",
            Self::Holding => "holding",
            Self::Blocked => "blocked",
            Self::Host => "host",
            Self::Load => "load",
            Self::WarmUp => "warm_up",
            Self::Calibrate => "calibrate",
            Self::Faulted => "faulted",
        }
    }

    /// Every state, in the order of the enum.
    pub const ALL: [Self; 9] = [
        Self::Empty,
        Self::External,
        Self::Holding,
        Self::Blocked,
        Self::Host,
        Self::Load,
        Self::WarmUp,
        Self::Calibrate,
        Self::Faulted,
    ];
}

/// The scheduler of `device` enters `state` at `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// The device's number.
    pub device: u16,
    /// When.
    pub at: Nanos,
    /// What it enters.
    pub state: DeviceState,
}
