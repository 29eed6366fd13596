//! `gemba gate`: holds a candidate against a baseline, from run folders or by running both.

mod child;
mod folders;
mod pair;
mod read;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum};

use super::{Done, Failure, print, print_json, read_small};
use crate::cli::{Paint, render_gate};
use crate::gate::{
    Allowed, GateReport, Policy, SAMPLE, Verdict, annotations, bencher, junit, step_summary,
};
use crate::trace::write_beside;
pub(super) use read::{machine, settings};

/// `gemba gate`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["candidate", "pair", "show_policy"])))]
pub struct GateArgs {
    /// Run folders of the baseline, or patterns of them, in the order in which they were run
    #[arg(long, value_name = "RUN", num_args = 1.., requires = "candidate")]
    pub baseline: Vec<String>,
    /// Run folders of the candidate, or patterns of them
    #[arg(long, value_name = "RUN", num_args = 1.., requires = "baseline")]
    pub candidate: Vec<String>,
    /// Run both commands in turns until the verdict is clear; in each, {out} stands for the run
    /// folder that it makes
    #[arg(long, value_names = ["BASELINE", "CANDIDATE"], num_args = 2, conflicts_with = "baseline")]
    pub pair: Vec<String>,
    /// What the runs are held to [default: what --show-policy prints]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Print the default policy with a comment on every key
    #[arg(long)]
    pub show_policy: bool,
    /// Compare although this differs
    #[arg(long, value_enum, value_name = "WHAT")]
    pub allow: Vec<Difference>,
    /// Keep the runs of --pair in this folder
    #[arg(long, value_name = "DIR", requires = "pair")]
    pub keep: Option<PathBuf>,
    /// Where the verdict goes beside the terminal
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where the verdict goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write the candidate's figures in Bencher Metric Format
    #[arg(long, value_name = "FILE")]
    pub bencher: Option<PathBuf>,
    /// Write the step summary and the annotations of a GitHub job
    #[arg(long)]
    pub github: bool,
}

/// A difference that can be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Difference {
    /// The devices
    Machine,
    /// The model
    Model,
}

const NO_HINT: Option<&str> = None;

/// Where GitHub wants the summary of a step.
const STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// Judges, writes what was asked for, and ends with the verdict's exit code.
///
/// # Errors
/// [`Failure`] if the policy, a run or a command does not work, or the runs do not compare.
pub fn run(args: &GateArgs) -> Result<Done, Failure> {
    if args.show_policy {
        print(SAMPLE)?;
        return Ok(Done::Pass);
    }
    let policy = policy(args.policy.as_deref())?;
    let summary = args.output.github.then(summary_file).transpose()?;
    let has = |difference| args.allow.contains(&difference);
    let allowed = Allowed { machine: has(Difference::Machine), model: has(Difference::Model) };
    let report = match &args.pair[..] {
        [baseline, candidate] => {
            pair::compare(&policy, [baseline, candidate], allowed, args.keep.as_deref())?
        }
        _ => folders::compare(&policy, &args.baseline, &args.candidate, allowed)?,
    };
    write(&args.output, summary.as_deref(), &report)?;
    if args.output.json {
        print_json(&report)?;
    } else {
        let paint = Paint::when(std::io::stdout().is_terminal());
        print(&render_gate(&report, paint))?;
    }
    Ok(match report.verdict {
        Verdict::Pass => Done::Pass,
        Verdict::Regression => Done::Broken,
        Verdict::Inconclusive => Done::Inconclusive,
    })
}

fn policy(path: Option<&Path>) -> Result<Policy, Failure> {
    let Some(path) = path else { return Ok(Policy::default()) };
    let name = path.display();
    let text = read_small(path)?;
    Policy::parse(&text).map_err(|error| {
        let hint = error.hint();
        Failure::new(format!("read {name}: {}", error.to_string().trim_end()), hint)
    })
}

fn summary_file() -> Result<PathBuf, Failure> {
    let file = std::env::var_os(STEP_SUMMARY).filter(|value| !value.is_empty());
    file.map(PathBuf::from).ok_or_else(|| {
        Failure::new(
            format!("write the step summary: {STEP_SUMMARY} is not set"),
            Some("--github works inside a GitHub job; leave it out elsewhere"),
        )
    })
}

fn write(output: &OutputArgs, summary: Option<&Path>, report: &GateReport) -> Result<(), Failure> {
    if let Some(path) = &output.junit {
        write_beside(path, junit(report).as_bytes())?;
    }
    if let Some(path) = &output.bencher {
        write_beside(path, format!("{:#}\n", bencher(report)).as_bytes())?;
    }
    if let Some(path) = summary {
        // The file holds the summaries of all commands of the step.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(step_summary(report).as_bytes()))
            .map_err(|error| Failure::new(format!("write {}: {error}", path.display()), NO_HINT))?;
        // The runner reads commands from both streams; stdout is for data.
        let _ = std::io::stderr().write_all(annotations(report).as_bytes());
    }
    Ok(())
}
