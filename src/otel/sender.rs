//! A queue and a thread that empties it into a receiver.
//!
//! Whoever offers spans never waits: what does not fit is dropped and counted. A receiver that
//! is busy is asked again, as long as a batch may take; then the batch is dropped and counted
//! too. Of metrics, which are cumulative, only the newest wait.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::encode::{self, Identity};
use super::grpc::Grpc;
use super::http::Http;
use super::{Destination, Protocol, Reply, Wire};
use crate::report::telemetry::{Metric, Span};
use crate::unit::UnixNanos;

/// Spans of a request.
const BATCH: usize = 512;

/// Spans wait this long for others.
const DELAY: Duration = Duration::from_secs(1);

/// A busy receiver is asked again after this, and after twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The way to a receiver cannot be prepared: a fragment that completes "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct SenderError {
    pub(super) what: String,
}

/// What became of everything that was offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Spans that the receiver took.
    pub sent: u64,
    /// Spans that it was never given.
    pub dropped: u64,
    /// Spans that it said it did not take.
    pub rejected: u64,
    /// Times that metrics were taken.
    pub metrics_sent: u64,
    /// Times that they were not.
    pub metrics_dropped: u64,
    /// Points that the receiver said it did not take.
    pub points_rejected: u64,
    /// What the receiver, or the way to it, said last.
    pub why: Option<String>,
}

impl Tally {
    /// Whether anything did not arrive.
    #[must_use]
    pub const fn lossy(&self) -> bool {
        self.dropped + self.rejected + self.metrics_dropped + self.points_rejected > 0
    }
}

/// Metrics as they stood, with the run's beginning and that moment.
type Reading = (Vec<Metric>, (UnixNanos, UnixNanos));

#[derive(Default)]
struct Queue {
    spans: VecDeque<Span>,
    /// When the oldest of them came.
    since: Option<Instant>,
    metrics: Option<Reading>,
    /// No more is to come; what has not been sent by then is dropped.
    closing: Option<Instant>,
    tally: Tally,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// There is room again.
    room: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends spans and metrics from a thread of its own.
pub struct Sender {
    shared: Arc<Shared>,
    capacity: usize,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// A sender that speaks for `identity`.
    ///
    /// # Errors
    /// [`SenderError`] if the way cannot be prepared. A receiver that is not there is no error:
    /// it may come.
    pub fn start(destination: &Destination, identity: Identity) -> Result<Self, SenderError> {
        let wire: Box<dyn Wire> = match destination.protocol {
            Protocol::Http => Box::new(Http::new(destination)),
            Protocol::Grpc => Box::new(Grpc::new(destination)?),
        };
        Self::over(wire, destination.queue, destination.timeout, identity)
    }

    fn over(
        wire: Box<dyn Wire>,
        capacity: usize,
        timeout: Duration,
        identity: Identity,
    ) -> Result<Self, SenderError> {
        let shared = Shared { queue: Mutex::default(), wake: Condvar::new(), room: Condvar::new() };
        let shared = Arc::new(shared);
        let post = Post { shared: Arc::clone(&shared), wire, timeout, identity };
        let thread = std::thread::Builder::new()
            .name("gemba-otlp".to_owned())
            .spawn(move || post.deliver())
            .map_err(|error| SenderError { what: format!("start the sender: {error}") })?;
        Ok(Self { shared, capacity, thread: Some(thread) })
    }

    /// Takes `spans` as far as there is room; the rest is dropped and counted.
    pub fn offer(&self, spans: &mut Vec<Span>) {
        let mut queue = self.shared.lock();
        let room = self.capacity.saturating_sub(queue.spans.len());
        let dropped = spans.len().saturating_sub(room);
        queue.tally.dropped += dropped as u64;
        queue.spans.extend(spans.drain(..).take(room));
        if !queue.spans.is_empty() {
            queue.since = queue.since.or_else(|| Some(Instant::now()));
        }
        self.shared.wake.notify_one();
    }

