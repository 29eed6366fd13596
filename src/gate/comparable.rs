//! Whether runs may be compared at all, and what differs beside what is judged.

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::{Evidence, Identity};
use super::policy::Policy;

/// Differences that the user has asked to accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The devices may differ.
    pub machine: bool,
    /// The models may differ.
    pub model: bool,
}

/// Why runs cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// One side has no run.
    #[error("compare runs: the {0} has none")]
    NoRuns(&'static str),
    /// The devices differ.
    #[error("compare {run} with {first}: machine {found}, expected {expected}")]
    Machine {
        /// The run that differs.
        run: String,
        /// The first run of the baseline.
        first: String,
        /// Its devices.
        found: String,
        /// The devices of the first run.
        expected: String,
    },
    /// The models differ.
    #[error("compare {run} with {first}: model {found}, expected {expected}")]
    Model {
        /// The run that differs.
        run: String,
        /// The first run of the baseline.
        first: String,
        /// Its model.
        found: String,
        /// The model of the first run.
        expected: String,
    },
    /// The workloads differ.
    #[error("compare {run} with {first}: workload {found}, expected {expected}")]
    Workload {
        /// The run that differs.
        run: String,
        /// The first run of the baseline.
        first: String,
        /// Its workload.
        found: String,
        /// The workload of the first run.
        expected: String,
    },
    /// A run was interrupted, or is still being written.
    #[error("compare {run}: it is {status}, expected a run that ended by itself")]
    Incomplete {
        /// The run.
        run: String,
        /// How it stands.
        status: String,
    },
    /// The baseline's own books are broken.
    #[error("compare with {run}: the books of the baseline do not balance")]
    Unbalanced {
        /// The run.
        run: String,
    },
    /// A gated figure is not in the baseline.
    #[error("gate {figure}: {run} has no such figure")]
    NoFigure {
        /// The figure.
        figure: &'static str,
        /// The run.
        run: String,
    },
}

impl GateError {
    /// What the user can do about it, if anything.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoRuns(_) | Self::Unbalanced { .. } => None,
            Self::Machine { .. } => Some(
                "times of different machines do not compare; run both sides on one, or accept it \
                 with --allow machine",
            ),
            Self::Model { .. } => {
                Some("costs of different models do not compare; accept it with --allow model")
            }
            Self::Workload { .. } => {
                Some("run both sides with the same workload, seed and number of requests")
            }
            Self::Incomplete { .. } => Some("leave this run out, or make it again"),
            Self::NoFigure { .. } => Some(
                "energy needs a meter or --idle-watts and --busy-watts, cost --price-per-hour, \
                 latencies completed requests; or gate another figure",
            ),
        }
    }
}

/// Whether all runs are of one machine, model and workload and have what the policy gates; gives
/// what the reader must know.
///
/// # Errors
/// [`GateError`] names the first run that cannot be compared.
pub fn comparable(
    policy: &Policy,
    baseline: &[Evidence],
    candidate: &[Evidence],
    allowed: Allowed,
) -> Result<Vec<String>, GateError> {
    let first = baseline.first().ok_or(GateError::NoRuns("baseline"))?;
    let other = candidate.first().ok_or(GateError::NoRuns("candidate"))?;
    for run in baseline.iter().chain(candidate) {
        same(first, run, allowed)?;
    }
    for run in baseline {
        if run.summary.status != "complete" {
            return Err(incomplete(run));
        }
        if !run.ledger.balanced {
            return Err(GateError::Unbalanced { run: run.run.clone() });
        }
        if let Some((figure, _)) = policy.gated().find(|(figure, _)| figure.of(run).is_none()) {
            return Err(GateError::NoFigure { figure: figure.name, run: run.run.clone() });
        }
    }
    // A candidate whose device failed is no bad input: that is what the gate is for.
    let interrupted = |run: &&Evidence| !matches!(&*run.summary.status, "complete" | "failed");
    if let Some(run) = candidate.iter().find(interrupted) {
        return Err(incomplete(run));
    }
    let mut cautions = Vec::new();
    if first.machine != other.machine {
        cautions.push(format!(
            "The machines differ: {} and {}. Times say little.",
            first.machine, other.machine
        ));
    }
    if !first.model.is(&other.model) {
        let (before, after) = (&first.model.name, &other.model.name);
        cautions.push(format!("The models differ: {before} and {after}."));
    }
    cautions.extend(grouped_away("baseline", baseline));
    cautions.extend(grouped_away("candidate", candidate));
    cautions.extend(differing(first, other));
    Ok(cautions)
}

fn same(first: &Evidence, run: &Evidence, allowed: Allowed) -> Result<(), GateError> {
    let names = || (run.run.clone(), first.run.clone());
    if run.machine != first.machine && !allowed.machine {
        let ((run_name, first_name), found) = (names(), run.machine.clone());
        let expected = first.machine.clone();
        return Err(GateError::Machine { run: run_name, first: first_name, found, expected });
    }
    if !run.model.is(&first.model) && !allowed.model {
        let ((run_name, first_name), found) = (names(), shown(&run.model));
        let expected = shown(&first.model);
        return Err(GateError::Model { run: run_name, first: first_name, found, expected });
    }
    if !run.workload.is(&first.workload) {
        let ((run_name, first_name), found) = (names(), shown(&run.workload));
        let expected = shown(&first.workload);
        return Err(GateError::Workload { run: run_name, first: first_name, found, expected });
    }
    Ok(())
}

fn incomplete(run: &Evidence) -> GateError {
    GateError::Incomplete { run: run.run.clone(), status: run.summary.status.clone() }
}

fn shown(identity: &Identity) -> String {
    let digest: String = identity.sha256.chars().take(12).collect();
    if digest.is_empty() { identity.name.clone() } else { format!("{} ({digest})", identity.name) }
}

/// Settings in which the runs of one side differ among themselves.
fn grouped_away(side: &str, runs: &[Evidence]) -> Option<String> {
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let names: BTreeSet<&str> =
        runs.iter().flat_map(|run| run.settings.keys().map(String::as_str)).collect();
    for run in runs {
        for name in &names {
            let value = run.settings.get(*name).map_or("not set", String::as_str);
            values.entry(name).or_default().insert(value);
        }
    }
    let differing: Vec<String> = values
        .iter()
        .filter(|(_, values)| values.len() > 1)
        .map(|(name, values)| {
            format!("{name} ({})", values.iter().copied().collect::<Vec<_>>().join(", "))
        })
        .collect();
    (!differing.is_empty()).then(|| {
        format!(
            "The runs of the {side} were put together although they differ among themselves in \
             {}.",
            differing.join("; ")
        )
    })
}

/// Settings in which the two sides differ.
fn differing(baseline: &Evidence, candidate: &Evidence) -> Option<String> {
    let names: BTreeSet<&String> =
        baseline.settings.keys().chain(candidate.settings.keys()).collect();
    let value = |run: &Evidence, name: &String| {
        run.settings.get(name).cloned().unwrap_or_else(|| "not set".to_owned())
    };
    let differing: Vec<String> = names
        .into_iter()
        .filter(|name| baseline.settings.get(*name) != candidate.settings.get(*name))
        .map(|name| format!("{name} ({} → {})", value(baseline, name), value(candidate, name)))
        .collect();
    (!differing.is_empty()).then(|| {
        format!("Baseline and candidate differ in their settings: {}.", differing.join("; "))
    })
}
