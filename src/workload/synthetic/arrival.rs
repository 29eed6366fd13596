//! When requests come.

use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, Exp1, Gamma};
use serde::Deserialize;

use super::description::positive;

/// An arrival process. Rates are requests per second.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(tag = "process", rename_all = "snake_case", deny_unknown_fields)]
pub enum ArrivalProcess {
    /// One request each 1/rate.
    Constant {
        /// Requests per second.
        rate: f64,
    },
    /// Independent arrivals.
    Poisson {
        /// Requests per second, on average.
        rate: f64,
    },
    /// Gamma-distributed inter-arrival times.
    Gamma {
        /// Requests per second, on average.
        rate: f64,
        /// The shape of the distribution, as vLLM's `--burstiness`: 1 is Poisson, less is
        /// burstier, more is steadier.
        burstiness: f64,
    },
    /// Poisson at two rates in turn.
    Bursty {
        /// Requests per second while a burst lasts.
        rate: f64,
        /// How long a burst lasts, in seconds.
        on_s: f64,
        /// How long the calm after it lasts, in seconds.
        off_s: f64,
        /// Requests per second in the calm.
        #[serde(default)]
        off_rate: f64,
    },
    /// Poisson at a rate that grows or falls, then stays.
    Ramp {
        /// Requests per second at the start.
        start_rate: f64,
        /// Requests per second at the end.
        end_rate: f64,
        /// How long the ramp lasts, in seconds.
        over_s: f64,
        /// How the rate changes.
        #[serde(default)]
        shape: RampShape,
    },
    /// Everything at once.
    AllAtOnce {},
}

/// How a ramp's rate changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RampShape {
    /// By equal differences.
    #[default]
    Linear,
    /// By equal ratios.
    Exponential,
}

impl ArrivalProcess {
    /// Says what makes no sense, if anything.
    pub(in crate::workload) fn check(&self) -> Result<(), String> {
        match *self {
            Self::Constant { rate } | Self::Poisson { rate } => positive(rate, "arrival.rate"),
            Self::Gamma { rate, burstiness } => {
                positive(rate, "arrival.rate")?;
                if !(1e-3..=1e6).contains(&burstiness) {
                    return Err(format!(
                        "expected arrival.burstiness from 0.001 to 1000000, found {burstiness}"
                    ));
                }
                Ok(())
            }
            Self::Bursty { rate, on_s, off_s, off_rate } => {
                positive(rate, "arrival.rate")?;
                positive(on_s, "arrival.on_s")?;
                positive(off_s, "arrival.off_s")?;
                if (0.0..1e15).contains(&off_rate) {
                    return Ok(());
                }
                Err(format!("expected arrival.off_rate of at least 0, found {off_rate}"))
            }
            Self::Ramp { start_rate, end_rate, over_s, .. } => {
                positive(start_rate, "arrival.start_rate")?;
                positive(end_rate, "arrival.end_rate")?;
                positive(over_s, "arrival.over_s")
            }
            Self::AllAtOnce {} => Ok(()),
        }
    }

    /// Draws arrival times, in seconds, from the process' start; without end, never falling.
    pub(in crate::workload) fn times(self, draw: ChaCha12Rng) -> ArrivalTimes {
        ArrivalTimes { process: self, draw, work: 0.0, count: 0 }
    }
}

impl std::fmt::Display for ArrivalProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Constant { rate } => write!(f, "constant, {rate} requests/s"),
            Self::Poisson { rate } => write!(f, "Poisson, {rate} requests/s"),
            Self::Gamma { rate, burstiness } => {
                write!(f, "gamma, {rate} requests/s, burstiness {burstiness}")
            }
            Self::Bursty { rate, on_s, off_s, off_rate } => {
                write!(f, "bursty, {rate} requests/s for {on_s} s, {off_rate} for {off_s} s")
            }
            Self::Ramp { start_rate, end_rate, over_s, .. } => {
                write!(f, "ramp, {start_rate} to {end_rate} requests/s in {over_s} s")
            }
            Self::AllAtOnce {} => f.write_str("all at once"),
        }
    }
}

/// The arrival times of a process.
///
/// A process with a changing rate is a Poisson process of rate one whose clock runs at that
/// rate: unit exponentials are added up (`work`), and the time is found at which the integral of
/// the rate reaches the sum.
pub(in crate::workload) struct ArrivalTimes {
    process: ArrivalProcess,
    draw: ChaCha12Rng,
    work: f64,
    count: u64,
}

impl Iterator for ArrivalTimes {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        let number = self.count;
        self.count += 1;
        Some(match self.process {
            ArrivalProcess::AllAtOnce {} => 0.0,
            ArrivalProcess::Constant { rate } => number as f64 / rate,
            ArrivalProcess::Gamma { rate, burstiness } => {
                // `check` has made sure that the shape is in range.
                let gap = Gamma::new(burstiness, 1.0 / burstiness)
                    .map_or(1.0, |gamma| gamma.sample(&mut self.draw));
                self.work += gap;
                self.work / rate
            }
            _ => {
                let gap: f64 = Exp1.sample(&mut self.draw);
                self.work += gap;
                time_of_work(self.process, self.work)
            }
        })
    }
}

