//! The event stream of a server: the same frames as in a run folder, over HTTP.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use ureq::http::StatusCode;
use ureq::{Agent, Body};

use super::super::Failure;
use super::feed::{Feed, News};
use crate::event::Fact;
use crate::trace::{Header, LogTail, Status, TraceError};

/// A server must answer within this time; its stream may then be quiet for as long as it likes.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A server whose device is not known yet is asked this often.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Batches of facts that wait for the dashboard; the server is not read faster.
const BATCHES: usize = 64;

/// Facts taken in one go.
const FACTS: usize = 1 << 12;

type Batch = Result<Vec<Fact>, TraceError>;

/// Follows a server.
pub(super) struct ServerFeed {
    address: String,
    api_key: Option<String>,
    agent: Agent,
    patience: Duration,
    header: Header,
    batches: Option<Receiver<Batch>>,
    asked: Instant,
    over: bool,
}

impl ServerFeed {
    /// Asks the server at `address` what it runs; each answer must be whole within `patience`.
    pub(super) fn open(
        address: &str,
        api_key: Option<String>,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let address = address.trim_end_matches('/').to_owned();
        let agent: Agent = Agent::config_builder()
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .http_status_as_error(false)
            .build()
            .into();
        let header = Header::begin();
        let asked = Instant::now();
        let (batches, over) = (None, false);
        let mut feed = Self { address, api_key, agent, patience, header, batches, asked, over };
        feed.header = feed.ask()?;
        Ok(feed)
    }

    /// Asks for what lies at `path`; the body must be whole within `body`, where that is given.
    fn get(
        &self,
        path: &str,
        body: Option<Duration>,
    ) -> Result<ureq::http::Response<Body>, Failure> {
        let url = format!("{}{path}", self.address);
        let mut request = self.agent.get(&url).config().timeout_recv_body(body).build();
        if let Some(key) = &self.api_key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let failed =
            |what: String, hint: &str| Failure::new(format!("read {url}: {what}"), Some(hint));
        let response = request
            .call()
            .map_err(|error| failed(error.to_string(), "is `gemba serve` running there?"))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(failed("the server refused".to_owned(), "give its key with --api-key"))
            }
            status => Err(failed(
                format!("expected 200, found {}", status.as_u16()),
                "the address is that of `gemba serve`, without a path",
            )),
        }
    }

    /// The header as the server knows it now.
    fn ask(&self) -> Result<Header, Failure> {
        let path = PathBuf::from(format!("{}/gemba/run", self.address));
        let mut response = self.get("/gemba/run", Some(self.patience))?;
        let json = response.body_mut().read_to_vec().map_err(|error| {
            Failure::new(format!("read {}: {error}", path.display()), None::<String>)
        })?;
        Ok(Header::parse(&json, &path)?)
    }

    /// Opens the stream; a thread of its own waits for its frames.
    fn listen(&mut self) -> Result<(), Failure> {
        let response = self.get("/gemba/events", None)?;
        let path = format!("{}/gemba/events", self.address);
        let mut tail = LogTail::new(response.into_body().into_reader(), Path::new(&path));
        let (send, receive) = sync_channel::<Batch>(BATCHES);
        let listen = move || {
            loop {
                let mut facts = Vec::new();
                let read = tail.poll(&mut facts);
                let ended = !matches!(read, Ok(true));
                // Nobody listens any more once the dashboard is left.
                let told = facts.is_empty() || send.send(Ok(facts)).is_ok();
                if let Err(error) = read {
                    let _ = send.send(Err(error));
                }
                if ended || !told {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("gemba-stream".to_owned())
            .spawn(listen)
            .map_err(|error| Failure::new(format!("listen to {path}: {error}"), None::<String>))?;
        self.batches = Some(receive);
        Ok(())
    }

    /// The stream has ended: the server has closed the run, or has gone.
    fn ended(&mut self) -> News {
        self.over = true;
        if let Ok(header) = self.ask() {
            self.header = header;
        }
        let closed = self.header.status != Status::Running;
        News::Over(closed.then_some(self.header.window.end_ns))
    }
}

impl Feed for ServerFeed {
    fn header(&self) -> &Header {
        &self.header
    }

    fn poll(&mut self, facts: &mut Vec<Fact>) -> Result<News, Failure> {
        if self.over {
            return Ok(News::Quiet);
        }
        let Some(batches) = &self.batches else {
            if self.header.devices.is_empty() {
                if self.asked.elapsed() < ASK_EVERY {
                    return Ok(News::Quiet);
                }
                self.asked = Instant::now();
                self.header = self.ask()?;
                return Ok(News::Anew);
            }
            self.listen()?;
            return Ok(News::Quiet);
        };
        let before = facts.len();
        while facts.len() - before < FACTS {
            match batches.try_recv() {
                Ok(batch) => facts.extend(batch?),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) if facts.len() > before => break,
                Err(TryRecvError::Disconnected) => return Ok(self.ended()),
            }
        }
        Ok(if facts.len() > before { News::Facts } else { News::Quiet })
    }

    fn playback(&self) -> String {
        match (self.over, self.header.status) {
            (true, Status::Running) => "the stream ended".to_owned(),
            _ => format!("at {}", self.address.trim_start_matches("http://")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc::channel;

    use super::*;

    /// What is said of a server that answers with `said` and then nothing more. It holds its
    /// connection until it is told to go, or for long enough that something else is at fault.
    fn stalled_after(said: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (go, gone) = channel::<()>();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(said).unwrap();
            let _ = gone.recv_timeout(Duration::from_secs(60));
        });
        let failure = ServerFeed::open(&address, None, Duration::from_millis(200)).err();
        drop(go);
        server.join().unwrap();
        failure.unwrap().message
    }

    #[test]
    fn an_answer_that_stalls_is_given_up() {
        for said in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"schema\":",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"sch\r\n",
        ] {
            let message = stalled_after(said);
            let sent = String::from_utf8_lossy(said);
            assert!(message.contains("/gemba/run: timeout"), "{sent:?}: {message}");
        }
    }
}
