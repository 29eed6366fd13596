//! `gemba report` of several runs, and of runs that were cut short or hold nothing.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use gemba::event::{Fact, Recorder};
use gemba::trace::{Header, RunWriter, Status};

#[path = "live/eventful.rs"]
mod eventful;
#[path = "live/session.rs"]
mod session;

fn gemba(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemba"));
    command.args(words).env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap()
}

fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A run folder with these facts, whose log was last written to `days` after 2026 began.
fn folder(dir: &Path, name: &str, header: &Header, facts: &[Fact], days: u64) -> PathBuf {
    let folder = dir.join(name);
    let begun = Header { status: Status::Running, ..header.clone() };
    let mut writer = RunWriter::create(&folder, &begun, Arc::default()).unwrap();
    facts.iter().for_each(|fact| writer.record(fact.clone()));
    writer.close(header).unwrap();
    let at = UNIX_EPOCH + Duration::from_secs(1_767_225_600 + days * 86_400);
    File::options().write(true).open(folder.join("events.log")).unwrap().set_modified(at).unwrap();
    folder
}

/// The page of a comparison, without its style.
fn compared(dir: &Path, runs: &[&Path]) -> String {
    let out = dir.join("several.html");
    let mut words = vec!["report"];
    words.extend(runs.iter().map(|run| word(run)));
    words.extend(["-o", word(&out)]);
    let said = gemba(&words);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let page = fs::read_to_string(out).unwrap();
    let (before, after) = page.split_once("<style>").unwrap();
    [before, after.split_once("</style>").unwrap().1].concat()
}

/// The text of a table's row that begins with `name`.
fn row<'a>(page: &'a str, name: &str) -> &'a str {
    let open = format!("<th scope=\"row\">{name}</th>");
    let rest = page.split(&open).nth(1).unwrap_or_else(|| panic!("no row {name}"));
    rest.split("</tr>").next().unwrap()
}

/// The same session, in which each operation takes so many times as long.
fn slower(facts: &[Fact], times: u64) -> Vec<Fact> {
    let slow = |fact: &Fact| match fact {
        Fact::Launch(launch) => {
            let mut launch = *launch;
            let length = launch.end.0 - launch.start.0;
            launch.start.0 = launch.end.0 - length / times;
            Fact::Launch(launch)
        }
        other => other.clone(),
    };
    facts.iter().map(slow).collect()
}

#[test]
fn what_was_attributed_stands_beside_what_came_off() {
    let dir = tempfile::tempdir().unwrap();
    let (mut header, facts) = eventful::eventful();
    let before = folder(dir.path(), "before", &header, &facts, 1);
    header.engine["batching"]["max_num_seqs"] = 7.into();
    let after = folder(dir.path(), "after", &header, &slower(&facts, 2), 2);
    let page = compared(dir.path(), &[&before, &after]);
    assert!(page.contains("Attributed against verified"));
    assert!(!page.contains("Not verified:"), "the same requests on the same machine");
    assert!(page.contains("The runs differ in 1 setting"));
    assert!(!page.contains("No recorded setting differs"));
    assert!(page.contains("engine.batching.max_num_seqs"));
    // Operations took half as long, so their causes shrank and the gaps between them grew; the
    // window is the same, and so is the sum.
    let cells = |name: &str| -> Vec<String> {
        let cell = |rest: &str| rest.split("</td>").next().unwrap().to_owned();
        row(&page, name).split("<td class=\"n").skip(1).map(cell).collect()
    };
    assert!(cells("launch_gap")[1].contains(">+"), "{:?}", cells("launch_gap"));
    assert!(cells("weight_streaming")[1].contains(">−"), "{:?}", cells("weight_streaming"));
    assert!(cells("All device time")[1].contains(">0"), "{:?}", cells("All device time"));
    assert!(!page.contains("<h3>History"), "two runs have no course");
}

