//! `gemba gate` as a user meets it: verdicts, exit codes, every form of output, every refusal.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod made;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use made::Made;
use serde_json::Value;

/// How far single runs are off, as shares: what a quiet machine does.
const WOBBLE: [f64; 8] = [0.0, 0.002, -0.001, 0.003, -0.002, 0.001, 0.002, -0.003];

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemba"));
    command.arg("gate").args(words).env("NO_COLOR", "1").env_remove("GITHUB_STEP_SUMMARY");
    command.stdin(Stdio::null());
    command
}

fn gate(words: &[&str]) -> Output {
    command(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    let value = serde_json::from_slice(&output.stdout);
    value.unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)))
}

fn word(path: &Path) -> String {
    path.display().to_string()
}

/// Eight runs `NAME-0` to `NAME-7` in `dir`, each a little off; gives the pattern of them.
fn runs(dir: &Path, name: &str, made: &Made) -> String {
    for (number, off) in WOBBLE.iter().enumerate() {
        // The candidate wobbles in another order than the baseline.
        let turn = if name.starts_with('b') { number } else { (number + 3) % WOBBLE.len() };
        let slower = (1.0 + made.slower) * (1.0 + off) - 1.0;
        Made { slower, ..made.clone() }.at(&dir.join(format!("{name}-{turn}")));
    }
    word(&dir.join(format!("{name}-*")))
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn equals_pass_a_slowdown_does_not_and_one_run_tells_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let before = runs(dir.path(), "before", &Made::default());
    let same = runs(dir.path(), "same", &Made::default());
    let slower = runs(dir.path(), "slower", &Made { slower: 0.03, ..Made::default() });
    let judged =
        |candidate: &str| gate(&["--baseline", &before, "--candidate", candidate, "--json"]);
    let pass = judged(&same);
    assert_eq!(pass.status.code(), Some(0), "{}", text(&pass.stdout));
    assert_eq!(json(&pass)["verdict"], "pass");
    let regression = judged(&slower);
    assert_eq!(regression.status.code(), Some(1), "{}", text(&regression.stdout));
    let report = json(&regression);
    assert_eq!(report["verdict"], "regression");
    let figure = check(&report, "service_time_per_token");
    assert!((figure["found"]["estimate"].as_f64().unwrap() - 0.03).abs() < 0.003, "{figure}");
    assert!(report["self_test"]["figures"][0]["detectable"].as_f64().unwrap() > 0.015);
    let one = gate(&[
        "--baseline",
        &word(&dir.path().join("before-0")),
        "--candidate",
        &word(&dir.path().join("same-3")),
    ]);
    assert_eq!(one.status.code(), Some(3));
    let said = text(&one.stdout);
    assert!(said.starts_with("gate: INCONCLUSIVE"), "{said}");
    assert!(said.contains("1 pairs, and at least 6 are needed to tell"), "{said}");
    assert!(said.contains("too few to compare it with itself"), "{said}");
}

#[test]
fn every_form_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let before = runs(dir.path(), "before", &Made::default());
    let slower = runs(dir.path(), "slower", &Made { slower: 0.05, ..Made::default() });
    let file = |name: &str| word(&dir.path().join(name));
    let (junit, bencher, summary) = (file("junit.xml"), file("bmf.json"), file("summary.md"));
    fs::write(&summary, "before\n").unwrap();
    let output = command(&["--baseline", &before, "--candidate", &slower])
        .args(["--junit", &junit, "--bencher", &bencher, "--github"])
        .env("GITHUB_STEP_SUMMARY", &summary)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(said.starts_with("gate: REGRESSION"), "{said}");
    let xml = fs::read_to_string(&junit).unwrap();
    assert!(xml.contains("failures=\"1\" errors=\"0\""), "{xml}");
    let case = "<testcase classname=\"gemba.gate.figure\" name=\"service_time_per_token\"><failure";
    assert!(xml.contains(case), "{xml}");
    assert_eq!(xml.matches("<testcase ").count(), xml.matches("</testcase>").count());
    let metrics: Value = serde_json::from_str(&fs::read_to_string(&bencher).unwrap()).unwrap();
    let metric = &metrics["made on shape:made"]["service_time_per_token"];
    let number = |key: &str| metric[key].as_f64().unwrap();
    assert!(number("lower_value") <= number("value") && number("value") <= number("upper_value"));
    let markdown = fs::read_to_string(&summary).unwrap();
    assert!(markdown.starts_with("before\n## Gemba gate: regression"), "{markdown}");
    assert!(
        markdown.contains("| ❌ regression | figure service\\_time\\_per\\_token |"),
        "{markdown}"
    );
    let annotated = text(&output.stderr);
    let title = "::error title=gemba gate%3A figure service_time_per_token::";
    assert!(annotated.contains(title), "{annotated}");
}

