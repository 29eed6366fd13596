//! Two commands, run in turns until the verdict is clear.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::read::evidence;
use super::{Failure, NO_HINT, child};
use crate::gate::{
    Allowed, Evidence, GateReport, Policy, Round, SelfTest, Verdict, comparable, judge, self_test,
};

/// What stands in a command for the run folder that it is to make.
const OUT: &str = "{out}";
/// So many bytes of what a failed command said are shown.
const SAID: usize = 600;

/// Runs both commands in turns: the baseline with itself first, then pairs, looked at when the
/// policy says so.
pub(super) fn compare(
    policy: &Policy,
    commands: [&String; 2],
    allowed: Allowed,
    keep: Option<&Path>,
) -> Result<GateReport, Failure> {
    for command in commands {
        if !command.contains(OUT) {
            let hint = format!("for example 'gemba run --output-dir {OUT}'");
            return Err(Failure::new(
                format!("run {command:?}: it does not say where its run folder goes"),
                Some(hint),
            ));
        }
    }
    let mut maker = Maker::new(keep)?;
    let [a, b] = commands;
    // The first run of a command pays for files that are not in memory yet, and shows at once
    // whether the two sides compare.
    let (cold, other) = (maker.make("warm-up-baseline", a)?, maker.make("warm-up-candidate", b)?);
    let cautions = comparable(policy, &[cold], &[other], allowed)?;
    let test = against_itself(policy, a, &mut maker)?;
    let mut pairs = Pairs { before: Vec::new(), after: Vec::new() };
    let looks = policy.looks();
    let mut round = Round {
        look: looks.iter().next().ok_or_else(|| Failure::new("plan looks", NO_HINT))?,
        looks: looks.len(),
        pairs_max: policy.statistics.pairs_max,
        baseline: a.clone(),
        candidate: b.clone(),
        self_test: test,
        cautions,
    };
    pairs.make(&mut maker, commands)?;
    let first = judge(policy, &round, &pairs.before, &pairs.after);
    if first.broken() {
        return Ok(first);
    }
    let mut report = first;
    for look in looks.iter() {
        while pairs.before.len() < look.count {
            pairs.make(&mut maker, commands)?;
        }
        round.look = look;
        round.cautions = comparable(policy, &pairs.before, &pairs.after, allowed)?;
        report = judge(policy, &round, &pairs.before, &pairs.after);
        let (number, all, count) = (look.number, looks.len(), look.count);
        tell(&format!("look {number} of {all}, {count} pairs: {}", report.verdict.code()));
        if report.verdict != Verdict::Inconclusive {
            break;
        }
    }
    Ok(report)
}

fn against_itself(
    policy: &Policy,
    command: &str,
    maker: &mut Maker,
) -> Result<Option<SelfTest>, Failure> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for number in 0..policy.statistics.self_test_pairs {
        let one = maker.make(&format!("self-test-{number:03}-a"), command)?;
        let two = maker.make(&format!("self-test-{number:03}-b"), command)?;
        let (one, two) = if number % 2 == 0 { (one, two) } else { (two, one) };
        first.push(one);
        second.push(two);
    }
    let test = self_test(policy, &first, &second);
    for figure in test.iter().flat_map(|test| &test.figures) {
        let (name, seen) = (figure.name, figure.detectable * 100.0);
        tell(&format!("baseline against itself: {name} shows a slowdown from {seen:.2} % on"));
    }
    Ok(test)
}

/// Runs of both sides, in pairs.
struct Pairs {
    before: Vec<Evidence>,
    after: Vec<Evidence>,
}

impl Pairs {
    /// Runs both commands, the one that went first the last time going second now: a steady
    /// drift of the machine favours neither.
    fn make(&mut self, maker: &mut Maker, [a, b]: [&String; 2]) -> Result<(), Failure> {
        let number = self.before.len();
        let (before, after) = (format!("{number:03}-baseline"), format!("{number:03}-candidate"));
        if number.is_multiple_of(2) {
            self.before.push(maker.make(&before, a)?);
            self.after.push(maker.make(&after, b)?);
        } else {
            self.after.push(maker.make(&after, b)?);
            self.before.push(maker.make(&before, a)?);
        }
        Ok(())
    }
}

/// Runs commands and reads the folders they leave.
struct Maker {
    folder: PathBuf,
    keep: bool,
    /// Set by Ctrl-C and SIGTERM.
    stop: Arc<AtomicBool>,
}

impl Maker {
    fn new(keep: Option<&Path>) -> Result<Self, Failure> {
        let (folder, keep) = match keep {
            Some(folder) => (folder.to_path_buf(), true),
            None => {
                let name = format!("gemba-gate-{}", std::process::id());
                (std::env::temp_dir().join(name), false)
            }
        };
        // Before there is a folder to leave behind.
        let stop = child::stop_flag()
            .map_err(|error| Failure::new(format!("listen for signals: {error}"), NO_HINT))?;
        std::fs::create_dir_all(&folder)
            .and_then(|()| folder.canonicalize())
            .map(|folder| Self { folder, keep, stop })
            .map_err(|error| Failure::new(format!("create a folder for runs: {error}"), NO_HINT))
    }

    fn make(&mut self, name: &str, command: &str) -> Result<Evidence, Failure> {
        let out = self.folder.join(name);
        let line = command.replace(OUT, &quoted(&out.display().to_string()));
        let ended = child::run(&line, &self.stop)
            .map_err(|error| Failure::new(format!("run {line:?}: {error}"), NO_HINT))?;
        let Some((status, said)) = ended else {
            let hint = "nothing was decided, and what the runs left is removed";
            let hint = (!self.keep).then_some(hint);
            return Err(Failure::new("run the pairs: interrupted by a signal", hint));
        };
        let left = out.join("run.json").is_file();
        let evidence = if left { Some(evidence(&out)?) } else { None };
        // A run with broken books ends with 1, and one whose device failed with 2: it is for
        // the gate to say so.
        let judged = |evidence: &Evidence| {
            matches!(status.code(), Some(0 | 1)) || evidence.summary.status == "failed"
        };
        let Some(evidence) = evidence.filter(judged) else {
            let left = if left { "a" } else { "no" };
            let end = format!("{status} and left {left} run folder");
            let said = tail(&said);
            let hint = (!said.is_empty()).then(|| format!("it said: {said}"));
            return Err(Failure::new(format!("run {line:?}: it ended with {end}"), hint));
        };
        if !self.keep {
            // A folder that cannot be removed takes room, nothing else.
            let _ = std::fs::remove_dir_all(&out);
        }
        Ok(evidence)
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// The end of what a command said.
fn tail(said: &str) -> &str {
    let said = said.trim();
    let mut from = said.len().saturating_sub(SAID);
    while !said.is_char_boundary(from) {
        from += 1;
    }
    &said[from..]
}

/// A path as one word of a shell.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.chars().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}

fn tell(text: &str) {
    // Where stderr is gone there is nobody left to tell.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted("/tmp/gate-1/a_b.c"), "/tmp/gate-1/a_b.c");
        assert_eq!(quoted("/tmp/it's here"), "'/tmp/it'\\''s here'");
    }

    #[test]
    fn the_end_of_what_was_said() {
        assert_eq!(tail("  short\n"), "short");
        let long = "ü".repeat(SAID);
        assert!(tail(&long).len() <= SAID && tail(&long).starts_with('ü'));
    }
}
