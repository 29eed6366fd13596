//! `gemba workload`: what a workload holds, making one, changing its format.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::unit::{Nanos, make_printable};
use crate::workload::{
    ArrivalProcess, Format, Lengths, OpenOptions, Pace, Replay, Shown, Summary, Workload,
    WorkloadError, export, open,
};

/// Look at, make or convert workloads.
#[derive(Debug, Args)]
pub struct WorkloadArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: WorkloadAction,
}

/// What `gemba workload` can do.
#[derive(Debug, Subcommand)]
pub enum WorkloadAction {
    /// Show how many requests there are, how they arrive and how long they are
    Show(ShowArgs),
    /// Make requests from a TOML description, and write them down
    Gen(GenArgs),
    /// Write a workload in another format
    Convert(ConvertArgs),
}

/// `gemba workload show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A workload file of any format, or the name of a shipped workload
    pub workload: PathBuf,
    /// Print one JSON object; notes go to stderr
    #[arg(long)]
    pub json: bool,
    /// Which format it is, if its content does not tell
    #[arg(long, alias = "input-format", alias = "dataset-type", value_enum)]
    pub format: Option<FormatName>,
    /// How it is read.
    #[command(flatten)]
    pub read: ReadArgs,
    /// How it is replayed.
    #[command(flatten)]
    pub replay: ReplayArgs,
}

/// `gemba workload gen`.
#[derive(Debug, Args)]
pub struct GenArgs {
    /// A TOML description, or the name of a shipped one
    pub description: PathBuf,
    /// Where to write, in Gemba's own format
    #[arg(short, long)]
    pub output: PathBuf,
    /// How it is read.
    #[command(flatten)]
    pub read: ReadArgs,
}

/// `gemba workload convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A workload file of any format, or the name of a shipped workload
    pub input: PathBuf,
    /// Where to write
    pub output: PathBuf,
    /// The format to write: gemba, azure, mooncake or vidur
    #[arg(long, value_enum, default_value = "gemba")]
    pub format: FormatName,
    /// Which format the input is, if its content does not tell
    #[arg(long, value_enum)]
    pub input_format: Option<FormatName>,
    /// Leave out what the format cannot hold, and say what
    #[arg(long)]
    pub lossy: bool,
    /// How it is read.
    #[command(flatten)]
    pub read: ReadArgs,
    /// How it is replayed.
    #[command(flatten)]
    pub replay: ReplayArgs,
}

/// How a workload is read, for every command that reads one.
#[derive(Clone, Debug, Default, Args)]
pub struct ReadArgs {
    /// Seed of everything drawn [default: the workload's own]
    #[arg(long, alias = "random-seed")]
    pub seed: Option<u64>,
    /// A tokenizer.json, for formats that hold text instead of lengths
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

/// Which part of a workload is replayed, how fast and how long, for every command that plays one.
#[derive(Clone, Debug, Default, Args)]
pub struct ReplayArgs {
    /// Replay so many times faster than recorded
    #[arg(long, value_name = "X", conflicts_with = "request_rate", allow_negative_numbers = true)]
    pub speedup: Option<f64>,
    /// Start so many seconds into the recording
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub start_offset: Option<f64>,
    /// At most so many requests
    #[arg(long, value_name = "N", alias = "num-prompts", alias = "request-count")]
    pub num_requests: Option<usize>,
    /// Only what arrives in the first so many seconds of the replay
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub duration: Option<f64>,
    /// Draw arrivals anew, at so many requests a second; inf is all at once
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub request_rate: Option<f64>,
    /// How arrivals are drawn [default: as recorded; poisson with --request-rate]
    #[arg(long, value_enum, alias = "request-rate-mode")]
    pub arrival_pattern: Option<ArrivalPattern>,
    /// Shape of the gamma pattern: 1 is Poisson, less is burstier
    #[arg(
        long,
        value_name = "B",
        requires = "request_rate",
        alias = "vllm-burstiness",
        allow_negative_numbers = true
    )]
    pub burstiness: Option<f64>,
    /// Scale lengths so that every request fits so many tokens
    #[arg(long, value_name = "N", alias = "max-model-len")]
    pub context: Option<u32>,
}