/// `--pair` runs both commands itself; here they copy a run that is there already.
#[test]
fn a_pair_is_run_in_turns_until_it_is_clear() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let base = word(&Made::default().at(&at("base")));
    let slow = word(&Made { slower: 0.03, ..Made::default() }.at(&at("slow")));
    let order = word(&at("order"));
    let copy = |run: &str, mark: &str| format!("echo {mark} >> {order}; cp -r {run} {{out}}");
    let same = gate(&["--pair", &copy(&base, "a"), &copy(&base, "b"), "--json"]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stderr));
    let report = json(&same);
    assert_eq!(report["pairs"], 6);
    assert_eq!(report["self_test"]["pairs"], 6);
    let marks: String = fs::read_to_string(&order).unwrap().split_whitespace().collect();
    // Warm-ups, the baseline with itself, then pairs whose order alternates.
    assert_eq!(marks, format!("ab{}abbaabbaabba", "a".repeat(12)));
    let kept = word(&at("kept"));
    let regression =
        gate(&["--pair", &copy(&base, "a"), &copy(&slow, "b"), "--keep", &kept, "--json"]);
    assert_eq!(regression.status.code(), Some(1), "{}", text(&regression.stderr));
    assert!(at("kept").join("005-candidate/run.json").is_file());
    assert!(text(&regression.stderr).contains("look 1 of 5, 6 pairs: regression"));
}

/// Ctrl-C and SIGTERM reach the command that runs, and nothing is left behind.
#[test]
fn a_gate_that_is_interrupted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for signal in ["INT", "TERM"] {
        let (temporary, pid) = (dir.path().join(signal), dir.path().join(format!("{signal}.pid")));
        fs::create_dir(&temporary).unwrap();
        let slow = format!("mkdir {{out}}; echo $$ > {}; sleep 60", word(&pid));
        let child = command(&["--pair", &slow, &slow])
            .env("TMPDIR", &temporary)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let began = || fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'));
        while !began() {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 1, "the folder of the runs");
        let kill = format!("kill -{signal} {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{signal}: {err}");
        assert!(err.contains("run the pairs: interrupted by a signal"), "{err}");
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "{signal}");
        let shell = fs::read_to_string(&pid).unwrap();
        let alive = format!("kill -0 {} 2>&-", shell.trim());
        assert!(!Command::new("sh").args(["-c", &alive]).status().unwrap().success(), "{signal}");
    }
}

#[test]
fn commands_that_leave_no_run_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = word(&Made::default().at(&dir.path().join("base")));
    let good = format!("cp -r {base} {{out}}");
    for (command, expected, hint) in [
        ("gemba run", "run \"gemba run\": it does not say where its run folder goes", "{out}"),
        ("true {out}", "it ended with exit status: 0 and left no run folder", ""),
        (
            "echo no luck >&2; exit 7; {out}",
            "it ended with exit status: 7 and left no run",
            "no luck",
        ),
    ] {
        let output = gate(&["--pair", &good, command]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        assert!(said.contains("error: failed to run "), "{command}: {said}");
        assert!(said.contains(expected) && said.contains(hint), "{command}: {said}");
    }
}

