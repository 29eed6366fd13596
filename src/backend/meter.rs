//! What a device's own meters say.

use std::io;
use std::time::Duration;

use crate::event::Throttle;

/// A reading of a device's meters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Microjoules since the meter was opened.
    pub energy_uj: u64,
    /// Power now, in milliwatts; `None` where the meter counts energy only.
    pub power_mw: Option<u64>,
    /// The clock now, in megahertz; 0 if it is not read.
    pub clock_mhz: u32,
    /// Why it is slow, if it is.
    pub throttle: Throttle,
    /// Its temperature in degrees Celsius, where it is told.
    pub temperature_c: Option<u32>,
    /// The clock of its memory now, in megahertz, where it is told.
    pub memory_clock_mhz: Option<u32>,
    /// Bytes of its memory that are taken, by whomever, where it is told.
    pub memory_used: Option<u64>,
}

impl Reading {
    /// Of a meter that counts energy and tells nothing else.
    #[must_use]
    pub const fn energy(energy_uj: u64) -> Self {
        Self {
            energy_uj,
            power_mw: None,
            clock_mhz: 0,
            throttle: Throttle::None,
            temperature_c: None,
            memory_clock_mhz: None,
            memory_used: None,
        }
    }
}

/// Meters of a device, for a thread of its own.
pub trait Meter: Send {
    /// Reads them. Energy never goes back.
    ///
    /// # Errors
    /// What the system says if a meter cannot be read any more.
    fn read(&mut self) -> io::Result<Reading>;

    /// How long the energy counter stands still between two of its moves.
    fn period(&self) -> Duration;
}
