//! Telemetry as a user meets it: receivers that are absent, slow, busy, or refuse, and runs that
//! none of them may harm. `tests/otlp/run` has receivers that decode what is sent with the
//! published protobufs of another language.

#![cfg(feature = "otel")]
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gemba::event::{Fact, Recorder};
use gemba::trace::{Header, RunWriter, Status};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;

#[path = "live/eventful.rs"]
mod eventful;
#[path = "live/session.rs"]
mod session;

/// The command, with nothing of the environment that would send telemetry elsewhere.
fn gemba(words: &[&str]) -> Command {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemba"));
    command.args(words).env("XDG_CACHE_HOME", cache).env("NO_COLOR", "1").stdin(Stdio::null());
    for (name, _) in gemba::otel::VARIABLES {
        command.env_remove(name);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

/// A finished run folder of a session in which much happens.
fn finished(folder: &Path) -> Vec<Fact> {
    let (header, facts) = eventful::eventful();
    let begun = Header { status: Status::Running, ..header.clone() };
    let mut writer = RunWriter::create(folder, &begun, Arc::default()).unwrap();
    facts.iter().for_each(|fact| writer.record(fact.clone()));
    writer.close(&header).unwrap();
    facts
}

/// What a receiver answers: status, more of the head, body.
type Answer = (u16, &'static str, Vec<u8>);

/// A receiver that answers to the n-th request for spans as `answer` says, and keeps them.
struct Receiver {
    url: String,
    spans: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Receiver {
    fn start(answer: impl Fn(usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::default();
        let kept = Arc::clone(&spans);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                serve(connection.unwrap(), &kept, &answer);
            }
        });
        Self { url, spans }
    }

    fn count(&self) -> usize {
        let requests = self.spans.lock().unwrap();
        let all = requests.iter().flat_map(|r| &r.resource_spans).flat_map(|r| &r.scope_spans);
        all.map(|scope| scope.spans.len()).sum()
    }
}

fn serve(
    mut connection: TcpStream,
    kept: &Mutex<Vec<ExportTraceServiceRequest>>,
    answer: &impl Fn(usize) -> Answer,
) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (status, head, answer) = match first.contains("/v1/traces") {
        true => {
            let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
            let mut kept = kept.lock().unwrap();
            let answer = answer(kept.len());
            kept.push(request);
            answer
        }
        false => (200, "", Vec::new()),
    };
    let length = answer.len();
    let head = format!(
        "HTTP/1.1 {status} x\r\n{head}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    // A client that has gone is none of a receiver's business.
    let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&answer));
}

fn export(folder: &Path, url: &str) -> Output {
    let words = ["export", path(folder), "--format", "otlp", "--otlp", url];
    gemba(&words).env("OTEL_EXPORTER_OTLP_TIMEOUT", "3000").output().unwrap()
}

#[test]
fn every_request_that_ended_arrives_as_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let facts = finished(dir.path());
    let receiver = Receiver::start(|_| (200, "", Vec::new()));
    let said = export(dir.path(), &receiver.url);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let ended = facts.iter().filter(|fact| matches!(fact, Fact::Finish(_))).count();
    let requests = receiver.spans.lock().unwrap().clone();
    let spans = requests.iter().flat_map(|r| &r.resource_spans[0].scope_spans[0].spans);
    assert_eq!(spans.filter(|span| span.parent_span_id.is_empty()).count(), ended);
    let sent = format!("telemetry: {} spans sent to {}/v1/traces", receiver.count(), receiver.url);
    assert_eq!(text(&said.stdout).trim(), sent);
}

#[test]
fn a_busy_receiver_gets_everything_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    finished(dir.path());
    let busy: Vec<Answer> = vec![
        (503, "retry-after: 1\r\n", Vec::new()),
        (429, "", b"slow down".to_vec()),
        (502, "", Vec::new()),
    ];
    let receiver =
        Receiver::start(move |at| busy.get(at).cloned().unwrap_or((200, "", Vec::new())));
    let began = Instant::now();
    let said = export(dir.path(), &receiver.url);
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(began.elapsed() >= Duration::from_secs(1), "it waits as long as it is asked to");
    let requests = receiver.spans.lock().unwrap();
    assert_eq!(requests[0], requests[3], "the same batch is sent again");
}