/// The time at which the integral of the rate reaches `work`.
fn time_of_work(process: ArrivalProcess, work: f64) -> f64 {
    match process {
        ArrivalProcess::Bursty { rate, on_s, off_s, off_rate } => {
            let (on, off) = (rate * on_s, off_rate * off_s);
            let cycles = (work / (on + off)).floor();
            let left = work - cycles * (on + off);
            let inside = if left <= on { left / rate } else { on_s + (left - on) / off_rate };
            cycles * (on_s + off_s) + inside
        }
        ArrivalProcess::Ramp { start_rate, end_rate, over_s, shape } => {
            let ratio = end_rate / start_rate;
            let flat = (ratio - 1.0).abs() < 1e-9;
            let whole = match shape {
                _ if flat => start_rate * over_s,
                RampShape::Linear => f64::midpoint(start_rate, end_rate) * over_s,
                RampShape::Exponential => (end_rate - start_rate) * over_s / ratio.ln(),
            };
            if work >= whole {
                return over_s + (work - whole) / end_rate;
            }
            match shape {
                _ if flat => work / start_rate,
                RampShape::Linear => {
                    let slope = (end_rate - start_rate) / over_s;
                    ((start_rate * start_rate + 2.0 * slope * work).max(0.0).sqrt() - start_rate)
                        / slope
                }
                RampShape::Exponential => {
                    let growth = ratio.ln() / over_s;
                    (1.0 + work * growth / start_rate).ln() / growth
                }
            }
        }
        ArrivalProcess::Constant { rate }
        | ArrivalProcess::Poisson { rate }
        | ArrivalProcess::Gamma { rate, .. } => work / rate,
        ArrivalProcess::AllAtOnce {} => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    fn times(process: ArrivalProcess, count: usize) -> Vec<f64> {
        process.times(ChaCha12Rng::seed_from_u64(7)).take(count).collect()
    }

    fn gaps(times: &[f64]) -> Vec<f64> {
        times.windows(2).map(|w| w[1] - w[0]).collect()
    }

    fn mean_and_variation(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn rates_and_burstiness_are_what_was_asked() {
        let n = 20_000;
        assert_eq!(times(ArrivalProcess::Constant { rate: 4.0 }, 3), [0.0, 0.25, 0.5]);
        for (process, mean, variation) in [
            (ArrivalProcess::Poisson { rate: 10.0 }, 0.1, 1.0),
            (ArrivalProcess::Gamma { rate: 10.0, burstiness: 0.25 }, 0.1, 2.0),
            (ArrivalProcess::Gamma { rate: 10.0, burstiness: 4.0 }, 0.1, 0.5),
        ] {
            let (m, v) = mean_and_variation(&gaps(&times(process, n)));
            assert!((m / mean - 1.0).abs() < 0.05, "{process:?}: mean {m}");
            assert!((v / variation - 1.0).abs() < 0.05, "{process:?}: variation {v}");
        }
    }

    #[test]
    fn bursts_come_only_while_they_last() {
        let process = ArrivalProcess::Bursty { rate: 50.0, on_s: 2.0, off_s: 3.0, off_rate: 0.0 };
        let times = times(process, 2_000);
        assert!(times.iter().all(|t| t % 5.0 <= 2.0 + 1e-9));
        assert!((times.last().unwrap() / 5.0 - 20.0).abs() < 2.0);
    }

    #[test]
    fn a_ramp_reaches_its_rate() {
        for shape in [RampShape::Linear, RampShape::Exponential] {
            let process =
                ArrivalProcess::Ramp { start_rate: 10.0, end_rate: 100.0, over_s: 100.0, shape };
            let times = times(process, 12_000);
            assert!(times.windows(2).all(|w| w[0] <= w[1]));
            let within = |a: f64, b: f64| times.iter().filter(|t| (a..b).contains(*t)).count();
            let (start, end) = (within(0.0, 5.0) as f64 / 5.0, within(95.0, 100.0) as f64 / 5.0);
            assert!((8.0..15.0).contains(&start), "{shape:?} {start}");
            assert!((85.0..110.0).contains(&end), "{shape:?} {end}");
            let after = within(100.0, 110.0) as f64 / 10.0;
            assert!((90.0..110.0).contains(&after), "{shape:?} {after}");
        }
    }

    #[test]
    fn a_falling_ramp_never_stops() {
        let process = ArrivalProcess::Ramp {
            start_rate: 100.0,
            end_rate: 1.0,
            over_s: 10.0,
            shape: RampShape::Linear,
        };
        assert!(times(process, 600).iter().all(|t| t.is_finite()));
    }
}
