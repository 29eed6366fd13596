//! The parts of the dashboard: lamps, charts, takt, jitter, budgets, memory, rows, energy.

use std::collections::BTreeMap;

use super::super::build::ledgers;
use super::super::{LevelWord, Part};
use super::{Block, Budget, Chart, Lamp, Lit, MemoryNow, StepBar};
use crate::unit::{Bytes, Nanos, Scale, Share, grouped, si_bytes, si_count, si_nanos};
use crate::waste::live::{BlockState, Interval, LiveBooks, StepRows, Sums};
use crate::waste::{Cause, Commodity, Latency};

/// A lamp looks back over so many intervals.
const LOOK_BACK: usize = 20;

/// KV pool held by requests from which the lamp warns, and from which it alarms.
const KV_LIMITS: [f64; 2] = [0.75, 0.9];

/// Broken promises of recent requests from which the lamp warns, and from which it alarms.
const PROMISE_LIMITS: [f64; 2] = [0.0, 0.01];

/// KV blocks on the map; what lies beyond is counted only.
const BLOCKS_SHOWN: usize = 1 << 18;

pub(super) fn subtitle(books: &LiveBooks) -> String {
    let header = books.header();
    let device = header.devices.first();
    let device =
        device.map_or_else(|| "no device yet".to_owned(), |d| format!("{} {}", d.kind, d.name));
    format!("{} weights · {device}", header.model.precision)
}

fn graded(value: f64, [warn, alarm]: [f64; 2]) -> Lit {
    match value {
        v if v > alarm => Lit::Alarm,
        v if v > warn => Lit::Warn,
        _ => Lit::Off,
    }
}

pub(super) fn lamps(books: &LiveBooks, unattributed: Share, limit: f64) -> Vec<Lamp> {
    let (_, _, intervals) = books.recent();
    let recent: Vec<&Interval> = intervals.rev().take(LOOK_BACK).collect();
    let sum = |of: fn(&Interval) -> u64| -> u64 { recent.iter().map(|i| of(i)).sum() };
    let lamp = |name, lit, text: String| Lamp { name, lit, text };
    let counted = |name, count: u64, what: &str| {
        let lit = if count > 0 { Lit::Alarm } else { Lit::Off };
        let plural = if count == 1 { "" } else { "s" };
        lamp(name, lit, format!("{} {what}{plural}", grouped(count.into())))
    };
    let kv = match books.newest_step().filter(|step| step.kv_blocks_total > 0) {
        Some(step) => {
            let share = Share::new(books.held_blocks().into(), step.kv_blocks_total.into());
            lamp("KV", graded(share.fraction().unwrap_or(0.0), KV_LIMITS), share.to_string())
        }
        None => lamp("KV", Lit::Blind, "no step yet".to_owned()),
    };
    let throttle = match books.meter() {
        None => lamp("throttle", Lit::Blind, "no meter".to_owned()),
        Some(power) if power.throttle.code() == "none" => {
            lamp("throttle", Lit::Off, "none".to_owned())
        }
        Some(power) => lamp("throttle", Lit::Alarm, power.throttle.code().to_owned()),
    };
    let finished = sum(|interval| interval.finished);
    let promise = match books.slo().is_some() {
        false => lamp("promise", Lit::Blind, "none made".to_owned()),
        true => {
            let broken = Share::new(sum(|i| i.broke_promise).into(), finished.into());
            let lit = graded(broken.fraction().unwrap_or(0.0), PROMISE_LIMITS);
            lamp("promise", lit, format!("{broken} broken"))
        }
    };
    let share = unattributed.fraction().unwrap_or(0.0);
    let lit = graded(share, [limit / 2.0, limit]);
    vec![
        kv,
        throttle,
        counted("preempt", sum(|interval| interval.preempted_rows), "row"),
        counted("orphan", sum(|interval| interval.orphaned_rows), "row"),
        lamp("unattributed", lit, unattributed.to_string()),
        promise,
    ]
}

