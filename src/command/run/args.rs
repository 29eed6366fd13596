//! The flags of `gemba run`, and what they ask for.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::super::Failure;
use super::super::technique::TechniqueArgs;
use super::super::telemetry::TelemetryArgs;
use super::super::workload::{FormatName, ReadArgs, ReplayArgs};
use crate::model::Encoding;
use crate::schedule::{Allocation, Batching, KvMemory, Options, Scheduling, Stopping};
use crate::session::{FreeTokens, Generation};
use crate::trace::{EnergyModel, Price, Slo};
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
    #[arg(long, value_name = "N", default_value_t = 8)]
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
    #[arg(long, value_name = "MS", default_value_t = 50.0)]
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
    #[arg(long, value_name = "T", default_value_t = 0.0, requires = "free")]
    pub temperature: f32,
    /// Only the likeliest so many tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0, requires = "free")]
    pub top_k: u32,
    /// Only the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, requires = "free")]
    pub top_p: f32,
    /// Do not stop at the model's end token
    #[arg(long, requires = "free")]
    pub ignore_eos: bool,
}

/// What is promised and what it costs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Terms")]
pub struct TermArgs {
    /// The promise in milliseconds, as in `ttft:200 tpot:20 e2el:5000` [default: the workload's]
    #[arg(long, value_name = "NAME:MS", num_args = 1.., value_delimiter = ' ')]
    pub goodput: Vec<String>,
    /// Dollars per device and hour
    #[arg(long, value_name = "USD")]
    pub price_per_hour: Option<f64>,
    /// Declared power of the idle device in watts, where there is no meter
    #[arg(long, value_name = "W", requires = "busy_watts")]
    pub idle_watts: Option<f64>,
    /// Declared power of the busy device in watts
    #[arg(long, value_name = "W", requires = "idle_watts")]
    pub busy_watts: Option<f64>,
}

fn usage(message: String) -> Failure {
    Failure::new(message, Some("`gemba run --help` lists the flags"))
}

impl EngineArgs {
    /// The scheduler's switches for sequences of at most `longest` tokens.
    ///
    /// # Errors
    /// [`Failure`] if they cannot work together.
    pub fn options(&self, longest: u32) -> Result<Options, Failure> {
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

impl TermArgs {
    /// The promise: the flags', else the workload's.
    ///
    /// # Errors
    /// [`Failure`] if a flag is not `NAME:MILLISECONDS`.
    pub fn slo(&self, workload: crate::workload::Slo) -> Result<Slo, Failure> {
        if self.goodput.is_empty() {
            let crate::workload::Slo { ttft, tpot, e2el } = workload;
            return Ok(Slo { ttft_ns: ttft, tpot_ns: tpot, e2e_ns: e2el });
        }
        let mut slo = Slo::default();
        for word in self.goodput.iter().filter(|word| !word.is_empty()) {
            let expected = || {
                usage(format!(
                    "read --goodput: expected ttft, tpot or e2el with milliseconds, as in \
                     ttft:200, found {word}"
                ))
            };
            let (name, milliseconds) = word.split_once(':').ok_or_else(expected)?;
            let milliseconds: f64 = milliseconds.parse().map_err(|_| expected())?;
            if !(0.0..1e12).contains(&milliseconds) {
                return Err(expected());
            }
            let limit = Some(Nanos::from_secs_f64(milliseconds / 1e3));
            match name {
                "ttft" | "time_to_first_token" => slo.ttft_ns = limit,
                "tpot" | "time_per_output_token" | "inter_token_latency" => slo.tpot_ns = limit,
                "e2el" | "e2e" | "request_latency" => slo.e2e_ns = limit,
                _ => return Err(expected()),
            }
        }
        Ok(slo)
    }

    /// The price, if one was given.
    ///
    /// # Errors
    /// [`Failure`] if it is no amount of money.
    pub fn price(&self) -> Result<Option<Price>, Failure> {
        let Some(dollars) = self.price_per_hour else { return Ok(None) };
        if !(0.0..1e6).contains(&dollars) {
            return Err(usage(format!(
                "set --price-per-hour: expected 0 to 1e6 dollars, found {dollars}"
            )));
        }
        let picodollars = (dollars * 1e12).round() as u64;
        Ok(Some(Price { picodollars_per_device_hour: picodollars }))
    }

    /// The declared power, if any was given.
    ///
    /// # Errors
    /// [`Failure`] if it is no power.
    pub fn energy(&self) -> Result<Option<EnergyModel>, Failure> {
        let (Some(idle), Some(busy)) = (self.idle_watts, self.busy_watts) else {
            return Ok(None);
        };
        if !(0.0..1e6).contains(&idle) || !(0.0..1e6).contains(&busy) || busy < idle {
            return Err(usage(format!(
                "set --idle-watts and --busy-watts: expected 0 ≤ idle ≤ busy < 1e6, found {idle} \
                 and {busy}"
            )));
        }
        let milliwatts = |watts: f64| (watts * 1e3).round() as u64;
        Ok(Some(EnergyModel { idle_mw: milliwatts(idle), busy_mw: milliwatts(busy) }))
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
            let options = args.engine.options(256).map(|_| ());
            let terms = args.terms.slo(crate::workload::Slo::default()).map(|_| ());
            let price = args.terms.price().map(|_| ());
            let energy = args.terms.energy().map(|_| ());
            let all = options.and(terms).and(price).and(energy);
            all.expect_err(&words.join(" ")).message
        };
        for (words, expected) in [
            (&["--scheduler=takt"][..], "takt is a reserved word"),
            (&["--scheduler=magic"], "found magic"),
            (&["--max-num-seqs=0"], "set max_num_seqs: expected at least 1, found 0"),
            (&["--reserve-kv", "--kv-blocks=3"], "set kv_blocks: expected at least 16"),
            (&["--batch-window-ms=-1"], "set --batch-window-ms: expected 0 to 1e9, found -1"),
            (&["--goodput=ttft"], "read --goodput: expected"),
            (&["--goodput=ttft:x"], "found ttft:x"),
            (&["--price-per-hour=-2"], "set --price-per-hour"),
            (&["--idle-watts=9", "--busy-watts=3"], "found 9 and 3"),
        ] {
            let said = message(words);
            assert!(said.contains(expected), "{words:?}: {said}");
        }
    }

    #[test]
    fn the_promise_comes_from_the_flags_or_the_workload() {
        let args = parse(&["--goodput", "ttft:200 tpot:20"]);
        let slo = args.terms.slo(crate::workload::Slo::default()).unwrap();
        assert_eq!(slo.ttft_ns, Some(Nanos(200_000_000)));
        assert_eq!(slo.tpot_ns, Some(Nanos(20_000_000)));
        let theirs = crate::workload::Slo { e2el: Some(Nanos(7)), ..Default::default() };
        assert_eq!(parse(&[]).terms.slo(theirs).unwrap().e2e_ns, Some(Nanos(7)));
    }
}
