//! Scenarios that plant memory held over time, in byte·nanoseconds. The device's capacity is
//! fixed, so what a request holds is taken from the free part of the KV pool.

use super::PlantError;
use super::edit::first_gap;
use super::scenario::Kind::{Engine, Facts};
use super::scenario::{Planting, Scenario};
use super::stage::{Played, Stage, options, order, own};
use crate::backend::modelled::small_shape;
use crate::event::{Fact, Memory, MemoryChange, MemoryClass};
use crate::schedule::{Allocation, Pause};
use crate::unit::{Bytes, Nanos};
use crate::waste::Commodity::Memory as Held;
use crate::waste::{Cause, SubReason};

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        Cause::KvReserved,
        Held,
        Engine,
        "A request gets the blocks of the longest allowed sequence, and needs one of the eight.",
        kv_reserved,
    )
    .taken_from(Cause::FreeHeadroom),
    Scenario::new(
        Cause::KvFragment,
        Held,
        Facts,
        "A block of 1 MB is held for the time between two requests with one byte written.",
        kv_fragment,
    )
    .taken_from(Cause::FreeHeadroom),
    Scenario::new(
        Cause::KvCold,
        Held,
        Engine,
        "The prefix cache keeps four blocks that nobody asks for until the run ends.",
        kv_cold,
    )
    .taken_from(Cause::FreeHeadroom),
    Scenario::new(
        Cause::KvPaused,
        Held,
        Engine,
        "A request with four blocks waits 100 ms for a tool.",
        kv_paused,
    )
    .taken_from(Cause::FreeHeadroom),
    Scenario::new(
        Cause::IdleWeights,
        Held,
        Facts,
        "Weights of 1 MB are resident between two requests.",
        idle_weights,
    )
    .taken_from(Cause::FreeHeadroom),
    Scenario::new(
        Cause::FreeHeadroom,
        Held,
        Engine,
        "The device has 1 GB of memory more.",
        larger_device,
    ),
    Scenario::new(
        Cause::FreeHeadroom,
        Held,
        Engine,
        "The KV pool has 100 blocks more.",
        larger_pool,
    )
    .because(SubReason::KvPool),
];

/// Every window of this file ends here.
const END: Nanos = Nanos(1_000_000_000);

/// Bytes of a block: keys and values of four bytes an element.
fn block_bytes() -> u128 {
    let shape = small_shape();
    let token = 2 * 4 * u64::from(shape.kv_heads * shape.head_dim) * u64::from(shape.layers);
    u128::from(token) * u128::from(options().memory.block_tokens)
}

/// One request with a prompt of `tokens`, in a window of a second.
fn alone(tokens: usize, output: u32) -> Stage {
    Stage { until: Some(END), ..Stage::of(vec![order(0, own(0, tokens), output)]) }
}

fn kv_reserved() -> Result<Planting, PlantError> {
    let paged = alone(2, 2).with(|stage| stage.options.memory.max_sequence_tokens = 32);
    let reserved = paged.with(|stage| stage.options.memory.allocation = Allocation::Reserved);
    let planted = reserved.play()?;
    let finish = planted.finish(0)?;
    let held = finish.at.saturating_sub(finish.first_scheduled.unwrap_or_default());
    Planting::new(&paged.play()?, &planted, 7 * block_bytes() * u128::from(held.0))
}

fn kv_cold() -> Result<Planting, PlantError> {
    let forgotten = alone(16, 1);
    let cached = forgotten.with(|stage| stage.options.memory.prefix_cache = true).play()?;
    let cold = END.saturating_sub(cached.finish(0)?.at);
    Planting::new(&forgotten.play()?, &cached, 4 * block_bytes() * u128::from(cold.0))
}

fn kv_paused() -> Result<Planting, PlantError> {
    let length = Nanos(100_000_000);
    let plain = alone(16, 4);
    let paused = plain.with(|stage| {
        for order in &mut stage.orders {
            order.pauses = vec![Pause { after_tokens: 1, length }];
        }
    });
    Planting::new(&plain.play()?, &paused.play()?, 4 * block_bytes() * u128::from(length.0))
}

/// Two requests, the same with memory held in the gap between them, and its byte·nanoseconds.
fn held_between(
    class: MemoryClass,
    changes: &[(MemoryChange, Bytes)],
    bytes: Bytes,
) -> Result<(Played, Played, u128), PlantError> {
    let mut orders = vec![order(0, own(0, 8), 4), order(1, own(1, 8), 4)];
    orders[1].arrival.at = Nanos(500_000_000);
    let mut base = Stage { until: Some(END), ..Stage::of(orders) }.play()?;
    if class == MemoryClass::KvBlock {
        // Room for the block in the pool.
        for fact in &mut base.facts {
            if let Fact::Memory(memory) = fact
                && memory.class == MemoryClass::KvPool
            {
                memory.bytes += bytes;
            }
        }
    }
    for device in &mut base.header.devices {
        device.memory_bytes += bytes;
    }
    let (from, to) = first_gap(&base)?;
    let mut planted = base.clone();
    // Behind every block of the pool.
    let (device, block) = (0, options().memory.kv_blocks);
    let held = changes.iter().map(|(change, bytes)| (from, *change, *bytes));
    for (at, change, bytes) in held.chain([(to, MemoryChange::Evict, bytes)]) {
        planted.facts.push(Fact::Memory(Memory { device, at, class, block, change, bytes }));
    }
    Ok((base, planted, u128::from(to.saturating_sub(from).0) * u128::from(bytes.0)))
}

/// All of the block but one byte.
fn kv_fragment() -> Result<Planting, PlantError> {
    let bytes = Bytes(1 << 20);
    let changes = [(MemoryChange::Allocate, bytes), (MemoryChange::Write, Bytes(1))];
    let (base, planted, amount) = held_between(MemoryClass::KvBlock, &changes, bytes)?;
    Planting::new(&base, &planted, amount / u128::from(bytes.0) * u128::from(bytes.0 - 1))
}

fn idle_weights() -> Result<Planting, PlantError> {
    let bytes = Bytes(1 << 20);
    let changes = [(MemoryChange::Allocate, bytes)];
    let (base, planted, amount) = held_between(MemoryClass::Weights, &changes, bytes)?;
    Planting::new(&base, &planted, amount)
}

fn larger_device() -> Result<Planting, PlantError> {
    let more = Bytes(1 << 30);
    let base = alone(16, 4).play()?;
    let mut planted = base.clone();
    for device in &mut planted.header.devices {
        device.memory_bytes += more;
    }
    Planting::new(&base, &planted, u128::from(more.0) * base.length())
}

fn larger_pool() -> Result<Planting, PlantError> {
    let base = alone(16, 4);
    let planted = base.with(|stage| stage.options.memory.kv_blocks += 100).play()?;
    Planting::new(&base.play()?, &planted, 100 * block_bytes() * u128::from(END.0))
}
