//! A command of a shell, run until it ends or the gate is told to.
//!
//! The command is a group of processes of its own, so that a signal meant for the gate is passed
//! on once and to all of it: the gate then waits for it to end and removes what it left.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How a command ended, and what it said on stderr.
pub(super) type Ended = (ExitStatus, String);

/// How often a command that runs is left to see whether the gate is to end.
const LOOK: Duration = Duration::from_millis(50);
/// How long a command may take to end when asked to: a run closes its folder.
const GRACE: u32 = 200;

/// A flag that SIGINT and SIGTERM set. The second signal ends the process at once.
///
/// # Errors
/// If the signals cannot be listened for.
pub(super) fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Runs `line` in a shell. `None` if `stop` was set before it ended; then nothing of it runs on.
///
/// # Errors
/// If there is no shell, or its end cannot be waited for.
pub(super) fn run(line: &str, stop: &AtomicBool) -> io::Result<Option<Ended>> {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    let child = shell.spawn()?;
    let group = child.id();
    let (done, ended) = channel();
    std::thread::spawn(move || {
        // Whoever waited may have given up.
        let _ = done.send(wait(child));
    });
    let mut asked = 0_u32;
    loop {
        match ended.recv_timeout(LOOK) {
            Ok(ended) => {
                let ended = ended?;
                return Ok(if stop.load(Ordering::Relaxed) { None } else { Some(ended) });
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if stop.load(Ordering::Relaxed) {
            match asked {
                0 => signal("TERM", group),
                GRACE => signal("KILL", group),
                _ if asked > 2 * GRACE => return Ok(None),
                _ => {}
            }
            asked += 1;
        }
    }
}

fn wait(mut child: Child) -> io::Result<Ended> {
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut said)?;
    }
    Ok((child.wait()?, String::from_utf8_lossy(&said).into_owned()))
}

/// Sends a signal to a group of processes. One that has ended meanwhile needs none.
fn signal(name: &str, group: u32) {
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -{name} -{group}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_ends_by_itself_and_says_why() {
        let stop = AtomicBool::new(false);
        let (status, said) = run("echo no >&2; exit 3", &stop).unwrap().unwrap();
        assert_eq!((status.code(), said.as_str()), (Some(3), "no\n"));
    }

    #[test]
    fn a_command_that_is_stopped_ends_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let (began, alive) = (dir.path().join("began"), dir.path().join("alive"));
        let stop = AtomicBool::new(false);
        let line =
            format!("(touch {}; sleep 30; touch {}) & wait", began.display(), alive.display());
        std::thread::scope(|scope| {
            let running = scope.spawn(|| run(&line, &stop));
            while !began.exists() {
                std::thread::sleep(LOOK);
            }
            stop.store(true, Ordering::Relaxed);
            assert!(running.join().unwrap().unwrap().is_none());
        });
        assert!(!alive.exists());
    }
}
