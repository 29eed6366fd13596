//! The engine's thread: takes what clients want, runs step after step, waits when there is none.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use super::door::{Command, Door, Job, Stage};
use crate::backend::DeviceError;
use crate::engine::{Answer, Engine, Order, Turn, Verdict};
use crate::event::{Arrival, Clock, Outcome, Recorder, RequestId};
use crate::schedule::Outlook;
use crate::unit::Nanos;

/// How serving ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Everything that had been taken was finished.
    Drained,
    /// The time for that was over, and requests were left open.
    Cut,
    /// The device failed.
    Failed(DeviceError),
}

/// The engine with its clients' wishes.
pub(super) struct Host<'h, 'c> {
    engine: Engine<'c>,
    recorder: &'h mut dyn Recorder,
    door: Arc<Door>,
    commands: Receiver<Command>,
    /// The number of the next request.
    next: u64,
    last_arrival: Nanos,
    jobs: HashMap<u64, Vec<RequestId>>,
    owners: HashMap<RequestId, u64>,
    /// When draining must be over, once it has begun.
    drain_until: Option<Nanos>,
}

impl<'h, 'c> Host<'h, 'c> {
    pub(super) fn new(
        engine: Engine<'c>,
        recorder: &'h mut dyn Recorder,
        door: Arc<Door>,
        commands: Receiver<Command>,
    ) -> Self {
        Self {
            engine,
            recorder,
            door,
            commands,
            next: 0,
            last_arrival: Nanos::ZERO,
            jobs: HashMap::new(),
            owners: HashMap::new(),
            drain_until: None,
        }
    }

    pub(super) fn into_engine(self) -> Engine<'c> {
        self.engine
    }

    /// Serves until it is drained.
    pub(super) fn serve(&mut self) -> Ending {
        let ending = self.serve_on();
        if matches!(ending, Ending::Failed(_)) {
            return ending;
        }
        // What still runs belongs to the time until now.
        let before = self.engine.counts();
        let settled = self.engine.settle(self.recorder);
        if settled.is_err() {
            self.fail();
        }
        self.settle();
        self.door.metrics.turned(&self.engine, &before);
        settled.map_or_else(Ending::Failed, |()| ending)
    }

    fn fail(&mut self) {
        self.engine.fail(self.recorder);
        self.door.enter(Stage::Failed);
    }

    fn serve_on(&mut self) -> Ending {
        loop {
            loop {
                match self.commands.try_recv() {
                    Ok(command) => self.obey(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ending::Drained,
                }
            }
            let draining = self.drain_until.is_some();
            let over = self.drain_until.is_some_and(|until| until <= self.door.clock.now());
            let before = self.engine.counts();
            let outlook = Outlook { closed: draining, external: 0 };
            let turn = self.engine.turn(outlook, self.recorder);
            if turn.is_err() {
                self.fail();
            }
            self.settle();
            self.door.metrics.turned(&self.engine, &before);
            let wake = match turn {
                Err(error) => return Ending::Failed(error),
                _ if draining && self.jobs.is_empty() => return Ending::Drained,
                _ if over => return Ending::Cut,
                Ok(Turn::Ran) => continue,
                Ok(Turn::Idle { wake, .. }) => wake,
            };
            if !self.wait(wake) {
                return Ending::Drained;
            }
        }
    }

    /// Waits for a command, or for `wake`. `false` if there will never be one.
    fn wait(&mut self, wake: Option<Nanos>) -> bool {
        let wake = [wake, self.drain_until].into_iter().flatten().min();
        let received = match wake {
            None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wake) => {
                let left = wake.saturating_sub(self.door.clock.now());
                self.commands.recv_timeout(Duration::from_nanos(left.0))
            }
        };
        match received {
            Ok(command) => self.obey(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(job) => self.submit(*job),
            Command::TurnedAway { arrived, class, max_tokens } => {
                let arrival = self.arrival(arrived, class, 0, max_tokens);
                self.engine.turn_away(arrival, self.recorder);
            }
            Command::Leave(ticket) => {
                for request in self.jobs.get(&ticket).into_iter().flatten() {
                    self.engine.cancel(*request);
                }
            }
            Command::Drain => {
                let until = self.door.clock.now().0.saturating_add(self.door.limits.drain.0);
                self.drain_until.get_or_insert(Nanos(until));
            }
        }
    }

    /// The arrival of the next request. Numbers follow the order of arrival.
    fn arrival(
        &mut self,
        arrived: Nanos,
        class: &'static str,
        prompt_tokens: u32,
        max_tokens: u32,
    ) -> Arrival {
        let request = RequestId(self.next);
        self.next += 1;
        self.last_arrival = self.last_arrival.max(arrived);
        Arrival {
            request,
            parent: None,
            task: None,
            attempt: 1,
            class: class.to_owned(),
            route: String::new(),
            at: self.last_arrival,
            prompt_tokens,
            max_tokens,
        }
    }

    fn submit(&mut self, job: Job) {
        let Job { ticket, arrived, deadline, class, max_tokens, answers } = job;
        for (prompt, sampling, speaker) in answers {
            let arrival = self.arrival(arrived, class, prompt.len() as u32, max_tokens);
            let request = arrival.request;
            let order = Order {
                arrival,
                prompt,
                // What ends an answer is the speaker's to see.
                answer: Answer::Free { sampling, end_tokens: [].into() },
                verdict: Verdict::Recorded(Outcome::Completed),
                deadline: Some(deadline),
                pauses: Vec::new(),
            };
            self.jobs.entry(ticket).or_default().push(request);
            self.owners.insert(request, ticket);
            self.engine.submit_for(order, Some(Box::new(speaker)), self.recorder);
        }
    }

    /// Forgets what has left.
    fn settle(&mut self) {
        for finished in self.engine.take_finished() {
            let request = finished.finish.request;
            let Some(ticket) = self.owners.remove(&request) else { continue };
            if let Some(requests) = self.jobs.get_mut(&ticket) {
                requests.retain(|other| *other != request);
                if requests.is_empty() {
                    self.jobs.remove(&ticket);
                }
            }
        }
    }
}
