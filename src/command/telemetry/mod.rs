//! Telemetry of a run: what `run`, `serve` and `export` share.

#[cfg(feature = "otel")]
mod finished;
#[cfg(feature = "otel")]
mod follow;

use std::path::Path;

use clap::{Args, ValueEnum};

use super::Failure;
use crate::report::telemetry::Detail;
use crate::unit::UnixNanos;

#[cfg(feature = "otel")]
use crate::otel::{Destination, DestinationError, Sender, SenderError, Tally};

#[cfg(feature = "otel")]
pub(super) use finished::send;

/// Where telemetry goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryArgs {
    /// An OTLP receiver for spans and metrics: http://HOST:4318, or grpc://HOST:4317; the
    /// standard OTEL_EXPORTER_OTLP_ variables do the same
    #[arg(long, value_name = "URL")]
    pub otlp: Option<String>,
    /// How much of a request is told
    #[arg(long, value_enum, default_value_t = DetailName::Step, value_name = "DETAIL")]
    pub otlp_spans: DetailName,
}

/// How much of a request is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DetailName {
    /// One span
    Request,
    /// Queue, prefill and decode too
    Phase,
    /// And each step
    Step,
}

impl TelemetryArgs {
    fn detail(&self) -> Detail {
        match self.otlp_spans {
            DetailName::Request => Detail::Request,
            DetailName::Phase => Detail::Phase,
            DetailName::Step => Detail::Step,
        }
    }
}

#[cfg(feature = "otel")]
impl From<DestinationError> for Failure {
    fn from(error: DestinationError) -> Self {
        let hint = error.hint();
        Self::new(error, Some(hint))
    }
}

#[cfg(feature = "otel")]
impl From<SenderError> for Failure {
    fn from(error: SenderError) -> Self {
        Self::new(error, None::<String>)
    }
}

/// Telemetry that has a receiver, before the run begins.
pub(super) struct Telemetry {
    #[cfg(feature = "otel")]
    destination: Destination,
    #[cfg(feature = "otel")]
    sender: Sender,
    #[cfg(feature = "otel")]
    detail: Detail,
}

/// Telemetry of a run that goes on.
pub(super) struct Following {
    #[cfg(feature = "otel")]
    follower: follow::Follower,
}

#[cfg(feature = "otel")]
impl Telemetry {
    /// The receiver that the arguments and the environment name; `None` if they name none.
    ///
    /// # Errors
    /// [`Failure`] if what they say cannot be. A receiver that is not there is no failure.
    pub(super) fn prepare(args: &TelemetryArgs) -> Result<Option<Self>, Failure> {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(destination) = Destination::find(args.otlp.as_deref(), &variable)? else {
            return Ok(None);
        };
        let identity = crate::otel::Identity {
            service: destination.service.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            resource: destination.resource.clone(),
        };
        let sender = Sender::start(&destination, identity)?;
        Ok(Some(Self { destination, sender, detail: args.detail() }))
    }

    /// Follows the run in `folder`, whose run time was zero at `begin`.
    ///
    /// # Errors
    /// [`Failure`] if there can be no more threads.
    pub(super) fn follow(self, folder: &Path, begin: UnixNanos) -> Result<Following, Failure> {
        Ok(Following { follower: follow::Follower::start(self, folder, begin)? })
    }
}

#[cfg(feature = "otel")]
impl Following {
    /// Sends what is left, now that the folder is closed; a note on what became of everything.
    pub(super) fn end(self) -> String {
        self.follower.end()
    }
}

/// What became of everything, in a line.
#[cfg(feature = "otel")]
fn told(tally: &Tally, destination: &Destination) -> String {
    let mut text = format!("telemetry: {} spans sent to {}", tally.sent, destination.traces);
    let mut add = |count: u64, what: &str| {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    };
    add(tally.dropped, "dropped");
    add(tally.rejected, "refused by the receiver");
    add(tally.metrics_dropped, "readings of metrics dropped");
    add(tally.points_rejected, "points of metrics refused by the receiver");
    if let Some(why) = tally.why.as_ref().filter(|_| tally.lossy()) {
        // What a receiver says may be anything.
        let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.push_str(&format!("; at last: {}", why.chars().take(300).collect::<String>()));
    }
    text
}

#[cfg(not(feature = "otel"))]
impl Telemetry {
    /// Telemetry is not part of this build.
    ///
    /// # Errors
    /// [`Failure`] if a receiver is named on the command line.
    pub(super) fn prepare(args: &TelemetryArgs) -> Result<Option<Self>, Failure> {
        let _ = args.detail();
        match &args.otlp {
            None => Ok(None),
            Some(url) => Err(Failure::new(
                format!("send telemetry to {url}: this build has none (feature `otel`)"),
                Some("take a build made with default features"),
            )),
        }
    }

    /// Never called: nothing can be prepared.
    pub(super) fn follow(self, _: &Path, _: UnixNanos) -> Result<Following, Failure> {
        Ok(Following {})
    }
}

#[cfg(not(feature = "otel"))]
impl Following {
    /// Never called: nothing can be prepared.
    pub(super) fn end(self) -> String {
        String::new()
    }
}

/// Sends nothing: telemetry is not part of this build.
///
/// # Errors
/// [`Failure`], always.
#[cfg(not(feature = "otel"))]
pub(super) fn send(
    _: &Path,
    _: &TelemetryArgs,
    _: Option<UnixNanos>,
) -> Result<(String, bool), Failure> {
    let message = "send telemetry: this build has none (feature `otel`)";
    Err(Failure::new(message, Some("take a build made with default features")))
}
