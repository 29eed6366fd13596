//! The `gemba` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use gemba::command::bench::{self, BenchArgs};

/// Inference waste profiler: books every cost of LLM inference to value or to waste
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure how fast a model runs here
    Bench(BenchArgs),
}

fn main() -> ExitCode {
    let Command::Bench(args) = Cli::parse().command;
    match bench::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("error: failed to {error}\n");
            // Nothing is left to be done where not even this can be written.
            let _unwritten = std::io::Write::write_all(&mut std::io::stderr(), message.as_bytes());
            ExitCode::from(2)
        }
    }
}
