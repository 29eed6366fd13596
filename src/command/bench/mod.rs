//! `gemba bench`: how fast a model runs here, prefill and decode apart, or each of its kernels.

mod counted;
mod kernels;
mod sequences;
mod speed;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::device::{Device, DeviceName, Placement};
use super::technique::{TechniqueArgs, switches};
use super::{Failure, unless_gone};
use crate::backend::{DeviceError, Limits};
use crate::event::WallClock;
use crate::model::{Encoding, open};
use crate::unit::Nanos;

use counted::{Counted, counted};
use sequences::{Bench, Plan};
use speed::{Inflation, Measured, Rates};

/// Options of `gemba bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// The model: shape:NAME for random weights of a real model's shape, or a path
    #[arg(long, value_name = "MODEL", default_value = "shape:tinyllama-1.1b")]
    model: String,
    /// The device: cpu, or cuda[:N]
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// The format of the weights: f32 on cpu, e4m3, i8, i4, nf4 on cuda, bf16, f16, q8_0, q4_0
    #[arg(long, value_name = "P", default_value = "q8_0", value_parser = Encoding::named)]
    precision: Encoding,
    /// The format of the KV cache: f16, f32 on cpu, bf16, e4m3, i8 on cuda
    #[arg(long, value_name = "P", default_value = "f16", value_parser = Encoding::named)]
    kv_precision: Encoding,
    /// Threads; as many as the machine has cores if not given
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// What it does without
    #[command(flatten)]
    techniques: TechniqueArgs,
    /// Sequences that run together; several sizes, as in 1,8,64, are measured one after another
    #[arg(long, value_name = "B", default_value = "1", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: Vec<u32>,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens generated after each prompt
    #[arg(long = "gen", value_name = "N", default_value_t = 64)]
    generate: u32,
    /// The most rows of a prefill step
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    chunk: u32,
    /// How often both are measured
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Seed of random weights and prompts
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Measure each kernel beside the least time that its bytes and operations could take: decode
    /// of each batch behind several contexts, and prefill of several lengths
    #[arg(long)]
    kernels: bool,
    /// Print one JSON object for each size, or each kernel, a line each
    #[arg(long)]
    json: bool,
}

impl BenchArgs {
    /// The largest batch.
    fn most(&self) -> u32 {
        self.batch.iter().copied().max().unwrap_or(1)
    }
}

/// Why a benchmark could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The model could not be opened.
    #[error("run benchmark: {0}")]
    Model(#[from] crate::model::ModelError),
    /// The device could not do it.
    #[error("run benchmark: {0}")]
    Device(#[from] DeviceError),
    /// Prompt and generated tokens do not fit the model.
    #[error("run benchmark: context: expected at most {most} tokens, found {found}")]
    Context {
        /// The model's longest context.
        most: u32,
        /// Prompt and generated tokens together.
        found: u64,
    },
    /// The result could not be written.
    #[error("write result: {0}")]
    Output(#[from] std::io::Error),
}

/// What `--json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Outcome {
    model: String,
    /// The device's own name.
    device: String,
    precision: &'static str,
    kv_precision: &'static str,
    /// Of the processor; none on a card.
    threads: Option<usize>,
    /// Which techniques were used.
    techniques: BTreeMap<&'static str, bool>,
    batch: u32,
    prompt: u32,
    #[serde(rename = "gen")]
    generate: u32,
    repeats: u32,
    /// Medians.
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    /// Weight bytes that decode steps had to read, by the time they took.
    weight_bytes_per_s: f64,
    /// What plain reading of memory reached in turns with the decode steps. Memory is shared with
    /// whoever else is on the machine, so only what is measured side by side compares.
    read_bytes_per_s: u64,
    /// Weight bytes by bytes plainly read, repeat by repeat.
    read_share: f64,
    prefill: Rates,
    decode: Rates,
    /// What tells when operations ran: host_clock, events or records.
    timed_by: &'static str,
    /// What a reader of their times should know: why there are no records of kernels, if there are
    /// none, and of how many steps that left no operation with a time.
    timed_by_note: Option<String>,
    /// What that does to the time of a step, of prefill and of decode; rates are of steps that
    /// nothing times. Nothing where all are timed, as they are by the host's clock.
    inflation: BTreeMap<&'static str, Inflation>,
    /// Of the time of decode steps that were timed, by kernel. The rest passed between kernels.
    decode_shares: BTreeMap<&'static str, f64>,
    /// What the card's own counters saw of further decode steps; none where there are none.
    counters: Option<Counted>,
    /// Why a card's counters could not be read.
    no_counters: Option<String>,
}

/// Runs the benchmark and prints its result.
///
/// # Errors
/// [`Failure`] if the device or the model cannot be opened, run or described.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let device = DeviceName::find(&args.device)?;
    let placement = placement(args, device)?;
    let measured = match measure(args, placement) {
        Err(BenchError::Output(error)) => unless_gone(Err(error)).map_err(BenchError::Output),
        measured => measured,
    };
    measured.map_err(|error| Failure::new(error, None::<String>))
}

