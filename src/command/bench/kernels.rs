//! `gemba bench --kernels`: how long each kernel takes beside the least time that it could.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::sequences::{Bench, Part};
use super::{BenchArgs, BenchError};
use crate::backend::{DeviceError, cache_folder};
use crate::cost::{Budget, Floor, Kernel};
use crate::event::Ceilings;

/// Contexts behind which rows are measured, as far as prompts and generated tokens reach.
const CONTEXTS: [u32; 5] = [127, 511, 2047, 8191, 32_767];
/// Rows of prefill steps, as far as chunks and prompts reach.
const ROWS: [u32; 6] = [16, 64, 256, 1024, 4096, 16_384];

/// A step that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    phase: &'static str,
    sequences: u32,
    /// Of each sequence.
    rows: u32,
    context: u32,
}

/// One kernel in one such step: what a line of `--json` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row<'a> {
    model: &'a str,
    precision: &'static str,
    kv_precision: &'static str,
    phase: &'static str,
    sequences: u32,
    rows: u32,
    context: u32,
    kernel: &'static str,
    /// Launches that were timed: of every layer, in every repeat.
    launches: usize,
    median_ns: u64,
    least_ns: u64,
    /// The least time that its bytes and operations could take under the measured ceilings.
    floor_ns: u64,
    /// The floor by the median.
    share: f64,
    /// Of weights, cache and activations.
    bytes: u64,
    ops: u64,
}

/// What `--json` says first.
#[derive(Serialize)]
struct Roofs<'a> {
    device: &'a str,
    /// What tells when operations ran: host_clock, events or records.
    timed_by: &'static str,
    ceilings: &'a Ceilings,
}

/// Measures the ceilings and every kernel, and prints them as they come.
///
/// # Errors
/// [`BenchError`] if the device fails or nothing can be written.
pub(super) fn measure(bench: &mut Bench, args: &BenchArgs, model: &str) -> Result<(), BenchError> {
    let ceilings = bench.device.backend().ceilings(cache_folder().as_deref())?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let device = &bench.device.backend().description().name;
        let timed_by = bench.device.backend().timed_by().code();
        let text = serde_json::to_string(&Roofs { device, timed_by, ceilings: &ceilings });
        writeln!(out, "{}", text.map_err(std::io::Error::from)?)?;
    } else {
        writeln!(out, "{model} {}, {} repeats", args.precision.code(), args.repeats)?;
    }
    // What decoded rows attend to are numbers then, not whatever memory held.
    bench.prefill(args.most())?;
    for point in points(args) {
        if !args.json {
            let Point { phase, sequences, rows, context } = point;
            writeln!(out, "{phase}: {sequences} × {rows} rows behind {context} tokens")?;
        }
        for (kernel, (budget, times)) in timed(bench, point, args.repeats)? {
            let row = row(args, model, point, (kernel, &budget, times), &ceilings);
            if args.json {
                let text = serde_json::to_string(&row).map_err(std::io::Error::from)?;
                writeln!(out, "{text}")?;
            } else {
                let micros = |nanos: u64| nanos as f64 / 1e3;
                let (time, floor) = (micros(row.median_ns), micros(row.floor_ns));
                let share = 100.0 * row.share;
                let name = row.kernel;
                writeln!(
                    out,
                    "  {name:20}{time:>12.1} µs, at least {floor:>10.1} µs: {share:.0} %"
                )?;
            }
        }
    }
    Ok(())
}

