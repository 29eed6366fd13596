//! The statistics of the gate, proved without a clock: thousands of gates over noise from a
//! seeded generator. What is asked of them is what the policy promises: false alarms, false
//! passes, and that a slowdown of twice the margin is seen.

#![expect(clippy::expect_used, reason = "a test panics where it fails")]

use gemba::gate::{Level, Policy, Verdict};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, StudentT};

/// What a machine adds to the logarithm of a run's time, run after run.
#[derive(Clone, Copy, Debug)]
enum Noise {
    /// One per cent, as any textbook has it.
    Even,
    /// Student's t with three degrees of freedom: now and then a run is far off.
    HeavyTailed,
    /// A small virtual machine among strangers: pairs of runs differ by 3 % where the usual
    /// desktop's differ by one, and some by 10 %.
    Rough,
    /// It warms up by 0.1 % a run and wanders by 0.4 % besides.
    Drifting,
    /// One run in twelve stumbles and takes up to 40 % longer.
    Stumbling,
    /// Neighbours come for some runs and go again; meanwhile everything takes a quarter longer.
    Shared,
}

const NOISES: [Noise; 6] = [
    Noise::Even,
    Noise::HeavyTailed,
    Noise::Rough,
    Noise::Drifting,
    Noise::Stumbling,
    Noise::Shared,
];

/// A machine.
struct Machine {
    noise: Noise,
    random: ChaCha8Rng,
    runs: f64,
    level: f64,
}

impl Machine {
    fn new(noise: Noise, seed: u64) -> Self {
        Self { noise, random: ChaCha8Rng::seed_from_u64(seed), runs: 0.0, level: 0.0 }
    }

    fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.random)
    }

    fn student(&mut self) -> f64 {
        let three = StudentT::new(3.0).expect("three is a number of degrees");
        three.sample(&mut self.random)
    }

    /// The logarithm of the time of a run that takes `slower` longer than it should.
    fn run(&mut self, slower: f64) -> f64 {
        self.runs += 1.0;
        let noise = match self.noise {
            Noise::Even => 0.01 * self.normal(),
            Noise::HeavyTailed => 0.006 * self.student(),
            Noise::Rough => 0.012 * self.student(),
            Noise::Drifting => {
                self.level += 0.001 + 0.004 * self.normal();
                self.level + 0.006 * self.normal()
            }
            Noise::Stumbling => {
                let stumbles = self.random.random_bool(1.0 / 12.0);
                let longer = if stumbles { self.random.random_range(0.05..0.4_f64) } else { 0.0 };
                longer.ln_1p() + 0.008 * self.normal()
            }
            Noise::Shared => {
                let (leaves, comes) = (0.15, 0.05);
                let here = self.level > 0.0;
                if self.random.random_bool(if here { leaves } else { comes }) {
                    self.level = if here { 0.0 } else { 1.25_f64.ln() };
                }
                self.level + 0.008 * self.normal()
            }
        };
        slower.ln_1p() + noise
    }
}

/// One gate: pairs in turns, looked at when the policy says so.
fn gate(policy: &Policy, machine: &mut Machine, slower: f64) -> (Verdict, usize) {
    let limit = policy.figure[0].margin.ln_1p();
    let mut worse = Vec::new();
    for look in policy.looks().iter() {
        while worse.len() < look.count {
            let (before, after);
            if worse.len().is_multiple_of(2) {
                before = machine.run(0.0);
                after = machine.run(slower);
            } else {
                after = machine.run(slower);
                before = machine.run(0.0);
            }
            worse.push(after - before);
        }
        let level = Level::of_figure(policy, look);
        let (verdict, _) = level.judge(&worse, limit, policy.statistics.trim);
        if verdict != Verdict::Inconclusive || look.last {
            return (verdict, look.count);
        }
    }
    unreachable!("there is always a last look")
}

/// How many of `gates` ended in each verdict, and how many pairs they took in the mean.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    pass: u32,
    regression: u32,
    inconclusive: u32,
    pairs: f64,
}

fn tally(policy: &Policy, noise: Noise, slower: f64, gates: u32) -> Tally {
    let mut tally = Tally::default();
    for seed in 0..gates {
        let (verdict, pairs) = gate(policy, &mut Machine::new(noise, seed.into()), slower);
        tally.pairs += pairs as f64 / f64::from(gates);
        match verdict {
            Verdict::Pass => tally.pass += 1,
            Verdict::Regression => tally.regression += 1,
            Verdict::Inconclusive => tally.inconclusive += 1,
        }
    }
    tally
}

const GATES: u32 = 2_000;

fn share(count: u32) -> f64 {
    f64::from(count) / f64::from(GATES)
}

/// The promise of the default policy, on every machine.
#[test]
fn a_gate_of_equals_does_not_cry_and_a_slowdown_of_three_per_cent_is_seen() {
    let policy = Policy::default();
    for noise in NOISES {
        let equal = tally(&policy, noise, 0.0, GATES);
        let slower = tally(&policy, noise, 0.03, GATES);
        eprintln!("{noise:?}: equal {equal:?}\n{noise:?}: slower {slower:?}");
        assert!(share(equal.regression) <= 0.01, "{noise:?}: {equal:?}");
        assert!(share(slower.regression) >= 0.95, "{noise:?}: {slower:?}");
    }
}

/// At the margin itself both errors are as likely as they will ever be.
#[test]
fn at_the_margin_both_errors_keep_their_bounds() {
    let policy = Policy::default();
    for noise in NOISES {
        let there = tally(&policy, noise, policy.figure[0].margin, GATES);
        eprintln!("{noise:?}: at the margin {there:?}");
        // Three standard deviations of what 2000 draws can show of the bound.
        let most = |bound: f64| bound + 3.0 * (bound * (1.0 - bound) / f64::from(GATES)).sqrt();
        assert!(
            share(there.regression) <= most(policy.statistics.false_alarm),
            "{noise:?}: {there:?}"
        );
        assert!(share(there.pass) <= most(policy.statistics.false_pass), "{noise:?}: {there:?}");
    }
}

/// What is far below the margin passes, and soon.
#[test]
fn an_improvement_passes_with_few_pairs() {
    let policy = Policy::default();
    for noise in NOISES {
        let faster = tally(&policy, noise, -0.05, GATES / 10);
        assert_eq!(faster.regression, 0, "{noise:?}: {faster:?}");
        assert!(faster.pass * 100 >= (GATES / 10) * 95, "{noise:?}: {faster:?}");
    }
}
