//! Scenarios that plant time, and bytes that take it.

use super::PlantError;
use super::edit::{fatten, first_gap, insert_time};
use super::scenario::Kind::{Engine, Facts};
use super::scenario::{Planting, Scenario};
use super::stage::{LAUNCH_FLOOR, Played, Sitting, Stage, demand, order, own};
use crate::backend::modelled::small_shape;
use crate::cost::Kernel;
use crate::event::{DeviceState, Fact, Launch, StateChange};
use crate::model::Precision;
use crate::schedule::{Allocation, Pause, Scheduling};
use crate::trace::Slo;
use crate::unit::{Bytes, Nanos};
use crate::waste::Cause;
use crate::waste::Commodity::{Bytes as Moved, DeviceTime, RequestTime};
use crate::waste::{Level, SubReason};

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        Cause::NoDemand,
        DeviceTime,
        Engine,
        "The second of two requests comes half a second later.",
        no_demand,
    ),
    Scenario::new(
        Cause::SloHeadroom,
        DeviceTime,
        Engine,
        "Requests come less densely, and a promise is made that needs exactly this idle time.",
        slo_headroom,
    ),
    Scenario::new(
        Cause::Upstream,
        DeviceTime,
        Engine,
        "The only request waits 50 ms longer for a tool in the middle of its answer.",
        upstream,
    ),
    Scenario::new(
        Cause::BatchFill,
        DeviceTime,
        Engine,
        "The batching window holds two requests 50 ms longer.",
        batch_fill,
    ),
    Scenario::new(
        Cause::Capacity,
        DeviceTime,
        Engine,
        "A request that waits outside holds all KV memory 50 ms longer while another could run.",
        capacity,
    ),
    Scenario::new(Cause::Host, DeviceTime, Engine, "The host sleeps 30 µs before each step.", host),
    Scenario::new(
        Cause::LaunchGap,
        DeviceTime,
        Engine,
        "9 µs beyond the measured floor pass between each two operations of a step.",
        launch_gap,
    )
    .at(Level::Waste),
    Scenario::new(
        Cause::KernelSlack,
        DeviceTime,
        Engine,
        "Each operation takes 700 ns more than its floor.",
        kernel_slack,
    ),
    Scenario::new(
        Cause::Changeover,
        DeviceTime,
        Engine,
        "Loading the model takes 100 ms longer.",
        changeover,
    ),
    Scenario::new(
        Cause::Observer,
        DeviceTime,
        Engine,
        "Measuring the device's kernels takes 100 ms longer.",
        calibrate,
    )
    .because(SubReason::Calibrate),
    Scenario::new(
        Cause::Observer,
        DeviceTime,
        Engine,
        "Recording a launch takes the host 500 ns, which the paired runs must find out.",
        recording,
    ),
    Scenario::new(
        Cause::WeightStreaming,
        DeviceTime,
        Facts,
        "Each down projection reads 10 kB of weights more, and takes that much longer.",
        weights,
    ),
    Scenario::new(
        Cause::WeightStreaming,
        Moved,
        Facts,
        "Each down projection reads 10 kB of weights more.",
        weights,
    ),
    Scenario::new(
        Cause::UnderfilledBatch,
        DeviceTime,
        Engine,
        "Four requests that filled a batch of four run one after another.",
        underfilled,
    ),
    Scenario::new(
        Cause::KvStreaming,
        DeviceTime,
        Facts,
        "Each decode attention reads 10 kB of KV cache more, and takes that much longer.",
        kv,
    ),
    Scenario::new(
        Cause::KvStreaming,
        Moved,
        Facts,
        "Each decode attention reads 10 kB of KV cache more.",
        kv,
    ),
    Scenario::new(
        Cause::ActivationStreaming,
        DeviceTime,
        Facts,
        "Each sampling moves 1 MB of activations more, and takes that much longer.",
        activation_time,
    ),
    Scenario::new(
        Cause::ExcessBytes,
        DeviceTime,
        Engine,
        "Rows are written out again in 8 bits before each product.",
        excess_time,
    ),
    Scenario::new(
        Cause::ExcessBytes,
        Moved,
        Engine,
        "Rows are written out again in 8 bits before each product.",
        excess_bytes,
    ),
    Scenario::new(
        Cause::FaultRecovery,
        DeviceTime,
        Facts,
        "The device is failed for 30 ms between two requests.",
        fault,
    ),
    Scenario::new(
        Cause::UnattributedIdle,
        DeviceTime,
        Facts,
        "The window begins 30 ms before the first recorded state.",
        unattributed_idle,
    ),
    Scenario::new(
        Cause::UnattributedBusy,
        DeviceTime,
        Facts,
        "An operation of no step runs for 30 ms between two requests.",
        unattributed_busy,
    ),
    Scenario::new(
        Cause::UnattributedBusy,
        Moved,
        Facts,
        "An operation of no step reads 12,345 bytes of weights.",
        unattributed_bytes,
    ),
    Scenario::new(
        Cause::Queue,
        RequestTime,
        Engine,
        "A request comes 2 ms earlier and is served no earlier: the only slot is taken.",
        queue,
    )
    .because(SubReason::Admission),
];

