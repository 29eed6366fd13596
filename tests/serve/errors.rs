//! Every error: its trigger, its status, its words.

use serde_json::{Value, json};

use super::client::{get, get_with, open, post, post_bytes, read};
use super::server::{MODEL, Server, Setting};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// A body with one field changed.
fn with(path: &str, field: &str, value: Value) -> Value {
    let mut body = match path {
        CHAT => json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}),
        _ => json!({"model": MODEL, "prompt": "hi"}),
    };
    body["max_tokens"] = json!(2);
    body[field] = value;
    body
}

#[test]
fn what_is_wrong_with_a_field_is_said() {
    let server = Server::usual();
    let schema = |schema: Value| {
        let named = json!({"name": "x", "schema": schema});
        json!({"type": "json_schema", "json_schema": named})
    };
    // Each definition refers to the next.
    let to = |place: usize| json!({"$ref": format!("#/$defs/d{}", place % 3000)});
    let definitions: serde_json::Map<String, Value> =
        (0..3000).map(|place| (format!("d{place}"), to(place + 1))).collect();
    let long_chain = json!({"$ref": "#/$defs/d0", "$defs": definitions});
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    // path, field, value, code, words
    let table = [
        (CHAT, "flavour", json!(1), "unknown_parameter", "Unknown parameter: 'flavour'."),
        (CHAT, "model", json!(null), "missing_required_parameter", "parameter: 'model'."),
        (CHAT, "model", json!(7), "invalid_type", "'model': expected a string, but got an integer"),
        (CHAT, "messages", json!(null), "missing_required_parameter", "parameter: 'messages'."),
        (CHAT, "messages", json!("hi"), "invalid_type", "expected an array of objects"),
        (CHAT, "messages", json!([]), "empty_array", "minimum length 1"),
        (CHAT, "messages", json!([3]), "invalid_type", "'messages[0]': expected an object"),
        (
            CHAT,
            "messages",
            json!([{"content": "x"}]),
            "missing_required_parameter",
            "messages[0].role",
        ),
        (
            CHAT,
            "messages",
            json!([{"role": "king", "content": "x"}]),
            "invalid_value",
            "Invalid value: \"king\"",
        ),
        (
            CHAT,
            "messages",
            json!([{"role": "user"}]),
            "missing_required_parameter",
            "messages[0].content",
        ),
        (CHAT, "messages", user(json!(4)), "invalid_type", "messages[0].content"),
        (CHAT, "messages", user(json!([{"type": "image_url"}])), "invalid_value", "are: 'text'."),
        (
            CHAT,
            "messages",
            json!([{"role": "user", "content": "x", "mood": 1}]),
            "unknown_parameter",
            "'messages[0].mood'",
        ),
        (CHAT, "max_tokens", json!(0), "integer_below_min_value", ">= 1, but got 0"),
        (CHAT, "max_tokens", json!(-5), "integer_below_min_value", "'max_tokens'"),
        (CHAT, "max_tokens", json!(1u64 << 40), "integer_above_max_value", "but got 1099511627776"),
        (CHAT, "max_tokens", json!(u64::MAX), "integer_above_max_value", "'max_tokens'"),
        (
            CHAT,
            "max_tokens",
            json!(1e300),
            "invalid_type",
            "expected an integer, but got a decimal",
        ),
        (CHAT, "max_tokens", json!("9"), "invalid_type", "expected an integer, but got a string"),
        (
            CHAT,
            "max_completion_tokens",
            json!(4_000_000),
            "context_length_exceeded",
            "maximum context length is 4096 tokens. However, you requested",
        ),
        (CHAT, "n", json!(0), "integer_below_min_value", "'n'"),
        (CHAT, "n", json!(1_000_000_000), "integer_above_max_value", "<= 128"),
        (CHAT, "temperature", json!(2.5), "decimal_above_max_value", "<= 2, but got 2.5"),
        (CHAT, "temperature", json!(-1), "decimal_below_min_value", ">= 0"),
        (CHAT, "temperature", json!("hot"), "invalid_type", "expected a decimal, but got a string"),
        (CHAT, "top_p", json!(1.1), "decimal_above_max_value", "'top_p'"),
        (CHAT, "top_k", json!(-2), "integer_below_min_value", "'top_k'"),
        (CHAT, "min_tokens", json!(-1), "integer_below_min_value", "'min_tokens'"),
        (CHAT, "min_tokens", json!(3), "integer_above_max_value", "<= 2, the most tokens"),
        (TEXT, "min_tokens", json!(3), "integer_above_max_value", "but got 3 instead"),
        (CHAT, "seed", json!(0.5), "invalid_type", "'seed'"),
        (
            CHAT,
            "stop",
            json!(["a", "b", "c", "d", "e"]),
            "array_above_max_length",
            "maximum length 4",
        ),
        (CHAT, "stop", json!([""]), "invalid_value", "strings of 1 to 1024 bytes"),
        (CHAT, "stop", json!([1]), "invalid_type", "'stop'"),
        (CHAT, "stream", json!("yes"), "invalid_type", "expected a boolean"),
        (
            CHAT,
            "stream_options",
            json!({"include_usage": true}),
            "invalid_value",
            "only allowed when 'stream'",
        ),
        (CHAT, "top_logprobs", json!(3), "invalid_value", "only allowed when 'logprobs'"),
        (CHAT, "top_logprobs", json!(21), "integer_above_max_value", "<= 20"),
        (
            CHAT,
            "response_format",
            json!({"type": "xml"}),
            "invalid_value",
            "Invalid value: \"xml\"",
        ),
        (
            CHAT,
            "response_format",
            json!({"type": "json_schema"}),
            "missing_required_parameter",
            "response_format.json_schema",
        ),
        (
            CHAT,
            "response_format",
            schema(json!({"type": "thing"})),
            "invalid_json_schema",
            "Invalid schema for response_format: Invalid type: thing.",
        ),
        (
            CHAT,
            "response_format",
            schema(json!({"$ref": "#"})),
            "invalid_json_schema",
            "Invalid schema for response_format: no answer satisfies it.",
        ),
        (
            CHAT,
            "response_format",
            schema(long_chain),
            "invalid_json_schema",
            "expected at most 2000 levels through references, but got ",
        ),
        (
            TEXT,
            "response_format",
            schema(json!({"enum": vec![0; 50_000]})),
            "invalid_json_schema",
            "expected at most 10000 values, but got 50002.",
        ),
        (
            CHAT,
            "tools",
            json!([{"type": "function"}]),
            "unsupported_parameter",
            "Unsupported parameter: 'tools'",
        ),
        (CHAT, "frequency_penalty", json!(1), "unsupported_parameter", "'frequency_penalty'"),
        (CHAT, "logit_bias", json!({"5": 1}), "unsupported_parameter", "'logit_bias'"),
        (TEXT, "prompt", json!(null), "missing_required_parameter", "parameter: 'prompt'."),
        (TEXT, "prompt", json!(""), "invalid_value", "at least one token"),
        (TEXT, "prompt", json!([]), "empty_array", "'prompt'"),
        (TEXT, "prompt", json!([1, -1]), "invalid_type", "'prompt[1]': expected a token id"),
        (
            TEXT,
            "prompt",
            json!([1, 5000]),
            "invalid_value",
            "below 1024, the size of the vocabulary, but got 5000",
        ),
        (TEXT, "prompt", json!([["x"]]), "invalid_type", "'prompt[0][0]'"),
        (
            TEXT,
            "prompt",
            json!("qQ".repeat(5000)),
            "context_length_exceeded",
            "your prompt resulted in 10000 tokens",
        ),
        (TEXT, "best_of", json!(7), "unsupported_parameter", "'best_of'"),
        (TEXT, "suffix", json!("the end"), "unsupported_parameter", "'suffix'"),
        (TEXT, "messages", json!([]), "unknown_parameter", "'messages'"),
    ];
    for (path, field, value, code, words) in table {
        let reply = post(server.address, path, &with(path, field, value.clone()));
        let shown = format!(
            "{path} {field} {}: {}",
            value.to_string().get(..60).unwrap_or(&value.to_string()),
            reply.text()
        );
        assert_eq!(reply.status, 400, "{shown}");
        let error = reply.json()["error"].clone();
        assert_eq!(error["code"], code, "{shown}");
        assert_eq!(error["type"], "invalid_request_error", "{shown}");
        assert!(error["message"].as_str().unwrap().contains(words), "{shown}");
        assert!(error["param"].is_string(), "{shown}");
    }
    let ended = server.end();
    assert!(ended.arrivals().is_empty(), "what is wrong never reaches the engine");
}

