//! What the dashboard costs a run: the same workload in pairs, with it and without it.
//!
//! `cargo bench --bench watch -- [PAIRS] [SPEEDUP]` runs `gemba run steady` in a terminal that
//! tmux holds, turn by turn with `--ui tui` and `--ui none`, and prints the processor time of the
//! dashboard's thread as a share of one core, as the system counts it, how many operations it
//! booked in a second, and the time per output token of both halves. It stays on the first page,
//! which is the dearest.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a benchmark says what it found")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const GEMBA: &str = env!("CARGO_BIN_EXE_gemba");

/// Nobody waits longer for a run.
const PATIENCE: Duration = Duration::from_secs(900);

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let mut number =
        |otherwise: u64| words.next().and_then(|word| word.parse().ok()).unwrap_or(otherwise);
    let (pairs, speedup) = (number(4), number(1));
    let dir = std::env::temp_dir().join(format!("gemba-watch-{}", std::process::id()));
    let (mut shares, mut changes, mut launches) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        let place = |ui: &str| dir.join(format!("{pair}-{ui}"));
        let mut times = [0.0; 2];
        // Every other pair the other way round.
        let order = if pair % 2 == 0 { ["none", "tui"] } else { ["tui", "none"] };
        for ui in order {
            let folder = place(ui);
            let share = run(&folder, ui, speedup);
            launches.push(launches_per_second(&folder));
            times[usize::from(ui == "tui")] = token_nanos(&folder);
            shares.extend(share);
        }
        let change = (times[1] / times[0] - 1.0) * 100.0;
        changes.push(change);
        println!(
            "pair {pair}: {:.1} µs per token without, {:.1} µs with ({change:+.2} %)",
            times[0] / 1e3,
            times[1] / 1e3
        );
    }
    shares.sort_by(f64::total_cmp);
    changes.sort_by(f64::total_cmp);
    let percent: Vec<String> =
        shares.iter().map(|share| format!("{:.3} %", share * 100.0)).collect();
    println!("the dashboard's thread, of one core: {}", percent.join(", "));
    launches.sort_by(f64::total_cmp);
    println!("operations booked in a second: {:.0}", launches[launches.len() / 2]);
    println!("median change of the time per token: {:+.2} %", changes[changes.len() / 2]);
    // Only measurements lie there.
    let _ = std::fs::remove_dir_all(&dir);
}

/// Runs the workload in a terminal. Gives the share of a core that the dashboard's thread took
/// while the workload played.
fn run(folder: &Path, ui: &str, speedup: u64) -> Option<f64> {
    let name = format!("gemba-bench-{}", std::process::id());
    let tmux = |words: &[&str]| {
        let output = Command::new("tmux").args(["-u", "-L", &name]).args(words).output();
        String::from_utf8_lossy(&output.expect("tmux is installed").stdout).trim().to_owned()
    };
    let command = format!(
        "exec {GEMBA} run steady --speedup {speedup} --observer-pairs 0 --ui {ui} --output-dir {}",
        folder.display()
    );
    tmux(&["-f", "/dev/null", "new-session", "-d", "-s", "it", "-x", "120", "-y", "40", &command]);
    let id = tmux(&["display-message", "-p", "-t", "it", "#{pane_pid}"]);
    let began = Instant::now();
    let mut first = None;
    let mut last = None;
    while !folder.join("summary.json").exists() && began.elapsed() < PATIENCE {
        if plays(folder)
            && let Some(nanos) = thread_nanos(&id)
        {
            first = first.or(Some((Instant::now(), nanos)));
            if status(folder) == "running" {
                last = Some((Instant::now(), nanos));
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // The dashboard stays until it is left.
    tmux(&["send-keys", "-t", "it", "q"]);
    while Path::new(&format!("/proc/{id}/stat")).exists() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(100));
    }
    tmux(&["kill-server"]);
    let ((from, before), (to, after)) = first.zip(last)?;
    Some((after - before) as f64 / (to - from).as_nanos().max(1) as f64)
}

fn plays(folder: &Path) -> bool {
    let log = folder.join("events.log");
    std::fs::metadata(log).is_ok_and(|meta| meta.len() > 10_000)
}

fn status(folder: &Path) -> String {
    let json = std::fs::read(folder.join("run.json")).unwrap_or_default();
    let header: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
    header["status"].as_str().unwrap_or_default().to_owned()
}

/// Nanoseconds on a processor of the dashboard's thread of a process.
fn thread_nanos(process: &str) -> Option<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let named = |task: PathBuf| -> Option<u64> {
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        // The system keeps fifteen characters of a thread's name.
        let it = name.trim() == "gemba-dashboard";
        let schedule = std::fs::read_to_string(task.join("schedstat")).ok()?;
        it.then(|| schedule.split(' ').next()?.parse().ok()).flatten()
    };
    tasks.filter_map(|task| named(task.ok()?.path())).next()
}

/// The mean time per output token after the first.
fn token_nanos(folder: &Path) -> f64 {
    summary(folder)["latency_ns"]["tpot"]["mean"].as_f64().expect("requests were delivered")
}

fn launches_per_second(folder: &Path) -> f64 {
    let run = gemba::trace::Run::open(folder).expect("the run ended");
    let window = run.header.window;
    run.launches.len() as f64 / window.end_ns.saturating_sub(window.start_ns).as_secs_f64()
}

fn summary(folder: &Path) -> serde_json::Value {
    let json = std::fs::read(folder.join("summary.json")).expect("the run ended");
    serde_json::from_slice(&json).expect("it is JSON")
}