const MILLISECOND: u64 = 1_000_000;

/// Two requests so far apart that the device falls idle between them.
fn apart(gap: Nanos) -> Stage {
    let mut orders = vec![order(0, own(0, 8), 4), order(1, own(1, 8), 4)];
    orders[1].arrival.at = gap;
    Stage::of(orders)
}

fn no_demand() -> Result<Planting, PlantError> {
    let gap = 1_000 * MILLISECOND;
    let planted = 500 * MILLISECOND;
    let (base, later) = (apart(Nanos(gap)).play()?, apart(Nanos(gap + planted)).play()?);
    Planting::new(&base, &later, planted.into())
}

/// On a server that is slowed down until `count` equal requests of `work`, `gap` apart, just
/// keep a promise of `e2e`, each takes `e2e`. Such a server has the share `work ÷ e2e` of the
/// device's speed. The promise is chosen so that it has `idle` idle nanoseconds in the window.
fn slo_headroom() -> Result<Planting, PlantError> {
    const COUNT: u64 = 9;
    let spread = |gap: u64, slo: Slo| {
        let orders = (0..COUNT).map(|id| {
            let mut order = order(id, own(id, 8), 4);
            order.arrival.at = Nanos(id * gap);
            order
        });
        Stage { slo, ..Stage::of(orders.collect()) }.play()
    };
    let probe = spread(1_000 * MILLISECOND, Slo::default())?;
    let busy: u64 = probe.steps().map(|step| step.end.0 - step.host_start.0).sum();
    let work = busy / COUNT;
    let base = spread(4 * work, Slo::default())?;
    let (gap, idle) = (6 * work, (COUNT - 1) * 2 * work);
    let window = u128::from((COUNT - 1) * gap + work);
    let e2e = window * u128::from(work) / u128::from(idle + COUNT * work);
    let slo = Slo { e2e_ns: Some(Nanos(e2e as u64)), ..Slo::default() };
    Planting::new(&base, &spread(gap, slo)?, idle.into())
}

/// One request that waits outside for a tool.
fn upstream() -> Result<Planting, PlantError> {
    let waiting = |milliseconds: u64| {
        let mut order = order(0, own(0, 8), 6);
        order.pauses = vec![Pause { after_tokens: 2, length: Nanos(milliseconds * MILLISECOND) }];
        Stage::of(vec![order]).play()
    };
    Planting::new(&waiting(10)?, &waiting(60)?, u128::from(50 * MILLISECOND))
}

fn batch_fill() -> Result<Planting, PlantError> {
    let stage = Stage::of(vec![order(0, own(0, 8), 6), order(1, own(1, 8), 6)]);
    let held = |milliseconds: u64| {
        let window = Nanos(milliseconds * MILLISECOND);
        let batched = stage.with(|stage| {
            stage.options.batching.scheduling = Scheduling::Window;
            stage.options.batching.window_ns = window;
        });
        batched.play()
    };
    Planting::new(&held(10)?, &held(60)?, u128::from(50 * MILLISECOND))
}

fn capacity() -> Result<Planting, PlantError> {
    let blocked = |milliseconds: u64| {
        let mut orders = vec![order(0, own(0, 4), 4), order(1, own(1, 4), 1)];
        let length = Nanos(milliseconds * MILLISECOND);
        orders[0].pauses = vec![Pause { after_tokens: 2, length }];
        let tight = Stage::of(orders).with(|stage| {
            stage.options.memory.allocation = Allocation::Reserved;
            stage.options.memory.max_sequence_tokens = 16;
            stage.options.memory.kv_blocks = 7;
        });
        tight.play()
    };
    Planting::new(&blocked(10)?, &blocked(60)?, u128::from(50 * MILLISECOND))
}

