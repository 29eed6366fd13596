//! `gemba watch` as a user meets it without a terminal: growing, finished, cut and wrong
//! folders, servers that are there, gone, or something else.

#![cfg(all(feature = "serve", feature = "watch"))]
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gemba::event::{Fact, Recorder};
use gemba::trace::{Header, RunWriter, Status};

#[path = "live/eventful.rs"]
mod eventful;
#[path = "live/session.rs"]
mod session;

/// Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

fn gemba(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemba"));
    command.args(words).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn output(words: &[&str]) -> Output {
    gemba(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A finished run folder of a small session.
fn finished(folder: &Path) -> (Header, Vec<Fact>) {
    let (header, facts) = eventful::eventful();
    let mut writer = RunWriter::create(folder, &running(&header), Arc::default()).unwrap();
    facts.iter().for_each(|fact| writer.record(fact.clone()));
    writer.close(&header).unwrap();
    (header, facts)
}

/// The header of the same run while it goes on.
fn running(header: &Header) -> Header {
    let mut header = header.clone();
    header.status = Status::Running;
    header.window.end_ns = gemba::unit::Nanos::ZERO;
    header
}

fn path(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

#[test]
fn without_a_terminal_a_finished_run_is_told_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    finished(dir.path());
    let said = output(&["watch", path(dir.path())]);
    let (out, err) = (text(&said.stdout), text(&said.stderr));
    assert!(said.status.success(), "{err}");
    assert!(err.contains("no terminal here"), "it says that it falls back: {err}");
    assert_eq!(out.lines().count(), 1, "{out}");
    assert!(out.starts_with("complete ") && out.contains("48 requests"), "{out}");
    assert!(out.contains("books balance"), "{out}");
}

#[test]
fn the_last_line_has_the_figures_of_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    finished(dir.path());
    let line = text(&output(&["watch", path(dir.path()), "--ui", "none"]).stdout);
    let ledger = text(&output(&["ledger", path(dir.path()), "--json"]).stdout);
    let ledger: serde_json::Value = serde_json::from_str(&ledger).unwrap();
    let malformed = ledger["causes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|cause| cause["cause"] == "malformed" && cause["commodity"] == "device_time");
    let share: f64 = malformed.map(|cause| cause["share"].as_f64().unwrap()).sum();
    assert!(share > 0.0);
    assert!(line.contains(&format!("malformed {:.1} %", share * 100.0)), "{share}: {line}");
}

/// A thread writes the folder while the command reads it.
#[test]
fn a_growing_folder_is_followed_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (header, facts) = eventful::eventful();
    // The device becomes known after the run has begun.
    let mut bare = running(&header);
    bare.devices.clear();
    let mut writer = RunWriter::create(dir.path(), &bare, Arc::default()).unwrap();
    let child =
        gemba(&["watch", path(dir.path()), "--ui", "none"]).stdout(Stdio::piped()).spawn().unwrap();
    let chunk = facts.len() / 4 + 1;
    for (place, facts) in facts.chunks(chunk).enumerate() {
        std::thread::sleep(Duration::from_millis(600));
        if place == 1 {
            writer.header_file().replace(&running(&header)).unwrap();
        }
        facts.iter().for_each(|fact| writer.record(fact.clone()));
    }
    writer.close(&header).unwrap();
    let out = text(&within(child).stdout);
    assert!(out.starts_with("complete ") && out.contains("48 requests, 0 here"), "{out}");
    assert!(out.contains("books balance"), "{out}");
}

/// Waits for a child, but not for ever.
fn within(mut child: Child) -> Output {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it went on for ever");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn a_folder_whose_writer_died_is_shown_until_somebody_stops_looking() {
    let dir = tempfile::tempdir().unwrap();
    let (header, _) = finished(dir.path());
    let json = serde_json::to_vec(&running(&header)).unwrap();
    fs::write(dir.path().join("run.json"), json).unwrap();
    let log = dir.path().join("events.log");
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let mut command = gemba(&["watch", path(dir.path())]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has said a line once it has read what is there.
    let mut err = child.stderr.take().unwrap();
    let mut said = [0; 400];
    while !text(&said).contains("running ") {
        let got = err.read(&mut said).unwrap();
        assert!(got > 0, "it ended by itself");
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let ended = within(child);
    assert!(ended.status.success());
    let out = text(&ended.stdout);
    assert!(out.starts_with("running ") && out.contains("quiet for"), "{out}");
    assert!(out.contains("books balance"), "{out}");
}

#[test]
fn a_cut_log_of_a_closed_run_is_shown_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    finished(dir.path());
    let log = dir.path().join("events.log");
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() - 5]).unwrap();
    let said = output(&["watch", path(dir.path())]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(text(&said.stdout).starts_with("complete "));
}

#[test]
fn what_cannot_be_watched_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    finished(&run);
    let wrong = dir.path().join("wrong");
    finished(&wrong);
    let mut bytes = fs::read(wrong.join("events.log")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(wrong.join("events.log"), bytes).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{free}");
    for (words, expected) in [
        (&["watch", path(dir.path())][..], "no run.json in it"),
        (&["watch", "no-such-folder"], "no run.json in it"),
        (&["watch", path(&wrong)], "the frame does not match its checksum"),
        (&["watch", "https://example.org"], "expected http:// or a folder, found https://"),
        (&["watch", &nobody], "/gemba/run: "),
        (&["watch", path(&run), "--speed", "0"], "set --speed: expected 0 to 1e6, found 0"),
        (&["watch", path(&run), "--at=-1"], "set --at: expected 0 to 1e9 seconds"),
    ] {
        let said = output(words);
        let err = text(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{words:?}: {err}");
        let error = err.lines().find(|line| line.starts_with("error: failed to "));
        assert!(error.is_some_and(|line| line.contains(expected)), "{words:?}: {err}");
    }
}

/// Answers requests by their path until it has answered `count`; gives its address.
fn server(count: usize, answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(count) {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                request.push(byte[0]);
            }
            let request = text(&request);
            answer(request.split(' ').nth(1).unwrap_or_default(), &mut stream);
        }
    });
    address
}

