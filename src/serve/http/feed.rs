//! The run itself, for dashboards: its header, and its log from the beginning, as it grows.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;

use super::body;
use crate::serve::api::ApiError;
use crate::serve::door::Door;

/// The log is looked at this often.
const EVERY: Duration = Duration::from_millis(100);
/// After the server has closed, the log may grow for so long.
const LAST: Duration = Duration::from_millis(1200);
const CHUNK: usize = 256 << 10;

type Feeding = State<(Arc<Door>, watch::Receiver<bool>)>;

/// `run.json` as it is now.
pub(super) async fn header(State((door, _)): Feeding) -> Result<Response, ApiError> {
    let Some(feed) = door.served.feed.clone() else { return Err(none()) };
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(feed.header)).await;
    match read {
        Ok(Ok(text)) => Ok(body::text("application/json", text)),
        _ => Err(ApiError::failed("the run's header cannot be read")),
    }
}

/// `events.log` from its first byte, as it grows. A client that reads slowly holds up nothing
/// but itself: the log is read again as it goes on.
pub(super) async fn events(State((door, closed)): Feeding) -> Result<Response, ApiError> {
    let Some(feed) = door.served.feed.clone() else { return Err(none()) };
    let (sender, chunks) = channel(2);
    tokio::spawn(tail(feed.log, sender, closed));
    Ok(body::stream("application/octet-stream", Body::new(Chunks(chunks))))
}

fn none() -> ApiError {
    ApiError::unavailable("no run is being written")
}

async fn tail(log: PathBuf, sender: Sender<Bytes>, closed: watch::Receiver<bool>) {
    let mut file = None;
    let mut quiet = Duration::ZERO;
    loop {
        let path = log.clone();
        let read = tokio::task::spawn_blocking(move || chunk(file, &path)).await;
        let Ok(Ok((open, bytes))) = read else { return };
        file = Some(open);
        if !bytes.is_empty() {
            quiet = Duration::ZERO;
            // The client has gone.
            if sender.send(bytes).await.is_err() {
                return;
            }
            continue;
        }
        if *closed.borrow() {
            quiet += EVERY;
            if quiet >= LAST {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = sender.closed() => return,
        }
    }
}

/// The next bytes of the log; none if there are none yet.
fn chunk(file: Option<File>, path: &PathBuf) -> io::Result<(File, Bytes)> {
    let mut file = match file {
        Some(file) => file,
        None => File::open(path)?,
    };
    let mut bytes = vec![0; CHUNK];
    let length = file.read(&mut bytes)?;
    bytes.truncate(length);
    Ok((file, Bytes::from(bytes)))
}

/// A body of chunks as they come.
struct Chunks(Receiver<Bytes>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
}
