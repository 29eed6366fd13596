//! Scenarios that plant a limit on the device's clock: readings of a meter, and the time that
//! they explain.

use std::collections::BTreeMap;

use super::PlantError;
use super::scenario::Kind::Facts;
use super::scenario::{Planting, Scenario};
use super::stage::{Played, Stage, demand};
use crate::event::{Dtype, Fact, Power, Provenance, Throttle};
use crate::unit::Nanos;
use crate::waste::Commodity::DeviceTime;
use crate::waste::{Cause, SubReason};

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        Cause::Throttle,
        DeviceTime,
        Facts,
        "The power limit halves the clock of a device whose arithmetic decides, and its meter says \
         so.",
        power,
    )
    .because(SubReason::Power),
    Scenario::new(
        Cause::Throttle,
        DeviceTime,
        Facts,
        "Of a run at half the clock, the meter names the temperature limit for the middle half of \
         its operations.",
        thermal,
    )
    .because(SubReason::Thermal)
    .taken_from(Cause::KernelSlack),
];

/// Operations per second at the full clock: so few that even one row's weights stream beside
/// them.
const OPS_PER_S: u64 = 100_000_000;
/// Megahertz.
const FULL: u32 = 1600;

/// The demand at the full clock and at half of it. What the device can do was measured at the
/// full clock.
fn clocks() -> Result<(Played, Played), PlantError> {
    let stage = |ops_per_s: u64| {
        Stage::of(demand()).with(|stage| {
            stage.timing.host_per_step = Nanos(20_000);
            stage.timing.ceilings.ops_per_s = BTreeMap::from([(Dtype::F32, ops_per_s)]);
        })
    };
    let (full, mut half) = (stage(OPS_PER_S).play()?, stage(OPS_PER_S / 2).play()?);
    half.header.devices.clone_from(&full.header.devices);
    Ok((full, half))
}

fn reading(at: Nanos, clock_mhz: u32, throttle: Throttle) -> Fact {
    let basis = Provenance::Measured;
    Fact::Power(Power { device: 0, at, energy_uj: 0, power_mw: 0, clock_mhz, throttle, basis })
}

/// The clock says how much longer it took. The full clock is read while the host prepares the
/// first step.
fn power() -> Result<Planting, PlantError> {
    let (base, mut planted) = clocks()?;
    planted.facts.push(reading(Nanos(0), FULL, Throttle::None));
    planted.facts.push(reading(Nanos(1), FULL / 2, Throttle::Power));
    Planting::new(&base, &planted, planted.length() - base.length())
}

/// Half of the time of operations that compute, from the first that began at or behind the one
/// reading to the last that began before the other.
fn thermal() -> Result<Planting, PlantError> {
    let (_, base) = clocks()?;
    let starts: Vec<Nanos> = base.launches().map(|launch| launch.start).collect();
    let at = |quarter: usize| starts.get(starts.len() * quarter / 4).copied();
    let (from, to) = at(1).zip(at(3)).ok_or_else(|| PlantError::Missing("launches".to_owned()))?;
    let slow = base.launches().filter(|launch| launch.ops.0 > 0);
    let slow = slow.filter(|launch| (from..to).contains(&launch.start));
    let lost: u64 = slow.map(|launch| (launch.end.0 - launch.start.0) / 2).sum();
    let mut planted = base.clone();
    planted.facts.push(reading(Nanos(0), FULL, Throttle::None));
    planted.facts.push(reading(from, FULL / 2, Throttle::Thermal));
    planted.facts.push(reading(to, FULL, Throttle::None));
    Planting::new(&base, &planted, lost.into())
}
