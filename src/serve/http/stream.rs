//! Answers as server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use serde_json::Value;
use tokio::sync::mpsc::Receiver;

use super::complete::{Running, cached_of, finish_reason};
use crate::serve::api::{Answerer, ApiError, Choice, Spoken, Usage};
use crate::serve::door::Ticket;
use crate::serve::speaker::{Reason, Said};

/// Events that wait are sent together up to so many bytes.
const FRAME_BYTES: usize = 16 << 10;

/// The body of a streamed answer. It is read as the client reads: what is not read stays with
/// the engine's pieces, and the engine does not wait. Dropping it gives the request up.
pub(super) struct Events {
    answerer: Answerer,
    said: Receiver<Said>,
    choices: Vec<Open>,
    usage: Usage,
    /// Answers to each prompt.
    n: u32,
    limit: u64,
    /// Answers that have not ended.
    open: usize,
    /// Ready to be sent.
    buffer: Vec<u8>,
    /// Given back at the end.
    ticket: Option<Ticket>,
}

/// What was said of one answer.
#[derive(Debug, Default)]
struct Open {
    /// Tokens whose text is still held back.
    held: Vec<Spoken>,
    /// Bytes of text sent.
    offset: usize,
    /// Its tokens.
    tokens: u64,
}

impl Events {
    pub(super) fn new(running: Running) -> Self {
        let Running { answerer, said, echoes, prompt_tokens, n, limit, ticket } = running;
        let mut events = Self {
            answerer,
            said,
            choices: echoes.iter().map(|_| Open::default()).collect(),
            usage: Usage { prompt: prompt_tokens, ..Usage::default() },
            n,
            limit,
            open: echoes.len(),
            buffer: Vec::new(),
            ticket: Some(ticket),
        };
        for (index, echo) in (0..).zip(echoes) {
            if let Some(opening) = events.answerer.opening(index) {
                events.event(&opening);
            }
            if !echo.is_empty() {
                events.piece(index, echo, None);
            }
        }
        events
    }

    fn event(&mut self, value: &Value) {
        self.buffer.extend_from_slice(b"data: ");
        self.buffer.extend_from_slice(value.to_string().as_bytes());
        self.buffer.extend_from_slice(b"\n\n");
    }

    fn piece(&mut self, index: u32, text: String, finish: Option<&'static str>) {
        let open = &mut self.choices[index as usize];
        let tokens = std::mem::take(&mut open.held);
        let offset = open.offset;
        open.offset += text.len();
        let choice = Choice { index, text, tokens, finish, offset };
        let value = self.answerer.piece(&choice, self.usage);
        self.event(&value);
    }

    fn take(&mut self, said: Said) {
        match said {
            Said::Token { choice, text, spoken } => {
                let open = &mut self.choices[choice as usize];
                open.held.extend(spoken);
                open.tokens += 1;
                self.usage.completion += 1;
                // A piece of a character, or of a stop, is nothing to show yet.
                if !text.is_empty() {
                    self.piece(choice, text, None);
                }
            }
            Said::End { choice, text, reason, tokens, cached } => {
                let seen = self.choices[choice as usize].tokens;
                self.usage.completion += u64::from(tokens).saturating_sub(seen);
                self.usage.cached += cached_of(choice, self.n, cached);
                match finish_reason(&reason) {
                    Some(finish) => {
                        self.piece(choice, text, Some(finish));
                        self.end_one();
                    }
                    None => self.fail(&failure(&reason, self.limit)),
                }
            }
        }
    }

    fn end_one(&mut self) {
        self.open -= 1;
        if self.open == 0 {
            if self.answerer.delivery.include_usage {
                let counts = self.answerer.counts(self.usage);
                self.event(&counts);
            }
            self.done();
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.event(&error.body());
        self.open = 0;
        self.done();
    }

    fn done(&mut self) {
        self.buffer.extend_from_slice(b"data: [DONE]\n\n");
        self.ticket = None;
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let events = &mut *self;
        while events.open > 0 && events.buffer.len() < FRAME_BYTES {
            match events.said.poll_recv(context) {
                Poll::Ready(Some(said)) => events.take(said),
                Poll::Ready(None) => events.fail(&ApiError::unavailable("the engine has ended")),
                Poll::Pending if events.buffer.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if events.buffer.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = Bytes::from(std::mem::take(&mut events.buffer));
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

/// An end as an error.
pub(super) fn failure(reason: &Reason, limit: u64) -> ApiError {
    match reason {
        Reason::TimedOut => ApiError::timed_out(limit),
        Reason::Unkept(why) => ApiError::schema(why),
        Reason::Failed(why) => ApiError::failed(why),
        _ => ApiError::unavailable("it is shutting down"),
    }
}