#[test]
fn unequal_work_and_other_machines_verify_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut header, facts) = eventful::eventful();
    let before = folder(dir.path(), "before", &header, &facts, 1);
    let half = folder(dir.path(), "half", &header, &facts[..facts.len() / 2], 2);
    let page = compared(dir.path(), &[&before, &half]);
    assert!(page.contains("<strong>Not verified:</strong>"));
    assert!(page.contains("unequal work ("), "of tokens");
    assert!(page.contains("The runs did unequal work"));
    header.devices[0].name = "another machine".to_owned();
    let other = folder(dir.path(), "other", &header, &facts, 3);
    let page = compared(dir.path(), &[&before, &other]);
    assert!(page.contains("<strong>Not verified:</strong> another machine"));
    assert!(page.contains("The runs differ in their machine"));
}

#[test]
fn three_runs_have_a_history_in_the_order_of_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let (header, facts) = eventful::eventful();
    let third = folder(dir.path(), "third", &header, &facts, 30);
    let first = folder(dir.path(), "first", &header, &facts, 1);
    let second = folder(dir.path(), "second", &header, &facts, 9);
    let page = compared(dir.path(), &[&third, &first, &second]);
    let history = page.split("<h3>History").nth(1).unwrap().split("<h3>").next().unwrap();
    let place = |text: &str| history.find(text).unwrap_or_else(|| panic!("no {text}"));
    assert!(place("<li>first <small>2026-01-02 00:00") < place("<li>second <small>2026-01-10"));
    assert!(place("<li>second") < place("<li>third <small>2026-01-31"));
    assert!(history.contains("in the order in which they ended"));
    assert!(history.matches("class=\"spark\"").count() > 5);
    // The first named is still what the others are held against.
    assert!(page.contains("No recorded setting differs"));
    assert!(page.contains("third, then first") && page.contains("third, then second"));
}

/// The text that a run keeps of its requests: markup, control characters and ten million bytes.
#[test]
fn text_of_requests_neither_breaks_a_page_nor_buries_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut header, mut facts) = eventful::eventful();
    let markup = "</script><script>alert(1)</script>\u{0}\u{1b}[2J\u{202e}";
    let classes = [markup.to_owned(), "z".repeat(10_000_000)];
    let arrivals = facts.iter_mut().filter_map(|fact| match fact {
        Fact::Arrival(arrival) => Some(arrival),
        _ => None,
    });
    for (arrival, class) in arrivals.zip(classes) {
        (arrival.class, arrival.route) = (class, markup.to_owned());
    }
    header.model.name = markup.to_owned();
    header.workload.notes = vec![markup.repeat(100_000)];
    let run = folder(dir.path(), "run", &header, &facts, 1);
    let other = folder(dir.path(), "other", &header, &facts, 2);
    let said = gemba(&["report", word(&run)]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    for page in [page, compared(dir.path(), &[&run, &other])] {
        assert!(page.len() < 3_000_000, "{} bytes", page.len());
        assert!(page.matches("<script").count() <= 1, "text became markup");
        assert!(!page.contains(['\u{0}', '\u{1b}', '\u{202e}']));
        assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
    }
}

#[test]
fn a_run_that_was_cut_short_or_holds_nothing_has_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let (header, facts) = eventful::eventful();
    let truncated = Header { status: Status::Truncated, ..header.clone() };
    let cut = folder(dir.path(), "cut", &truncated, &facts[..facts.len() / 3], 1);
    let empty = folder(dir.path(), "empty", &truncated, &[], 1);
    let nothing = folder(dir.path(), "nothing", &Header::begin(), &[], 1);
    for run in [&cut, &empty, &nothing] {
        let said = gemba(&["report", word(run)]);
        let err = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success(), "{}: {err}", run.display());
        let page = fs::read_to_string(run.join("report.html")).unwrap();
        let alert = page.split("role=\"alert\"").nth(1).expect("an alarm");
        assert!(alert.contains("cover only what was recorded") || run == &nothing, "{alert:.200}");
        assert!(page.ends_with("</html>\n") || page.ends_with("</html>"));
    }
    // Beside a whole one they are no comparison, and that is said.
    let whole = folder(dir.path(), "whole", &header, &facts, 2);
    let page = compared(dir.path(), &[&whole, &empty]);
    assert!(page.contains("empty is truncated."));
    assert!(page.contains("had no token accepted"));
}
