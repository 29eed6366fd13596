//! Scenarios that plant copies: over the link to the host, and of KV blocks.

use super::PlantError;
use super::scenario::Kind::{Engine, Facts};
use super::scenario::{Planting, Scenario};
use super::stage::{Played, Stage, demand};
use super::time::{INSERTED, lengthened_gap};
use crate::backend::modelled::{CHOICE_BYTES, ROW_BYTES};
use crate::event::{Cargo, Direction, Fact, MemoryCopy};
use crate::unit::{Bytes, Nanos};
use crate::waste::Commodity::{Bytes as Moved, DeviceTime};
use crate::waste::{Cause, SubReason};

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        Cause::HostCopy,
        DeviceTime,
        Engine,
        "Inputs of steps come over a link of a byte per nanosecond, and what they chose goes back.",
        linked,
    ),
    Scenario::new(
        Cause::HostCopy,
        Moved,
        Engine,
        "Inputs of steps come over a link, 16 bytes a row; what they chose goes back, 8 a token.",
        linked,
    ),
    Scenario::new(
        Cause::HostCopy,
        Moved,
        Facts,
        "12,345 bytes go to the host while an operation runs, which owns the time.",
        hidden,
    )
    .because(SubReason::ToHost),
    Scenario::new(
        Cause::KvMove,
        DeviceTime,
        Facts,
        "KV blocks move within the device for 30 ms between two requests.",
        moved_time,
    ),
    Scenario::new(
        Cause::KvMove,
        Moved,
        Facts,
        "12,345 bytes of KV blocks move within the device, which reads and writes them.",
        moved_bytes,
    )
    .because(SubReason::Within),
];

/// Bytes of the copies that are planted into facts.
const COPIED: Bytes = Bytes(12_345);

/// As many bytes as nanoseconds.
fn linked() -> Result<Planting, PlantError> {
    let stage = Stage::of(demand());
    let base = stage.play()?;
    let linked = stage.with(|stage| stage.timing.host_link_bytes_per_s = 1_000_000_000);
    let rows: u64 = base.steps().map(|step| u64::from(step.rows())).sum();
    // Prompts come whole, so each step chooses a token for each of its requests.
    let choices: u64 = base.steps().map(|step| u64::from(step.requests)).sum();
    let bytes = ROW_BYTES * rows + CHOICE_BYTES * choices;
    Planting::new(&base, &linked.play()?, bytes.into())
}

fn copy(start: Nanos, end: Nanos, cargo: Cargo, direction: Direction) -> Fact {
    let (device, stream, step, bytes) = (0, 1, None, COPIED);
    Fact::Copy(MemoryCopy { device, stream, step, start, end, cargo, direction, bytes })
}

fn hidden() -> Result<Planting, PlantError> {
    let base = Stage::of(demand()).play()?;
    let longest = base.launches().max_by_key(|launch| launch.end.saturating_sub(launch.start));
    let longest = longest.ok_or_else(|| PlantError::Missing("a launch".to_owned()))?;
    let mut planted = base.clone();
    planted.facts.push(copy(longest.start, longest.end, Cargo::Data, Direction::ToHost));
    Planting::new(&base, &planted, COPIED.0.into())
}

/// Two requests, and the same with a move of KV blocks inserted between them.
fn moved() -> Result<(Played, Played), PlantError> {
    let (base, mut planted, start) = lengthened_gap()?;
    let end = start + INSERTED;
    planted.facts.push(copy(start, end, Cargo::KvBlocks, Direction::Within));
    Ok((base, planted))
}

fn moved_time() -> Result<Planting, PlantError> {
    let (base, planted) = moved()?;
    Planting::new(&base, &planted, INSERTED.0.into())
}

fn moved_bytes() -> Result<Planting, PlantError> {
    let (base, planted) = moved()?;
    Planting::new(&base, &planted, (2 * COPIED.0).into())
}