    /// Waits until `spans` have room; `false` if the receiver does not take what it was given,
    /// and nothing more needs to be offered.
    pub fn wait_for_room(&self, spans: usize) -> bool {
        let most = self.capacity.saturating_sub(spans.min(self.capacity));
        let full = |queue: &mut Queue| queue.spans.len() > most && queue.tally.dropped == 0;
        let queue = self.shared.room.wait_while(self.shared.lock(), full);
        queue.unwrap_or_else(PoisonError::into_inner).tally.dropped == 0
    }

    /// Takes metrics of a run that began at `start` as they stood at `now`, in the place of
    /// those that still wait.
    pub fn offer_metrics(&self, metrics: Vec<Metric>, start: UnixNanos, now: UnixNanos) {
        self.shared.lock().metrics = Some((metrics, (start, now)));
        self.shared.wake.notify_one();
    }

    /// Spans that were not sent so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.lock().tally.dropped
    }

    /// Sends what waits, for at most `patience`, and says what became of everything.
    #[must_use]
    pub fn close(mut self, patience: Duration) -> Tally {
        self.join(patience);
        self.shared.lock().tally.clone()
    }

    fn join(&mut self, patience: Duration) {
        self.shared.lock().closing.get_or_insert(Instant::now() + patience);
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A sender that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.join(Duration::ZERO);
    }
}

/// The thread's side.
struct Post {
    shared: Arc<Shared>,
    wire: Box<dyn Wire>,
    timeout: Duration,
    identity: Identity,
}

impl Post {
    fn deliver(mut self) {
        while let Some((spans, reading)) = self.next() {
            if !spans.is_empty() {
                self.send_spans(&spans);
            }
            if let Some(reading) = reading {
                self.send_metrics(&reading);
            }
            self.shared.room.notify_all();
        }
        let mut queue = self.shared.lock();
        queue.tally.dropped += queue.spans.len() as u64;
        queue.tally.metrics_dropped += u64::from(queue.metrics.is_some());
        queue.spans.clear();
        queue.metrics = None;
        self.shared.room.notify_all();
    }

