//! Clients that misbehave, floods, failures, and the end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use gemba::event::Outcome;
use gemba::trace::{Run, Status};
use gemba::unit::Nanos;
use gemba::waste::{Books, BooksOptions};
use serde_json::json;

use super::client::{Reply, get, open, post, post_bytes, read};
use super::server::{MODEL, Server, Setting, wait};

const TEXT: &str = "/v1/completions";

fn asks(tokens: u32, stream: bool) -> Vec<u8> {
    let body = json!({
        "model": MODEL, "prompt": "on and on", "max_tokens": tokens, "temperature": 1.0,
        "ignore_eos": true, "stream": stream,
    });
    post_bytes(TEXT, &[], body.to_string().as_bytes())
}

/// A stream that has begun.
fn begun(address: SocketAddr, tokens: u32) -> TcpStream {
    let mut stream = open(address, &asks(tokens, true));
    let mut first = [0; 400];
    let got = stream.read(&mut first).unwrap();
    assert!(first[..got].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&first));
    stream
}

#[test]
fn a_vanished_client_cancels_its_request() {
    let server = Server::usual();
    for streamed in [true, false] {
        let client = match streamed {
            true => begun(server.address, 4000),
            false => open(server.address, &asks(4000, false)),
        };
        server.wait_for("vllm:num_requests_running", 1.0);
        drop(client);
        server.wait_for("vllm:num_requests_running", 0.0);
    }
    let health = get(server.address, "/health").json();
    assert_eq!(health["requests"], 0, "no place is held");
    assert_eq!(server.metric("vllm:kv_cache_usage_perc"), 0.0);
    let ended = server.end();
    ended.check_nothing_is_left();
    for finish in ended.finishes() {
        assert_eq!(finish.outcome, Outcome::Cancelled);
        assert!(finish.output_tokens < 4000);
    }
    assert_eq!(ended.outcome.status, Status::Complete);
}

#[test]
fn a_slow_reader_gets_its_text_late_and_holds_up_nobody() {
    let server = Server::usual();
    let mut slow = begun(server.address, 300);
    let quick = read(open(server.address, &asks(300, true)));
    assert!(quick.text().ends_with("data: [DONE]\n\n"));
    // The engine is done with both although one has read almost nothing.
    let labels = format!("model_name=\"{MODEL}\",engine=\"0\",finished_reason=\"length\"");
    let ended = format!("vllm:request_success_total{{{labels}}}");
    server.wait_for(&ended, 2.0);
    let mut text = Vec::new();
    let mut byte = [0];
    for _ in 0..200 {
        assert_eq!(slow.read(&mut byte).unwrap(), 1);
        text.push(byte[0]);
        std::thread::sleep(Duration::from_millis(2));
    }
    slow.read_to_end(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("data: [DONE]"), "nothing is lost");
    let ended = server.end();
    ended.check_nothing_is_left();
    assert_eq!(ended.outcome.counts.completed, 2);
}

#[test]
fn heads_and_bodies_that_never_come_are_given_up() {
    let mut setting = Setting::new();
    setting.limits.read = Nanos(400_000_000);
    let server = Server::start(setting);
    let began = Instant::now();
    let half_head = open(server.address, b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-");
    let silent = TcpStream::connect(server.address).unwrap();
    let half_body = &post_bytes(TEXT, &[], &[b' '; 100])[..];
    let reply = read(open(server.address, &half_body[..half_body.len() - 50]));
    assert_eq!(reply.status, 408, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], "request_timeout");
    for mut stream in [half_head, silent] {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    }
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(400) && waited < Duration::from_secs(20), "{waited:?}");
    assert_eq!(get(server.address, "/health").status, 200);
}

#[test]
fn a_flood_is_answered_with_429_and_nothing_is_lost() {
    let mut setting = Setting::new();
    setting.engine.batching.max_num_seqs = 2;
    setting.limits.queue = 4;
    let server = Server::start(setting);
    let address = server.address;
    let clients: Vec<_> = (0..40)
        .map(|at| std::thread::spawn(move || read(open(address, &asks(200, at % 2 == 0)))))
        .collect();
    let replies: Vec<Reply> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let served = replies.iter().filter(|reply| reply.status == 200).count();
    let refused: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 429).collect();
    assert_eq!(served + refused.len(), 40);
    assert!(served >= 6 && !refused.is_empty(), "{served} served");
    for reply in &refused {
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait));
        let error = &reply.json()["error"];
        assert_eq!(error["code"], "rate_limit_exceeded");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("6 requests run or wait, and 6 may"), "{message}");
    }
    assert_eq!(server.metric("gemba_requests_refused_total"), refused.len() as f64);
    let too_many = json!({"model": MODEL, "prompt": "x", "n": 7, "max_tokens": 1});
    let reply = post(address, TEXT, &too_many);
    assert_eq!(reply.status, 400, "it could never be served: {}", reply.text());
    let ended = server.end();
    ended.check_nothing_is_left();
    let count = |outcome| ended.finishes().iter().filter(|f| f.outcome == outcome).count();
    assert_eq!(count(Outcome::Completed), served);
    assert_eq!(count(Outcome::Rejected), refused.len());
    assert_eq!(ended.arrivals().len(), 40);
}

