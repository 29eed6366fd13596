//! The switches of a server.

use std::path::PathBuf;

use crate::unit::Nanos;

/// What is served, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The model's name for clients.
    pub model: String,
    /// Clients of `/v1` must bring this key, if there is one.
    pub api_key: Option<String>,
    /// The run that is being written, for dashboards.
    pub feed: Option<Feed>,
}

/// The files of the run that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// `run.json`.
    pub header: PathBuf,
    /// `events.log`.
    pub log: PathBuf,
}

/// What clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that may wait, beside those that run.
    pub queue: u32,
    /// Connections at once; more wait unanswered.
    pub connections: u32,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Time for a request's head, and again for its body, to arrive; also how long an idle
    /// connection is kept.
    pub read: Nanos,
    /// Time that a client may leave its answer unread before its connection is given up.
    pub stall: Nanos,
    /// Time from a request's arrival to the end of its answer.
    pub request: Nanos,
    /// Time to finish what runs when the server is asked to stop.
    pub drain: Nanos,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = |seconds: u64| Nanos(seconds * 1_000_000_000);
        Self {
            queue: 1024,
            connections: 4096,
            body_bytes: 8 << 20,
            head_bytes: 32 << 10,
            read: seconds(30),
            stall: seconds(300),
            request: seconds(600),
            drain: seconds(30),
        }
    }
}
