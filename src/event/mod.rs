//! The vocabulary of what happened on a run: plain data, no judgement, no files.
//!
//! Neighbours: the making arm (`engine`, `session`) says these facts to a [`Recorder`]; `trace`
//! stores them; `waste` explains them. "Waste" is not a word here: a [`Fate`] says what became
//! of a row, never whether that was good.
//!
//! Times are nanoseconds since the window's start. Ids are dense and start at zero.

mod activity;
mod copy;
mod device;
mod fact;
mod fate;
mod request;
mod state;

pub use activity::Activity;
pub use copy::{Cargo, Direction, MemoryCopy};
pub use device::{Calibration, Ceilings};
pub use fact::{
    Driver, Dtype, Fact, KernelId, Launch, LayerId, Memory, MemoryChange, MemoryClass, Power,
    Provenance, Row, Step, StepId, Throttle,
};
pub use fate::{Fate, Phase, Recompute};
pub use request::{Arrival, Finish, Outcome, Request, RequestId};
pub use state::{DeviceState, StateChange};

use crate::unit::Nanos;

/// Where facts go while a run happens.
///
/// `record` is on the engine's critical path: an implementation buffers, and writes elsewhere.
pub trait Recorder {
    /// Takes one fact. Facts of one device come in order of time.
    fn record(&mut self, fact: Fact);

    /// Returns when everything taken so far has been dealt with: the work that a recorder leaves
    /// to others is part of what recording costs.
    fn settle(&mut self) {}
}

/// Keeps every fact in memory, in the order it came.
impl Recorder for Vec<Fact> {
    fn record(&mut self, fact: Fact) {
        self.push(fact);
    }
}

/// Forgets everything: the other half of a paired run that measures what recording costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forget;

impl Recorder for Forget {
    fn record(&mut self, _fact: Fact) {}
}

/// The only source of time of the making arm.
pub trait Clock: Sync {
    /// Time since the window's start.
    fn now(&self) -> Nanos;

    /// Returns at `deadline` or soon after; at once if it has passed.
    fn sleep_until(&self, deadline: Nanos);
}

/// The machine's monotonic clock, zero at its making.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    origin: std::time::Instant,
}

impl WallClock {
    /// A clock that reads zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Clock for WallClock {
    fn now(&self) -> Nanos {
        self.origin.elapsed().into()
    }

    fn sleep_until(&self, deadline: Nanos) {
        let left = deadline.saturating_sub(self.now());
        if left > Nanos::ZERO {
            std::thread::sleep(std::time::Duration::from_nanos(left.0));
        }
    }
}
