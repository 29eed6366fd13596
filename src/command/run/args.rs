//! The flags of `gemba run`, and what they ask for.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::super::Failure;
use super::super::device::{DeviceName, Placement};
use super::super::technique::TechniqueArgs;
use super::super::telemetry::TelemetryArgs;
use super::super::workload::{FormatName, ReadArgs, ReplayArgs};
use super::terms::TermArgs;
use crate::engine::limits;
use crate::model::{Encoding, Model, Precision};
use crate::schedule::{Allocation, Batching, KvMemory, Options, Scheduling, Stopping};
use crate::session::{FreeTokens, Generation};
use crate::unit::Nanos;

/// `gemba run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A workload file of any format, or the name of a shipped workload
    #[arg(default_value = "default")]
    pub workload: PathBuf,
    /// Which format the workload is, if its content does not tell
    #[arg(long, value_enum, alias = "dataset-type")]
    pub format: Option<FormatName>,
    /// How the workload is read
    #[command(flatten)]
    pub read: ReadArgs,
    /// How it is replayed
    #[command(flatten)]
    pub replay: ReplayArgs,
    /// What it runs on
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Where tokens come from
    #[command(flatten)]
    pub tokens: TokenArgs,
    /// What is promised and what it costs
    #[command(flatten)]
    pub terms: TermArgs,
    /// Where results go
    #[command(flatten)]
    pub output: OutputArgs,
    /// Where telemetry goes
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// Where results go.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// The run folder to make [default: the next free runs/NNNN-WORKLOAD-SCHEDULER]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// What to show while it runs
    #[arg(long, value_enum, default_value_t = Ui::Plain)]
    pub ui: Ui,
    /// Print one JSON object with the headline figures and the paths
    #[arg(long)]
    pub json: bool,
    /// Pairs of short runs, recorded and not, that measure what recording costs; 0 for none
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = observer_pairs())]
    pub observer_pairs: u32,
}

/// What to show while a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ui {
    /// A dashboard
    Tui,
    /// A progress bar, or lines where there is no terminal
    Plain,
    /// Nothing
    None,
}

/// More than any machine has.
const MOST_THREADS: usize = 1024;

/// What the workload runs on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// The model: shape:NAME for random weights of a real model's shape, a Hugging Face folder,
    /// or a GGUF file
    #[arg(long, value_name = "MODEL", default_value = "shape:stories15m")]
    pub model: String,
    /// The device: cpu, or cuda[:N]
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// The format of the weights: f32 on cpu, e4m3, i8, i4, nf4 on cuda, bf16, f16, q8_0, q4_0
    /// [default: q8_0 for shapes, else as stored]
    #[arg(long, value_name = "P", value_parser = Encoding::named)]
    pub precision: Option<Encoding>,
    /// The format of the KV cache: f16, f32 on cpu, bf16, e4m3, i8 on cuda
    #[arg(long, value_name = "P", default_value = "f16", value_parser = Encoding::named)]
    pub kv_precision: Encoding,
    /// Threads [default: as many as the machine has cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// What it does without
    #[command(flatten)]
    pub techniques: TechniqueArgs,
    /// How requests are batched
    #[command(flatten)]
    pub batching: BatchingArgs,
    /// How KV memory is used
    #[command(flatten)]
    pub memory: MemoryArgs,
}

/// How requests are batched.
#[derive(Debug, Args)]
#[command(next_help_heading = "Batching")]
pub struct BatchingArgs {
    /// When waiting requests are let in: static, window or continuous
    #[arg(long, value_name = "WORD", default_value = "continuous")]
    pub scheduler: String,
    /// The most requests that run at once; the size of a static batch
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_num_seqs: u32,
    /// The most rows in a step [default: 512, or the longest sequence without chunked prefill]
    #[arg(long, value_name = "N")]
    pub max_num_batched_tokens: Option<u32>,
    /// Never spread a prompt over several steps
    #[arg(long)]
    pub no_chunked_prefill: bool,
    /// Milliseconds after which a batch that is not full starts
    #[arg(long, value_name = "MS", default_value_t = 50.0, allow_negative_numbers = true)]
    pub batch_window_ms: f64,
    /// Notice stops and cancellations every so many steps
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub stop_check_interval: u32,
    /// Run requests to their end although their client has gone
    #[arg(long)]
    pub ignore_disconnect: bool,
}

/// How KV memory is used.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory")]
pub struct MemoryArgs {
    /// KV blocks [default: enough for --max-num-seqs requests of the longest length]
    #[arg(long, value_name = "N", alias = "num-gpu-blocks-override")]
    pub kv_blocks: Option<u32>,
    /// Tokens in a KV block
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub block_size: u32,
    /// Reserve KV memory for the longest length when a request is admitted
    #[arg(long)]
    pub reserve_kv: bool,
    /// Do not keep KV blocks for later requests with the same prefix
    #[arg(long)]
    pub no_prefix_cache: bool,
}

