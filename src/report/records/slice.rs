//! A run as slices of time in lanes, and counters: what a trace viewer shows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::event::{DeviceState, Power, Request, Step};
use crate::waste::{Cause, LaunchTrack, Level, Tracks};

/// Where a slice lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// A stream of a device: its operations.
    Stream {
        /// The device.
        device: u16,
        /// The stream.
        stream: u16,
    },
    /// The steps of a device's engine.
    Steps {
        /// The device.
        device: u16,
    },
    /// What a device's scheduler was doing.
    Scheduler {
        /// The device.
        device: u16,
    },
    /// Requests that follow one another.
    Requests {
        /// Which of these lanes.
        lane: u32,
    },
}

/// What is said of a slice.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// A count.
    Count(u64),
    /// A share or another quotient.
    Share(f64),
    /// A word.
    Word(String),
}

/// A stretch of time in a lane. Slices of one lane nest or follow one another.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// Where it lies.
    pub lane: Lane,
    /// What it is.
    pub name: String,
    /// Its beginning, in nanoseconds of run time.
    pub start: u64,
    /// Its end.
    pub end: u64,
    /// What is said of it.
    pub arguments: Vec<(String, Argument)>,
}

/// Values at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Counter {
    /// The device.
    pub device: u16,
    /// What is counted.
    pub name: &'static str,
    /// When, in nanoseconds of run time.
    pub at: u64,
    /// The values.
    pub values: Vec<(&'static str, f64)>,
}

fn count(name: &str, count: impl Into<u64>) -> (String, Argument) {
    (name.to_owned(), Argument::Count(count.into()))
}

fn word(name: &str, word: impl Into<String>) -> (String, Argument) {
    (name.to_owned(), Argument::Word(word.into()))
}

/// An operation with its budget and what it was booked to.
#[must_use]
pub fn kernel_slice(track: &LaunchTrack<'_>) -> Slice {
    let launch = track.launch;
    let mut arguments = vec![
        count("weight bytes", launch.weight_bytes.0),
        count("kv bytes", launch.kv_bytes.0),
        count("activation bytes", launch.activation_bytes.0),
        count("excess bytes", launch.excess_bytes.0),
        count("ops", launch.ops.0),
        word("dtype", launch.dtype.code()),
    ];
    if let Some(step) = launch.step {
        arguments.push(count("step", step.0));
    }
    if let Some(layer) = launch.layer {
        arguments.push(count("layer", layer));
    }
    if let Some((cause, level, _)) = track.shares.first() {
        arguments.push(word("cause", cause.code()));
        arguments.push(word("level", level.code()));
    }
    for level in Level::ALL {
        let of_level = track.shares.iter().filter(|share| share.1 == level);
        // The sum of nothing is a negative zero.
        let share = of_level.filter_map(|share| share.2.fraction()).fold(0.0, |a, b| a + b);
        let name = format!("{} share", level.code());
        arguments.push((name, Argument::Share(share)));
    }
    for (cause, _, share) in track.shares {
        if let Some(share) = share.fraction() {
            let name = format!("share of {}", cause.code());
            match arguments.iter_mut().find(|(known, _)| *known == name) {
                // The same cause at another level.
                Some((_, Argument::Share(sum))) => *sum += share,
                _ => arguments.push((name, Argument::Share(share))),
            }
        }
    }
    Slice {
        lane: Lane::Stream { device: launch.device, stream: launch.stream },
        name: track.kernel.to_owned(),
        start: launch.start.0,
        end: launch.end.0,
        arguments,
    }
}

/// Everything but operations and counters: steps, schedulers, requests.
pub fn time_slices(tracks: &Tracks<'_>) -> impl Iterator<Item = Slice> {
    step_slices(tracks.steps())
        .into_iter()
        .chain(state_slices(tracks))
        .chain(request_slices(tracks.requests(), tracks.end().0))
}

