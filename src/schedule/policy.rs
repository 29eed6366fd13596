//! Whether the batch is open to waiting requests.

use super::decision::Outlook;
use super::options::{Batching, Scheduling};
use crate::unit::Nanos;

/// Whether waiting requests may be let in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// As many as fit.
    Open,
    /// None, until something happens or the time comes.
    Held(Option<Nanos>),
}

/// The waiting requests as far as a batch depends on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    /// How many could run.
    pub(super) requests: u32,
    /// When the first of them came.
    pub(super) oldest: Nanos,
    /// When the last of them came.
    pub(super) newest: Nanos,
}

/// The rule of the scheduling. `running` requests are in the batch now.
pub(super) fn gate(
    batching: &Batching,
    queue: Queue,
    running: usize,
    now: Nanos,
    outlook: Outlook,
) -> Gate {
    if batching.scheduling == Scheduling::Continuous {
        return Gate::Open;
    }
    if running > 0 || queue.requests == 0 {
        return Gate::Held(None);
    }
    let window = |from: Nanos| Nanos(from.0.saturating_add(batching.window_ns.0));
    let closes = match batching.scheduling {
        Scheduling::Static => window(queue.newest),
        Scheduling::Window | Scheduling::Continuous => window(queue.oldest),
    };
    let full = queue.requests >= batching.max_num_seqs;
    let last = batching.scheduling == Scheduling::Static && outlook.closed;
    if full || last || closes <= now { Gate::Open } else { Gate::Held(Some(closes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_opens_as_the_scheduling_says() {
        let (held, open) = (|ns| Gate::Held(Some(Nanos(ns))), Gate::Open);
        let shut = Gate::Held(None);
        // scheduling, waiting, running, now, closed
        for (scheduling, requests, running, now, closed, expected) in [
            (Scheduling::Continuous, 0, 7, 0, false, open),
            (Scheduling::Static, 0, 0, 0, false, shut),
            (Scheduling::Static, 3, 0, 20, false, held(130)),
            (Scheduling::Static, 4, 0, 20, false, open),
            (Scheduling::Static, 4, 1, 20, false, shut),
            (Scheduling::Static, 3, 0, 20, true, open),
            (Scheduling::Static, 3, 0, 130, false, open),
            (Scheduling::Window, 3, 0, 20, false, held(110)),
            (Scheduling::Window, 3, 0, 20, true, held(110)),
            (Scheduling::Window, 3, 0, 110, false, open),
            (Scheduling::Window, 4, 0, 20, false, open),
            (Scheduling::Window, 4, 1, 200, false, shut),
        ] {
            let batching = Batching {
                scheduling,
                max_num_seqs: 4,
                window_ns: Nanos(100),
                ..Batching::default()
            };
            let queue = Queue { requests, oldest: Nanos(10), newest: Nanos(30) };
            let outlook = Outlook { closed, external: 0 };
            let found = gate(&batching, queue, running, Nanos(now), outlook);
            assert_eq!(found, expected, "{scheduling:?} {requests} {running} {now} {closed}");
        }
    }
}