fn whole(stream: &mut TcpStream, status: &str, body: &[u8]) {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
}

/// The log in chunks that respect no frame.
fn chunked(stream: &mut TcpStream, log: &[u8]) {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for chunk in log.chunks(4_999) {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).unwrap();
        stream.write_all(chunk).unwrap();
        stream.write_all(b"\r\n").unwrap();
        stream.flush().unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
}

#[test]
fn a_server_is_followed_like_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (header, _) = finished(dir.path());
    let log = fs::read(dir.path().join("events.log")).unwrap();
    let mut bare = running(&header);
    bare.devices.clear();
    // The device becomes known while the server is asked; at the end the run is closed.
    let headers = [bare, running(&header), header];
    let headers = headers.map(|header| serde_json::to_vec(&header).unwrap());
    let asked = std::cell::Cell::new(0);
    let address = server(4, move |path, stream| match path {
        "/gemba/run" => {
            whole(stream, "200 OK", &headers[asked.get().min(2)]);
            asked.set(asked.get() + 1);
        }
        "/gemba/events" => chunked(stream, &log),
        _ => whole(stream, "404 Not Found", b""),
    });
    let child =
        gemba(&["watch", &format!("{address}/"), "--ui", "none"]).stdout(Stdio::piped()).spawn();
    let ended = within(child.unwrap());
    let out = text(&ended.stdout);
    assert!(ended.status.success());
    assert!(out.starts_with("complete ") && out.contains("48 requests, 0 here"), "{out}");
    assert!(out.contains("books balance"), "{out}");
}

#[test]
fn a_server_that_goes_leaves_what_it_had_said() {
    let dir = tempfile::tempdir().unwrap();
    let (header, _) = finished(dir.path());
    let log = fs::read(dir.path().join("events.log")).unwrap();
    let json = serde_json::to_vec(&running(&header)).unwrap();
    let address = server(2, move |path, stream| match path {
        "/gemba/run" => whole(stream, "200 OK", &json),
        // In the middle of a frame.
        _ => chunked(stream, &log[..log.len() - 100]),
    });
    let said =
        within(gemba(&["watch", &address, "--ui", "none"]).stdout(Stdio::piped()).spawn().unwrap());
    let out = text(&said.stdout);
    assert!(said.status.success());
    assert!(out.starts_with("running ") && out.contains("the stream ended"), "{out}");
}

#[test]
fn what_is_no_gemba_server_is_said() {
    let cases: [(&str, &[u8], &str); 4] = [
        ("404 Not Found", b"", "expected 200, found 404"),
        ("401 Unauthorized", b"", "the server refused"),
        ("200 OK", b"<html>", "expected value"),
        ("200 OK", b"{\"schema\":\"gemba.run/9\"}", "expected schema gemba.run/1"),
    ];
    for (status, body, expected) in cases {
        let address = server(1, move |_, stream| whole(stream, status, body));
        let said = output(&["watch", &address]);
        let err = text(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{status}: {err}");
        assert!(err.contains(expected), "{status}: {err}");
    }
}
