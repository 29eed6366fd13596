//! Requests as they should be, and their answers.

use serde_json::{Value, json};

use super::client::{get, post};
use super::server::{CONTEXT, MODEL, Server};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": MODEL, "messages": [{"role": "user", "content": "say something"}],
        "max_tokens": 12, "temperature": 0.8, "seed": 5,
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn text(more: Value) -> Value {
    let mut body =
        json!({"model": MODEL, "prompt": "once upon a time", "max_tokens": 9, "temperature": 0});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn a_chat_is_answered() {
    let server = Server::usual();
    let reply = post(server.address, CHAT, &chat(json!({})));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let answer = reply.json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], MODEL);
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 12);
    let prompt = usage["prompt_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], prompt + 12);
    // The same question with the same seed has the same answer; with another, another.
    let again = post(server.address, CHAT, &chat(json!({}))).json();
    assert_eq!(content(&again), content(&answer));
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0);
    let other = post(server.address, CHAT, &chat(json!({"seed": 6}))).json();
    assert_ne!(content(&other), content(&answer));
    let ended = server.end();
    ended.check_nothing_is_left();
    assert_eq!(ended.outcome.counts.completed, 3);
    assert!(ended.arrivals().iter().all(|arrival| arrival.class == "chat"));
}

#[test]
fn a_stream_says_the_same_piece_by_piece() {
    let server = Server::usual();
    let whole = post(server.address, CHAT, &chat(json!({}))).json();
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let reply = post(server.address, CHAT, &chat(options));
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let events = reply.events();
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let (counts, pieces) = events.split_last().unwrap();
    assert_eq!(counts["choices"], json!([]));
    assert_eq!(counts["usage"]["completion_tokens"], 12);
    let said: String = pieces
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, content(&whole));
    assert_eq!(pieces.last().unwrap()["choices"][0]["finish_reason"], "length");
    for event in pieces {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["usage"], Value::Null);
        assert_eq!(event["id"], events[0]["id"]);
    }
    let plain = post(server.address, CHAT, &chat(json!({"stream": true}))).events();
    assert!(plain.iter().all(|event| event.get("usage").is_none()));
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let counted = chat(json!({"stream": true, "stream_options": options}));
    let counted = post(server.address, CHAT, &counted).events();
    let seen: Vec<u64> =
        counted[1..].iter().map(|e| e["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(seen.is_sorted() && seen.last() == Some(&12), "{seen:?}");
}

#[test]
fn a_text_goes_on() {
    let server = Server::usual();
    let answer = post(server.address, TEXT, &text(json!({}))).json();
    assert_eq!(answer["object"], "text_completion");
    let said = answer["choices"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(answer["usage"]["completion_tokens"], 9);
    // As ids it is the same prompt.
    let ids = server_ids("once upon a time");
    let same = post(server.address, TEXT, &text(json!({"prompt": ids.clone()}))).json();
    assert_eq!(same["choices"][0]["text"], said.as_str());
    let both = json!({"prompt": [ids, server_ids("and")], "n": 2});
    let both = post(server.address, TEXT, &text(both)).json();
    let choices = both["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    let texts: Vec<&str> = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!((texts[0], texts[1]), (said.as_str(), said.as_str()));
    assert_eq!(texts[2], texts[3]);
    assert_eq!(both["usage"]["completion_tokens"], 36);
    let echoed = post(server.address, TEXT, &text(json!({"echo": true}))).json();
    assert_eq!(echoed["choices"][0]["text"], format!("once upon a time{said}"));
    let streamed = text(json!({"stream": true, "echo": true}));
    let streamed = post(server.address, TEXT, &streamed).events();
    let streamed: String =
        streamed.iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(streamed, format!("once upon a time{said}"));
    // The interface's default length.
    let short = json!({"model": MODEL, "prompt": "x"});
    let short = post(server.address, TEXT, &short).json();
    assert!(short["usage"]["completion_tokens"].as_u64().unwrap() <= 16);
    server.end().check_nothing_is_left();
}

/// The ids of a text in the stand-in's table, for a vocabulary of 1024: two letters at most, and
/// a few of three.
fn server_ids(text: &str) -> Vec<u32> {
    gemba::model::Tokenizer::stand_in(MODEL, 1024).unwrap().encode(text).unwrap()
}

#[test]
fn answers_to_one_prompt_differ_and_come_again() {
    let server = Server::usual();
    let texts = || {
        let body = chat(json!({"n": 4, "temperature": 1.5}));
        let answer = post(server.address, CHAT, &body).json();
        let choices = answer["choices"].as_array().unwrap().clone();
        let indices: Vec<u64> = choices.iter().map(|c| c["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, [0, 1, 2, 3]);
        choices.iter().map(|c| c["message"]["content"].to_string()).collect::<Vec<_>>()
    };
    let first = texts();
    assert_eq!(texts(), first);
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!(distinct.len(), 4);
}

#[test]
fn a_stop_ends_the_answer_before_it() {
    let server = Server::usual();
    let whole = post(server.address, TEXT, &text(json!({"max_tokens": 40}))).json();
    let whole = whole["choices"][0]["text"].as_str().unwrap().to_owned();
    let characters: Vec<char> = whole.chars().collect();
    let stop: String = characters[characters.len() / 2..][..3].iter().collect();
    let before = whole.split(&stop).next().unwrap();
    let body = text(json!({"max_tokens": 40, "stop": ["\u{1}never", stop.clone()]}));
    let stopped = post(server.address, TEXT, &body).json();
    assert_eq!(stopped["choices"][0]["text"], before);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert!(stopped["usage"]["completion_tokens"].as_u64().unwrap() < 40);
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let events = post(server.address, TEXT, &streamed).events();
    let said: String =
        events.iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(said, before, "no piece shows the beginning of the stop");
    // Not before so many tokens.
    let late = text(json!({"max_tokens": 40, "stop": stop, "min_tokens": 40}));
    let late = post(server.address, TEXT, &late).json();
    assert_eq!(late["usage"]["completion_tokens"], 40);
}

#[test]
fn logprobs_are_those_of_the_model() {
    let server = Server::usual();
    let body = chat(json!({"temperature": 0, "logprobs": true, "top_logprobs": 3}));
    let answer = post(server.address, CHAT, &body).json();
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 12);
    let mut bytes = Vec::new();
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Without temperature the likeliest token is chosen.
        assert_eq!((&top[0]["token"], &top[0]["bytes"]), (&token["token"], &token["bytes"]));
        let values: Vec<f64> = top.iter().map(|top| top["logprob"].as_f64().unwrap()).collect();
        assert!(values[0] < 0.0 && values[0] >= values[1] && values[1] >= values[2]);
        assert!((values[0] - token["logprob"].as_f64().unwrap()).abs() < 1e-4);
        bytes.extend(token["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8));
    }
    assert_eq!(String::from_utf8_lossy(&bytes), content(&answer));
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let events = post(server.address, CHAT, &streamed).events();
    let counted: usize = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .map(Vec::len)
        .sum();
    assert_eq!(counted, 12, "every token is told once");
    let answer = post(server.address, TEXT, &text(json!({"logprobs": 2}))).json();
    let logprobs = &answer["choices"][0]["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().unwrap().len(), 9, "{list}");
    }
    assert_eq!(logprobs["text_offset"][0], 0);
    assert!(logprobs["top_logprobs"][0].as_object().unwrap().len() <= 2);
    let without = post(server.address, TEXT, &text(json!({}))).json();
    assert_eq!(without["choices"][0]["logprobs"], Value::Null);
}

#[test]
fn a_schema_is_kept_whatever_the_model_wants() {
    let server = Server::usual();
    let schema = json!({
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green"]},
            "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9},
                      "minItems": 2, "maxItems": 3},
        },
        "required": ["colour", "sizes"],
        "additionalProperties": false,
        "x-guidance": {"whitespace_flexible": false},
    });
    let schema = json!({"name": "thing", "schema": schema, "strict": true});
    let format = json!({"type": "json_schema", "json_schema": schema});
    for temperature in [0.0, 1.3] {
        let body = chat(json!({
            "response_format": format, "max_tokens": 300, "temperature": temperature,
            "ignore_eos": true, "n": 3,
        }));
        let answer = post(server.address, CHAT, &body).json();
        for choice in answer["choices"].as_array().unwrap() {
            let said = choice["message"]["content"].as_str().unwrap();
            let value: Value = serde_json::from_str(said).unwrap_or_else(|_| panic!("{said}"));
            assert!(["red", "green"].contains(&value["colour"].as_str().unwrap()), "{said}");
            assert!((2..=3).contains(&value["sizes"].as_array().unwrap().len()), "{said}");
            assert_eq!(choice["finish_reason"], "stop");
        }
    }
    // Cut short, the answer is of no use to whoever asked for JSON.
    let cut = chat(json!({"response_format": format, "max_tokens": 2}));
    assert_eq!(post(server.address, CHAT, &cut).json()["choices"][0]["finish_reason"], "length");
    let object = chat(json!({"response_format": {"type": "json_object"}, "max_tokens": 5}));
    let object = post(server.address, CHAT, &object).json();
    assert!(content(&object).trim_start().starts_with('{'), "{object}");
    let ended = server.end();
    ended.check_nothing_is_left();
    let outcomes: Vec<&str> = ended.finishes().iter().map(|f| f.outcome.code()).collect();
    assert_eq!(outcomes.iter().filter(|code| **code == "completed").count(), 6, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|code| **code == "malformed").count(), 2, "{outcomes:?}");
}

#[test]
fn the_model_is_described() {
    let server = Server::usual();
    let models = get(server.address, "/v1/models").json();
    assert_eq!(models["object"], "list");
    let model = &models["data"][0];
    assert_eq!(model["id"], MODEL);
    assert_eq!(model["object"], "model");
    assert_eq!(model["max_model_len"], CONTEXT);
    assert_eq!(get(server.address, &format!("/v1/models/{MODEL}")).json(), *model);
}
