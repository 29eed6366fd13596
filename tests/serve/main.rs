//! The server as its clients meet it, over real sockets, on a tiny model with random weights.

#![cfg(feature = "serve")]
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod answers;
mod client;
mod errors;
mod faults;
mod server;
mod views;