#[test]
fn runs_that_do_not_compare_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let base = word(&Made::default().at(&at("base")));
    let with = |name: &str, header| word(&Made { header, ..Made::default() }.at(&at(name)));
    let machine = with("machine", |header| header.devices[0].name = "other".to_owned());
    let model = with("model", |header| header.model.sha256 = "ffff".to_owned());
    let workload = with("workload", |header| header.workload.sha256 = "ffff".to_owned());
    let schema = with("schema", |_| ());
    let json = at("schema").join("run.json");
    let newer = fs::read_to_string(&json).unwrap().replace("gemba.run/1", "gemba.run/9");
    fs::write(&json, newer).unwrap();
    let cut = with("cut", |header| header.status = gemba::trace::Status::Truncated);
    let copy = word(&at("base").join("."));
    for (candidate, expected) in [
        (&machine, "machine modelled other"),
        (&model, "model shape:made (ffff), expected shape:made (0123456789ab)"),
        (&workload, "workload made (ffff), expected made (fedcba987654)"),
        (&schema, "expected schema gemba.run/1, found gemba.run/9"),
        (&cut, "it is truncated, expected a run that ended by itself"),
        (&copy, "are the same folder"),
        (&word(&at("none-*")), "matches no run folder"),
        (&word(&at("none")), "no run.json in it"),
    ] {
        let output = gate(&["--baseline", &base, "--candidate", candidate]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{candidate}: {said}");
        assert!(said.starts_with("error: failed to "), "{candidate}: {said}");
        assert!(said.contains(expected), "{candidate}: {said}");
    }
    for (what, candidate, expected) in
        [("machine", &machine, "! The machines differ:"), ("model", &model, "! The models differ:")]
    {
        let output = gate(&["--baseline", &base, "--candidate", candidate, "--allow", what]);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{what}: {said}");
        assert!(said.contains(expected), "{what}: {said}");
    }
}

#[test]
fn unequal_work_and_settings_that_were_grouped_away_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let base = word(&Made::default().at(&at("base")));
    let fewer = word(&Made { requests: 3, ..Made::default() }.at(&at("fewer")));
    let output = gate(&["--baseline", &base, "--candidate", &fewer]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("3 requests, expected 4"), "{}", text(&output.stdout));
    let set: fn(&mut gemba::trace::Header) = |header| header.reference_batch = 7;
    let other = word(&Made { header: set, ..Made::default() }.at(&at("other")));
    let again = word(&Made::default().at(&at("again")));
    let said = text(&gate(&["--baseline", &base, "--candidate", &other, &again]).stdout);
    assert!(said.contains("runs of the candidate were put together"), "{said}");
    assert!(said.contains("reference_batch (1 → 7)"), "{said}");
}

