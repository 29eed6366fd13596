//! `gemba bench`: how fast a model runs here, prefill and decode apart, or each of its kernels.

mod counted;
mod kernels;
mod sequences;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Failure;
use super::device::{Device, DeviceName, Placement};
use super::technique::{TechniqueArgs, switches};
use crate::backend::{DeviceError, Limits};
use crate::event::{Clock, WallClock};
use crate::model::{Encoding, open};
use crate::unit::Nanos;

use counted::{Counted, counted};
use sequences::{Bench, Plan};

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

/// Several measurements of one rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Rates {
    median: f64,
    least: f64,
    most: f64,
}

impl Rates {
    fn of(mut rates: Vec<f64>) -> Self {
        rates.sort_by(f64::total_cmp);
        let middle = rates.len() / 2;
        let median = match rates.len() {
            0 => 0.0,
            len if len % 2 == 1 => rates[middle],
            _ => (rates[middle - 1] + rates[middle]) / 2.0,
        };
        let end = |rate: Option<&f64>| rate.copied().unwrap_or(0.0);
        Self { median, least: end(rates.first()), most: end(rates.last()) }
    }
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
    measure(args, placement).map_err(|error| Failure::new(error, None::<String>))
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
        let rates = rates(&mut bench, (&probe, clock), *batch, args)?;
        let read_rate = rates[READS].median;
        let counted = counted(&mut bench, (*batch, args.generate), clock, read_rate)?;
        let mut outcome = outcome(&bench.device, args, placement, (model.name(), *batch), rates);
        match counted {
            None => {}
            Some(Ok(counted)) => outcome.counters = Some(counted),
            Some(Err(why)) => outcome.no_counters = Some(why),
        }
        print(&outcome, args.json)?;
    }
    Ok(())
}

/// Prefill, decode, weights and plain reading, each per second, and weights by plain reading.
type Measured = [Rates; 5];
/// Where plain reading stands in it.
const READS: usize = 3;

/// Measures one batch, in turns with plain reading.
fn rates(
    bench: &mut Bench,
    (probe, clock): (&Probe, WallClock),
    batch: u32,
    args: &BenchArgs,
) -> Result<Measured, DeviceError> {
    let mut measured = [const { Vec::new() }; 5];
    // The first step only warms up.
    bench.decode(batch, 0..1)?;
    for _ in 0..args.repeats {
        let start = clock.now();
        bench.prefill(batch)?;
        let prefilled = clock.now().saturating_sub(start);
        let (mut weight_bytes, mut decoded) = (0, Nanos::ZERO);
        let (mut read_bytes, mut reading) = (0, Nanos::ZERO);
        for done in (0..args.generate).step_by(TURN as usize) {
            let start = clock.now();
            weight_bytes += bench.decode(batch, done..args.generate.min(done + TURN))?;
            decoded += clock.now().saturating_sub(start);
            let (bytes, time) = probe.read(&bench.device)?;
            (read_bytes, reading) = (read_bytes + bytes, reading + time);
        }
        let tokens = |each: u32| f64::from(batch) * f64::from(each);
        let weight_rate = per_second(weight_bytes as f64, decoded);
        let read_rate = per_second(read_bytes as f64, reading);
        let repeat = [
            per_second(tokens(args.prompt), prefilled),
            per_second(tokens(args.generate), decoded),
            weight_rate,
            read_rate,
            weight_rate / read_rate,
        ];
        measured.iter_mut().zip(repeat).for_each(|(all, one)| all.push(one));
    }
    Ok(measured.map(Rates::of))
}

fn outcome(
    device: &Device,
    args: &BenchArgs,
    placement: Placement,
    (model, batch): (&str, u32),
    [prefill, decode, weights, reads, shares]: Measured,
) -> Outcome {
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
        counters: None,
        no_counters: None,
    }
}

fn per_second(amount: f64, time: Nanos) -> f64 {
    if time == Nanos::ZERO { 0.0 } else { amount / time.as_secs_f64() }
}

const BLOCK_TOKENS: u32 = 16;

/// Decode steps between two looks at what plain reading reaches.
const TURN: u32 = 8;
/// How long such a look takes, in two halves.
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
    if let Some(counted) = &outcome.counters {
        counted.print(&mut out)?;
    }
    if let Some(why) = &outcome.no_counters {
        writeln!(out, "{:28}{:>12}  ({why})", "decode, counted, GB/s", "none")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_middle_and_ends() {
        for (rates, expected) in [
            (vec![], [0.0, 0.0, 0.0]),
            (vec![4.0], [4.0, 4.0, 4.0]),
            (vec![3.0, 1.0], [2.0, 1.0, 3.0]),
            (vec![3.0, 1.0, 2.0], [2.0, 1.0, 3.0]),
        ] {
            let Rates { median, least, most } = Rates::of(rates);
            assert_eq!([median, least, most], expected);
        }
    }
}
