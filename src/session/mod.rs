//! A run from its first second to its last: demand, engine and recorder on one clock.
//!
//! Neighbours: `workload` says who asks what and when, `engine` runs it on a `backend`, and the
//! caller brings the recorder (a run folder's writer, as a rule). [`run`] loads the device,
//! warms it up, plays the workload in real time and says how it ended. It knows no cause, no
//! report and no terminal: progress is told to a callback as plain data.
//!
//! The window of a run begins when its clock reads zero, which is before anything is loaded.

mod demand;
mod metering;
mod observe;
mod options;
mod play;
mod progress;
mod run;
mod validity;
mod warm_up;

pub use demand::Words;
pub use metering::Metering;
pub use options::{FreeTokens, Generation, Limit, Preparation, SessionOptions};
pub use progress::{Progress, Stage};
pub use run::{DeviceSource, Outcome, Prepared, SessionError, World, prepare, run};
