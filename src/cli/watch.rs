//! A run that goes on, in a line.

use crate::report::live::{Lit, Live};

/// The state of a run as one line: how it stands, what it does, where the time goes.
#[must_use]
pub fn render_watch(live: &Live, playback: &str) -> String {
    let seal = if live.seal.balanced { "books balance" } else { live.seal.text.as_str() };
    let wastes = live.causes.iter().filter(|cause| cause.row.level == "waste").take(3);
    let wastes: Vec<String> =
        wastes.map(|cause| format!("{} {}", cause.row.code, cause.row.percent)).collect();
    let lamps = live.lamps.iter().filter(|lamp| lamp.lit == Lit::Alarm);
    let lamps: String = lamps.map(|lamp| format!("; ! {} {}", lamp.name, lamp.text)).collect();
    let levels: Vec<String> =
        live.levels.iter().map(|part| format!("{} {}", part.label, part.percent)).collect();
    let playback = if playback.is_empty() { String::new() } else { format!(" ({playback})") };
    format!(
        "{} {}{playback}: {}; {}; waste by cause: {}; {seal}{lamps}\n",
        live.status,
        live.clock,
        live.counts.join(", "),
        levels.join(", "),
        wastes.join(", "),
    )
}