#[test]
fn a_candidate_that_failed_or_lost_requests_does_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    let base = word(&Made::default().at(&dir.path().join("base")));
    let failing = Made { fails_at_step: Some(4), ..Made::default() };
    let failed = word(&failing.at(&dir.path().join("failed")));
    let output = gate(&["--baseline", &base, "--candidate", &failed, "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report = json(&output);
    assert_eq!(check(&report, "run_completed")["verdict"], "regression");
    assert_eq!(check(&report, "accepted_tokens")["verdict"], "inconclusive");
    // `gemba run` ends with 2 then; the folder it left is judged all the same.
    let pair = [format!("cp -r {base} {{out}}"), format!("cp -r {failed} {{out}}; exit 2")];
    let output = gate(&["--pair", &pair[0], &pair[1]]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    // The other way round it is no baseline.
    let output = gate(&["--baseline", &failed, "--candidate", &base]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("it is failed"), "{}", text(&output.stderr));
}

/// A cause that only one side has cannot be a ratio, and is named.
#[test]
fn causes_that_come_and_go_are_said_and_counters_decide() {
    let dir = tempfile::tempdir().unwrap();
    let before = runs(dir.path(), "before", &Made::default());
    let padded = runs(dir.path(), "padded", &Made { padded: true, ..Made::default() });
    let more = gate(&["--baseline", &before, "--candidate", &padded]);
    let said = text(&more.stdout);
    assert_eq!(more.status.code(), Some(1), "{said}{}", text(&more.stderr));
    assert!(said.contains("REGRESSION   counter   rows "), "{said}");
    assert!(said.contains("engine.batching.scheduling (continuous → static)"), "{said}");
    let change = |candidate: &str, baseline: &str| {
        let report = json(&gate(&["--baseline", baseline, "--candidate", candidate, "--json"]));
        let rows = report["reported"].as_array().unwrap();
        let padding = rows.iter().find(|row| row["name"] == "rows.padding").unwrap().clone();
        assert_eq!(padding["differs"], true, "{padding}");
        assert!(padding["change"].is_null(), "{padding}");
        (padding["baseline"].as_f64().unwrap() > 0.0, padding["candidate"].as_f64().unwrap() > 0.0)
    };
    assert_eq!(change(&padded, &before), (false, true));
    assert_eq!(change(&before, &padded), (true, false));
}

#[test]
fn policies_decide_and_bad_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let base = word(&Made::default().at(&at("base")));
    let same = word(&Made::default().at(&at("same")));
    let with = |lines: &str| {
        let policy = word(&at("gate.toml"));
        fs::write(&policy, format!("schema = \"gemba.gate/1\"\n{lines}")).unwrap();
        gate(&["--baseline", &base, "--candidate", &same, "--policy", &policy])
    };
    let budget = |share: &str| {
        format!("[[budget]]\ncommodity = \"rows\"\ncause = \"value.decode\"\nshare_max = {share}\n")
    };
    // Counted amounts need no interval.
    let over = with(&format!("figure = []\n{}", budget("0.1")));
    assert_eq!(over.status.code(), Some(1), "{}", text(&over.stderr));
    assert!(text(&over.stdout).contains("REGRESSION   budget    rows.value.decode"));
    let kept = with(&format!("figure = []\n{}", budget("0.9")));
    assert_eq!(kept.status.code(), Some(0), "{}", text(&kept.stdout));
    let absent =
        with("figure = []\n[[budget]]\ncommodity = \"rows\"\ncause = \"padding\"\nshare_max = 0.0");
    assert!(text(&absent.stdout).contains("nothing was booked to it"), "{}", text(&absent.stdout));
    for (lines, expected) in [
        ("luck = 1", "unknown field `luck`"),
        (
            "[[figure]]\nname = \"oie\"\nmargin = 2.0",
            "expected a share above 0 and below 1, found 2",
        ),
        ("[[figure]]\nname = \"energy_per_token\"\nmargin = 0.1", "gate energy_per_token:"),
    ] {
        let output = with(lines);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{lines}: {said}");
        assert!(
            said.starts_with("error: failed to ") && said.contains(expected),
            "{lines}: {said}"
        );
        assert!(said.contains("hint: "), "{lines}: {said}");
    }
}

#[test]
fn wrong_command_lines_are_refused() {
    for words in [&[][..], &["--baseline", "a"], &["--candidate", "a"], &["--pair", "a {out}"]] {
        assert_eq!(gate(words).status.code(), Some(2), "{words:?}");
    }
    let nowhere = gate(&["--baseline", "a", "--candidate", "b", "--github"]);
    assert!(text(&nowhere.stderr).contains("GITHUB_STEP_SUMMARY is not set"));
    let shown = gate(&["--show-policy"]);
    assert_eq!(shown.status.code(), Some(0));
    assert_eq!(text(&shown.stdout), gemba::gate::SAMPLE);
}

/// The documentation is followed literally as far as a test can: every flag in it is one.
#[test]
fn the_documentation_names_flags_that_there_are() {
    let help = |name: &str| {
        let gemba = env!("CARGO_BIN_EXE_gemba");
        text(&Command::new(gemba).args([name, "--help"]).output().unwrap().stdout)
    };
    let known = [help("gate"), help("run")].concat();
    for file in ["docs/gate-workflow.yml", "docs/gate.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read_to_string(path).unwrap();
        let others = |line: &&str| line.contains("cargo ") || line.contains("bencher run");
        let lines = text.lines().filter(|line| !others(line));
        let flags: Vec<&str> = lines
            .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-'))
            .filter(|word| word.starts_with("--") && !word.starts_with("---"))
            .collect();
        assert!(flags.contains(&"--pair"), "{file} does not show --pair");
        for flag in flags {
            assert!(known.contains(flag), "{file}: {flag} is no flag of gate or run");
        }
    }
}