/// The charts of the recent past.
pub(super) struct Charts {
    pub(super) throughput: Chart,
    pub(super) queue: Chart,
    pub(super) gaps: Chart,
    pub(super) kv: Chart,
    pub(super) power: Chart,
}

pub(super) fn charts(books: &LiveBooks) -> Charts {
    let (_, length, intervals) = books.recent();
    let intervals: Vec<&Interval> = intervals.collect();
    let span = si_nanos(Nanos(length.0 * intervals.len() as u64));
    let seconds = length.as_secs_f64();
    let chart = |name, of: &dyn Fn(&Interval) -> f64, show: &dyn Fn(f64) -> String, line| {
        let points: Vec<f64> = intervals.iter().map(|interval| of(interval)).collect();
        let line: Option<(f64, String)> = line;
        let held = line.as_ref().map_or(0.0, |(value, _)| *value);
        let top = points.iter().copied().fold(held, f64::max);
        let top = if top > 0.0 { top } else { 1.0 };
        // The last interval is still being filled.
        let now = points.len().checked_sub(2).map_or(0.0, |place| points[place]);
        let (top_text, now) = (show(top), show(now));
        Chart { name, points, top, top_text, now, line, span: span.clone() }
    };
    let rate = |rate: f64| format!("{}/s", si_count(rate));
    let time = |nanos: f64| Scale::nanos(nanos).show(nanos);
    let takt =
        books.takt_nanos().map(|nanos| 1e9 / nanos).map(|r| (r, format!("takt {}", rate(r))));
    let promised = books.slo().tpot_ns;
    let promised = promised.map(|n| (n.0 as f64, format!("promise {}", si_nanos(n))));
    let tokens = |i: &Interval| i.output_tokens as f64 / seconds;
    Charts {
        throughput: chart("tokens/s", &tokens, &rate, takt),
        queue: chart("waiting", &|i| f64::from(i.queued), &|n| grouped(n as i128), None),
        gaps: chart("longest gap", &|i| i.worst_gap as f64, &time, promised),
        kv: chart(
            "KV blocks",
            &|i| f64::from(i.kv_blocks_used),
            &|n| grouped(n as i128),
            books.newest_step().map(|step| {
                (f64::from(step.kv_blocks_total), format!("{} there are", step.kv_blocks_total))
            }),
        ),
        power: chart("power", &|i| i.power_mw as f64, &|mw| format!("{:.1} W", mw / 1e3), None),
    }
}

/// What demand leaves for a token and what the device takes for one.
pub(super) fn takt(books: &LiveBooks, sums: &Sums) -> String {
    let Some(takt) = books.takt_nanos() else {
        return "takt unknown: fewer than two requests came".to_owned();
    };
    let show = |nanos: f64| Scale::nanos(nanos).show(nanos);
    let tokens = books.counts().accepted_tokens;
    if tokens == 0 {
        return format!("takt {} per token; none delivered yet", show(takt));
    }
    let cycle = books.ladder(sums).running as f64 / tokens as f64;
    format!("takt {} per token, cycle {} ({:.2} of takt)", show(takt), show(cycle), cycle / takt)
}

pub(super) fn jitter(books: &LiveBooks, latency: &Latency) -> Vec<(&'static str, String)> {
    let show = |nanos: f64| Scale::nanos(nanos).show(nanos);
    let mut lines = Vec::new();
    if let Some(itl) = latency.itl {
        let spread = itl.p99 - itl.p50;
        let times = if itl.p50 > 0.0 { itl.p99 / itl.p50 } else { 0.0 };
        lines.push(("spread", format!("p99 − p50 {} (p99 is {times:.1} × p50)", show(spread))));
    }
    if let Some(stall) = books.stall() {
        lines.push((
            "worst stall",
            format!(
                "{}, {} {} of it; request {} at {}",
                si_nanos(stall.nanos),
                stall.cause.code(),
                si_nanos(stall.of_it),
                stall.request,
                si_nanos(stall.at),
            ),
        ));
    }
    lines
}