fn measure(args: &BenchArgs, placement: Placement) -> Result<(), BenchError> {
    let model = open(&args.model, args.seed)?;
    let found = u64::from(args.prompt) + u64::from(args.generate);
    let most = model.shape().context;
    if found > most.into() {
        return Err(BenchError::Context { most, found });
    }
    let clock = WallClock::start();
    let device = Device::open(&model, placement, Arc::new(clock))?;
    let plan = Plan {
        sequences: args.most(),
        blocks_each: blocks_each(args),
        prompt: args.prompt,
        chunk: placement.limits.rows,
        seed: args.seed,
    };
    if args.kernels {
        return kernels::measure(&mut Bench::new(device, plan), args, model.name());
    }
    let probe = Probe::of(&device)?;
    let mut bench = Bench::new(device, plan);
    for batch in &args.batch {
        let measured = speed::measure(&mut bench, (&probe, clock), *batch, args)?;
        let read_rate = measured.rates[speed::READS].median;
        bench.time_operations(false);
        let counted = counted(&mut bench, (*batch, args.generate), clock, read_rate)?;
        let of = (model.name(), *batch);
        let mut outcome = outcome(&bench.device, args, placement, of, measured);
        match counted {
            None => {}
            Some(Ok(counted)) => outcome.counters = Some(counted),
            Some(Err(why)) => outcome.no_counters = Some(why),
        }
        print(&outcome, args.json)?;
    }
    Ok(())
}

fn outcome(
    device: &Device,
    args: &BenchArgs,
    placement: Placement,
    (model, batch): (&str, u32),
    measured: Measured,
) -> Outcome {
    let [prefill, decode, weights, reads, shares] = measured.rates;
    Outcome {
        model: model.to_owned(),
        precision: args.precision.code(),
        kv_precision: args.kv_precision.code(),
        device: device.backend().description().name.clone(),
        threads: match device {
            Device::Cpu(cpu) => Some(cpu.threads()),
            Device::Cuda(_) => None,
        },
        techniques: switches(placement.techniques),
        batch,
        prompt: args.prompt,
        generate: args.generate,
        repeats: args.repeats,
        prefill_tokens_per_s: prefill.median,
        decode_tokens_per_s: decode.median,
        weight_bytes_per_s: weights.median,
        read_bytes_per_s: reads.median as u64,
        read_share: shares.median,
        prefill,
        decode,
        timed_by: device.backend().timed_by().code(),
        timed_by_note: device.backend().timed_by().note(),
        inflation: measured.inflation,
        decode_shares: measured.decode_shares,
        counters: None,
        no_counters: None,
    }
}

const BLOCK_TOKENS: u32 = 16;
/// Kernels whose shares are printed.
const SHOWN: usize = 5;

/// How long a look at what plain reading reaches takes.
const READING: Duration = Duration::from_millis(60);

fn blocks_each(args: &BenchArgs) -> u32 {
    args.prompt.saturating_add(args.generate).saturating_add(1).div_ceil(BLOCK_TOKENS)
}

fn placement(args: &BenchArgs, device: DeviceName) -> Result<Placement, Failure> {
    Ok(Placement {
        device,
        precision: args.precision,
        kv_precision: args.kv_precision,
        limits: Limits {
            rows: args.chunk.max(args.most()),
            logits_rows: args.most(),
            kv_blocks: blocks_each(args).saturating_mul(args.most()),
            block_tokens: BLOCK_TOKENS,
        },
        threads: args.threads,
        techniques: args.techniques.on(device)?,
    })
}

