//! The schema of a description, version 1. Unknown keys are refused.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::arrival::ArrivalProcess;
use super::length::Length;
use crate::unit::Nanos;
use crate::workload::error::{Place, WorkloadError};
use crate::workload::request::{Checker, Slo};
use crate::workload::{Format, Lengths, Pace, Replay};

/// The only schema so far.
const SCHEMA: u32 = 1;

/// What a TOML file says of a workload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Version of this schema: 1.
    pub schema: u32,
    /// A name for people; the file's where absent.
    pub name: Option<String>,
    /// From which everything is drawn; 0 where absent.
    #[serde(default)]
    pub seed: u64,
    /// How many requests.
    pub requests: Option<u64>,
    /// For how long requests arrive, in seconds. With `requests`: whichever ends first.
    pub duration_s: Option<f64>,
    /// Tokens of a block of shared prefixes.
    #[serde(default = "default_block_tokens")]
    pub block_tokens: u32,
    /// When requests come. Beside `recorded`: instead of when they were recorded.
    pub arrival: Option<ArrivalProcess>,
    /// Targets of all classes.
    #[serde(default)]
    pub slo: Targets,
    /// What comes.
    #[serde(default)]
    pub class: Vec<ClassDescription>,
    /// A recorded trace to be replayed, in place of classes.
    pub recorded: Option<RecordedDescription>,
}

/// A recorded trace and how it is replayed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedDescription {
    /// The file, relative to the description's own folder.
    pub file: PathBuf,
    /// Its format; told by content where absent.
    pub format: Option<String>,
    /// How many times faster than recorded requests arrive.
    pub speedup: Option<f64>,
    /// Where in the recording the replay starts, in seconds after its first arrival.
    pub start_offset_s: Option<f64>,
    /// Prompts are this many times as long as recorded.
    pub prompt_factor: Option<f64>,
    /// Outputs are this many times as long as recorded.
    pub output_factor: Option<f64>,
    /// Prompts are cut to this length, after the factor.
    pub max_prompt_tokens: Option<u32>,
    /// Outputs are cut to this length, after the factor.
    pub max_output_tokens: Option<u32>,
}

const fn default_block_tokens() -> u32 {
    16
}

/// One class of requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassDescription {
    /// Its name, as the books will call it.
    pub name: String,
    /// How often it is drawn, relative to the other classes.
    #[serde(default = "one")]
    pub weight: f64,
    /// Length of prompts, without a shared prefix.
    pub prompt_tokens: Length,
    /// Length of outputs.
    pub output_tokens: Length,
    /// Prefixes that its prompts share.
    pub prefixes: Option<Prefixes>,
    /// Its own targets; the workload's count where one is absent.
    #[serde(default)]
    pub slo: Targets,
    /// How its answers are judged.
    pub checker: Option<Checker>,
    /// Every k-th of its requests ends malformed; needs `checker = "recorded"`.
    pub malformed_every: Option<u64>,
    /// Every k-th of its requests repeats the one before, prompt and output.
    pub duplicate_every: Option<u64>,
    /// Clients that go away.
    pub cancel: Option<Impatience>,
    /// Clients with a time limit.
    pub timeout: Option<Impatience>,
}

const fn one() -> f64 {
    1.0
}

/// Shared prefixes of a class.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefixes {
    /// How many different ones.
    pub count: u32,
    /// Tokens of each; a multiple of the workload's `block_tokens`.
    pub tokens: u32,
    /// How often each is drawn; equally often where absent.
    pub weights: Option<Vec<f64>>,
}

/// Clients that do not wait for ever.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Impatience {
    /// The share of requests that it holds for, drawn for each.
    pub share: f64,
    /// After how long from arrival, in milliseconds.
    pub after_ms: f64,
}

/// Service level objectives in milliseconds, as benchmark tools write them.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// Time to first token.
    pub ttft_ms: Option<f64>,
    /// Time per output token after the first.
    pub tpot_ms: Option<f64>,
    /// End to end latency.
    pub e2el_ms: Option<f64>,
}

impl Targets {
    /// As the workload keeps them.
    #[must_use]
    pub fn slo(&self) -> Slo {
        let nanos = |ms: Option<f64>| ms.map(|ms| Nanos::from_secs_f64(ms / 1e3));
        Slo { ttft: nanos(self.ttft_ms), tpot: nanos(self.tpot_ms), e2el: nanos(self.e2el_ms) }
    }

    fn check(&self, of: &str) -> Result<(), String> {
        for (name, ms) in
            [("ttft_ms", self.ttft_ms), ("tpot_ms", self.tpot_ms), ("e2el_ms", self.e2el_ms)]
        {
            positive(ms.unwrap_or(1.0), &format!("{of}{name}"))?;
        }
        Ok(())
    }
}

