//! Stands where the dashboard is in builds that have one (feature `watch`).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Failure;
use super::run::Ui;

/// The dashboard that no run of this build has.
pub(super) enum Beside {}

/// Whether a run shows a dashboard: here never.
///
/// # Errors
/// [`Failure`] if one was asked for.
pub(super) fn wanted(ui: Ui) -> Result<bool, Failure> {
    if ui == Ui::Tui { Err(absent()) } else { Ok(false) }
}

impl Beside {
    pub(super) fn open(_: &Path, _: Arc<AtomicBool>) -> Result<Self, Failure> {
        Err(absent())
    }

    pub(super) fn is_open(&self) -> bool {
        match *self {}
    }

    pub(super) fn tell(&self, _: String) {
        match *self {}
    }

    pub(super) fn wait(self) -> Result<(), Failure> {
        match self {}
    }
}

fn absent() -> Failure {
    let message = "show a dashboard: this build has none (feature `watch`)";
    Failure::new(message, Some("take a build made with default features, or --ui plain"))
}
