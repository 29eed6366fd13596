//! The workload in real time: arrivals, cancellations, and sleep in between.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::DeviceError;
use crate::engine::{Engine, Finished, Turn};
use crate::event::{Clock, Recorder, RequestId};
use crate::model::ModelError;
use crate::schedule::Outlook;
use crate::unit::Nanos;

use super::demand::Demand;
use super::options::Limit;
use super::progress::{Stage, Teller};

/// A sleeping session looks at the stop flag this often.
const STOP_LATENCY: Nanos = Nanos(50_000_000);

/// How playing ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Every request has left.
    Played,
    /// The time limit came first.
    TimeUp,
    /// Somebody asked to stop.
    Stopped,
    /// The device failed.
    Failed(DeviceError),
    /// A prompt could not be put into tokens.
    Unreadable {
        /// Which request's.
        request: RequestId,
        /// Why.
        error: ModelError,
    },
}

/// Plays a workload to an engine.
pub(super) struct Player<'a, 'c> {
    engine: Engine<'c>,
    demand: &'c Demand<'c>,
    clock: &'c dyn Clock,
    recorder: &'a mut dyn Recorder,
    teller: Teller<'a>,
    /// When the workload's time began.
    start: Nanos,
    limit: Limit,
    /// When requests come whose time is known.
    arrivals: BinaryHeap<Reverse<(Nanos, usize)>>,
    last_arrival: Nanos,
    /// Requests that come after their parent has finished, by parent.
    children: HashMap<u64, Vec<usize>>,
    /// Of the known arrivals, those whose parent has finished: they wait for something outside.
    outside: u32,
    cancels: BinaryHeap<Reverse<(Nanos, RequestId)>>,
    answers: Option<Vec<Finished>>,
}

impl<'a, 'c> Player<'a, 'c> {
    /// A player whose workload begins now.
    pub(super) fn new(
        engine: Engine<'c>,
        demand: &'c Demand<'c>,
        clock: &'c dyn Clock,
        recorder: &'a mut dyn Recorder,
        teller: Teller<'a>,
        limit: Limit,
    ) -> Self {
        let start = clock.now();
        let mut player = Self {
            engine,
            demand,
            clock,
            recorder,
            teller,
            start,
            limit,
            arrivals: BinaryHeap::new(),
            last_arrival: start,
            children: HashMap::new(),
            outside: 0,
            cancels: BinaryHeap::new(),
            answers: None,
        };
        let most = limit.num_requests.map_or(usize::MAX, |most| most as usize);
        for (index, spec) in demand.workload().requests.iter().enumerate().take(most) {
            match spec.parent.filter(|_| spec.wait_after_parent.is_some()) {
                Some(parent) => player.children.entry(parent.into()).or_default().push(index),
                None => player.expect(Nanos(start.0.saturating_add(spec.arrival.0)), index),
            }
        }
        player
    }

    /// Hands back the tokens of every answer at the end.
    pub(super) fn keep_answers(mut self) -> Self {
        self.answers = Some(Vec::new());
        self
    }

    /// The engine, and the answers if they were kept.
    pub(super) fn into_parts(self) -> (Engine<'c>, Option<Vec<Finished>>) {
        (self.engine, self.answers)
    }

    /// Says that all is over.
    pub(super) fn tell_end(&mut self) {
        let elapsed = self.clock.now().saturating_sub(self.start);
        self.teller.stage(Stage::Done, self.engine.counts(), elapsed);
    }

    /// Plays until the end, whatever it is.
    pub(super) fn play(&mut self, stop: &AtomicBool) -> Ending {
        let ending = self.play_on(stop);
        if matches!(ending, Ending::Failed(_)) {
            return ending;
        }
        // What still runs belongs to the time until now.
        match self.engine.settle(self.recorder) {
            Ok(()) => {
                self.settle();
                ending
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: DeviceError) -> Ending {
        self.engine.fail(self.recorder);
        self.settle();
        Ending::Failed(error)
    }

    fn play_on(&mut self, stop: &AtomicBool) -> Ending {
        let end = self.limit.duration_ns.map(|length| Nanos(self.start.0.saturating_add(length.0)));
        loop {
            let now = self.clock.now();
            if stop.load(Ordering::Acquire) {
                return Ending::Stopped;
            }
            if end.is_some_and(|end| end <= now) {
                return Ending::TimeUp;
            }
            if let Err(unreadable) = self.receive(now) {
                return unreadable;
            }
            let closed = self.arrivals.is_empty() && self.children.is_empty();
            let outlook = Outlook { closed, external: self.outside };
            let turn = match self.engine.turn(outlook, self.recorder) {
                Ok(turn) => turn,
                Err(error) => return self.fail(error),
            };
            self.settle();
            self.tell();
            if let Turn::Idle { wake, .. } = turn {
                let arrival = self.arrivals.peek().map(|Reverse((at, _))| *at);
                let cancel = self.cancels.peek().map(|Reverse((at, _))| *at);
                let (waiting, running) = self.engine.scheduler().live();
                let awaited = arrival.is_some() || waiting + running > 0;
                match [arrival, wake, cancel].into_iter().flatten().min() {
                    Some(next) if awaited => {
                        self.sleep(end.map_or(next, |end| next.min(end)), stop)
                    }
                    // Nobody is here and nobody will come.
                    _ => return Ending::Played,
                }
            }
        }
    }

    /// A request will come at `at`.
    fn expect(&mut self, at: Nanos, index: usize) {
        self.last_arrival = self.last_arrival.max(at);
        self.arrivals.push(Reverse((at, index)));
    }

    /// Takes in what has happened outside until `now`.
    fn receive(&mut self, now: Nanos) -> Result<(), Ending> {
        while let Some(&Reverse((at, index))) = self.arrivals.peek() {
            if at > now {
                break;
            }
            self.arrivals.pop();
            let spec = &self.demand.workload().requests[index];
            self.outside -= u32::from(spec.parent.is_some() && spec.wait_after_parent.is_some());
            let request = RequestId(index as u64);
            let order = self.demand.order(index, at);
            let order = order.map_err(|error| Ending::Unreadable { request, error })?;
            self.engine.submit(order, self.recorder);
            if let Some(after) = spec.cancel_after {
                self.cancels.push(Reverse((Nanos(at.0.saturating_add(after.0)), request)));
            }
        }
        while let Some(&Reverse((at, request))) = self.cancels.peek() {
            if at > now {
                break;
            }
            self.cancels.pop();
            self.engine.cancel(request);
        }
        Ok(())
    }

    /// Whoever waited for a request that has left now waits for something outside.
    fn settle(&mut self) {
        for finished in self.engine.take_finished() {
            let finish = finished.finish;
            for index in self.children.remove(&finish.request.0).unwrap_or_default() {
                let wait = self.demand.workload().requests[index].wait_after_parent;
                let at = Nanos(finish.at.0.saturating_add(wait.unwrap_or_default().0));
                self.outside += 1;
                self.expect(at, index);
            }
            if let Some(answers) = &mut self.answers {
                answers.push(finished);
            }
        }
    }

    fn tell(&mut self) {
        let now = self.clock.now();
        let elapsed = now.saturating_sub(self.start);
        self.teller.play(self.engine.counts(), elapsed, self.last_arrival.saturating_sub(now));
    }

    /// Sleeps until `next`, unless somebody asks to stop.
    fn sleep(&mut self, next: Nanos, stop: &AtomicBool) {
        loop {
            let now = self.clock.now();
            if now >= next || stop.load(Ordering::Acquire) {
                return;
            }
            self.tell();
            self.clock.sleep_until(next.min(now + STOP_LATENCY));
        }
    }
}
