//! Runs that are there already: one look at all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::read::evidence;
use super::{Failure, NO_HINT};
use crate::gate::{
    Allowed, Evidence, GateError, GateReport, Policy, Round, comparable, from_neighbours, judge,
};
use crate::stat::{Look, Looks};

/// Compares the runs that both lists of folders and patterns name.
pub(super) fn compare(
    policy: &Policy,
    baseline: &[String],
    candidate: &[String],
    allowed: Allowed,
) -> Result<GateReport, Failure> {
    let (before, after) = (folders(baseline)?, folders(candidate)?);
    twice(before.iter().chain(&after))?;
    let read = |folders: &[PathBuf]| -> Result<Vec<Evidence>, Failure> {
        folders.iter().map(|folder| evidence(folder)).collect()
    };
    let (before, after) = (read(&before)?, read(&after)?);
    let mut cautions = comparable(policy, &before, &after, allowed)?;
    let pairs = before.len().min(after.len());
    if before.len() != after.len() {
        cautions.push(format!(
            "{} runs of the baseline and {} of the candidate make {pairs} pairs; the others are \
             held to the invariants and counters only.",
            before.len(),
            after.len(),
        ));
    }
    cautions.push(
        "Runs are paired in the order they are named. A folder does not say when it was made: if \
         the two sides did not run in turns, a drift of the machine counts as a difference. \
         --pair runs them in turns."
            .to_owned(),
    );
    let self_test = from_neighbours(policy, &before);
    if self_test.is_none() {
        cautions.push(
            "There are fewer than 6 runs of the baseline, too few to compare it with itself: \
             what could be detected is unknown."
                .to_owned(),
        );
    }
    let once = Look { number: 1, count: pairs, share: 1.0, last: true };
    let round = Round {
        look: Looks::once(pairs).iter().next().unwrap_or(once),
        looks: 1,
        pairs_max: pairs,
        baseline: baseline.join(" "),
        candidate: candidate.join(" "),
        self_test,
        cautions,
    };
    Ok(judge(policy, &round, &before, &after))
}

/// The folders that the words name, patterns in the order of the alphabet.
fn folders(words: &[String]) -> Result<Vec<PathBuf>, Failure> {
    let mut folders = Vec::new();
    for word in words {
        // A folder may be called like a pattern.
        if !word.contains(['*', '?', '[']) || PathBuf::from(word).exists() {
            folders.push(PathBuf::from(word));
            continue;
        }
        let matches = glob::glob(word)
            .map_err(|error| Failure::new(format!("read the pattern {word}: {error}"), NO_HINT))?;
        let before = folders.len();
        for path in matches {
            let path = path.map_err(|error| Failure::new(format!("read {error}"), NO_HINT))?;
            if path.join("run.json").is_file() {
                folders.push(path);
            }
        }
        if folders.len() == before {
            let hint = "`gemba run --output-dir DIR` makes one";
            return Err(Failure::new(
                format!("find runs: {word} matches no run folder"),
                Some(hint),
            ));
        }
    }
    Ok(folders)
}

/// A run that counts twice would make the gate surer than it may be.
fn twice<'a>(folders: impl Iterator<Item = &'a PathBuf>) -> Result<(), Failure> {
    let mut seen = BTreeMap::new();
    for folder in folders {
        let place = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
        if let Some(other) = seen.insert(place, folder) {
            let (folder, other) = (folder.display(), other.display());
            let what = format!("compare runs: {folder} and {other} are the same folder");
            return Err(Failure::new(what, Some("name each run once, on one side")));
        }
    }
    Ok(())
}

impl From<GateError> for Failure {
    fn from(error: GateError) -> Self {
        let hint = error.hint();
        Self::new(error, hint)
    }
}