#[test]
fn many_slow_streams_of_which_half_vanish_leave_nothing() {
    let server = Server::usual();
    let address = server.address;
    let clients: Vec<_> = (0..60)
        .map(|at| {
            std::thread::spawn(move || {
                let mut stream = open(address, &asks(40, true));
                let mut text = Vec::new();
                let mut piece = [0; 64];
                loop {
                    std::thread::sleep(Duration::from_millis(1 + at % 7));
                    match stream.read(&mut piece) {
                        Ok(0) | Err(_) => break,
                        Ok(got) => text.extend_from_slice(&piece[..got]),
                    }
                    if at % 2 == 0 && text.len() > 200 {
                        return None;
                    }
                }
                Some(String::from_utf8_lossy(&text).contains("data: [DONE]"))
            })
        })
        .collect();
    let whole: Vec<Option<bool>> = clients.into_iter().map(|c| c.join().unwrap()).collect();
    assert_eq!(whole.iter().filter(|whole| **whole == Some(true)).count(), 30);
    wait("the end of all", || get(address, "/health").json()["requests"] == 0);
    let ended = server.end();
    ended.check_nothing_is_left();
    assert_eq!(ended.arrivals().len(), 60);
    assert!(ended.outcome.counts.completed >= 30);
}

#[test]
fn a_request_has_a_time_limit() {
    let mut setting = Setting::new();
    setting.limits.request = Nanos(150_000_000);
    let server = Server::start(setting);
    let reply = read(open(server.address, &asks(4000, false)));
    assert_eq!(reply.status, 504, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], "timeout");
    let reply = read(open(server.address, &asks(4000, true)));
    assert_eq!(reply.status, 200);
    let events = reply.events();
    assert_eq!(events.last().unwrap()["error"]["code"], "timeout");
    let ended = server.end();
    ended.check_nothing_is_left();
    assert!(ended.finishes().iter().all(|finish| finish.outcome == Outcome::TimedOut));
}

#[test]
fn asked_to_stop_it_finishes_what_runs_and_takes_nothing_new() {
    let server = Server::usual();
    let stream = begun(server.address, 1500);
    // A connection that is open already: the listening socket may be gone.
    let mut kept = TcpStream::connect(server.address).unwrap();
    kept.write_all(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    let mut answer = [0; 1024];
    let got = kept.read(&mut answer).unwrap();
    assert!(answer[..got].starts_with(b"HTTP/1.1 200"));
    server.ask_to_stop();
    wait("draining", || {
        let reply = get(server.address, "/health");
        reply.status == 503 && reply.text().contains("shutting down")
    });
    kept.write_all(&asks(5, false)).unwrap();
    let reply = read(kept);
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.header("retry-after").is_some());
    let (folder, mut rest) = (server.run_folder(), String::new());
    let mut stream = stream;
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("data: [DONE]"));
    wait("the closed folder", || {
        Run::open(&folder).is_ok_and(|run| run.header.status == Status::Complete)
    });
    let run = Run::open(&folder).unwrap();
    let books = Books::of(&run, &BooksOptions::default()).unwrap();
    assert!(books.balanced(), "the books of a served run close");
    let ended = server.end();
    ended.check_nothing_is_left();
    assert_eq!(ended.outcome.status, Status::Complete);
    assert_eq!(ended.outcome.counts.completed, 1);
}

#[test]
fn what_cannot_be_finished_in_time_is_cut_and_said() {
    let mut setting = Setting::new();
    setting.limits.drain = Nanos(100_000_000);
    setting.engine.batching.max_num_seqs = 1;
    let server = Server::start(setting);
    let waiting: Vec<TcpStream> =
        (0..12).map(|_| open(server.address, &asks(4000, true))).collect();
    server.wait_for("vllm:num_requests_waiting", 11.0);
    let ended = server.end();
    assert_eq!(ended.outcome.status, Status::Truncated);
    assert!(ended.finishes().len() < ended.arrivals().len(), "what was open stays open");
    drop(waiting);
}

#[test]
fn a_failed_device_fails_its_requests_and_ends_the_server() {
    let setting = Setting { fails_at: Some(20), ..Setting::new() };
    let server = Server::start(setting);
    let reply = read(open(server.address, &asks(1000, false)));
    assert_eq!(reply.status, 500, "{}", reply.text());
    let error = &reply.json()["error"];
    assert_eq!(error["type"], "server_error");
    assert!(error["message"].as_str().unwrap().contains("the device failed"), "{error}");
    let ended = server.end();
    assert_eq!(ended.outcome.status, Status::Failed);
    assert!(ended.outcome.failure.is_some());
    assert!(ended.finishes().iter().all(|finish| finish.outcome == Outcome::Failed));
    assert_eq!(ended.finishes().len(), ended.arrivals().len());
}
