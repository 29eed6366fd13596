//! Changes to the facts of a run, where the engine has no switch that would plant them.

use std::collections::BTreeSet;

use super::PlantError;
use super::stage::Played;
use crate::cost::Kernel;
use crate::event::{DeviceState, Fact, Finish, Launch, MemoryCopy, Step, StepId};
use crate::unit::Nanos;

/// Inserts `length` of time at each of the moments `at`: whatever began or ended then or later
/// does so later. An operation that ends at such a moment takes longer.
pub(super) fn insert_time(played: &mut Played, at: &[Nanos], length: Nanos) {
    let later = |moment: &mut Nanos| {
        let before = at.iter().filter(|inserted| **inserted <= *moment).count() as u64;
        *moment += Nanos(before * length.0);
    };
    for fact in &mut played.facts {
        match fact {
            Fact::Kernel { .. } | Fact::Row(_) => {}
            Fact::State(change) => later(&mut change.at),
            Fact::Step(step) => {
                let Step { host_start, start, end, .. } = step;
                [host_start, start, end].into_iter().for_each(later);
            }
            Fact::Launch(launch) => {
                let Launch { start, end, .. } = launch;
                [start, end].into_iter().for_each(later);
            }
            Fact::Memory(memory) => later(&mut memory.at),
            Fact::Arrival(arrival) => later(&mut arrival.at),
            Fact::Finish(Finish { at, first_scheduled, first_token, .. }) => {
                [Some(at), first_scheduled.as_mut(), first_token.as_mut()]
                    .into_iter()
                    .flatten()
                    .for_each(later);
            }
            Fact::Power(power) => later(&mut power.at),
            Fact::Copy(MemoryCopy { start, end, .. }) => [start, end].into_iter().for_each(later),
        }
    }
    later(&mut played.header.window.end_ns);
}

/// Changes each launch of `kernel` in the steps that only decode, and lets it take `longer`.
/// Gives how many there are.
pub(super) fn fatten(
    played: &mut Played,
    kernel: Kernel,
    longer: Nanos,
    change: impl Fn(&mut Launch),
) -> Result<u64, PlantError> {
    let id = played.facts.iter().find_map(|fact| match fact {
        Fact::Kernel { id, name } if name == kernel.name() => Some(*id),
        _ => None,
    });
    let id = id.ok_or_else(|| PlantError::Missing(format!("the kernel {}", kernel.name())))?;
    let decoding: BTreeSet<StepId> =
        played.steps().filter(|step| step.rows_prefill == 0).map(|step| step.step).collect();
    let mut ends = Vec::new();
    for fact in &mut played.facts {
        let Fact::Launch(launch) = fact else { continue };
        let inside = launch.step.is_some_and(|step| decoding.contains(&step));
        if launch.kernel == id && inside && launch.end > launch.start {
            change(launch);
            ends.push(launch.end);
        }
    }
    insert_time(played, &ends, longer);
    Ok(ends.len() as u64)
}

/// When the device first falls idle because nothing is in the system, and when that ends.
pub(super) fn first_gap(played: &Played) -> Result<(Nanos, Nanos), PlantError> {
    let mut empty = None;
    for fact in &played.facts {
        let Fact::State(change) = fact else { continue };
        match (empty, change.state) {
            (None, DeviceState::Empty) => empty = Some(change.at),
            (Some(from), _) => return Ok((from, change.at)),
            _ => {}
        }
    }
    Err(PlantError::Missing("a gap between requests".to_owned()))
}