    /// Waits for what is to be sent next; `None` at the end.
    fn next(&self) -> Option<(Vec<Span>, Option<Reading>)> {
        let mut queue = self.shared.lock();
        loop {
            let now = Instant::now();
            if queue.closing.is_some_and(|last| last <= now) {
                return None;
            }
            let due = queue.since.map(|since| since + DELAY);
            let enough = queue.spans.len() >= BATCH || due.is_some_and(|due| due <= now);
            let closing = queue.closing.is_some();
            if enough || queue.metrics.is_some() || closing && !queue.spans.is_empty() {
                let count = queue.spans.len().min(BATCH);
                let spans = queue.spans.drain(..count).collect();
                queue.since = (!queue.spans.is_empty()).then_some(now);
                return Some((spans, queue.metrics.take()));
            }
            if closing {
                return None;
            }
            let wait = due.map_or(Duration::from_secs(3600), |due| due - now);
            let woken = self.shared.wake.wait_timeout(queue, wait);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn send_spans(&mut self, spans: &[Span]) {
        let request = encode::spans(&self.identity, spans);
        let reply = self.insist(|wire, most| wire.spans(&request, most));
        let count = spans.len() as u64;
        let mut queue = self.shared.lock();
        let tally = &mut queue.tally;
        match reply {
            Reply::Taken { rejected, message } => {
                let rejected = rejected.min(count);
                tally.sent += count - rejected;
                tally.rejected += rejected;
                if !message.is_empty() {
                    tally.why = Some(message);
                }
            }
            Reply::Later { why, .. } | Reply::Refused { why } => {
                tally.dropped += count;
                tally.why = Some(why);
            }
        }
    }

    fn send_metrics(&mut self, (metrics, time): &Reading) {
        let request = encode::metrics(&self.identity, metrics, *time);
        let reply = self.insist(|wire, most| wire.metrics(&request, most));
        let mut queue = self.shared.lock();
        let tally = &mut queue.tally;
        match reply {
            Reply::Taken { rejected, message } => {
                tally.metrics_sent += 1;
                tally.points_rejected += rejected;
                if !message.is_empty() {
                    tally.why = Some(message);
                }
            }
            Reply::Later { why, .. } | Reply::Refused { why } => {
                tally.metrics_dropped += 1;
                tally.why = Some(why);
            }
        }
    }

    /// Sends until the receiver takes it, refuses it for good, or time is up.
    fn insist(&mut self, mut send: impl FnMut(&mut dyn Wire, Duration) -> Reply) -> Reply {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let last = self.last(began + self.timeout);
            let left = last.saturating_duration_since(Instant::now());
            // A first attempt is made even where hardly any time is left.
            let reply = send(&mut *self.wire, left.max(FIRST_PAUSE));
            let Reply::Later { why, after } = reply else { return reply };
            let wait = after.unwrap_or(pause);
            let again = Instant::now() + wait;
            if again >= last || !self.rest(again, began) {
                return Reply::Later { why, after };
            }
            pause *= 2;
        }
    }

    /// The last moment for something that may take until `until`.
    fn last(&self, until: Instant) -> Instant {
        self.shared.lock().closing.map_or(until, |closing| closing.min(until))
    }

    /// Waits until `until`; `false` if the sender closes before it could try again.
    fn rest(&self, until: Instant, began: Instant) -> bool {
        let mut queue = self.shared.lock();
        loop {
            let last = queue.closing.map_or(began + self.timeout, |last| last);
            if until >= last {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let woken = self.shared.wake.wait_timeout(queue, left);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

    use super::*;

    /// A receiver that answers as it is told, the last answer for ever.
    struct Told {
        answers: Vec<Reply>,
        calls: Arc<Mutex<Vec<usize>>>,
        takes: Duration,
    }

    impl Told {
        fn answer(&mut self, count: usize) -> Reply {
            std::thread::sleep(self.takes);
            self.calls.lock().unwrap().push(count);
            if self.answers.len() > 1 { self.answers.remove(0) } else { self.answers[0].clone() }
        }
    }

    impl Wire for Told {
        fn spans(&mut self, request: &ExportTraceServiceRequest, _: Duration) -> Reply {
            let count = request.resource_spans[0].scope_spans[0].spans.len();
            self.answer(count)
        }

        fn metrics(&mut self, _: &ExportMetricsServiceRequest, _: Duration) -> Reply {
            self.answer(0)
        }
    }

    fn spans(count: usize) -> Vec<Span> {
        let span = Span {
            trace: [1; 16],
            id: [2; 8],
            parent: None,
            link: None,
            name: "x".to_owned(),
            start: UnixNanos(1),
            end: UnixNanos(2),
            attributes: Vec::new(),
            error: None,
        };
        vec![span; count]
    }

    fn sender(
        answers: &[Reply],
        takes: Duration,
        capacity: usize,
        timeout: Duration,
    ) -> (Sender, Arc<Mutex<Vec<usize>>>) {
        let calls = Arc::default();
        let wire = Told { answers: answers.to_vec(), calls: Arc::clone(&calls), takes };
        let identity =
            Identity { service: "s".to_owned(), version: "v".to_owned(), resource: Vec::new() };
        (Sender::over(Box::new(wire), capacity, timeout, identity).unwrap(), calls)
    }

    fn taken() -> Reply {
        Reply::Taken { rejected: 0, message: String::new() }
    }

    fn later(after: Option<Duration>) -> Reply {
        Reply::Later { why: "busy".to_owned(), after }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn everything_is_sent_in_batches() {
        let (sender, calls) = sender(&[taken()], Duration::ZERO, 10_000, MINUTE);
        sender.offer(&mut spans(1300));
        let tally = sender.close(MINUTE);
        assert_eq!(tally, Tally { sent: 1300, ..Tally::default() });
        assert_eq!(calls.lock().unwrap().iter().sum::<usize>(), 1300);
        assert!(calls.lock().unwrap().iter().all(|count| *count <= BATCH));
    }

    #[test]
    fn whoever_offers_never_waits_for_a_slow_receiver() {
        let slow = Duration::from_millis(300);
        let (sender, _) = sender(&[taken()], slow, 600, MINUTE);
        let began = Instant::now();
        for _ in 0..100 {
            sender.offer(&mut spans(100));
        }
        assert!(began.elapsed() < slow, "offering took {:?}", began.elapsed());
        assert!(sender.dropped() >= 10_000 - 600 - 2 * BATCH as u64);
        let tally = sender.close(MINUTE);
        assert_eq!(tally.sent + tally.dropped, 10_000);
        assert!(tally.sent >= 600, "{tally:?}");
    }

    #[test]
    fn a_busy_receiver_is_asked_again_after_the_time_it_names() {
        let wait = Duration::from_millis(350);
        let (sender, calls) =
            sender(&[later(Some(wait)), later(None), taken()], Duration::ZERO, 600, MINUTE);
        let began = Instant::now();
        sender.offer(&mut spans(5));
        let tally = sender.close(MINUTE);
        assert_eq!(tally, Tally { sent: 5, ..Tally::default() });
        assert_eq!(*calls.lock().unwrap(), [5, 5, 5]);
        assert!(began.elapsed() >= wait, "{:?}", began.elapsed());
    }

    #[test]
    fn what_is_not_taken_in_time_is_dropped_and_counted() {
        let timeout = Duration::from_millis(250);
        let (sender, calls) = sender(&[later(None)], Duration::ZERO, 600, timeout);
        sender.offer(&mut spans(7));
        let tally = sender.close(MINUTE);
        assert_eq!((tally.sent, tally.dropped, tally.why.as_deref()), (0, 7, Some("busy")));
        assert!(calls.lock().unwrap().len() >= 2);
    }

    #[test]
    fn a_refusal_is_final_and_a_partial_one_counted() {
        let refused = Reply::Refused { why: "400".to_owned() };
        let (sender, calls) = self::sender(&[refused], Duration::ZERO, 600, MINUTE);
        sender.offer(&mut spans(3));
        let tally = sender.close(MINUTE);
        assert_eq!((tally.dropped, calls.lock().unwrap().len()), (3, 1));
        let partial = Reply::Taken { rejected: 2, message: "too old".to_owned() };
        let (sender, _) = self::sender(&[partial], Duration::ZERO, 600, MINUTE);
        sender.offer(&mut spans(3));
        let tally = sender.close(MINUTE);
        assert_eq!((tally.sent, tally.rejected), (1, 2));
        assert_eq!(tally.why.as_deref(), Some("too old"));
        assert!(tally.lossy());
    }

    #[test]
    fn closing_does_not_wait_longer_than_it_is_told() {
        let (sender, _) = sender(&[later(None)], Duration::ZERO, 5_000, MINUTE);
        sender.offer(&mut spans(2000));
        sender.offer_metrics(Vec::new(), UnixNanos(0), UnixNanos(1));
        let began = Instant::now();
        let tally = sender.close(Duration::from_millis(200));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!((tally.sent, tally.dropped), (0, 2000));
    }

    #[test]
    fn a_reader_waits_for_room_until_nothing_is_taken() {
        let slow = Duration::from_millis(50);
        let (sender, _) = self::sender(&[taken()], slow, 600, MINUTE);
        for _ in 0..20 {
            assert!(sender.wait_for_room(100));
            sender.offer(&mut spans(100));
        }
        assert_eq!(sender.close(MINUTE), Tally { sent: 2000, ..Tally::default() });
        let refused = Reply::Refused { why: "400".to_owned() };
        let (sender, _) = self::sender(&[refused], Duration::ZERO, 600, MINUTE);
        sender.offer(&mut spans(600));
        assert!(!sender.wait_for_room(600));
    }
}