pub(super) fn budgets(books: &LiveBooks, latency: &Latency) -> Vec<Budget> {
    let slo = books.slo();
    let show = |nanos: f64| Scale::nanos(nanos).show(nanos);
    let budget = |name, limit: Option<Nanos>, used: Option<crate::stat::Summary>, note: String| {
        let limit = limit?;
        let of = |nanos: f64| if limit.0 > 0 { nanos / limit.0 as f64 } else { 0.0 };
        let (p50, p99) = used.map_or((0.0, 0.0), |used| (of(used.p50), of(used.p99)));
        let text = match used {
            None => "no request has left yet".to_owned(),
            Some(used) => format!("p50 {}, p99 {}{note}", show(used.p50), show(used.p99)),
        };
        Some(Budget { name, limit: si_nanos(limit), p50, p99, text })
    };
    let queue = latency.queue.map_or_else(String::new, |queue| {
        format!("; of it queue p50 {}, p99 {}", show(queue.p50), show(queue.p99))
    });
    let step = books.step_lengths().map_or_else(String::new, |step| {
        format!("; a step takes p50 {}, p99 {}", show(step.p50), show(step.p99))
    });
    [
        budget("TTFT", slo.ttft_ns, latency.ttft, queue),
        budget("TPOT", slo.tpot_ns, latency.tpot, step),
        budget("E2E", slo.e2e_ns, latency.e2e, String::new()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(super) fn counts(books: &LiveBooks) -> Vec<String> {
    let counts = books.counts();
    let (_, length, intervals) = books.recent();
    let whole: Vec<&Interval> = intervals.rev().skip(1).take(LOOK_BACK).collect();
    let seconds = length.as_secs_f64() * whole.len() as f64;
    let rate = |of: fn(&Interval) -> u64| {
        let sum: u64 = whole.iter().map(|interval| of(interval)).sum();
        if seconds > 0.0 { sum as f64 / seconds } else { 0.0 }
    };
    vec![
        format!("{} requests", grouped(counts.requests.into())),
        format!("{} here", grouped(counts.open.into())),
        format!("{} done", grouped(counts.completed.into())),
        format!("{} in/s", si_count(rate(|interval| interval.prompt_tokens))),
        format!("{} out/s", si_count(rate(|interval| interval.output_tokens))),
    ]
}

pub(super) fn memory(books: &LiveBooks) -> MemoryNow {
    let (moment, states) = books.memory(0);
    let whole = books.header().devices.first().map_or(0, |device| device.memory_bytes.0);
    let part = |label: &str, level: LevelWord, bytes: u64| {
        let share = Share::new(bytes.into(), whole.into());
        Part {
            label: label.to_owned(),
            level,
            share: share.fraction().unwrap_or(0.0),
            text: si_bytes(Bytes(bytes)),
            percent: share.to_string(),
        }
    };
    let total = books.newest_step().map_or(0, |step| step.kv_blocks_total) as usize;
    let last = states.last().map_or(0, |(number, _)| *number as usize + 1);
    let mut blocks = vec![Block::Free; total.max(last).min(BLOCKS_SHOWN)];
    for (number, state) in &states {
        let Some(block) = blocks.get_mut(*number as usize) else { continue };
        *block = match state {
            BlockState::Full => Block::Full,
            BlockState::Partial => Block::Partial,
            BlockState::Reserved => Block::Reserved,
            BlockState::Cached => Block::Cached,
        };
    }
    let held = states.iter().filter(|(_, state)| *state != BlockState::Cached).count();
    MemoryNow {
        parts: vec![
            part("weights", "necessary", moment.weights),
            part("workspace", "necessary", moment.workspace),
            part("KV live", "value", moment.kv_live),
            part("KV held, unwritten", "waste", moment.kv_unwritten),
            part("KV cached", "necessary", moment.kv_cached),
            part("KV free", "waste", moment.kv_free),
        ],
        text: format!(
            "{held} blocks held, {} cached, {} free",
            states.len() - held,
            blocks.len().saturating_sub(states.len())
        ),
        blocks,
    }
}

fn is_useful(cause: Cause) -> bool {
    matches!(cause, Cause::ValuePrefill | Cause::ValueDecode)
}

pub(super) fn step_bar(step: &StepRows) -> StepBar {
    let sum = |useful: bool| -> u32 {
        step.rows.iter().filter(|(cause, _)| is_useful(**cause) == useful).map(|(_, n)| n).sum()
    };
    let rows: Vec<String> =
        step.rows.iter().map(|(cause, rows)| format!("{} {rows}", cause.code())).collect();
    StepBar {
        step: step.step.0,
        rows: [sum(true), sum(false)],
        text: format!("{}, {} waiting: {}", si_nanos(step.nanos), step.queued, rows.join(", ")),
    }
}

/// What the rows of recent steps became.
pub(super) fn fates(books: &LiveBooks) -> Vec<(String, LevelWord, String)> {
    let mut sums: BTreeMap<Cause, u64> = BTreeMap::new();
    for (cause, rows) in books.steps().flat_map(|step| &step.rows) {
        *sums.entry(*cause).or_default() += u64::from(*rows);
    }
    let all: u64 = sums.values().sum();
    let line = |(cause, rows): (Cause, u64)| {
        let share = Share::new(rows.into(), all.into());
        let text = format!("{} rows, {share}", grouped(rows.into()));
        (cause.code().to_owned(), cause.entry().level.code(), text)
    };
    sums.into_iter().map(line).collect()
}

pub(super) fn energy(books: &LiveBooks, device_nanos: u128) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut line = |label: &str, value: String| lines.push((label.to_owned(), value));
    let accepted = books.counts().accepted_tokens;
    let per_token = |amount: u128, commodity: Commodity| match accepted {
        0 => "no token delivered yet".to_owned(),
        tokens => format!(
            "{} per million tokens",
            ledgers::amount(commodity, amount.saturating_mul(1_000_000) / u128::from(tokens),)
        ),
    };
    match books.energy() {
        None => line(
            "Energy",
            "no meter was read and no power declared (--idle-watts, --busy-watts)".to_owned(),
        ),
        Some((microjoules, measured)) => {
            let how = if measured { "measured" } else { "modelled from the declared power" };
            let text = ledgers::amount(Commodity::Energy, microjoules);
            line("Energy", format!("{text}, {how}"));
            line("", per_token(microjoules, Commodity::Energy));
        }
    }
    if let Some(power) = books.meter() {
        line("Power now", format!("{:.1} W", power.power_mw as f64 / 1e3));
        if power.clock_mhz > 0 {
            line("Clock now", format!("{} MHz", power.clock_mhz));
        }
        line("Throttling", power.throttle.code().to_owned());
    }
    match books.money(device_nanos) {
        None => line("Money", "no price was declared (--price-per-hour)".to_owned()),
        Some(picodollars) => {
            line("Money", ledgers::amount(Commodity::Money, picodollars));
            line("", per_token(picodollars, Commodity::Money));
        }
    }
    lines
}

pub(super) fn notes(books: &LiveBooks) -> Vec<String> {
    let mut notes = Vec::new();
    if books.header().devices.is_empty() {
        notes.push("The device is not known yet: it is being measured.".to_owned());
    }
    let counts = books.counts();
    if counts.requests > counts.open && counts.completed == 0 {
        notes.push(format!(
            "None of the {} requests that left was answered to its end.",
            grouped((counts.requests - counts.open).into())
        ));
    }
    let (late, by_shares) = books.doubts();
    if late > 0 {
        notes.push(format!(
            "{} operations came too late for the order of time; `gemba ledger` books them right.",
            grouped(late.into())
        ));
    }
    if by_shares > Nanos::ZERO {
        notes.push(format!(
            "{} of lost requests went by their rows' shares: their steps lie too far back.",
            si_nanos(by_shares)
        ));
    }
    let broken = books.broken_ceilings();
    if broken.launches > 0 {
        notes.push(format!(
            "{} launches were faster than their floor.",
            grouped(broken.launches.into())
        ));
    }
    notes
}
