//! A card's meters, by NVIDIA's management library.

use std::io;
use std::time::Duration;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;

use crate::backend::{Meter, Reading};
use crate::event::Throttle;

/// The meters of one card: energy, power, the clocks of its multiprocessors and its memory, why it
/// is slow, how warm it is, and how much of its memory is taken.
///
/// The energy counter of most cards moves about ten times a second, and their power is a mean over
/// the last second, so what is told over less than a few seconds is coarse.
#[derive(Debug)]
pub struct Nvml {
    nvml: nvml_wrapper::Nvml,
    uuid: String,
    /// Millijoules when it was opened.
    before: u64,
    /// Millijoules since then, as last told.
    told: u64,
}

impl Nvml {
    /// Whether the library is on this machine and answers.
    #[must_use]
    pub fn is_present() -> bool {
        nvml_wrapper::Nvml::init().is_ok()
    }

    /// The meters of the card with this identity.
    ///
    /// # Errors
    /// What the library says if it is not there, or the card does not count its energy.
    pub fn open(uuid: &str) -> io::Result<Self> {
        let nvml = nvml_wrapper::Nvml::init().map_err(said)?;
        let energy = |nvml: &nvml_wrapper::Nvml| -> Result<u64, NvmlError> {
            nvml.device_by_uuid(uuid)?.total_energy_consumption()
        };
        let before = energy(&nvml).map_err(said)?;
        Ok(Self { nvml, uuid: uuid.to_owned(), before, told: 0 })
    }
}

impl Meter for Nvml {
    fn read(&mut self) -> io::Result<Reading> {
        let device = self.nvml.device_by_uuid(self.uuid.as_str()).map_err(said)?;
        let energy = device.total_energy_consumption().map_err(said)?;
        // The counter begins again when the driver is loaded again.
        self.told = self.told.max(energy.saturating_sub(self.before));
        let reasons = device.current_throttle_reasons().unwrap_or(ThrottleReasons::empty());
        // A card that counts energy may still keep these to itself, in a virtual machine as a rule.
        Ok(Reading {
            energy_uj: self.told.saturating_mul(1000),
            power_mw: device.power_usage().ok().map(u64::from),
            clock_mhz: device.clock_info(Clock::SM).unwrap_or(0),
            throttle: throttle(reasons),
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
            memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
            memory_used: device.memory_info().ok().map(|memory| memory.used),
        })
    }

    fn period(&self) -> Duration {
        Duration::from_millis(100)
    }
}

fn said(error: NvmlError) -> io::Error {
    io::Error::other(error.to_string())
}

/// Why the card is slow. Idleness, clocks that were set and a group's common clock are no
/// throttling.
fn throttle(reasons: ThrottleReasons) -> Throttle {
    let heat = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    let power = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
    if reasons.intersects(heat) {
        Throttle::Thermal
    } else if reasons.intersects(power) {
        Throttle::Power
    } else if reasons.contains(ThrottleReasons::HW_SLOWDOWN) {
        // Older cards do not tell heat from the power brake; heat is what comes by itself.
        Throttle::Thermal
    } else {
        Throttle::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_comes_before_power_and_idleness_is_nothing() {
        use ThrottleReasons as Why;
        for (reasons, expected) in [
            (Why::empty(), Throttle::None),
            (Why::GPU_IDLE | Why::APPLICATIONS_CLOCKS_SETTING, Throttle::None),
            (Why::SW_POWER_CAP, Throttle::Power),
            (Why::HW_SLOWDOWN | Why::HW_POWER_BRAKE_SLOWDOWN, Throttle::Power),
            (Why::HW_SLOWDOWN, Throttle::Thermal),
            (Why::SW_POWER_CAP | Why::SW_THERMAL_SLOWDOWN, Throttle::Thermal),
        ] {
            assert_eq!(throttle(reasons), expected, "{reasons:?}");
        }
    }

    #[test]
    fn without_the_library_there_is_an_error_and_no_panic() {
        if !Nvml::is_present() {
            assert!(Nvml::open("GPU-0").is_err());
        }
    }
}