/// How arrivals are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArrivalPattern {
    /// Evenly
    Constant,
    /// Independently
    Poisson,
    /// With gamma-distributed gaps, shaped by --burstiness
    Gamma,
    /// As recorded
    Trace,
}

/// A workload format on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatName(pub Format);

impl ValueEnum for FormatName {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [FormatName; Format::ALL.len()] = {
            let mut all = [FormatName(Format::Azure); Format::ALL.len()];
            let mut index = 0;
            while index < all.len() {
                all[index] = FormatName(Format::ALL[index]);
                index += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()))
    }
}

/// Why `gemba workload` failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadCommandError {
    /// The workload is at fault, or its file.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The tokenizer is.
    #[error("read tokenizer {path}: {what}")]
    Tokenizer {
        /// Its file.
        path: PathBuf,
        /// What was wrong.
        what: String,
    },
    /// Flags that contradict each other.
    #[error("understand the flags: expected {expected}, found {found}")]
    Flags {
        /// What would make sense.
        expected: &'static str,
        /// What was said.
        found: String,
    },
    /// The answer could not be written.
    #[error("write the answer: {0}")]
    Answer(#[from] std::io::Error),
}

impl WorkloadCommandError {
    /// What to try next, where there is an answer.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Workload(error) => error.hint(),
            Self::Tokenizer { .. } => {
                Some("pass the tokenizer.json of a Hugging Face model".to_owned())
            }
            _ => None,
        }
    }
}

/// Does what `args` ask: data to `out`, talk to `talk`.
///
/// # Errors
/// When the workload cannot be read, replayed or written, or a flag makes no sense.
pub fn run(
    args: &WorkloadArgs,
    out: &mut dyn Write,
    talk: &mut dyn Write,
) -> Result<(), WorkloadCommandError> {
    let done = match &args.action {
        WorkloadAction::Show(args) => show(args, out, talk),
        WorkloadAction::Gen(args) => generate(args, talk),
        WorkloadAction::Convert(args) => convert(args, talk),
    };
    match done {
        Err(WorkloadCommandError::Answer(error)) => Ok(super::unless_gone(Err(error))?),
        done => done,
    }
}

fn show(
    args: &ShowArgs,
    out: &mut dyn Write,
    talk: &mut dyn Write,
) -> Result<(), WorkloadCommandError> {
    let replay = args.replay.replay()?;
    let workload = args.read.open(&args.workload, args.format)?.replayed(&replay)?;
    let summary = Summary::of(&workload);
    if args.json {
        serde_json::to_writer(&mut *out, &summary).map_err(std::io::Error::from)?;
        writeln!(out)?;
        say_notes(&workload, talk)?;
    } else {
        write!(out, "{}", Shown { workload: &workload, summary: &summary })?;
    }
    Ok(())
}

fn generate(args: &GenArgs, talk: &mut dyn Write) -> Result<(), WorkloadCommandError> {
    let workload = args.read.open(&args.description, Some(FormatName(Format::Synthetic)))?;
    export(&workload, &args.output, Format::Gemba, false)?;
    say_notes(&workload, talk)?;
    say_written(&workload, &args.output, talk)
}

fn convert(args: &ConvertArgs, talk: &mut dyn Write) -> Result<(), WorkloadCommandError> {
    let replay = args.replay.replay()?;
    let workload = args.read.open(&args.input, args.input_format)?.replayed(&replay)?;
    let losses = export(&workload, &args.output, args.format.0, args.lossy)?;
    say_notes(&workload, talk)?;
    for loss in losses {
        writeln!(talk, "note: {} does not hold {loss}", args.format.0)?;
    }
    say_written(&workload, &args.output, talk)
}

fn say_notes(workload: &Workload, talk: &mut dyn Write) -> std::io::Result<()> {
    workload.notes.iter().try_for_each(|note| writeln!(talk, "note: {note}"))
}

fn say_written(
    workload: &Workload,
    path: &Path,
    talk: &mut dyn Write,
) -> Result<(), WorkloadCommandError> {
    let count = workload.requests.len();
    Ok(writeln!(talk, "wrote {count} requests to {}", path.display())?)
}

