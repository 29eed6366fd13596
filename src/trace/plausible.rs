//! What a fact may claim. A folder can be corrupt or made by hand; amounts beyond these bounds
//! are refused when it is read, so that no sum over them can overflow and no book can lie.

use super::MeterHeader;
use super::header::Header;
use crate::event::{Fact, Launch, Memory, MemoryCopy, Power, Row, Step};
use crate::unit::Nanos;

/// Two years.
const NANOS: u64 = 1 << 56;

/// An exabyte.
const BYTES: u64 = 1 << 60;

/// Operations of one launch: a day on the fastest machine there is.
const OPS: u64 = 1 << 62;

/// Rows of one group, tokens of one context.
const ROWS: u32 = 1 << 28;

const DEVICES: usize = 1 << 12;

/// Pico-dollars per device and hour: a quarter of a million dollars.
const PRICE: u64 = 1 << 58;

/// Milliwatts: a megawatt.
const MILLIWATTS: u64 = 1_000_000_000;

fn within(what: &str, found: u64, most: u64) -> Result<(), String> {
    if found <= most {
        return Ok(());
    }
    Err(format!("{what}: expected at most {most}, found {found}"))
}

pub(super) fn header(header: &Header) -> Result<(), String> {
    let window = header.window;
    within("window.start_ns", window.start_ns.0, NANOS)?;
    within("window.end_ns", window.end_ns.0, NANOS)?;
    if window.end_ns < window.start_ns {
        return Err("window: it ends before it starts".to_owned());
    }
    within("devices", header.devices.len() as u64, DEVICES as u64)?;
    for (i, device) in header.devices.iter().enumerate() {
        within("memory_bytes", device.memory_bytes.0, BYTES)?;
        within("launch_floor_ns", device.ceilings.launch_floor_ns.0, NANOS)?;
        if header.devices[..i].iter().any(|other| other.id == device.id) {
            return Err(format!("device {}: it stands twice", device.id));
        }
        let points = device.calibration.iter().flat_map(|c| &c.points);
        for (amount, nanos) in points {
            within("calibration", *amount, BYTES)?;
            within("calibration", *nanos, NANOS)?;
        }
    }
    if let Some(price) = header.price {
        within("picodollars_per_device_hour", price.picodollars_per_device_hour, PRICE)?;
    }
    if let Some(energy) = header.energy {
        within("idle_mw", energy.idle_mw, MILLIWATTS)?;
        within("busy_mw", energy.busy_mw, MILLIWATTS)?;
    }
    if let Some(observer) = header.observer {
        within("observer.ns_per_launch", observer.ns_per_launch, 1_000_000_000)?;
    }
    header.meters.iter().try_for_each(meter)?;
    let counted = header.counters.iter().filter_map(|counters| counters.activity);
    for activity in counted {
        time(activity.end_ns)?;
        in_order(&[activity.start_ns, activity.end_ns])?;
        within("counters.memory_bytes", activity.memory_bytes.unwrap_or(0), BYTES)?;
    }
    Ok(())
}

fn meter(meter: &MeterHeader) -> Result<(), String> {
    time(meter.end_ns)?;
    in_order(&[meter.start_ns, meter.end_ns])?;
    within("meters.energy_uj", meter.energy_uj, BYTES)?;
    within("meters.integrated_uj", meter.integrated_uj.unwrap_or(0), BYTES)
}

/// Whether one fact is plausible and in order of time, as far as it can tell by itself.
pub(super) fn fact(fact: &Fact) -> Result<(), String> {
    match fact {
        Fact::Kernel { .. } => Ok(()),
        Fact::State(change) => time(change.at),
        Fact::Step(step) => {
            self::step(step)?;
            in_order(&[step.host_start, step.start, step.end])
        }
        Fact::Row(row) => self::row(row),
        Fact::Launch(launch) => {
            self::launch(launch)?;
            in_order(&[launch.start, launch.end])
        }
        Fact::Memory(memory) => self::memory(memory),
        Fact::Arrival(arrival) => time(arrival.at),
        Fact::Finish(finish) => time(finish.at),
        Fact::Power(power) => self::power(power),
        Fact::Copy(copy) => self::copy(copy),
    }
}

fn in_order(times: &[Nanos]) -> Result<(), String> {
    if times.is_sorted() { Ok(()) } else { Err("it ends before it starts".to_owned()) }
}

pub(super) fn time(at: Nanos) -> Result<(), String> {
    within("a time", at.0, NANOS)
}

pub(super) fn launch(launch: &Launch) -> Result<(), String> {
    time(launch.end)?;
    let bytes =
        [launch.weight_bytes, launch.kv_bytes, launch.activation_bytes, launch.excess_bytes];
    bytes.iter().try_for_each(|bytes| within("bytes of a launch", bytes.0, BYTES))?;
    within("ops of a launch", launch.ops.0, OPS)
}

pub(super) fn step(step: &Step) -> Result<(), String> {
    time(step.end)?;
    let rows = [
        step.rows_prefill,
        step.rows_decode,
        step.rows_draft,
        step.rows_verify,
        step.rows_ownerless,
    ];
    rows.iter().try_for_each(|rows| within("rows of a step", (*rows).into(), ROWS.into()))
}

pub(super) fn row(row: &Row) -> Result<(), String> {
    let counts = [row.rows, row.context_tokens, row.sequence_rows, row.logits_rows];
    counts.iter().try_for_each(|count| within("a count of rows", (*count).into(), ROWS.into()))
}

pub(super) fn memory(memory: &Memory) -> Result<(), String> {
    time(memory.at)?;
    within("bytes of a memory change", memory.bytes.0, BYTES)
}

pub(super) fn power(power: &Power) -> Result<(), String> {
    time(power.at)?;
    within("energy_uj", power.energy_uj, BYTES)
}

pub(super) fn copy(copy: &MemoryCopy) -> Result<(), String> {
    time(copy.end)?;
    in_order(&[copy.start, copy.end])
        .map_err(|what| format!("copy at {} ns: {what}", copy.start.0))?;
    within("bytes of a copy", copy.bytes.0, BYTES)
}
