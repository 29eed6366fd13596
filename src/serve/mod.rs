//! The reference engine behind the OpenAI-compatible interface.
//!
//! One thread owns the engine and its recorder ([`serve`] runs on the caller's); HTTP handlers
//! run on threads of their own and talk to it through channels. The engine never waits for a
//! client: each answer has a channel with room for all its pieces, so a slow reader gets its
//! text late and a vanished one is found out and cancelled. What happens is recorded as facts in
//! the same vocabulary as a replayed workload's; no text is.
//!
//! | part | what |
//! |---|---|
//! | `api` | what may be asked and answered, as data |
//! | `words`, `template`, `text`, `guide`, `schema` | texts, conversations, stops and grammars over tokens |
//! | `speaker` | one answer, from the engine's side |
//! | `door` | who is let in; how clients and engine speak to each other |
//! | `host` | the engine's thread |
//! | `http` | connections, limits, addresses |
//!
//! Neighbours: `session` prepares the device, `engine` runs, the caller brings the recorder (a
//! run folder's writer) and what `/metrics` shows beside the server's own counters. This module
//! knows no cause, no report and no terminal.

pub mod api;
mod door;
mod guide;
mod host;
mod http;
mod metrics;
mod options;
mod schema;
mod server;
mod speaker;
mod template;
mod text;
mod words;

pub use options::{Feed, Limits, Served};
pub use server::{ExtraMetrics, Serving, World, serve};
pub use words::Words;