/// The demand on a device with the least gaps, and how it ran.
fn plain() -> Result<(Stage, Played), PlantError> {
    let mut stage = Stage::of(demand());
    stage.timing.launch_gap = LAUNCH_FLOOR;
    stage.timing.host_per_step = Nanos(20_000);
    let base = stage.play()?;
    Ok((stage, base))
}

fn host() -> Result<Planting, PlantError> {
    let (stage, base) = plain()?;
    let slept = Nanos(30_000);
    let planted = stage.with(|stage| stage.timing.host_per_step += slept).play()?;
    Planting::new(&base, &planted, base.steps().count() as u128 * u128::from(slept.0))
}

fn launch_gap() -> Result<Planting, PlantError> {
    let (stage, base) = plain()?;
    let gap = Nanos(9_000);
    let planted = stage.with(|stage| stage.timing.launch_gap += gap).play()?;
    let gaps = base.launches().count() - base.steps().count();
    Planting::new(&base, &planted, gaps as u128 * u128::from(gap.0))
}

fn kernel_slack() -> Result<Planting, PlantError> {
    let (stage, base) = plain()?;
    let slack = Nanos(700);
    let planted = stage.with(|stage| stage.timing.launch_slack += slack).play()?;
    Planting::new(&base, &planted, base.launches().count() as u128 * u128::from(slack.0))
}

fn changeover() -> Result<Planting, PlantError> {
    let loading = |milliseconds: u64| {
        let load = Nanos(milliseconds * MILLISECOND);
        Sitting { load, ..Sitting::default() }.play()
    };
    let (base, planted) = (loading(50)?.0, loading(150)?.0);
    Planting::new(&base, &planted, u128::from(100 * MILLISECOND))
}

fn calibrate() -> Result<Planting, PlantError> {
    let measuring = |milliseconds: u64| {
        let calibrate = Nanos(milliseconds * MILLISECOND);
        Sitting { calibrate, ..Sitting::default() }.play()
    };
    let (base, planted) = (measuring(50)?.0, measuring(150)?.0);
    Planting::new(&base, &planted, u128::from(100 * MILLISECOND))
}

fn recording() -> Result<Planting, PlantError> {
    let per_launch = Nanos(500);
    let sitting = Sitting { observer_pairs: 4, ..Sitting::default() };
    let (base, _) = sitting.play()?;
    let (planted, recorded) = Sitting { per_launch, ..sitting }.play()?;
    Planting::new(&base, &planted, u128::from(recorded) * u128::from(per_launch.0))
}

/// Bytes of weights or KV that are planted into an operation, and the nanoseconds they take.
const STREAMED: u64 = 10_000;

/// The demand, the same with bytes planted into each `kernel` that decodes, and the bytes.
fn streamed(
    kernel: Kernel,
    change: impl Fn(&mut Launch),
) -> Result<(Played, Played, u128), PlantError> {
    let base = Stage::of(demand()).play()?;
    let mut planted = base.clone();
    let launches = fatten(&mut planted, kernel, Nanos(STREAMED), change)?;
    Ok((base, planted, u128::from(launches * STREAMED)))
}

/// As many bytes as nanoseconds.
fn weights() -> Result<Planting, PlantError> {
    let more = |launch: &mut Launch| launch.weight_bytes += Bytes(STREAMED);
    let (base, planted, amount) = streamed(Kernel::Down, more)?;
    Planting::new(&base, &planted, amount)
}

/// As many bytes as nanoseconds.
fn kv() -> Result<Planting, PlantError> {
    let more = |launch: &mut Launch| launch.kv_bytes += Bytes(STREAMED);
    let (base, planted, bytes) = streamed(Kernel::AttentionDecode, more)?;
    Planting::new(&base, &planted, bytes)
}

/// Activations move through the caches, a hundred times as fast.
fn activation_time() -> Result<Planting, PlantError> {
    let more = |launch: &mut Launch| launch.activation_bytes += Bytes(100 * STREAMED);
    let (base, planted, nanos) = streamed(Kernel::Sample, more)?;
    Planting::new(&base, &planted, nanos)
}

/// Four requests of one prompt token: every step of the full batch has four rows, and every
/// step of a single request one. Each then reads all weights for a quarter of the rows. Not so
/// the embedding, which reads a row of weights for each row of the step.
fn underfilled() -> Result<Planting, PlantError> {
    let orders = (0..4).map(|id| order(id, own(id, 1), 8)).collect();
    let full = Stage::of(orders).with(|stage| stage.reference_batch = 4);
    let base = full.play()?;
    let planted = full.with(|stage| stage.options.batching.max_num_seqs = 1).play()?;
    let embed = base.facts.iter().find_map(|fact| match fact {
        Fact::Kernel { id, name } if name == Kernel::Embed.name() => Some(*id),
        _ => None,
    });
    let shared = base.launches().filter(|launch| Some(launch.kernel) != embed);
    let weights: u64 = shared.map(|launch| launch.weight_bytes.0).sum();
    Planting::new(&base, &planted, u128::from(3 * weights))
}