/// Steps with the host's part; one that is prepared while another runs begins behind it.
fn step_slices(steps: &[Step]) -> Vec<Slice> {
    let mut slices = Vec::new();
    let mut before: Option<(u16, u64)> = None;
    for step in steps {
        let free = before.filter(|(device, _)| *device == step.device).map_or(0, |(_, end)| end);
        let begin = step.host_start.0.max(free);
        let (start, end) = (step.start.0.max(begin), step.end.0.max(begin));
        before = Some((step.device, end));
        let lane = Lane::Steps { device: step.device };
        slices.push(Slice {
            lane,
            // Not "ProfilerStep#N": readers take that for an iteration of training and look for the
            // host's calls in it, without which they leave operations out.
            name: format!("step {}", step.step.0),
            start: begin,
            end,
            arguments: vec![
                count("rows prefill", step.rows_prefill),
                count("rows decode", step.rows_decode),
                count("rows draft", step.rows_draft),
                count("rows verify", step.rows_verify),
                count("rows ownerless", step.rows_ownerless),
                count("requests", step.requests),
                count("queued", step.queued),
            ],
        });
        if start > begin {
            let name = "prepare".to_owned();
            slices.push(Slice { lane, name, start: begin, end: start, arguments: Vec::new() });
        }
    }
    slices
}

fn state_slices(tracks: &Tracks<'_>) -> Vec<Slice> {
    let states = tracks.states();
    let mut slices = Vec::new();
    for (place, change) in states.iter().enumerate() {
        let next = states.get(place + 1).filter(|next| next.device == change.device);
        let end = next.map_or(tracks.end().0, |next| next.at.0);
        if end <= change.at.0 {
            continue;
        }
        let idle = word("idle time is booked to", idle_cause(change.state).code());
        slices.push(Slice {
            lane: Lane::Scheduler { device: change.device },
            name: change.state.code().to_owned(),
            start: change.at.0,
            end,
            arguments: vec![idle],
        });
    }
    slices
}

/// What time is booked to in which nothing runs, outside steps.
const fn idle_cause(state: DeviceState) -> Cause {
    match state {
        DeviceState::Empty => Cause::NoDemand,
        DeviceState::External => Cause::Upstream,
        DeviceState::Holding => Cause::BatchFill,
        DeviceState::Blocked => Cause::Capacity,
        DeviceState::Host => Cause::Host,
        DeviceState::Load | DeviceState::WarmUp => Cause::Changeover,
        DeviceState::Calibrate => Cause::Observer,
        DeviceState::Faulted => Cause::FaultRecovery,
    }
}

/// Requests in as few lanes as hold those that are there at once.
fn request_slices(requests: &[Request], window_end: u64) -> Vec<Slice> {
    let mut order: Vec<&Request> = requests.iter().collect();
    order.sort_by_key(|request| (request.arrival.at, request.arrival.request));
    let mut busy: BinaryHeap<Reverse<(u64, u32)>> = BinaryHeap::new();
    let mut free: BinaryHeap<Reverse<u32>> = BinaryHeap::new();
    let mut slices = Vec::new();
    for request in order {
        let start = request.arrival.at.0;
        while let Some(Reverse((end, lane))) = busy.peek().copied() {
            if end > start {
                break;
            }
            busy.pop();
            free.push(Reverse(lane));
        }
        let lane = free.pop().map_or(busy.len() as u32, |Reverse(lane)| lane);
        let end = request.finish.map_or(window_end, |finish| finish.at.0).max(start);
        busy.push(Reverse((end, lane)));
        slices.extend(request_slice(request, Lane::Requests { lane }, end));
    }
    slices
}

/// A request and its phases, the outer slice first.
fn request_slice(request: &Request, lane: Lane, end: u64) -> Vec<Slice> {
    let arrival = &request.arrival;
    let outcome = request.finish.map_or("open", |finish| finish.outcome.code());
    let mut arguments = vec![
        count("prompt tokens", arrival.prompt_tokens),
        count("max tokens", arrival.max_tokens),
        count("attempt", arrival.attempt),
        word("class", arrival.class.clone()),
        word("outcome", outcome),
    ];
    let start = arrival.at.0;
    let mut phases = Vec::new();
    if let Some(finish) = request.finish {
        arguments.push(count("cached tokens", finish.cached_tokens));
        arguments.push(count("output tokens", finish.output_tokens));
        let scheduled = finish.first_scheduled.map_or(end, |at| at.0).clamp(start, end);
        let first = finish.first_token.map_or(end, |at| at.0).clamp(scheduled, end);
        phases = vec![("queue", start, scheduled), ("prefill", scheduled, first)];
        phases.push(("decode", first, end));
    }
    let name = format!("request {}", arrival.request.0);
    let whole = Slice { lane, name, start, end, arguments };
    let phase = |(name, start, end): (&str, u64, u64)| {
        let (name, arguments) = (name.to_owned(), Vec::new());
        Slice { lane, name, start, end, arguments }
    };
    let phases = phases.into_iter().filter(|(_, start, end)| end > start).map(phase);
    std::iter::once(whole).chain(phases).collect()
}

