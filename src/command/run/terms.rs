//! What is promised and what it costs, for every command that makes a run.

use clap::Args;

use super::super::Failure;
use super::args::Flags;
use crate::trace::{EnergyModel, Price, Slo};
use crate::unit::Nanos;

/// What is promised and what it costs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Terms")]
pub struct TermArgs {
    /// The promise in milliseconds, as in `ttft:200 tpot:20 e2el:5000` [default: the workload's]
    #[arg(long, value_name = "NAME:MS", num_args = 1.., value_delimiter = ' ')]
    pub goodput: Vec<String>,
    /// Dollars per device and hour
    #[arg(long, value_name = "USD", allow_negative_numbers = true)]
    pub price_per_hour: Option<f64>,
    /// Declared power of the idle device in watts, where there is no meter
    #[arg(long, value_name = "W", requires = "busy_watts", allow_negative_numbers = true)]
    pub idle_watts: Option<f64>,
    /// Declared power of the busy device in watts
    #[arg(long, value_name = "W", requires = "idle_watts", allow_negative_numbers = true)]
    pub busy_watts: Option<f64>,
}

impl TermArgs {
    /// The promise: the flags', else the workload's.
    ///
    /// # Errors
    /// [`Failure`] if a flag is not `NAME:MILLISECONDS`, or no time, or says the same twice.
    pub fn slo(&self, flags: Flags, workload: crate::workload::Slo) -> Result<Slo, Failure> {
        if self.goodput.is_empty() {
            let crate::workload::Slo { ttft, tpot, e2el } = workload;
            return Ok(Slo { ttft_ns: ttft, tpot_ns: tpot, e2e_ns: e2el });
        }
        let mut slo = Slo::default();
        for word in self.goodput.iter().filter(|word| !word.is_empty()) {
            let expected = || {
                flags.wrong(format!(
                    "read --goodput: expected ttft, tpot or e2el with milliseconds above 0, as in \
                     ttft:200, found {word}"
                ))
            };
            let (name, milliseconds) = word.split_once(':').ok_or_else(expected)?;
            let milliseconds: f64 = milliseconds.parse().map_err(|_| expected())?;
            // Nothing is done in no time: from a nanosecond on.
            if !(1e-6..1e12).contains(&milliseconds) {
                return Err(expected());
            }
            let place = match name {
                "ttft" | "time_to_first_token" => &mut slo.ttft_ns,
                "tpot" | "time_per_output_token" | "inter_token_latency" => &mut slo.tpot_ns,
                "e2el" | "e2e" | "request_latency" => &mut slo.e2e_ns,
                _ => return Err(expected()),
            };
            let limit = Nanos::from_secs_f64(milliseconds / 1e3);
            if place.replace(limit).is_some() {
                return Err(flags.wrong(format!(
                    "read --goodput: expected one limit of each kind, found a second limit, {word}"
                )));
            }
        }
        Ok(slo)
    }

    /// The price, if one was given.
    ///
    /// # Errors
    /// [`Failure`] if it is no amount of money.
    pub fn price(&self, flags: Flags) -> Result<Option<Price>, Failure> {
        let Some(dollars) = self.price_per_hour else { return Ok(None) };
        if !(0.0..1e6).contains(&dollars) {
            return Err(flags.wrong(format!(
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
    pub fn energy(&self, flags: Flags) -> Result<Option<EnergyModel>, Failure> {
        let (Some(idle), Some(busy)) = (self.idle_watts, self.busy_watts) else {
            return Ok(None);
        };
        if !(0.0..1e6).contains(&idle) || !(0.0..1e6).contains(&busy) || busy < idle {
            return Err(flags.wrong(format!(
                "set --idle-watts and --busy-watts: expected 0 ≤ idle ≤ busy < 1e6, found {idle} \
                 and {busy}"
            )));
        }
        let milliwatts = |watts: f64| (watts * 1e3).round() as u64;
        Ok(Some(EnergyModel { idle_mw: milliwatts(idle), busy_mw: milliwatts(busy) }))
    }
}