/// Where tokens come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tokens")]
pub struct TokenArgs {
    /// Let the model choose the tokens, up to the workload's lengths; without it every run
    /// does the same work
    #[arg(long)]
    pub free: bool,
    /// 0 takes the likeliest token
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.0,
        requires = "free",
        allow_negative_numbers = true
    )]
    pub temperature: f32,
    /// Only the likeliest so many tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0, requires = "free")]
    pub top_k: u32,
    /// Only the likeliest tokens that together reach this probability
    #[arg(
        long,
        value_name = "P",
        default_value_t = 1.0,
        requires = "free",
        allow_negative_numbers = true
    )]
    pub top_p: f32,
    /// Do not stop at the model's end token
    #[arg(long, requires = "free")]
    pub ignore_eos: bool,
}

/// How many pairs of short runs there may be: more take longer than any run.
pub fn observer_pairs() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=1000)
}

/// The command whose flags these are: what is wrong with one is looked up there.
#[derive(Clone, Copy, Debug)]
pub struct Flags(pub &'static str);

impl Flags {
    /// A flag that makes no sense.
    pub fn wrong(self, message: String) -> Failure {
        Failure::new(message, Some(format!("`gemba {} --help` lists the flags", self.0)))
    }
}

impl EngineArgs {
    /// The processor's threads; 0 for as many as it has cores.
    ///
    /// # Errors
    /// [`Failure`] if none are asked for, or absurdly many.
    fn threads(&self, flags: Flags) -> Result<usize, Failure> {
        match self.threads {
            None => Ok(0),
            Some(threads) if (1..=MOST_THREADS).contains(&threads) => Ok(threads),
            Some(threads) => Err(flags
                .wrong(format!("set --threads: expected 1 to {MOST_THREADS}, found {threads}"))),
        }
    }

    /// Where and how a model runs. Random weights, which nobody stored, are q8_0 where nothing
    /// else is said.
    ///
    /// # Errors
    /// [`Failure`] if the device cannot do it so.
    pub(in crate::command) fn placement(
        &self,
        flags: Flags,
        device: DeviceName,
        model: &Model,
        switches: &Options,
    ) -> Result<Placement, Failure> {
        let stored = if model.is_random() { Precision::Q8_0 } else { model.precision() };
        Ok(Placement {
            device,
            precision: self.precision.unwrap_or(stored.into()),
            kv_precision: self.kv_precision,
            limits: limits(switches),
            threads: self.threads(flags)?,
            techniques: self.techniques.on(device)?,
        })
    }

    /// The scheduler's switches for sequences of at most `longest` tokens on a device.
    ///
    /// # Errors
    /// [`Failure`] if they cannot work together.
    pub(in crate::command) fn options(
        &self,
        flags: Flags,
        device: DeviceName,
        longest: u32,
    ) -> Result<Options, Failure> {
        let usage = |message| flags.wrong(message);
        let (batching, memory) = (&self.batching, &self.memory);
        let scheduling: Scheduling =
            batching.scheduler.parse().map_err(|error| usage(format!("{error}")))?;
        let milliseconds = batching.batch_window_ms;
        if !(0.0..1e9).contains(&milliseconds) {
            return Err(usage(format!(
                "set --batch-window-ms: expected 0 to 1e9, found {milliseconds}"
            )));
        }
        let whole_prompts = batching.no_chunked_prefill || scheduling.is_batched();
        let budget = batching.max_num_batched_tokens.unwrap_or(if whole_prompts {
            longest.saturating_mul(batching.max_num_seqs).clamp(512, 8192).max(longest)
        } else {
            512.max(batching.max_num_seqs)
        });
        let per_sequence = longest.div_ceil(memory.block_size.max(1));
        let options = Options {
            batching: Batching {
                scheduling,
                max_num_seqs: batching.max_num_seqs,
                max_num_batched_tokens: budget,
                chunked_prefill: !batching.no_chunked_prefill,
                window_ns: Nanos::from_secs_f64(milliseconds / 1e3),
                decode_buckets: device != DeviceName::Cpu && self.techniques.on(device)?.graphs(),
            },
            memory: KvMemory {
                kv_blocks: memory
                    .kv_blocks
                    .unwrap_or(per_sequence.saturating_mul(batching.max_num_seqs)),
                block_tokens: memory.block_size,
                max_sequence_tokens: longest,
                allocation: if memory.reserve_kv {
                    Allocation::Reserved
                } else {
                    Allocation::Paged
                },
                prefix_cache: !memory.no_prefix_cache,
            },
            stopping: Stopping {
                check_interval: batching.stop_check_interval,
                honour_cancel: !batching.ignore_disconnect,
            },
        };
        options.check().map_err(|error| usage(error.to_string()))?;
        Ok(options)
    }
}

impl TokenArgs {
    /// Where tokens come from, for a model that ends its answers with `end_tokens`.
    ///
    /// # Errors
    /// [`Failure`] if nothing can be drawn with these settings.
    pub fn generation(&self, end_tokens: Vec<u32>, seed: u64) -> Result<Generation, Failure> {
        let usage = |message| Flags("run").wrong(message);
        if !self.free {
            return Ok(Generation::Pinned);
        }
        if !(0.0..=1e3).contains(&self.temperature) {
            let found = self.temperature;
            return Err(usage(format!("set --temperature: expected 0 to 1000, found {found:?}")));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let found = self.top_p;
            return Err(usage(format!(
                "set --top-p: expected above 0, at most 1, found {found:?}"
            )));
        }
        let end_tokens = if self.ignore_eos { Vec::new() } else { end_tokens };
        let (temperature, top_k, top_p) = (self.temperature, self.top_k, self.top_p);
        Ok(Generation::Free(FreeTokens { temperature, top_k, top_p, seed, end_tokens }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(words: &[&str]) -> RunArgs {
        Line::try_parse_from([&["gemba"], words].concat()).unwrap().run
    }

    #[test]
    fn flags_that_cannot_work_are_refused() {
        let message = |words: &[&str]| {
            let args = parse(words);
            let flags = Flags("serve");
            let options = args.engine.options(flags, DeviceName::Cpu, 256).map(|_| ());
            let threads = args.engine.threads(flags).map(|_| ());
            let terms = args.terms.slo(flags, crate::workload::Slo::default()).map(|_| ());
            let price = args.terms.price(flags).map(|_| ());
            let energy = args.terms.energy(flags).map(|_| ());
            let all = options.and(threads).and(terms).and(price).and(energy);
            let failure = all.expect_err(&words.join(" "));
            assert_eq!(failure.hint.as_deref(), Some("`gemba serve --help` lists the flags"));
            failure.message
        };
        for (words, expected) in [
            (&["--scheduler=takt"][..], "takt is a reserved word"),
            (&["--scheduler=magic"], "found magic"),
            (&["--max-num-seqs=0"], "set max_num_seqs: expected at least 1, found 0"),
            (&["--reserve-kv", "--kv-blocks=3"], "set kv_blocks: expected at least 16"),
            (&["--threads=0"], "set --threads: expected 1 to 1024, found 0"),
            (&["--threads=1000000"], "set --threads: expected 1 to 1024, found 1000000"),
            (&["--batch-window-ms", "-1"], "set --batch-window-ms: expected 0 to 1e9, found -1"),
            (&["--goodput=ttft"], "read --goodput: expected"),
            (&["--goodput=ttft:x"], "found ttft:x"),
            (&["--goodput=ttft:0"], "found ttft:0"),
            (&["--goodput=tpot:1e-7"], "found tpot:1e-7"),
            (&["--goodput=ttft:inf"], "found ttft:inf"),
            (&["--goodput=e2e:9 e2el:8"], "found a second limit, e2el:8"),
            (&["--price-per-hour", "-2"], "set --price-per-hour"),
            (&["--idle-watts=9", "--busy-watts=3"], "found 9 and 3"),
        ] {
            let said = message(words);
            assert!(said.contains(expected), "{words:?}: {said}");
        }
    }

    #[test]
    fn pairs_beyond_any_runs_length_are_refused() {
        let said = Line::try_parse_from(["gemba", "--observer-pairs=1001"]).err().unwrap();
        assert!(said.to_string().contains("1001 is not in 0..=1000"), "{said}");
        assert_eq!(parse(&["--observer-pairs=1000"]).output.observer_pairs, 1000);
    }

    #[test]
    fn the_promise_comes_from_the_flags_or_the_workload() {
        let args = parse(&["--goodput", "ttft:200 tpot:20"]);
        let slo = args.terms.slo(Flags("run"), crate::workload::Slo::default()).unwrap();
        assert_eq!(slo.ttft_ns, Some(Nanos(200_000_000)));
        assert_eq!(slo.tpot_ns, Some(Nanos(20_000_000)));
        let theirs = crate::workload::Slo { e2el: Some(Nanos(7)), ..Default::default() };
        assert_eq!(parse(&[]).terms.slo(Flags("run"), theirs).unwrap().e2e_ns, Some(Nanos(7)));
    }
}