impl ReadArgs {
    /// Opens a workload, with a tokenizer if one was named.
    ///
    /// # Errors
    /// When the tokenizer or the workload cannot be read.
    pub fn open(
        &self,
        path: &Path,
        format: Option<FormatName>,
    ) -> Result<Workload, WorkloadCommandError> {
        let tokenizer = match &self.tokenizer {
            Some(path) => {
                let read = crate::model::Own::read(path);
                let failed = |what| WorkloadCommandError::Tokenizer { path: path.clone(), what };
                Some(read.map_err(failed)?)
            }
            None => None,
        };
        // A text that the tokenizer refuses has no length; the reader leaves it out and counts it.
        let count = |text: &str| {
            tokenizer.as_ref().and_then(|own| own.ids(text, false).ok()).map_or(0, |ids| ids.len())
        };
        let options = OpenOptions {
            format: format.map(|format| format.0),
            seed: self.seed,
            count_tokens: tokenizer.is_some().then_some(&count),
        };
        let mut workload = open(path, &options)?;
        // Names are printed, and a file may say anything.
        let names = workload.classes.iter_mut().map(|class| &mut class.name);
        names.chain([&mut workload.name]).for_each(make_printable);
        Ok(workload)
    }
}

impl ReplayArgs {
    /// What the flags ask for.
    ///
    /// # Errors
    /// When they contradict each other or a number makes no sense.
    pub fn replay(&self) -> Result<Replay, WorkloadCommandError> {
        let seconds = |flag: Option<f64>, expected: &'static str| match flag {
            Some(s) if !(0.0..1e9).contains(&s) => {
                Err(WorkloadCommandError::Flags { expected, found: s.to_string() })
            }
            _ => Ok(flag.map(Nanos::from_secs_f64)),
        };
        let start_offset = seconds(self.start_offset, "--start-offset from 0 to 1e9 seconds")?;
        let duration = seconds(self.duration, "--duration from 0 to 1e9 seconds")?;
        Ok(Replay {
            start_offset: start_offset.unwrap_or_default(),
            num_requests: self.num_requests,
            duration,
            pace: self.pace()?,
            lengths: Lengths { context_tokens: self.context, ..Lengths::default() },
        })
    }

    fn pace(&self) -> Result<Pace, WorkloadCommandError> {
        let flags = |expected, found: &str| {
            Err(WorkloadCommandError::Flags { expected, found: found.to_owned() })
        };
        let Some(rate) = self.request_rate else {
            return match self.arrival_pattern {
                None | Some(ArrivalPattern::Trace) => {
                    Ok(Pace::Recorded { speedup: self.speedup.unwrap_or(1.0) })
                }
                Some(_) => flags("--request-rate beside --arrival-pattern", "none"),
            };
        };
        let default = match self.burstiness {
            Some(_) => ArrivalPattern::Gamma,
            None => ArrivalPattern::Poisson,
        };
        let burstiness = self.burstiness.unwrap_or(1.0);
        Ok(Pace::Drawn(match self.arrival_pattern.unwrap_or(default) {
            ArrivalPattern::Trace => {
                return flags("no --request-rate beside --arrival-pattern trace", "one");
            }
            _ if rate == f64::INFINITY && self.burstiness.is_some() => {
                return flags("--burstiness with a --request-rate that has gaps", "inf");
            }
            _ if rate == f64::INFINITY => ArrivalProcess::AllAtOnce {},
            ArrivalPattern::Gamma => ArrivalProcess::Gamma { rate, burstiness },
            _ if self.burstiness.is_some() => {
                return flags("--burstiness with --arrival-pattern gamma only", "another");
            }
            ArrivalPattern::Constant => ArrivalProcess::Constant { rate },
            ArrivalPattern::Poisson => ArrivalProcess::Poisson { rate },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::io::ErrorKind;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: WorkloadArgs,
    }

    /// stdout and stderr, or the error.
    fn said(words: &str) -> Result<(String, String), String> {
        let words = std::iter::once("workload").chain(words.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let (mut out, mut talk) = (Vec::new(), Vec::new());
        run(&cli.args, &mut out, &mut talk).map_err(|error| error.to_string())?;
        Ok((String::from_utf8(out).unwrap(), String::from_utf8(talk).unwrap()))
    }

    #[test]
    fn flags_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn json_has_exactly_the_promised_keys() {
        let (out, talk) = said("show azure-code --json").unwrap();
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        let keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "requests",
            "span_ns",
            "max_gap_ns",
            "prompt_tokens",
            "output_tokens",
            "ideal_prefix_hit_share",
        ];
        assert_eq!(keys, expected);
        let keys: Vec<_> =
            object["prompt_tokens"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["sum", "mean", "min", "p50", "p90", "p99", "max"]);
        assert_eq!(object["requests"], 1_400);
        assert!(talk.contains("note: the file names no shared prefixes"));
    }

    #[test]
    fn text_shows_figures_and_notes() {
        let (out, talk) = said("show mooncake-conversation").unwrap();
        for part in ["requests    500", "16.4 % of prompt tokens", "121\u{202f}298", "note: "] {
            assert!(out.contains(part), "{part}: {out}");
        }
        assert!(talk.is_empty());
    }

    #[test]
    fn replay_flags_reach_the_workload() {
        let (out, _) = said("show azure-code --num-requests 10 --speedup 2 --json").unwrap();
        assert!(out.contains("\"requests\":10"));
        let (out, _) =
            said("show vidur-arxiv --request-rate 4 --arrival-pattern constant --json").unwrap();
        assert!(out.contains("\"span_ns\":124750000000"), "{out}");
        let (out, _) = said("show mooncake-conversation --context 256").unwrap();
        assert!(out.contains("blocks of 512 tokens become blocks of 1"), "{out}");
        for (words, part) in [
            ("show azure-code --arrival-pattern gamma", "expected --request-rate"),
            ("show azure-code --request-rate 1 --arrival-pattern trace", "expected no"),
            ("show azure-code --request-rate 0", "arrival.rate between 1e-9"),
            ("show azure-code --duration=-1", "--duration"),
            ("show azure-code --speedup 0", "a speed-up from"),
            ("show azure-code --speedup -1", "a speed-up from 1e-6 to 1e9, found -1"),
            ("show azure-code --duration -1", "--duration from 0 to 1e9 seconds, found -1"),
            (
                "show azure-code --request-rate 1 --arrival-pattern constant --burstiness 2",
                "--burstiness with --arrival-pattern gamma only",
            ),
            (
                "show azure-code --request-rate inf --burstiness 2",
                "--burstiness with a --request-rate that has gaps",
            ),
            ("show nothing-of-this-name", "expected a file or a shipped workload"),
        ] {
            let error = said(words).unwrap_err();
            assert!(error.contains(part), "{words}: {error}");
        }
    }

    #[test]
    fn what_is_made_can_be_read_and_converted() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (made, other) = (path("made.jsonl"), path("other"));
        let (out, talk) = said(&format!("gen shared-prefix -o {made}")).unwrap();
        assert!(out.is_empty() && talk.contains("wrote 240 requests"), "{talk}");
        let (shown, _) = said(&format!("show {made} --json")).unwrap();
        assert_eq!(shown, said("show shared-prefix --json").unwrap().0);
        let refused = said(&format!("convert {made} {other} --format vidur")).unwrap_err();
        assert!(refused.contains("block ids of shared prefixes of 240 requests"), "{refused}");
        assert!(!Path::new(&other).exists());
        let (_, talk) = said(&format!("convert {made} {other} --format vidur --lossy")).unwrap();
        assert!(talk.contains("vidur does not hold block ids"), "{talk}");
        let error = said(&format!("gen azure-code -o {other}")).unwrap_err();
        assert!(error.contains("read workload workloads/azure-code.csv"), "{error}");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        struct Gone(ErrorKind);
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let cli = Cli::try_parse_from(["workload", "show", "azure-code"]).unwrap();
        assert!(run(&cli.args, &mut Gone(ErrorKind::BrokenPipe), &mut std::io::sink()).is_ok());
        let full = run(&cli.args, &mut Gone(ErrorKind::StorageFull), &mut std::io::sink());
        assert!(full.unwrap_err().to_string().starts_with("write the answer: "));
    }

    #[test]
    fn text_needs_a_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.json");
        std::fs::write(&file, "[{\"conversations\": [{\"value\": \"a\"}, {\"value\": \"b\"}]}]")
            .unwrap();
        let error = said(&format!("show {}", file.display())).unwrap_err();
        assert!(error.contains("expected a tokenizer"), "{error}");
        let error = said(&format!("show {0} --tokenizer {0}", file.display())).unwrap_err();
        assert!(error.contains("read tokenizer"), "{error}");
    }
}