impl Description {
    /// Reads and checks a description.
    ///
    /// # Errors
    /// When the text is no TOML, holds unknown keys, lacks one, or a value makes no sense.
    pub fn parse(text: &str, path: &Path) -> Result<Self, WorkloadError> {
        let description: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| {
                let before = text.as_bytes().get(..span.start).unwrap_or_default();
                1 + before.iter().filter(|&&byte| byte == b'\n').count() as u64
            });
            let message = error.message().replace('\n', ", ");
            WorkloadError::Description { at: Place { path: path.to_path_buf(), line }, message }
        })?;
        description
            .check()
            .map_err(|message| WorkloadError::Description { at: Place::file(path), message })?;
        Ok(description)
    }

    fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("expected schema = {SCHEMA}, found {}", self.schema));
        }
        if self.requests == Some(0) {
            return Err("expected requests of at least 1, found 0".to_owned());
        }
        positive(self.duration_s.unwrap_or(1.0), "duration_s")?;
        if self.block_tokens == 0 {
            return Err("expected block_tokens of at least 1, found 0".to_owned());
        }
        if let Some(arrival) = &self.arrival {
            arrival.check()?;
        }
        self.slo.check("slo.")?;
        match (&self.recorded, self.class.is_empty()) {
            (Some(recorded), true) => recorded.check(),
            (None, false) => self.check_classes(),
            (Some(_), false) => Err("expected either [recorded] or [[class]], found both".into()),
            (None, true) => Err("expected [recorded] or a [[class]], found neither".into()),
        }
    }

    fn check_classes(&self) -> Result<(), String> {
        let Some(arrival) = &self.arrival else {
            return Err("expected [arrival] beside [[class]], found none".to_owned());
        };
        if self.requests.is_none() && self.duration_s.is_none() {
            return Err("expected requests or duration_s, found neither".to_owned());
        }
        if self.requests.is_none() && matches!(arrival, ArrivalProcess::AllAtOnce {}) {
            return Err("expected requests beside process = \"all_at_once\", found none".to_owned());
        }
        for (i, class) in self.class.iter().enumerate() {
            class.check(self.block_tokens).map_err(|m| format!("class {:?}: {m}", class.name))?;
            if self.class[..i].iter().any(|earlier| earlier.name == class.name) {
                return Err(format!(
                    "expected classes of different names, found {:?} twice",
                    class.name
                ));
            }
        }
        Ok(())
    }
}

impl RecordedDescription {
    fn check(&self) -> Result<(), String> {
        for (name, factor) in [
            ("speedup", self.speedup),
            ("prompt_factor", self.prompt_factor),
            ("output_factor", self.output_factor),
        ] {
            positive(factor.unwrap_or(1.0), &format!("recorded.{name}"))?;
        }
        if !(0.0..1e9).contains(&self.start_offset_s.unwrap_or(0.0)) {
            return Err("expected recorded.start_offset_s of at least 0, found less".to_owned());
        }
        let caps = [self.max_prompt_tokens, self.max_output_tokens];
        if caps.contains(&Some(0)) {
            return Err("expected recorded caps of at least 1 token, found 0".to_owned());
        }
        if let Some(name) = self.format.as_ref().filter(|f| Format::from_name(f).is_none()) {
            return Err(format!("expected recorded.format of {}, found {name:?}", Format::names()));
        }
        Ok(())
    }

    /// What it does to the recording.
    #[must_use]
    pub fn replay(&self) -> Replay {
        let lengths = Lengths {
            prompt_factor: self.prompt_factor.unwrap_or(1.0),
            output_factor: self.output_factor.unwrap_or(1.0),
            max_prompt_tokens: self.max_prompt_tokens,
            max_output_tokens: self.max_output_tokens,
            context_tokens: None,
        };
        Replay {
            start_offset: Nanos::from_secs_f64(self.start_offset_s.unwrap_or(0.0)),
            pace: Pace::Recorded { speedup: self.speedup.unwrap_or(1.0) },
            lengths,
            ..Replay::default()
        }
    }
}

impl ClassDescription {
    fn check(&self, block_tokens: u32) -> Result<(), String> {
        positive(self.weight, "weight")?;
        self.prompt_tokens.check("prompt_tokens")?;
        self.output_tokens.check("output_tokens")?;
        self.slo.check("slo.")?;
        if let Some(prefixes) = &self.prefixes {
            prefixes.check(block_tokens)?;
        }
        if self.malformed_every.is_some() && self.checker != Some(Checker::Recorded) {
            return Err("expected checker = \"recorded\" beside malformed_every, found none".into());
        }
        for (every, name) in
            [(self.malformed_every, "malformed_every"), (self.duplicate_every, "duplicate_every")]
        {
            if every.is_some_and(|k| k < 2) {
                return Err(format!("expected {name} of at least 2, found {}", every.unwrap_or(0)));
            }
        }
        for (impatience, name) in [(self.cancel, "cancel"), (self.timeout, "timeout")] {
            let Some(Impatience { share, after_ms }) = impatience else { continue };
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("expected {name}.share from 0 to 1, found {share}"));
            }
            positive(after_ms, &format!("{name}.after_ms"))?;
        }
        Ok(())
    }
}

impl Prefixes {
    fn check(&self, block_tokens: u32) -> Result<(), String> {
        if self.count == 0 || self.count > 100_000 {
            return Err(format!("expected prefixes.count from 1 to 100000, found {}", self.count));
        }
        if self.tokens == 0 || !self.tokens.is_multiple_of(block_tokens) || self.tokens > 5_000_000
        {
            return Err(format!(
                "expected prefixes.tokens as a multiple of block_tokens = {block_tokens} of at \
                 most 5000000, found {}",
                self.tokens
            ));
        }
        check_weights(self.weights.as_deref(), self.count as usize, "prefixes.weights")
    }
}

/// One positive weight for each of `count` things, if there are weights at all.
pub(super) fn check_weights(
    weights: Option<&[f64]>,
    count: usize,
    name: &str,
) -> Result<(), String> {
    let Some(weights) = weights else { return Ok(()) };
    if weights.len() != count {
        return Err(format!("expected {count} {name}, found {}", weights.len()));
    }
    weights.iter().try_for_each(|&weight| positive(weight, name))
}

/// A finite number above zero and below 10¹⁵.
pub(super) fn positive(x: f64, name: &str) -> Result<(), String> {
    // With less, a whole workload would lie beyond any clock.
    if (1e-9..1e15).contains(&x) {
        return Ok(());
    }
    Err(format!("expected {name} between 1e-9 and 1e15, found {x:?}"))
}