/// Receivers that do not take everything: an error that says how much and why.
#[test]
fn what_a_finished_run_could_not_send_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    finished(dir.path());
    let partial = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 2,
            error_message: "too\u{7}old".to_owned(),
        }),
    };
    let partial = partial.encode_to_vec();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let refuses = Receiver::start(|_| (400, "", b"no".to_vec()));
    let always_busy = Receiver::start(|_| (503, "retry-after: 3600\r\n", Vec::new()));
    let partly = Receiver::start(move |_| (200, "", partial.clone()));
    let elsewhere = Receiver::start(|_| (307, "location: http://127.0.0.1:1/\r\n", Vec::new()));
    for (url, expected) in [
        (gone.as_str(), "dropped; at last: "),
        (&gone.replace("http", "grpc"), "dropped; at last: "),
        (&refuses.url, "dropped; at last: it answered 400"),
        (&always_busy.url, "dropped; at last: it answered 503"),
        (&elsewhere.url, "dropped; at last: it answered 307"),
        (&partly.url, "refused by the receiver; at last: too old"),
    ] {
        let said = export(dir.path(), url);
        let err = text(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{url}: {err}");
        assert!(err.starts_with("error: failed to send telemetry: "), "{url}: {err}");
        assert!(err.contains(expected), "{url}: {err}");
        assert!(err.contains("\nhint: is a collector listening there?"), "{url}: {err}");
    }
}

#[test]
fn receivers_that_cannot_be_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (run, out) = (dir.path().join("run"), dir.path().join("out"));
    finished(&run);
    let run_to = ["run", "steady", "--output-dir", path(&out), "--otlp"];
    let with = |url: &'static str| [&run_to[..], &[url]].concat();
    type Case<'a> = (Vec<&'a str>, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 5] = [
        (with("https://h:4318"), &[], "there is no TLS in this program"),
        (with("collector"), &[], "expected http://HOST:PORT or grpc://HOST:PORT"),
        (
            vec!["run", "steady", "--output-dir", path(&out)],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "x")],
            "expected http/protobuf or grpc, found x",
        ),
        (
            with("grpc://127.0.0.1:1"),
            &[("OTEL_EXPORTER_OTLP_HEADERS", "a b=c")],
            "send the header a b: gRPC cannot carry it",
        ),
        (vec!["export", path(&run), "--format", "otlp"], &[], "no receiver is named"),
    ];
    for (words, variables, expected) in cases {
        let said = gemba(&words).envs(variables.iter().copied()).output().unwrap();
        let err = text(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{words:?}: {err}");
        assert!(err.starts_with("error: failed to ") && err.contains(expected), "{words:?}: {err}");
        assert!(!out.exists(), "{words:?} left something behind");
    }
}

/// A small run; gives what it says on stderr.
fn small_run(folder: &Path, url: &str) -> String {
    let words = ["run", "steady", "--num-requests", "6", "--speedup", "20", "--ui", "none"];
    let more = ["--observer-pairs", "0", "--output-dir", path(folder), "--json"];
    let mut command = gemba(&[&words[..], &more].concat());
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", url).env("OTEL_EXPORTER_OTLP_TIMEOUT", "1000");
    let said = command.output().unwrap();
    let err = text(&said.stderr);
    assert!(said.status.success(), "{err}");
    let json: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(json["requests"]["completed"], 6, "{err}");
    assert_eq!(json["balanced"], true);
    err
}

#[test]
fn a_run_tells_while_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_| (200, "", Vec::new()));
    let err = small_run(&dir.path().join("run"), &receiver.url);
    let sent = format!("note: telemetry: {} spans sent to ", receiver.count());
    assert!(receiver.count() > 6 * 4 && err.contains(&sent), "{err}");
    assert!(!err.contains("dropped"), "{err}");
}

/// Whatever a receiver does, every request is served and the run ends soon.
#[test]
fn no_receiver_can_harm_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let busy = Receiver::start(|_| (503, "retry-after: 3600\r\n", Vec::new()));
    let nonsense = Receiver::start(|_| (200, "", vec![0xff; 100]));
    for (name, url, expected) in [
        ("gone", "http://127.0.0.1:1", "dropped"),
        ("gone-grpc", "grpc://127.0.0.1:1", "dropped"),
        ("silent", &silent_url, "dropped"),
        ("silent-grpc", &silent_url.replace("http", "grpc"), "dropped"),
        ("busy", &busy.url, "dropped; at last: it answered 503"),
        // A receiver that answers 200 has taken it, whatever else it says.
        ("nonsense", &nonsense.url, "spans sent to"),
    ] {
        let began = Instant::now();
        let err = small_run(&dir.path().join(name), url);
        assert!(err.contains("note: telemetry: ") && err.contains(expected), "{name}: {err}");
        assert!(began.elapsed() < Duration::from_secs(60), "{name}: {:?}", began.elapsed());
    }
}
