//! Waterfall, yamazumi and memory chart.

use std::collections::BTreeMap;

use super::super::{MemoryChart, WaterfallStep, Yamazumi, YamazumiBar};
use super::{Findings, ledgers, origins};
use crate::unit::{Bytes, Scale, si_bytes};
use crate::waste::{
    Account, Books, Cause, Commodity, Ladder, Level, MemoryMoment, Muda, Rung, StepKind,
};

/// Device time from all of it down to value.
pub(super) fn waterfall(books: &Books, ladder: &Ladder) -> Vec<WaterfallStep> {
    let sums = [
        ("All device time", ladder.total, "devices × window"),
        ("Demanded", ladder.demanded, "less the time without demand"),
        (
            "Running",
            ladder.running,
            "less waiting for batches, capacity, loading, measuring, faults",
        ),
        ("Good", ladder.good, "less rows thrown away, done twice or failed"),
        ("Effective", ladder.effective, "less host, gaps, slack, excess and empty seats"),
        ("Value", ladder.value, "arithmetic of delivered tokens"),
    ];
    let losses =
        ["No demand", "Availability loss", "Yield loss", "Performance loss", "Necessary movement"];
    let whole = ladder.total.max(1) as f64;
    let place = |amount: i128| amount as f64 / whole;
    let text = |amount: i128| ledgers::amount(Commodity::DeviceTime, amount.unsigned_abs());
    let mut steps = Vec::new();
    for (i, (label, amount, note)) in sums.into_iter().enumerate() {
        steps.push(WaterfallStep {
            label: label.to_owned(),
            is_sum: true,
            from: 0.0,
            to: place(amount),
            level: if i + 1 == sums.len() { "value" } else { "necessary" },
            text: text(amount),
            note: note.to_owned(),
            origin: origins::waterfall(label, true),
        });
        let losses = losses.iter().zip(Rung::LOSSES).nth(i);
        let Some((next, (label, rung))) = sums.get(i + 1).zip(losses) else { continue };
        let lost = amount - next.1;
        steps.push(WaterfallStep {
            label: (*label).to_owned(),
            is_sum: false,
            from: place(next.1),
            to: place(amount),
            level: prevailing_level(books, rung).code(),
            text: text(lost),
            note: largest_causes(books, rung),
            origin: origins::waterfall(label, false),
        });
    }
    steps
}

/// The level of most of what is lost at a rung.
fn prevailing_level(books: &Books, lost_at: Rung) -> Level {
    let lost = |level: Level| {
        books.sum(Commodity::DeviceTime, |account| {
            Rung::of(account) == lost_at && books.level(account) == level
        })
    };
    if lost(Level::Necessary) > lost(Level::Waste) { Level::Necessary } else { Level::Waste }
}

fn largest_causes(books: &Books, lost_at: Rung) -> String {
    let mut causes: Vec<(u128, Cause)> = Vec::new();
    for (key, amount) in books.postings(Commodity::DeviceTime) {
        if Rung::of(&key.account) != lost_at {
            continue;
        }
        match causes.iter_mut().find(|(_, cause)| *cause == key.account.cause) {
            Some((sum, _)) => *sum += amount,
            None => causes.push((amount, key.account.cause)),
        }
    }
    causes.sort_by_key(|(amount, cause)| (std::cmp::Reverse(*amount), *cause));
    let text = |(amount, cause): &(u128, Cause)| {
        format!("{} {}", cause.code(), ledgers::amount(Commodity::DeviceTime, *amount))
    };
    causes.iter().take(3).map(text).collect::<Vec<_>>().join(", ")
}

/// Up to so many devices have bars for their steps; of more, each has one bar.
const DEVICES_IN_FULL: usize = 2;