#[test]
fn values_that_change_nothing_are_taken() {
    let server = Server::usual();
    for (path, field, value) in [
        (CHAT, "frequency_penalty", json!(0.0)),
        (CHAT, "logit_bias", json!({})),
        (CHAT, "tools", json!([])),
        (CHAT, "user", json!("someone")),
        (CHAT, "n", json!(null)),
        (CHAT, "top_k", json!(-1)),
        (CHAT, "response_format", json!({"type": "text"})),
        (TEXT, "best_of", json!(1)),
        (TEXT, "ignore_eos", json!(true)),
    ] {
        let reply = post(server.address, path, &with(path, field, value));
        assert_eq!(reply.status, 200, "{field}: {}", reply.text());
    }
}

#[test]
fn bodies_that_are_no_requests_are_refused() {
    let server = Server::usual();
    let deep = [&b"["[..]; 5000].concat();
    for (body, words) in [
        (&b"{\"model\": "[..], "EOF while parsing"),
        (b"", "EOF while parsing"),
        (b"hello", "expected value"),
        (b"[]", "expected an object, but got an array"),
        (b"{\"model\": \"\xff\xfe\"}", "invalid unicode"),
        (b"{} {}", "trailing characters"),
        (&deep, "recursion limit exceeded"),
    ] {
        let reply = read(open(server.address, &post_bytes(CHAT, &[], body)));
        assert_eq!(reply.status, 400, "{}", reply.text());
        let error = &reply.json()["error"];
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with("We could not parse the JSON body of your request."),
            "{message}"
        );
        assert!(message.contains(words), "{message}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[test]
fn encodings_that_are_not_read_are_named() {
    let server = Server::usual();
    for (header, value, words) in [
        (
            "Content-Encoding",
            "gzip",
            "Unsupported Content-Encoding: expected identity, but got 'gzip'.",
        ),
        ("Content-Type", "text/plain", "but got 'text/plain'"),
        ("Content-Type", "application/json; charset=utf-16", "application/json in UTF-8"),
    ] {
        let bytes = post_bytes(CHAT, &[(header, value)], b"{}");
        let reply = read(open(server.address, &bytes));
        assert_eq!(reply.status, 415, "{}", reply.text());
        assert!(reply.text().contains(words), "{}", reply.text());
    }
    let body = with(CHAT, "max_tokens", json!(1)).to_string();
    let utf8 = [("Content-Type", "application/json; charset=UTF-8")];
    let reply = read(open(server.address, &post_bytes(CHAT, &utf8, body.as_bytes())));
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn bodies_and_heads_have_limits() {
    let mut setting = Setting::new();
    setting.limits.body_bytes = 2000;
    setting.limits.head_bytes = 4000;
    let server = Server::start(setting);
    let long = post_bytes(CHAT, &[], &[b' '; 2001]);
    let reply = read(open(server.address, &long));
    assert_eq!(reply.status, 413);
    assert_eq!(reply.json()["error"]["code"], "request_too_large");
    // Without a length, it is found out on the way.
    let chunk = format!("{:x}\r\n{}\r\n", 1500, " ".repeat(1500));
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let reply = read(open(server.address, format!("{head}{chunk}{chunk}0\r\n\r\n").as_bytes()));
    assert_eq!(reply.status, 413, "{}", reply.text());
    let reply = get_with(server.address, "/health", &format!("X-Long: {}\r\n", "x".repeat(8000)));
    assert_eq!(reply.status, 431, "{}", reply.head);
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    assert_eq!(get_with(server.address, "/health", &many).status, 431);
    let reply = read(open(server.address, b"NONSENSE\r\n\r\n"));
    assert_eq!(reply.status, 400);
    assert_eq!(get(server.address, "/health").status, 200, "the server lives on");
}

#[test]
fn models_and_addresses_that_are_not_there() {
    let server = Server::usual();
    let reply = post(server.address, CHAT, &with(CHAT, "model", json!("gpt-5")));
    assert_eq!(reply.status, 404);
    let error = reply.json()["error"].clone();
    assert_eq!(error["code"], "model_not_found");
    assert_eq!(
        error["message"],
        "The model `gpt-5` does not exist or you do not have access to it."
    );
    assert_eq!(
        get(server.address, "/v1/models/some/other").json()["error"],
        error_of("some/other")
    );
    let reply = post(server.address, "/v1/embeddings", &json!({}));
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["error"]["message"], "Invalid URL (POST /v1/embeddings)");
    let reply = get(server.address, CHAT);
    assert_eq!(reply.status, 405);
    assert_eq!(reply.json()["error"]["code"], "method_not_supported");
}

/// A client's own text comes back, but not at any length, and always in the interface's shape.
#[test]
fn what_is_said_of_a_long_name_is_short() {
    let server = Server::usual();
    let long = "é".repeat(50_000);
    for (field, value, status) in [
        ("model", json!(long), 404),
        (long.as_str(), json!(1), 400),
        ("stop", json!({"x": long}), 400),
    ] {
        let reply = post(server.address, CHAT, &with(CHAT, field, value));
        assert_eq!(reply.status, status, "{}", reply.text());
        let error = &reply.json()["error"];
        assert!(error["message"].as_str().unwrap().chars().count() <= 1001);
        assert!(error["param"].as_str().unwrap().chars().count() <= 201);
    }
    let reply = get(server.address, "/v1/models/%ff%fe");
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["error"]["code"], "unknown_url", "{}", reply.text());
}

fn error_of(model: &str) -> Value {
    json!({
        "message": format!("The model `{model}` does not exist or you do not have access to it."),
        "type": "invalid_request_error", "param": "model", "code": "model_not_found",
    })
}

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let setting = Setting { api_key: Some("s3cret".to_owned()), ..Setting::new() };
    let server = Server::start(setting);
    let reply = get(server.address, "/v1/models");
    assert_eq!(reply.status, 401);
    assert!(
        reply.json()["error"]["message"].as_str().unwrap().contains("didn't provide an API key")
    );
    for wrong in ["Bearer s3cres", "Bearer ", "Basic s3cret", "s3cret"] {
        let reply = get_with(server.address, "/v1/models", &format!("Authorization: {wrong}\r\n"));
        assert_eq!(reply.status, 401, "{wrong}");
    }
    let wrong = get_with(server.address, "/v1/models", "Authorization: Bearer nope\r\n");
    assert_eq!(wrong.json()["error"]["code"], "invalid_api_key");
    let right = get_with(server.address, "/v1/models", "Authorization: bearer s3cret\r\n");
    assert_eq!(right.status, 200);
    assert_eq!(get(server.address, "/health").status, 200, "probes bring no key");
}
