//! What watchers see: metrics, the run's header, its facts while they are made.

use std::io::Read;
use std::path::Path;

use gemba::event::{DeviceState, Fact};
use gemba::trace::{LogReader, MAGIC};
use serde_json::json;

use super::client::{get, open, post, reply};
use super::server::{MODEL, Server};

fn ask(server: &Server, tokens: u32) {
    let body = json!({"model": MODEL, "prompt": "hi there", "max_tokens": tokens});
    assert_eq!(post(server.address, "/v1/completions", &body).status, 200);
}

#[test]
fn the_counters_are_those_of_vllm() {
    let server = Server::usual();
    ask(&server, 7);
    let page = get(server.address, "/metrics");
    assert!(page.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let page = page.text();
    for family in [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:num_preemptions_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:request_success_total",
        "vllm:cache_config_info",
        "vllm:iteration_tokens_total_bucket",
        "vllm:e2e_request_latency_seconds_bucket",
        "vllm:request_queue_time_seconds_bucket",
        "vllm:request_inference_time_seconds_bucket",
        "vllm:request_prefill_time_seconds_bucket",
        "vllm:request_decode_time_seconds_bucket",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_bucket",
        "vllm:request_time_per_output_token_seconds_bucket",
        "vllm:request_prompt_tokens_bucket",
        "vllm:request_generation_tokens_bucket",
        "vllm:request_params_max_tokens_bucket",
        "vllm:request_params_n_bucket",
    ] {
        let labelled = format!("{family}{{model_name=\"{MODEL}\",engine=\"0\"");
        assert!(page.lines().any(|line| line.starts_with(&labelled)), "{family}\n{page}");
    }
    assert!(page.ends_with("gemba_test_extra 1\n"), "what the caller adds stands at the end");
    // The engine counts its step after its client was told.
    server.wait_for("vllm:generation_tokens_total", 7.0);
    assert_eq!(server.metric("vllm:request_generation_tokens_sum"), 7.0);
    assert_eq!(server.metric("vllm:time_to_first_token_seconds_count"), 1.0);
    assert_eq!(server.metric("vllm:inter_token_latency_seconds_count"), 6.0);
}

#[test]
fn the_run_is_told_while_it_is_made() {
    let server = Server::usual();
    let header = get(server.address, "/gemba/run").json();
    assert_eq!(header["schema"], "gemba.run/1");
    assert_eq!(header["status"], "running");
    let head = "GET /gemba/events HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    let mut live = open(server.address, head.as_bytes());
    let mut first = vec![0; 4096];
    // The facts from the window's beginning come before anything happens.
    let got = live.read(&mut first).unwrap();
    let mut begin = first[..got].to_vec();
    while !begin.windows(8).any(|window| window == MAGIC) {
        let got = live.read(&mut first).unwrap();
        begin.extend_from_slice(&first[..got]);
    }
    ask(&server, 5);
    server.ask_to_stop();
    let mut rest = begin;
    live.read_to_end(&mut rest).unwrap();
    let facts = decoded(&rest);
    let kinds = |kind: fn(&Fact) -> bool| facts.iter().filter(|fact| kind(fact)).count();
    assert_eq!(kinds(|fact| matches!(fact, Fact::Arrival(_))), 1);
    assert_eq!(kinds(|fact| matches!(fact, Fact::Finish(_))), 1);
    assert_eq!(kinds(|fact| matches!(fact, Fact::Step(_))), 5);
    let ended = server.end();
    assert_eq!(facts, ended.facts, "the stream is the log");
    let states: Vec<DeviceState> = facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::State(change) => Some(change.state),
            _ => None,
        })
        .collect();
    use DeviceState::{Empty, Host, Load};
    assert_eq!(states, [Load, Empty, Host, Empty], "waiting for clients is said as such");
}

/// The facts in a chunked answer.
fn decoded(bytes: &[u8]) -> Vec<Fact> {
    let reply = reply(bytes);
    assert_eq!(reply.status, 200);
    let mut reader = LogReader::new(&reply.body[..], Path::new("events")).unwrap();
    let mut facts = Vec::new();
    while reader.next_frame(&mut facts).unwrap() {}
    assert!(reader.intact());
    facts
}