/// Decode of every batch behind every context, then prefill from nothing and behind every context.
fn points(args: &BenchArgs) -> Vec<Point> {
    let longest = args.prompt.saturating_add(args.generate);
    let mut contexts: Vec<u32> = CONTEXTS.into_iter().filter(|c| *c < longest).collect();
    if contexts.is_empty() {
        contexts.push(args.prompt);
    }
    let most = args.chunk.min(longest);
    let mut lengths: Vec<u32> = ROWS.into_iter().filter(|rows| *rows <= most).collect();
    if lengths.is_empty() {
        lengths.push(most);
    }
    let decode = args.batch.iter().flat_map(|sequences| {
        let point = |context: &u32| Point {
            phase: "decode",
            sequences: *sequences,
            rows: 1,
            context: *context,
        };
        contexts.iter().map(point).collect::<Vec<_>>()
    });
    let prefill = |rows, context| Point { phase: "prefill", sequences: 1, rows, context };
    let from_nothing = lengths.iter().map(|rows| prefill(*rows, 0));
    let longest_rows = lengths.last().copied().unwrap_or(1);
    let behind = contexts
        .iter()
        .filter(|context| longest_rows <= longest.saturating_sub(**context))
        .map(|context| prefill(longest_rows, *context));
    decode.chain(from_nothing).chain(behind).collect()
}

/// What each kernel of the step had to do, and how long each launch of it took.
fn timed(
    bench: &mut Bench,
    point: Point,
    repeats: u32,
) -> Result<BTreeMap<Kernel, (Budget, Vec<u64>)>, DeviceError> {
    let Point { sequences, rows, context, .. } = point;
    let part = |sequence| Part { sequence, context, rows, ends: true };
    let mut times: BTreeMap<Kernel, (Budget, Vec<u64>)> = BTreeMap::new();
    // The first step only warms up.
    for repeat in 0..=repeats {
        bench.step((0..sequences).map(part).collect())?;
        if repeat == 0 {
            continue;
        }
        for (budget, span) in bench.budgets.iter().zip(&bench.spans) {
            let of_kernel = times.entry(budget.kernel).or_insert_with(|| (*budget, Vec::new()));
            of_kernel.1.push(span.end.saturating_sub(span.start).0);
        }
    }
    Ok(times)
}

fn row<'a>(
    args: &BenchArgs,
    model: &'a str,
    point: Point,
    (kernel, budget, mut times): (Kernel, &Budget, Vec<u64>),
    ceilings: &Ceilings,
) -> Row<'a> {
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or(0);
    let median = at(times.len().saturating_sub(1) / 2);
    let floor = Floor::of(budget, ceilings).least();
    let Point { phase, sequences, rows, context } = point;
    Row {
        model,
        precision: args.precision.code(),
        kv_precision: args.kv_precision.code(),
        phase,
        sequences,
        rows,
        context,
        kernel: kernel.name(),
        launches: times.len(),
        median_ns: median,
        least_ns: at(0),
        floor_ns: floor.0,
        share: floor.0 as f64 / median.max(1) as f64,
        bytes: budget.weight_bytes.0 + budget.kv_bytes.0 + budget.activation_bytes.0,
        ops: budget.ops.0,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn found(words: &[&str]) -> Vec<(&'static str, u32, u32, u32)> {
        let line = Line::try_parse_from([&["gemba"], words].concat()).unwrap();
        let each = |point: Point| (point.phase, point.sequences, point.rows, point.context);
        points(&line.bench).into_iter().map(each).collect()
    }

    #[test]
    fn points_reach_as_far_as_the_sequences() {
        let found = found(&["--batch=1,8", "--prompt=600", "--gen=64", "--chunk=256"]);
        let decode = [1, 8].map(|batch| [127, 511].map(|context| ("decode", batch, 1, context)));
        let prefill = [(16, 0), (64, 0), (256, 0), (256, 127)];
        let prefill = prefill.map(|(rows, context)| ("prefill", 1, rows, context));
        assert_eq!(found, [&decode.concat()[..], &prefill].concat());
    }

    #[test]
    fn the_shortest_sequences_have_points_too() {
        let expected = [("decode", 1, 1, 3), ("prefill", 1, 4, 0)];
        assert_eq!(found(&["--prompt=3", "--gen=1"]), expected);
    }
}