/// What plain reading of a device's memory reads.
enum Probe {
    Cpu(crate::backend::cpu::ReadProbe),
    Cuda(crate::backend::cuda::ReadProbe),
}

impl Probe {
    fn of(device: &Device) -> Result<Self, DeviceError> {
        Ok(match device {
            Device::Cpu(cpu) => Self::Cpu(cpu.read_probe()?),
            Device::Cuda(cuda) => Self::Cuda(cuda.read_probe()?),
        })
    }

    /// Bytes, and the time they took.
    fn read(&self, device: &Device) -> Result<(u64, Nanos), DeviceError> {
        match (self, device) {
            (Self::Cpu(probe), Device::Cpu(cpu)) => Ok(cpu.read(probe, READING)),
            (Self::Cuda(probe), Device::Cuda(cuda)) => cuda.read(probe, READING),
            // A probe is made of the device that it reads.
            _ => Ok((0, Nanos::ZERO)),
        }
    }
}

fn print(outcome: &Outcome, json: bool) -> Result<(), BenchError> {
    let mut out = std::io::stdout().lock();
    if json {
        let text = serde_json::to_string(outcome).map_err(std::io::Error::from)?;
        writeln!(out, "{text}")?;
        return Ok(());
    }
    let Outcome { model, precision, threads, batch, prompt, generate, repeats, .. } = outcome;
    let on = match threads {
        Some(threads) => format!("{threads} threads"),
        None => outcome.device.clone(),
    };
    writeln!(out, "{model} {precision}, {on}, batch {batch}, {repeats} repeats")?;
    let off: Vec<&str> =
        outcome.techniques.iter().filter(|(_, on)| !**on).map(|(name, _)| *name).collect();
    if !off.is_empty() {
        writeln!(out, "without {}", off.join(", "))?;
    }
    writeln!(out, "{:28}{:>12}{:>12}{:>12}", "", "median", "least", "most")?;
    for (name, rates) in [
        (format!("prefill {prompt}, tokens/s"), &outcome.prefill),
        (format!("decode {generate}, tokens/s"), &outcome.decode),
    ] {
        let Rates { median, least, most } = rates;
        writeln!(out, "{name:28}{median:>12.1}{least:>12.1}{most:>12.1}")?;
    }
    let name = "decode, weights read, GB/s";
    writeln!(out, "{name:28}{:>12.1}", outcome.weight_bytes_per_s / 1e9)?;
    let (name, share) = ("plain reading in turns, GB/s", 100.0 * outcome.read_share);
    writeln!(
        out,
        "{name:28}{:>12.1}  ({share:.0} % reached)",
        outcome.read_bytes_per_s as f64 / 1e9
    )?;
    print_shares(&mut out, outcome)?;
    if let Some(counted) = &outcome.counters {
        counted.print(&mut out)?;
    }
    if let Some(why) = &outcome.no_counters {
        writeln!(out, "{:28}{:>12}  ({why})", "decode, counted, GB/s", "none")?;
    }
    Ok(())
}

/// The kernels that take most of a decode step, and what it costs to know that.
fn print_shares(out: &mut impl Write, outcome: &Outcome) -> Result<(), BenchError> {
    let mut shares: Vec<_> = outcome.decode_shares.iter().collect();
    shares.sort_by(|a, b| b.1.total_cmp(a.1));
    let between = 1.0 - outcome.decode_shares.values().sum::<f64>();
    let largest = shares.iter().take(SHOWN).map(|(kernel, share)| (**kernel, **share));
    let all = largest.chain([("between kernels", between.max(0.0))]);
    let all: Vec<_> = all.map(|(what, share)| format!("{what} {:.1} %", 100.0 * share)).collect();
    writeln!(out, "{:28}{}", "decode, largest shares", all.join(", "))?;
    for (phase, Inflation { pairs, median, quartiles: [low, high] }) in &outcome.inflation {
        let (name, by) = (format!("{phase}, timed by untimed"), outcome.timed_by);
        writeln!(
            out,
            "{name:28}{median:>12.3}  (by {by}, {pairs} pairs, quartiles {low:.3} to {high:.3})"
        )?;
    }
    if let Some(note) = &outcome.timed_by_note {
        writeln!(out, "{note}")?;
    }
    Ok(())
}