/// Bars per accepted token: of each device its kinds of step, what passed in none, and all of it,
/// which is what the takt stands against.
pub(super) fn yamazumi_steps(findings: &Findings<'_>) -> Yamazumi {
    let tokens = findings.headline.counts.accepted_tokens;
    if tokens == 0 {
        return Yamazumi::default();
    }
    let books = findings.books;
    let mut devices: BTreeMap<u16, [u128; 3]> = BTreeMap::new();
    for (key, amount) in books.postings(Commodity::DeviceTime) {
        let levels = devices.entry(key.device.unwrap_or_default()).or_default();
        levels[books.level(&key.account) as usize] += amount;
    }
    let full = devices.len() <= DEVICES_IN_FULL;
    let bar = |label: String, nanos: [u128; 3]| bar(label, nanos, tokens);
    let mut bars = Vec::new();
    for (device, all) in &devices {
        let name = |what: &str| match devices.len() {
            1 => what.to_owned(),
            _ => format!("{device}: {what}"),
        };
        let mut outside = *all;
        for kind in StepKind::ALL {
            let mut levels = [0; 3];
            for (account, amount) in books.phases().of(*device, kind) {
                levels[books.level(account) as usize] += amount;
            }
            for (left, taken) in outside.iter_mut().zip(levels) {
                *left -= taken;
            }
            if full && levels.iter().sum::<u128>() > 0 {
                bars.push(bar(name(steps_of(kind)), levels));
            }
        }
        if full {
            bars.push(bar(name("In no step"), outside));
        }
        bars.push(bar(name("All"), *all));
    }
    piled(bars, findings.takt_nanos)
}

const fn steps_of(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Prefill => "Prefill steps",
        StepKind::Mixed => "Mixed steps",
        StepKind::Decode => "Decode steps",
    }
}

fn bar(label: String, nanos: [u128; 3], tokens: u64) -> YamazumiBar {
    let per_token = |amount: u128| amount as f64 / tokens as f64;
    let sum = per_token(nanos.iter().sum());
    YamazumiBar { label, nanos: nanos.map(per_token), text: Scale::nanos(sum).show(sum) }
}

fn piled(bars: Vec<YamazumiBar>, takt: Option<f64>) -> Yamazumi {
    let highest = bars.iter().map(|bar| bar.nanos.iter().sum()).fold(0.0, f64::max);
    Yamazumi {
        bars,
        takt,
        takt_text: takt.map_or_else(String::new, |takt| Scale::nanos(takt).show(takt)),
        top: highest.max(takt.unwrap_or(0.0)),
    }
}

/// Bars per accepted token: each kind of kernel, gaps and host, waiting.
pub(super) fn yamazumi(findings: &Findings<'_>) -> Yamazumi {
    let tokens = findings.headline.counts.accepted_tokens;
    if tokens == 0 {
        return Yamazumi::default();
    }
    let kind = |account: &Account| match findings.books.kernel_name(account) {
        Some(name) if name.starts_with("attention_") && !name.ends_with("norm") => 1,
        Some("qkv" | "output" | "gate_up" | "down" | "head") => 0,
        Some(_) => 2,
        None => match account.cause.entry().muda {
            Muda::Motion => 3,
            _ if account.cause == Cause::Host => 3,
            _ => 4,
        },
    };
    let labels =
        ["Matrix products", "Attention", "Other kernels", "Gaps, host, recording", "Waiting"];
    let mut nanos = [[0_u128; 3]; 5];
    for (key, amount) in findings.books.postings(Commodity::DeviceTime) {
        let level = findings.books.level(&key.account) as usize;
        nanos[kind(&key.account)][level] += amount;
    }
    let bars = labels.into_iter().zip(nanos);
    let bars = bars.map(|(label, nanos)| bar(label.to_owned(), nanos, tokens)).collect();
    piled(bars, findings.takt_nanos)
}

pub(super) fn memory(findings: &Findings<'_>) -> MemoryChart {
    let series = |name: &str, level: Level, of: fn(&MemoryMoment) -> u64| {
        let bytes = findings.memory.iter().map(|moment| of(moment) as f64).collect();
        (name.to_owned(), level.code(), bytes)
    };
    MemoryChart {
        seconds: findings.memory.iter().map(|moment| moment.at.as_secs_f64()).collect(),
        series: vec![
            series("Weights", Level::Necessary, |m| m.weights),
            series("Workspace", Level::Necessary, |m| m.workspace),
            series("KV live", Level::Value, |m| m.kv_live),
            series("KV held, unwritten", Level::Waste, |m| m.kv_unwritten),
            series("KV cached", Level::Necessary, |m| m.kv_cached),
            series("KV free", Level::Waste, |m| m.kv_free),
        ],
        capacity: si_bytes(Bytes(findings.memory_bytes)),
    }
}