/// Rows, requests and KV blocks at each step, and power at each reading.
pub fn step_counters(tracks: &Tracks<'_>) -> impl Iterator<Item = Counter> {
    let of_step = |step: &Step| {
        let counter =
            |name, values| Counter { device: step.device, name, at: step.start.0, values };
        let free = step.kv_blocks_total.saturating_sub(step.kv_blocks_used);
        [
            counter(
                "rows",
                vec![
                    ("prefill", step.rows_prefill.into()),
                    ("decode", step.rows_decode.into()),
                    ("draft", step.rows_draft.into()),
                    ("verify", step.rows_verify.into()),
                    ("ownerless", step.rows_ownerless.into()),
                ],
            ),
            counter(
                "requests",
                vec![("running", step.requests.into()), ("queued", step.queued.into())],
            ),
            counter("kv blocks", vec![("used", step.kv_blocks_used.into()), ("free", free.into())]),
        ]
    };
    let of_power = |power: &Power| Counter {
        device: power.device,
        name: "power",
        at: power.at.0,
        values: vec![("watts", power.power_mw as f64 / 1e3)],
    };
    let steps = tracks.steps().iter().flat_map(of_step);
    steps.chain(tracks.power().iter().map(of_power))
}

/// The lanes that [`time_slices`] and [`kernel_slice`] use, but for the streams, which only the
/// operations know, with the names of the devices.
#[must_use]
pub fn lanes(tracks: &Tracks<'_>) -> Vec<(u16, String, u64)> {
    let name = |kind: &str, id: u16, name: &str| format!("{kind}:{id} {name}");
    tracks.devices().map(|d| (d.id, name(d.kind, d.id, d.name), d.memory_bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Arrival, Finish, Outcome, RequestId, StepId};
    use crate::unit::Nanos;

    fn request(id: u64, at: u64, end: u64) -> Request {
        let arrival = Arrival {
            request: RequestId(id),
            parent: None,
            task: None,
            attempt: 1,
            class: String::new(),
            route: String::new(),
            at: Nanos(at),
            prompt_tokens: 1,
            max_tokens: 1,
        };
        let finish = Finish {
            request: RequestId(id),
            at: Nanos(end),
            first_scheduled: Some(Nanos(at + 1)),
            first_token: Some(Nanos(at + 3)),
            cached_tokens: 0,
            output_tokens: 1,
            outcome: Outcome::Completed,
        };
        Request { arrival, finish: Some(finish) }
    }

    #[test]
    fn requests_share_a_lane_where_they_follow_one_another() {
        let requests = [request(0, 0, 10), request(1, 5, 8), request(2, 8, 30), request(3, 10, 20)];
        let slices = request_slices(&requests, 30);
        let found: Vec<(&str, Lane)> = slices
            .iter()
            .filter(|slice| slice.name.starts_with("request"))
            .map(|slice| (slice.name.as_str(), slice.lane))
            .collect();
        let lane = |lane| Lane::Requests { lane };
        let expected = [
            ("request 0", lane(0)),
            ("request 1", lane(1)),
            ("request 2", lane(1)),
            ("request 3", lane(0)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_step_prepared_while_another_runs_begins_behind_it() {
        let step = |id, host_start, start, end| Step {
            step: StepId(id),
            host_start: Nanos(host_start),
            start: Nanos(start),
            end: Nanos(end),
            ..Step::default()
        };
        let slices = step_slices(&[step(0, 0, 2, 10), step(1, 7, 11, 20)]);
        let found: Vec<(&str, u64, u64)> =
            slices.iter().map(|s| (s.name.as_str(), s.start, s.end)).collect();
        let expected =
            [("step 0", 0, 10), ("prepare", 0, 2), ("step 1", 10, 20), ("prepare", 10, 11)];
        assert_eq!(found, expected);
    }
}