fn excess() -> Result<(Played, Played), PlantError> {
    let plain = Stage::of(demand());
    Ok((plain.play()?, plain.with(|stage| stage.quantized_rows = true).play()?))
}

/// The clock says how much longer it took.
fn excess_time() -> Result<Planting, PlantError> {
    let (base, planted) = excess()?;
    Planting::new(&base, &planted, planted.length() - base.length())
}

/// Each product writes and reads its rows once more: of the residual stream for query, key and
/// value, for gate and up, and for the head, of the heads for the output, of the feed-forward
/// layer for down.
fn excess_bytes() -> Result<Planting, PlantError> {
    let (base, planted) = excess()?;
    let shape = small_shape();
    let again = |elements: u32| 2 * Precision::Q8_0.bytes(elements.into());
    let layer = 2 * again(shape.hidden) + again(shape.heads * shape.head_dim) + again(shape.ffn);
    let rows: u64 = base.steps().map(|step| u64::from(step.rows())).sum();
    // Prompts come whole, so each step asks for logits once for each of its requests.
    let logits: u64 = base.steps().map(|step| u64::from(step.requests)).sum();
    let bytes = rows * u64::from(shape.layers) * layer + logits * again(shape.hidden);
    Planting::new(&base, &planted, bytes.into())
}

/// Two requests, the same with 30 ms inserted where the second comes, and that moment.
pub(super) fn lengthened_gap() -> Result<(Played, Played, Nanos), PlantError> {
    let base = apart(Nanos(1_000 * MILLISECOND)).play()?;
    let (_, end) = first_gap(&base)?;
    let mut planted = base.clone();
    insert_time(&mut planted, &[end], INSERTED);
    Ok((base, planted, end))
}

/// How much longer.
pub(super) const INSERTED: Nanos = Nanos(30 * MILLISECOND);

fn fault() -> Result<Planting, PlantError> {
    let (base, mut planted, at) = lengthened_gap()?;
    // What comes after the gap ends it.
    planted.facts.push(Fact::State(StateChange { device: 0, at, state: DeviceState::Faulted }));
    Planting::new(&base, &planted, INSERTED.0.into())
}

fn unattributed_idle() -> Result<Planting, PlantError> {
    let base = Stage::of(demand()).play()?;
    let mut planted = base.clone();
    insert_time(&mut planted, &[Nanos::ZERO], INSERTED);
    Planting::new(&base, &planted, INSERTED.0.into())
}

/// Bytes that the operation of no step reads.
const STRAY: Bytes = Bytes(12_345);

fn stray() -> Result<(Played, Played), PlantError> {
    let (base, mut planted, start) = lengthened_gap()?;
    let like = base.launches().next().copied();
    let like = like.ok_or_else(|| PlantError::Missing("a launch".to_owned()))?;
    let end = start + INSERTED;
    planted.facts.push(Fact::Launch(Launch {
        step: None,
        start,
        end,
        weight_bytes: STRAY,
        kv_bytes: Bytes::ZERO,
        activation_bytes: Bytes::ZERO,
        excess_bytes: Bytes::ZERO,
        ..like
    }));
    Ok((base, planted))
}

fn unattributed_busy() -> Result<Planting, PlantError> {
    let (base, planted) = stray()?;
    Planting::new(&base, &planted, INSERTED.0.into())
}

fn unattributed_bytes() -> Result<Planting, PlantError> {
    let (base, planted) = stray()?;
    Planting::new(&base, &planted, STRAY.0.into())
}

/// The second request comes when the first leaves, or 2 ms before.
fn queue() -> Result<Planting, PlantError> {
    let stage = |second: Nanos| {
        let mut orders = vec![order(0, own(0, 8), 40), order(1, own(1, 8), 4)];
        orders[1].arrival.at = second;
        Stage::of(orders).with(|stage| stage.options.batching.max_num_seqs = 1)
    };
    let end = stage(Nanos(1_000 * MILLISECOND)).play()?.finish(0)?.at;
    let earlier = Nanos(2 * MILLISECOND);
    let (base, planted) = (stage(end).play()?, stage(end - earlier).play()?);
    Planting::new(&base, &planted, earlier.0.into())
}
