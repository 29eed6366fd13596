//! A client that can do what well-behaved libraries cannot.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The events of a stream, without the mark of its end.
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        let (last, events) = events.split_last().unwrap();
        assert_eq!(*last, "data: [DONE]", "{text}");
        let event = |event: &&str| serde_json::from_str(event.strip_prefix("data: ").unwrap());
        events.iter().map(|text| event(text).unwrap()).collect()
    }
}

/// Sends bytes and leaves the connection open.
pub fn open(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// Reads an answer to its end; the connection is closed behind it.
pub fn read(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A server that closes on bytes it has not read resets the connection behind its answer.
    let _ = stream.read_to_end(&mut bytes);
    reply(&bytes)
}

/// An answer from all its bytes.
pub fn reply(bytes: &[u8]) -> Reply {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut reply = Reply { status, head, body: bytes[end + 4..].to_vec() };
    if reply.header("transfer-encoding") == Some("chunked") {
        reply.body = unchunked(&reply.body);
    }
    reply
}

/// The chunks that came whole.
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some(chunk) = rest.get(line + 2..line + 2 + size).filter(|chunk| !chunk.is_empty())
        else {
            break;
        };
        body.extend_from_slice(chunk);
        rest = &rest[line + 4 + size..];
    }
    body
}

/// The bytes of a POST with these headers beside the usual ones.
pub fn post_bytes(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Content-Type") {
        head += "Content-Type: application/json\r\n";
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    read(open(address, &post_bytes(path, &[], body.to_string().as_bytes())))
}

pub fn get(address: SocketAddr, path: &str) -> Reply {
    get_with(address, path, "")
}

/// With lines of headers, each ended.
pub fn get_with(address: SocketAddr, path: &str, headers: &str) -> Reply {
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    read(open(address, head.as_bytes()))
}
