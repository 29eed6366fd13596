//! The dashboard in a real terminal: tmux holds it, keys go in, the screen is read.
//!
//! Where there is no tmux these tests say so on standard error and prove nothing.

#![cfg(feature = "watch")]
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gemba::event::Recorder;
use gemba::report::live::Live;
use gemba::trace::RunWriter;
use gemba::tui::{Screen, View};
use tempfile::TempDir;

#[path = "live/eventful.rs"]
mod eventful;
#[path = "live/session.rs"]
mod session;

/// Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(180);

/// A shell in a terminal of its own.
struct Terminal {
    name: String,
}

impl Terminal {
    #[expect(clippy::explicit_write, reason = "eprintln! is swallowed by the test harness")]
    fn open(name: &str, size: (u16, u16)) -> Option<Self> {
        let found = Command::new("tmux").arg("-V").stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            let said = "SKIPPED: tmux not found; apt-get install tmux";
            writeln!(std::io::stderr(), "{said}").unwrap();
            return None;
        }
        let terminal = Self { name: format!("gemba-{name}-{}", std::process::id()) };
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let shell = "env PS1='ready> ' NO_COLOR=1 LANG=C.UTF-8 sh";
        let begun = terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-s",
            "it",
            "-x",
            &width,
            "-y",
            &height,
            shell,
        ]);
        assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
        terminal.until("the shell is ready", |screen| screen.contains("ready>"));
        Some(terminal)
    }

    /// A dashboard on a run that was recorded before, in the folder beside it.
    fn watching(name: &str, size: (u16, u16), flags: &str) -> Option<(Self, TempDir)> {
        let terminal = Self::open(name, size)?;
        let dir = tempfile::tempdir().unwrap();
        recorded(dir.path());
        terminal.run(&format!("{GEMBA} watch {} {flags}", dir.path().display()));
        Some((terminal, dir))
    }

    fn tmux(&self, words: &[&str]) -> Output {
        let server = ["-u", "-L", &self.name];
        Command::new("tmux").args(server).args(words).env_remove("TMUX").output().unwrap()
    }

    fn screen(&self) -> String {
        let shown = self.tmux(&["capture-pane", "-p", "-t", "it"]);
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    /// Types words and Enter.
    fn run(&self, command: &str) {
        self.tmux(&["send-keys", "-t", "it", "-l", command]);
        self.key("Enter");
    }

    fn key(&self, key: &str) {
        assert!(self.tmux(&["send-keys", "-t", "it", key]).status.success());
    }

    fn until(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let screen = self.screen();
            if holds(&screen) {
                return screen;
            }
            assert!(began.elapsed() < PATIENCE, "never: {what}\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A flag of the terminal as tmux names it: 0 or 1.
    fn flag(&self, name: &str) -> String {
        let said = self.tmux(&["display-message", "-p", "-t", "it", &format!("#{{{name}}}")]);
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }

    /// The terminal is the shell's again: no second screen, no mouse, and what is typed is echoed.
    fn given_back(&self) {
        self.until("the shell is back", |screen| screen.trim_end().ends_with("ready>"));
        assert_eq!(self.flag("alternate_on"), "0");
        assert_eq!(self.flag("mouse_any_flag"), "0");
        self.run("stty -a | tr ' ' '\\n' | grep -xE -- '-?(echo|icanon|isig);?' | tr '\\n' ' '");
        self.until("echo, lines and signals are on", |screen| {
            let line = screen.lines().rev().find(|line| line.contains("icanon"));
            line.is_some_and(|line| !line.contains("-icanon") && !line.contains("-echo"))
        });
    }

    fn process(&self, name: &str) -> String {
        let pane = self.tmux(&["display-message", "-p", "-t", "it", "#{pane_pid}"]);
        let shell = String::from_utf8_lossy(&pane.stdout).trim().to_owned();
        let children = format!("/proc/{shell}/task/{shell}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let is_it = |id: &&str| {
            let comm = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
            comm.trim() == name
        };
        children.split_whitespace().find(is_it).unwrap().to_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

const GEMBA: &str = env!("CARGO_BIN_EXE_gemba");

fn recorded(folder: &Path) {
    let (header, facts) = eventful::eventful();
    let mut writer = RunWriter::create(folder, &header, Arc::default()).unwrap();
    facts.into_iter().for_each(|fact| writer.record(fact));
    writer.close(&header).unwrap();
}

#[test]
fn a_run_shows_itself_and_then_its_books() {
    let Some(terminal) = Terminal::open("run", (100, 30)) else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run").display().to_string();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache").display().to_string();
    terminal.run(&format!(
        "XDG_CACHE_HOME={cache} {GEMBA} run steady --num-requests 12 --speedup 4 \
         --observer-pairs 0 --ui tui --output-dir {folder}"
    ));
    terminal.until("causes are shown while it runs", |screen| {
        // Which stand above depends on the machine; value is among them on any.
        screen.contains("books balance so far") && screen.contains("value.")
    });
    terminal.key("2");
    terminal.until("kernels", |screen| screen.contains("kernels by time"));
    terminal.key("1");
    let over = terminal.until("the end", |screen| screen.contains("the run is over"));
    assert!(over.contains("complete"), "{over}");
    terminal.key("q");
    terminal.until("the printed books", |screen| screen.contains("report.html"));
    terminal.given_back();
}

#[test]
fn ctrl_c_stops_a_run_and_the_books_are_printed() {
    let Some(terminal) = Terminal::open("stop", (100, 30)) else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run").display().to_string();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache").display().to_string();
    terminal.run(&format!(
        "XDG_CACHE_HOME={cache} {GEMBA} run steady --observer-pairs 0 --ui tui \
         --output-dir {folder}"
    ));
    terminal.until("it runs", |screen| screen.contains("value."));
    terminal.key("C-c");
    terminal.until("the printed books", |screen| screen.contains("report.html"));
    terminal.given_back();
}

#[test]
fn a_replay_seeks_halts_and_survives_a_storm_of_sizes() {
    let watching = Terminal::watching("replay", (80, 24), "--speed 0.05");
    let Some((terminal, _dir)) = watching else { return };
    terminal.until("it plays", |screen| screen.contains("replay 0.050×"));
    terminal.key("Space");
    terminal.until("it halts", |screen| screen.contains("replay halted"));
    terminal.key("End");
    let end = terminal.until("the end", |screen| screen.contains("replay at its end"));
    assert!(end.contains("48 requests"), "{end}");
    for (width, height) in [(20, 5), (200, 50), (7, 3), (81, 25), (40, 60), (80, 24)] {
        let (width, height) = (width.to_string(), height.to_string());
        terminal.tmux(&["resize-window", "-t", "it", "-x", &width, "-y", &height]);
        terminal.key("Tab");
    }
    terminal.key("?");
    terminal.until("the help", |screen| screen.contains("replay: five seconds back"));
    terminal.key("Escape");
    // An escape that another key follows at once is part of that key's sequence.
    terminal.until("the help goes", |screen| !screen.contains("replay: five seconds back"));
    terminal.key("Home");
    terminal.until("the beginning", |screen| screen.contains("replay halted"));
    terminal.key("q");
    terminal.given_back();
}

#[test]
fn the_mouse_selects_while_it_is_asked_to() {
    let watching = Terminal::watching("mouse", (100, 30), "--at 9");
    let Some((terminal, _dir)) = watching else { return };
    terminal.until("it is shown", |screen| screen.contains("books balance so far"));
    terminal.key("3");
    let selected = |screen: &str| -> Option<String> {
        let line = screen.lines().find(|line| line.contains(" from arrival"))?;
        Some(line.split(':').next()?.to_owned())
    };
    let first = terminal.until("a request is selected", |screen| selected(screen).is_some());
    assert_eq!(terminal.flag("mouse_any_flag"), "0", "the terminal's own selection works");
    terminal.key("m");
    terminal.until("the mouse is taken", |_| terminal.flag("mouse_any_flag") == "1");
    // As a terminal reports the wheel: down is 65, up is 64, at the tenth column of row five.
    let wheel =
        |code: u8| terminal.tmux(&["send-keys", "-t", "it", "-l", &format!("\x1b[<{code};10;5M")]);
    wheel(65);
    terminal.until("the next request is selected", |screen| selected(screen) != selected(&first));
    wheel(64);
    terminal.until("the first is selected again", |screen| selected(screen) == selected(&first));
    terminal.key("q");
    terminal.given_back();
}

#[test]
fn twenty_columns_and_five_rows_say_what_matters() {
    let watching = Terminal::watching("small", (20, 5), "--at 9");
    let Some((terminal, _dir)) = watching else { return };
    terminal.until("the seal", |screen| screen.contains("books balance"));
    terminal.key("q");
    terminal.until("the shell", |screen| screen.trim_end().ends_with("ready>"));
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let watching = Terminal::watching("signal", (80, 24), "");
    let Some((terminal, _dir)) = watching else { return };
    terminal.until("it is shown", |screen| screen.contains("books balance so far"));
    let id = terminal.process("gemba");
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    terminal.given_back();
}

/// Run by the test below in a terminal; alone it has none.
#[test]
#[ignore = "it panics on purpose, in a terminal that another test opens"]
fn panics_on_screen() {
    let mut screen = Screen::take().unwrap();
    screen.draw(&Live::default(), &View::default()).unwrap();
    panic!("the picture is broken");
}

#[test]
fn a_panic_gives_the_terminal_back_and_is_read() {
    let Some(terminal) = Terminal::open("panic", (100, 24)) else { return };
    let this = std::env::current_exe().unwrap();
    terminal.run(&format!("{} --ignored --exact panics_on_screen --nocapture", this.display()));
    terminal.until("the message", |screen| screen.contains("the picture is broken"));
    terminal.given_back();
}
